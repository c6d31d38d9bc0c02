"""The KL autoencoder: published counts, shapes, what it sees, files."""

from functools import cache

import jax
import numpy as np
import pytest
import tiny

from nca_gen.errors import UserError
from nca_gen.io import weights
from nca_gen.models import vae_kl
from nca_gen.nn import autoencoder_kl, port

SMALL = vae_kl.Model(width=4, multipliers=(1, 2), layers=1, groups=2, patch=2)


def count(model):
    return sum(x.size for x in jax.tree.leaves(tiny.shapes(model)))


@cache
def params(model=SMALL):
    state = port.random_state(model.network, model.network.example(), 0)
    return port.variables(state, model.network, model.network.example())["params"]


@pytest.mark.slow
def test_parameters_of_the_published_network():
    assert count(vae_kl.Model()) == 83_653_863


@pytest.mark.slow
def test_pixels_enter_as_channels():
    """A patch of 2 costs 3 x 3 x 9 more inputs and outputs at each end; nothing else changes."""
    plain = vae_kl.Model(width=4, multipliers=(1, 2), layers=1, groups=2)
    assert count(SMALL) - count(plain) == 2 * 9 * 9 * 4 + 9
    assert (plain.factor, SMALL.factor) == (2, 4)


@pytest.mark.slow
def test_half_the_places_a_level():
    image = jax.ShapeDtypeStruct((2, 24, 32, 3), np.float32)
    mean, logvar = jax.eval_shape(SMALL.encode, params(), image)
    assert mean.shape == logvar.shape == (2, 6, 8, 4)
    assert jax.eval_shape(SMALL.decode, params(), mean).shape == image.shape


@pytest.mark.slow
def test_log_variance_is_bounded():
    some = dict(params())
    bias = np.zeros(8, np.float32)
    bias[4:] = [-1e3, 1e3, 0, 0]
    some["quant_conv"] = {"kernel": np.zeros((1, 1, 8, 8), np.float32), "bias": bias}
    _, logvar = jax.jit(SMALL.encode)(some, np.zeros((1, 8, 8, 3), np.float32))
    np.testing.assert_array_equal(logvar[0, 0, 0], [-30, 20, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(10, 8), (8, 10)])
def test_sizes_that_do_not_divide(size):
    with pytest.raises(UserError, match=r"not multiples of 4 .* config\.data\.patch"):
        jax.eval_shape(SMALL.encode, params(), jax.ShapeDtypeStruct((1, *size, 3), np.float32))


@pytest.mark.slow
def test_a_file_and_back(tmp_path):
    weights.write(tmp_path / "a.safetensors", SMALL.state(params()))
    jax.tree.map(np.testing.assert_array_equal, SMALL.load(tmp_path / "a.safetensors"), params())


def compvis(levels, layers):
    """Names in Rombach et al.'s code, and in diffusers; the decoder's levels count from the last, with a block more."""
    both = {f"{side}.norm_out": f"{side}.conv_norm_out" for side in ("encoder", "decoder")}
    for side in ("encoder", "decoder"):
        both |= {f"{side}.mid.block_{i + 1}": f"{side}.mid_block.resnets.{i}" for i in (0, 1)}
        attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
        both |= {f"{side}.mid.attn_1.{k}": f"{side}.mid_block.attentions.0.{v}" for k, v in attention.items()}
    for i in range(levels):
        both |= {f"encoder.down.{i}.block.{j}": f"encoder.down_blocks.{i}.resnets.{j}" for j in range(layers)}
        up = levels - 1 - i
        both |= {f"decoder.up.{i}.block.{j}": f"decoder.up_blocks.{up}.resnets.{j}" for j in range(layers + 1)}
        both[f"encoder.down.{i}.downsample.conv"] = f"encoder.down_blocks.{i}.downsamplers.0.conv"
        both[f"decoder.up.{i}.upsample.conv"] = f"decoder.up_blocks.{up}.upsamplers.0.conv"
    return both


@pytest.mark.parametrize("start", ["", "first_stage_model."])
def test_a_file_of_compvis(start, tmp_path):
    """The same numbers by the names of the paper's own code, attention as convolutions, the loss beside; also within a
    whole diffusion model."""
    expected, both = params(), {theirs: ours for ours, theirs in compvis(2, SMALL.layers).items()}
    state = {}
    for name, tensor in SMALL.state(expected).items():
        start_of = max((ours for ours in both if name.startswith(f"{ours}.")), key=len, default="")
        former = name.replace(start_of, both.get(start_of, ""), 1).replace("conv_shortcut", "nin_shortcut")
        attends = ".attn_1." in former and tensor.ndim == 2
        state[start + former] = tensor[..., None, None] if attends else tensor
    assert not {name.removeprefix(start) for name in state} & {
        name for name in SMALL.state(expected) if "block" in name
    }
    beside = "loss.logvar" if not start else "model.diffusion_model.out.2.bias"
    weights.write(tmp_path / "model.safetensors", state | {beside: np.zeros(1, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, SMALL.load(tmp_path / "model.safetensors"), expected)


@pytest.mark.slow
def test_names_of_compvis_and_back():
    """Those of each half alone, and of both."""
    for levels, names in ((2, SMALL.state(params())), (4, tiny.shapes(vae_kl.Model())["decoder"])):
        ours = (
            [*names]
            if levels == 2
            else [".".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(names)]
        )
        theirs = [autoencoder_kl.compvis(name, levels) for name in ours]
        assert not any("block_" in name.replace("block_1", "").replace("block_2", "") for name in theirs)
        assert [*autoencoder_kl.renamed(dict.fromkeys(theirs, np.zeros(1)))] == ours
    assert autoencoder_kl.compvis("up_blocks.0.resnets.2.conv_shortcut.weight", 4) == "up.3.block.2.nin_shortcut.weight"


@pytest.mark.slow
def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match=r"cannot read weights .*no such file"):
        SMALL.load(tmp_path / "none.safetensors")
    other = vae_kl.Model(width=8, multipliers=(1, 2), layers=1, groups=2, patch=2)
    weights.write(tmp_path / "b.safetensors", other.state(params(other)))
    with pytest.raises(UserError, match=r"b\.safetensors: the weights are of another network: .*config\.model"):
        SMALL.load(tmp_path / "b.safetensors")


def test_unknown_precision():
    with pytest.raises(UserError, match="did you mean float32"):
        vae_kl.Model(dtype="float31")
