"""The U-Net against a plain numpy twin; the counts of LDM-B. What it shares with DiT is in test_rivals.py."""

from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
import tiny

from nca_gen import build
from nca_gen import config as configs
from nca_gen.errors import UserError
from nca_gen.models import unet
from nca_gen.verbs.describe_fit import FRUGAL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "published"),
    [
        ({"learned_variance": False}, 17_302_916),
        pytest.param({}, 17_302_916 + 4 * (9 * 64 + 1), marks=pytest.mark.slow),
        pytest.param({"classes": 5}, 17_305_224 + (5 + 1) * 256 + (256 + 1) * 256, marks=pytest.mark.slow),
    ],
)
def test_17m_parameters(changes, published):
    tree = tiny.shapes(unet.Model(**changes))
    assert sum(x.size for x in jax.tree.leaves(tree)) == published


def conv(x, layer, stride=1):
    """Tap by tap, any number of space axes, zeros around."""
    kernel, space = layer["kernel"], x.shape[1:-1]
    x = np.pad(x, [(0, 0), *[(kernel.shape[0] // 2,) * 2] * len(space), (0, 0)])
    out = sum(
        x[(slice(None), *(slice(i, i + n, stride) for i, n in zip(tap, space, strict=True)))] @ kernel[tap]
        for tap in product(*map(range, kernel.shape[:-2]))
    )
    return out + layer["bias"]


def norm(x, layer):
    groups = np.stack(np.split(x, 32, -1))
    axes = tuple(range(2, groups.ndim))
    groups = (groups - groups.mean(axes, keepdims=True)) / np.sqrt(groups.var(axes, keepdims=True) + 1e-5)
    return np.concatenate(list(groups), -1) * layer["scale"] + layer["bias"]


def residual(p, x, c):
    y = conv(rivals.silu(norm(x, p["norm0"])), p["conv0"])
    y = y + rivals.affine(c, p["condition"]).reshape(len(c), *[1] * (x.ndim - 2), -1)
    y = conv(rivals.silu(norm(y, p["norm1"])), p["conv1"])
    return y + (conv(x, p["shortcut"]) if "shortcut" in p else x)


def attend(p, x, head):
    y = norm(x, p["norm"]).reshape(len(x), -1, x.shape[-1])
    return x + rivals.attention(p["attention"], y, x.shape[-1] // head).reshape(x.shape)


def twin(p, x, t, cond, width, head):
    """Two levels of one block, by name."""
    c = rivals.silu(rivals.told(p["condition"], t, cond, width))
    first = conv(x, p["first"])
    upper = attend(p["down_0_0_attention"], residual(p["down_0_0"], first, c), head)
    halved = conv(upper, p["down_0"], stride=2)
    lower = residual(p["down_1_0"], halved, c)
    y = residual(p["middle_0"], lower, c)
    y = residual(p["middle_1"], attend(p["middle_attention"], y, head), c)
    for i, seen in enumerate((lower, halved)):
        y = residual(p[f"up_1_{i}"], np.concatenate([y, seen], -1), c)
    for axis in range(1, y.ndim - 1):
        y = y.repeat(2, axis)
    y = conv(y, p["up_1"])
    for i, seen in enumerate((upper, first)):
        y = residual(p[f"up_0_{i}"], np.concatenate([y, seen], -1), c)
        y = attend(p[f"up_0_{i}_attention"], y, head)
    return conv(rivals.silu(norm(y, p["last_norm"])), p["last"])


@pytest.mark.parametrize("shape", [(4, 6), pytest.param((2, 4, 6), marks=pytest.mark.slow)], ids=str)
@pytest.mark.slow
def test_the_numpy_twin_agrees(shape):
    model, (x, t, cond) = rivals.small_unet(ndim=len(shape)), rivals.start(*shape)
    params = tiny.params(model)
    expected = twin(rivals.wide(params), x, t, cond, model.width, model.head)
    assert np.abs(expected).max() > 0.1
    mine = rivals.call(model, params, x, t, cond)[0]
    np.testing.assert_allclose(mine, expected, atol=2e-4 * np.abs(expected).max())


def test_wrong_width():
    with pytest.raises(UserError, match=r"config.model.width is 48; take a multiple of 32"):
        rivals.small_unet(width=48)


def test_names_in_the_code_of_dhariwal_and_nichol():
    """Rows of blocks are numbered through; of each level the last one halves, or doubles behind its attention."""
    name, blocks = unet.names(unet.Model()), unet.names(unet.Model(resizing_blocks=True, attention=()))
    assert name("down_1_0.norm1.weight") == "input_blocks.4.0.out_layers.0.weight"
    assert name("down_1_0_attention.attention.qkv.bias") == "input_blocks.4.1.qkv.bias"
    assert name("up_3_0.shortcut.weight") == "output_blocks.0.0.skip_connection.weight"
    assert name("up_0_2.condition.bias") == "output_blocks.11.0.emb_layers.1.bias"
    assert (name("down_0.weight"), name("up_1.weight")) == (
        "input_blocks.3.0.op.weight",
        "output_blocks.8.2.conv.weight",
    )
    assert blocks("down_0.conv0.weight") == "input_blocks.3.0.in_layers.2.weight"
    assert blocks("up_1.conv1.weight") == "output_blocks.8.1.out_layers.3.weight"
    assert name("condition.time.fc1.weight") == "time_embed.2.weight"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"scale": True}, {"resizing_blocks": True}], ids=str)
def test_it_starts_as_nothing_said(changes):
    """Every block as its shortcut, and the last convolution as zero, whatever the time sets."""
    model, (x, t, cond) = rivals.small_unet(heads=4, groups=8, **changes), rivals.start(4, 6)
    p = tiny.born(model)
    np.testing.assert_array_equal(rivals.call(model, p, x, t, cond)[0], 0)
    zero = {name for name, block in p.items() if "conv1" in block and not np.any(block["conv1"]["kernel"])}
    assert zero == {name for name, block in p.items() if "conv1" in block}


@pytest.mark.slow
def test_images_must_halve():
    model, (x, t, cond) = rivals.small_unet(multipliers=(1, 1, 1)), rivals.start(4, 6)
    params = tiny.shapes(model)
    with pytest.raises(UserError, match="images of 4x6 cannot be halved 2 times; pad the data to a multiple of 4"):
        jax.eval_shape(partial(rivals.call, model), params, x, t, cond)


@pytest.mark.slow
def test_a_picture_its_level_and_a_label_map():
    """Both are heard, as is a label map, and what is left out is zero; all else are the parameters of before."""
    model, (x, t, label) = rivals.small_unet(context_channels=2, map_classes=3, level=True), rivals.start(4, 6)
    assert dict(model.conditions) == {"label": 3, "image": 2, "map": 3, "level": 1}
    p, picture = tiny.params(model), tiny.images(1, 2, 4, 6, 2)

    call = jax.jit(lambda cond, x, t: model.apply(p, x, t, cond, (), None)[0])
    one = call({"label": label, "image": picture, "level": np.float32([10, 500])}, x, t)
    other = call({"label": label, "image": picture + 0.1, "level": np.float32([10, 900])}, x, t)
    assert min(np.abs(one - other).max((1, 2, 3))) > 1e-3
    zeros = {"image": 0 * picture, "map": np.zeros((2, 4, 6, 3), np.float32), "level": np.zeros(2, np.float32)}
    nothing = call({"label": label} | zeros, x, t)
    shares = np.float32(np.eye(3)[np.arange(48).reshape(2, 4, 6) % 3])
    told = call({"label": label} | zeros | {"map": shares}, x, t)
    assert min(np.abs(told - nothing).max((1, 2, 3))) > 1e-3
    assert np.abs(told - call({"label": label} | zeros | {"map": shares[..., ::-1]}, x, t)).max() > 1e-3
    np.testing.assert_allclose(call({"label": label}, x, t), nothing, atol=1e-5)
    assert {*p} - {*tiny.params(rivals.small_unet())} == {"level"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "published"), [("s", 652_195), ("", 3_940_547), ("b", 17_217_923), ("l", 111_051_779)]
)
def test_the_four_sizes_of_diff_nca_s_rival(form, published, monkeypatch):
    """Table 2 of Kalkhof et al. 2024."""
    monkeypatch.chdir(Path(__file__).parents[2])
    tree = tiny.shapes(build.model(configs.load(f"configs/ddpm_unet.py:{form}")))
    assert sum(x.size for x in jax.tree.leaves(tree)) == published


KALKHOF = unet.Model(
    width=32, multipliers=(1, 2), blocks=1, attention=(2,), head=8, learned_variance=False, image_channels=3
)


@pytest.mark.slow
def test_the_network_of_a_file_of_diffusers():
    """Its fields are read from the tensors; of query, key and value each map is where it was."""
    state = rivals.diffusers_state(KALKHOF)
    assert unet.architecture(state) == KALKHOF
    params = unet.published(state)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, tiny.shapes(KALKHOF))
    kernel = params["middle_attention"]["attention"]["qkv"]["kernel"]
    for i, part in enumerate("qkv"):
        there = state[f"mid_block.attentions.0.to_{part}.weight"]
        np.testing.assert_array_equal(kernel[:, 64 * i : 64 * (i + 1)], there.T)
    np.testing.assert_array_equal(
        params["up_1_0"]["shortcut"]["bias"], state["up_blocks.0.resnets.0.conv_shortcut.bias"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s.pop("mid_block.attentions.0.to_k.bias"), "the weights lack mid_block.attentions.0.to_k.bias"),
        (lambda s: s.pop("conv_out.weight"), "the weights lack conv_out.weight"),
        (lambda s: s.pop("conv_in.weight"), "the weights lack conv_in.weight"),
        (lambda s: s.update({"class_embedding.weight": np.ones(3)}), "class_embedding.weight .* has no place in it"),
        (lambda s: s.update({"conv_out.bias": np.ones(4)}), r"conv_out.bias is \(4,\), not \(3,\)"),
    ],
)
def test_a_file_of_another_network_is_refused(change, line):
    state = rivals.diffusers_state(KALKHOF)
    change(state)
    with pytest.raises(UserError, match=line):
        unet.published(state)


def kept(blocks):
    """What the gradient of a U-Net of one level holds, in fields of 32 channels."""
    model = rivals.small_unet(multipliers=(1,), blocks=blocks, attention=(), remat="block")
    x, t, cond = map(jnp.asarray, rivals.start(32, 32))
    loss = lambda p: jnp.square(rivals.call(model, p, x, t, cond)[0]).sum()
    program = jax.jit(jax.grad(loss)).lower(tiny.shapes(model)).compile(FRUGAL)
    return program.memory_analysis().temp_size_in_bytes / (2 * 32 * 32 * 32 * 4)


@pytest.mark.slow
def test_of_every_block_the_gradient_keeps_one_field():
    """What enters it: no skip twice, and nothing of its inside while other blocks have their turn."""
    assert kept(3) - kept(1) == pytest.approx(4, abs=0.2)  # two more blocks on each way


@pytest.mark.slow
def test_gradients_of_kernels_wait_in_the_type_of_the_products():
    """They are what they would be otherwise, to the rounding of that type; parameters and gradients are float32."""
    found = {}
    for remat in ("none", "block"):
        model, (x, t, cond) = rivals.small_unet(multipliers=(1,), remat=remat, dtype="bfloat16"), rivals.start(4, 6)
        loss = lambda p, model=model, x=x, t=t, c=cond: jnp.square(rivals.call(model, p, x, t, c)[0]).sum()
        found[remat] = jax.grad(loss)(tiny.params(model))
    assert {g.dtype for g in jax.tree.leaves(found["block"])} == {np.dtype(np.float32)}
    largest = max(np.abs(g).max() for g in jax.tree.leaves(found["none"]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-6, atol=2**-6 * largest), found["block"], found["none"]
    )
    kernel = found["block"]["down_0_0"]["conv0"]["kernel"]
    np.testing.assert_array_equal(kernel, kernel.astype(jnp.bfloat16).astype(np.float32))


STACK = {"ndim": 3, "slicewise": True, "heads": 4, "groups": 8}


@pytest.fixture(scope="module")
def stack():
    """A U-Net of stacks, its parameters, and two stacks of three slices."""
    model = rivals.small_unet(**STACK)
    return model, tiny.params(model), rivals.start(3, 4, 6)


@pytest.mark.slow
def test_layers_along_a_stack_are_all_that_is_added(stack):
    """Behind every block a residual block of three taps and an attention, and the number of a slice as a time is."""
    model, params, _ = stack
    flat = tiny.shapes(rivals.small_unet(**STACK | {"ndim": 2, "slicewise": False}))
    e = 4 * model.width
    line = lambda n: 2 * (2 * n + 3 * n * n + n) + (e + 1) * n + 2 * n + (n + 1) * 4 * n
    widths = (32, 64, 64, 64, 64, 32, 32)  # of the blocks: down, in the middle, up
    added = sum(map(line, widths)) + (model.width + 1) * e + (e + 1) * e
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert count(params) - count(flat) == added
    assert {*flat} < {*params}


@pytest.mark.slow
def test_a_stack_whose_layers_are_silent_is_its_slices(stack):
    """The same U-Net of two dimensions, slice by slice; and it is not, where they speak."""
    model, params, (x, t, cond) = stack

    def silent(path, leaf):
        names = [key.key for key in path]
        last = names[-2] in ("conv1", "proj") and "_along" in names[0]
        return np.zeros_like(leaf) if last or names[:2] == ["slice", "fc1"] else leaf

    own = jax.tree.map_with_path(silent, params)
    flat = rivals.small_unet(**STACK | {"ndim": 2, "slicewise": False})
    own2d = {name: own[name] for name in tiny.shapes(flat)}
    expected = np.stack([rivals.call(flat, own2d, x[:, d], t, cond)[0] for d in range(3)], 1)
    np.testing.assert_allclose(rivals.call(model, own, x, t, cond)[0], expected, atol=1e-4 * np.abs(expected).max())
    # One slice of the first stack is another: all slices of that one answer, and the second stack does not.
    said = np.asarray(rivals.call(model, params, x, t, cond)[0])
    other = np.asarray(
        rivals.call(model, params, np.concatenate([x[:1] * [[[[[0]]], [[[1]]], [[[1]]]]], x[1:]]), t, cond)[0]
    )
    far = np.abs(other - said).max((2, 3, 4))
    assert far[0].min() > 1e-3
    np.testing.assert_allclose(other[1], said[1], atol=1e-4)


@pytest.mark.slow
def test_one_time_for_all_stacks(stack):
    model, params, (x, _, cond) = stack
    one, each = (rivals.call(model, params, x, t, cond)[0] for t in (np.int32([900]), np.int32([900, 900])))
    np.testing.assert_allclose(one, each, atol=1e-5 * np.abs(each).max())


@pytest.mark.slow
def test_stacks_that_do_not_fit(stack):
    model, params, (x, t, cond) = stack
    with pytest.raises(UserError, match="images of 3x3x6 cannot be halved 1 times"):
        rivals.call(model, params, x[:, :, :3], t, cond)
    with pytest.raises(UserError, match=r"slicewise is for volumes, and ndim is 2"):
        rivals.small_unet(slicewise=True)
