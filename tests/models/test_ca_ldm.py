"""CA-LDM's networks: published counts, the digits of PyTorch twins, what sees what, weights, bad input."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stack
import tiny

from nca_gen.errors import UserError
from nca_gen.models import ca_ldm, vq_vae
from nca_gen.nn import codebook, port

COUNTS = {
    "encoder3d": 7_077_764,
    "uniaxial": 5_756,
    "encoder2d": 34_142_852,
    "decoder2d": 49_487_873,
    "multislice": 49_487_873 + 70_352_812,
    "diff3d": 721_420_548,
    "refiner": 275_490_436,
    "critic": 661_313,
    "codebook": 65_536,
    "quant_conv": 20,
    "post_quant_conv": 20,
}


def count(model):
    return sum(x.size for x in jax.tree.leaves(tiny.shapes(model)))


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_as_many_parameters_as_published(name):
    assert count(ca_ldm.NETWORKS[name]) == COUNTS[name]


@pytest.mark.slow
def test_a_codebook():
    """Its loss is the authors', or the other way round."""
    assert count(ca_ldm.Codebook()) == 65_536
    z, p = jax.device_put((tiny.images(0, 2, 3, 3, 3, 4), {"embedding": tiny.images(1, 7, 4)}))
    for loss, weights in (("published", codebook.PUBLISHED), ("standard", codebook.STANDARD)):
        ours, theirs = ca_ldm.Codebook(7, loss=loss).apply(p, z), ca_ldm.quantise(z, p["embedding"], weights)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# The twins of tests/peers/torch_ca_ldm.py (PyTorch 2.13) with the weights and inputs of stack.py: mean, deviation and
# ordered sum of the answer, and 9 of its numbers; tests/peers/test_ca_ldm.py has it whole.
DIGITS = {
    "encoder2d": [
        *(-0.1634085, 0.7592642, -1.152871),
        *(-0.3434104, -0.7278722, 0.1725829, -0.3297111, 1.513691, -0.6314151, -0.07517878, -0.6096298, 1.171485),
    ],
    "decoder2d": [
        *(-0.3891709, 0.7394994, -0.1451536),
        *(0.314388, -0.1841842, -0.5970965, -0.676137, -0.5385041, -1.5608, 0.3014986, -1.890634, -0.7299771),
    ],
    "multislice": [
        *(0.176259, 0.561036, -0.01742696),
        *(-0.05021456, 0.210926, 1.08514, -0.4704545, 0.5788341, 0.1991184, -0.01307225, -0.5892407, -0.4637249),
    ],
    "encoder3d": [
        *(-0.0140185, 0.3319694, -0.03418455),
        *(-0.6558657, 0.03045874, -0.7769762, 0.06560869, 0.3505546, 0.412448, -0.3871027, 0.1084201, 0.1417065),
    ],
    "uniaxial": [
        *(0.09635405, 1.499256, -0.1506252),
        *(-0.221242, 0.8982468, 0.5336856, 0.5429524, -0.743471, -0.9627224, -0.6639366, -2.199654, -0.6610867),
    ],
    "diff3d": [
        *(-0.07039278, 0.5736798, 0.5248978),
        *(0.6085425, -0.3503526, 0.571198, -0.3610551, 0.2761278, -1.635316, -0.4861791, -1.042413, 0.2053696),
    ],
    "refiner": [
        *(0.1757385, 0.6217123, -0.3270538),
        *(-0.5139294, -0.7656188, 1.782315, -0.09699037, 0.4991515, -0.07779188, -0.04585265, 1.7321, 0.05311237),
    ],
    "critic": [
        *(0.2560582, 0.8504107, -0.4133926),
        *(0.08781291, 0.5370145, 0.7815217, 1.39809, -0.4062491, -0.08944664, -0.6117337, 0.9453822, 0.5636066),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_of_the_twins(name):
    y = stack.answer(name)
    np.testing.assert_allclose(stack.digits(y), DIGITS[name], rtol=2e-5, atol=2e-5 * y.std())


@pytest.mark.slow
def test_sizes():
    """A volume of any even parts: a latent of the whole, one of every slice, windows of it, slices."""
    p = {name: tiny.shapes(model) for name, model in ca_ldm.NETWORKS.items()}
    volume = jax.ShapeDtypeStruct((1, 48, 32, 40, 1), np.float32)

    def says(name, x):
        return jax.eval_shape(ca_ldm.NETWORKS[name].apply, p[name], x)

    z = says("encoder3d", volume)
    assert z.shape == (1, 6, 4, 5, 4)
    slices = says("uniaxial", z)
    assert slices.shape == (1, 48, 4, 5, 4)
    window = jax.ShapeDtypeStruct((1, 5, 4, 5, 4), np.float32)
    assert says("multislice", window).shape == (1, 5, 32, 40, 1)
    picture = jax.ShapeDtypeStruct((3, 32, 40, 1), np.float32)
    assert says("encoder2d", picture).shape == (3, 4, 5, 4)
    assert says("decoder2d", jax.ShapeDtypeStruct((3, 4, 5, 4), np.float32)).shape == (3, 32, 40, 1)
    assert says("critic", picture).shape == (3, 6, 8, 1)


def adapted(p, factor):
    """``p`` whose adaptors mix by ``factor``."""
    put = lambda path, leaf: np.full_like(leaf, factor) if path[-1].key == "mix" else leaf
    return jax.tree.map_with_path(put, p)


def plain(p):
    """``p`` without adaptors."""
    return {k: plain(v) if isinstance(v, dict) else v for k, v in p.items() if not k.startswith("adaptor")}


@pytest.mark.slow
def test_adaptors_that_say_nothing_leave_every_slice_alone():
    """With the weights of the decoder of slices; 4 levels of blocks have 14 adaptors, and both ends one each."""
    many = ca_ldm.model("multislice", **stack.TINY["multislice"])
    one = ca_ldm.model("decoder2d", **stack.TINY["multislice"])
    p, (z,) = stack.params("multislice"), stack.given("multislice")
    assert jax.tree.map(np.shape, plain(p)) == jax.tree.map(np.shape, tiny.shapes(one))
    alone = np.asarray(stack.call(one, plain(p), z.reshape(-1, *z.shape[2:]))).reshape(2, 5, 6, 8, 1)
    np.testing.assert_allclose(stack.call(many, adapted(p, -200.0), z), alone, atol=1e-5)
    assert np.abs(stack.answer("multislice") - alone).max() > 0.1
    mixes = [
        path
        for path, _ in jax.tree.leaves_with_path(tiny.shapes(ca_ldm.NETWORKS["multislice"]))
        if "mix" in str(path[-1])
    ]
    assert len(mixes) == 16
    start = jax.jit(many.init)(jax.random.key(0, impl=tiny.KEYS))
    assert {float(leaf[0]) for path, leaf in jax.tree.leaves_with_path(start) if path[-1].key == "mix"} == {0.0}


@pytest.mark.slow
def test_a_slice_hears_its_whole_window_and_no_other():
    model, p, (z,) = (
        ca_ldm.model("multislice", **stack.TINY["multislice"]),
        stack.params("multislice"),
        *[stack.given("multislice")],
    )
    y = np.asarray(stack.call(model, p, z))
    last = z.copy()
    last[0, 4] += 1
    moved = np.abs(np.asarray(stack.call(model, p, last)) - y).max((2, 3, 4))
    assert moved[0].min() > 1e-4
    assert moved[1].max() < 1e-5


@pytest.mark.slow
def test_super_resolution_depends_on_the_crop():
    """Its norms are of the whole: 3 of 6 slices become something else than they become in the whole."""
    model, p = ca_ldm.NETWORKS["uniaxial"], stack.params("uniaxial")
    z = tiny.images(3, 1, 6, 5, 5, 4)
    whole, part = (np.asarray(stack.call(model, p, some)) for some in (z, z[:, :3]))
    assert np.abs(whole[:, :8] - part[:, :8]).max() > 1e-2
    assert stack.call(model, p, z[:, :1]).shape == (1, 8, 5, 5, 4)  # of one slice, of any sides


@pytest.mark.slow
def test_every_second_voxel_is_seen():
    """The others may be anything."""
    model, p, (x,) = (
        ca_ldm.model("encoder3d", **stack.TINY["encoder3d"]),
        stack.params("encoder3d"),
        stack.given("encoder3d"),
    )
    other = np.full_like(x, np.nan)
    other[:, ::2, ::2, ::2] = x[:, ::2, ::2, ::2]
    np.testing.assert_array_equal(stack.call(model, p, other), stack.call(model, p, x))


def deep(path, leaf):
    """A parameter of the U-Net of volumes that does with every slice what ``leaf`` does with an image."""
    if path[-1].key != "kernel" or leaf.ndim != 4:
        return leaf
    taps = np.zeros((leaf.shape[0], *leaf.shape), leaf.dtype)
    taps[len(taps) // 2] = leaf
    return taps


@pytest.mark.slow
def test_a_volume_of_one_image_is_that_image():
    """Of equal slices, with kernels that look at one; means and copies of slices and their attention change nothing."""
    flat = ca_ldm.model("refiner", **stack.TINY["refiner"])
    p, (x, t, cond) = stack.params("refiner"), stack.given("refiner")
    slices = lambda picture: np.repeat(picture[:, None], 4, 1)
    volume = stack.call(
        replace(flat, ndim=3), jax.tree.map_with_path(deep, p), slices(x), t, {"image": slices(cond["image"])}
    )
    np.testing.assert_allclose(volume, slices(stack.answer("refiner")), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in stack.TINY if name != "critic"])  # which has no field dtype
def test_bf16_is_close(name):
    model = ca_ldm.model(name, **stack.TINY[name], dtype="bfloat16")
    exact, rough = stack.answer(name), np.asarray(stack.call(model, stack.params(name), *stack.given(name)))
    assert rough.dtype == np.float32
    assert 1e-4 < np.std(exact - rough) / np.std(exact) < 0.06


# Weights.


@pytest.mark.slow
@pytest.mark.parametrize("name", stack.TINY)
def test_other_weights_are_one_line(name):
    """A tensor that is missing, one too many, one of another shape: each by the authors' name."""
    fields, whole = stack.TINY[name], stack.state(name, **stack.TINY[name])
    some = [*whole][len(whole) // 2]
    for state, line in (
        ({k: v for k, v in whole.items() if k != some}, f"lack {some} "),
        (whole | {"other.weight": np.ones((2, 3))}, r"other.weight \(2, 3\) has no place"),
        (whole | {some: np.ones((3, 1))}, rf"{some} is \(3, 1\), not "),
        ({}, "the weights lack "),
    ):
        with pytest.raises(UserError, match=line) as error:
            ca_ldm.published(name, state, **fields)
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["decoder.", "model.decoder."])
def test_weights_of_a_whole_autoencoder(start):
    """As a checkpoint has them: beside those of other networks, and the factors of adaptors perhaps without an axis."""
    name, fields = "multislice", stack.TINY["multislice"]
    whole = {start + k: v.reshape(()) if "mix" in k else v for k, v in stack.state(name, **fields).items()}
    found = ca_ldm.published(name, whole | {"encoder.conv_in.weight": np.ones(3)}, **fields)
    jax.tree.map(np.testing.assert_array_equal, found, stack.params(name))


def quantisers(taps, start=""):
    """An autoencoder's tensors around its codebook, of 4 channels and 7 entries, and two of its others."""
    names = {"quantize.embedding.weight": (7, 4), "encoder.conv_in.weight": (8, 1, 3, 3), "encoder.conv_in.bias": (8,)}
    for conv in ("quant_conv", "post_quant_conv"):
        names |= {f"{conv}.weight": (4, 4, *[1] * taps), f"{conv}.bias": (4,)}
    return {start + name: tiny.images(i, *shape) for i, (name, shape) in enumerate(names.items())}


@pytest.mark.slow
@pytest.mark.parametrize(("taps", "start"), [(2, ""), (3, "model."), (0, "first_stage.")])
def test_weights_around_a_codebook(taps, start):
    """Of a whole autoencoder: the vectors as they are, and maps that do what torch's convolutions of one tap do."""
    state, z = quantisers(taps, start), jnp.asarray(tiny.images(9, 2, 3, 5, 4))
    book = ca_ldm.published("codebook", state, entries=7)
    np.testing.assert_array_equal(book["embedding"], state[f"{start}quantize.embedding.weight"])
    for conv in ("quant_conv", "post_quant_conv"):
        weight, bias = (state[f"{start}{conv}.{leaf}"] for leaf in ("weight", "bias"))
        p = ca_ldm.published(conv, state)
        assert jax.tree.map(np.shape, p) == jax.tree.map(np.shape, tiny.shapes(vq_vae.Model())[conv])
        expected = np.einsum("oi,bhwi->bhwo", weight.reshape(4, 4), z) + bias
        np.testing.assert_allclose(vq_vae.affine(p, z), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ca_ldm.NETWORKS[conv].apply(p, z), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "change", "line"),
    [
        ("codebook", {"quantize.embedding.weight": None}, r"lack quantize\.embedding\.weight \(16384, 4\)"),
        ("codebook", {}, r"quantize\.embedding\.weight is \(7, 4\), not \(16384, 4\)"),
        (
            "codebook",
            {"quantize.embedding.weight": (16384, 4), "quantize.used": (3,)},
            r"quantize\.used \(3,\) has no place in it",
        ),
        ("quant_conv", {"quant_conv.bias": None}, r"lack quant_conv\.bias \(4,\)"),
        ("quant_conv", {"quant_conv.weight": (4, 8, 1, 1)}, r"quant_conv\.weight is \(4, 8, 1, 1\), not \(4, 4\)"),
        ("quant_conv", {"quant_conv.weight": (4, 4, 3, 3)}, r"quant_conv\.weight is \(4, 4, 3, 3\), not \(4, 4\)"),
        ("quant_conv", {"quant_conv.scale": (4,)}, r"quant_conv\.scale \(4,\) has no place in it"),
        ("post_quant_conv", {"a.post_quant_conv.bias": (4,)}, "as post_quant_conv and as a.post_quant_conv: save one"),
    ],
)
def test_other_weights_around_a_codebook_are_one_line(network, change, line):
    state = quantisers(2) | {name: shape and np.ones(shape) for name, shape in change.items()}
    with pytest.raises(UserError, match=line) as error:
        ca_ldm.published(network, {name: tensor for name, tensor in state.items() if tensor is not None})
    assert "\n" not in str(error.value)


def test_the_moments_of_batches_past_are_not_read():
    fields, state = stack.TINY["critic"], stack.state("critic", **stack.TINY["critic"])
    past = {
        "main.3.running_mean": np.zeros(16),
        "main.3.running_var": np.ones(16),
        "main.3.num_batches_tracked": np.array(7),
    }
    found = ca_ldm.published("critic", state | past, **fields)
    jax.tree.map(np.testing.assert_array_equal, found, stack.params("critic"))


@pytest.mark.slow
def test_the_published_size_is_taken_where_no_field_is_given():
    state = stack.state("uniaxial")
    assert sum(x.size for x in state.values()) == COUNTS["uniaxial"]
    jax.tree.map(np.testing.assert_array_equal, port.state({"params": ca_ldm.published("uniaxial", state)}), state)
    with pytest.raises(UserError, match=r"lack conv_blocks\.0\.res\.conv1\.conv\.bias \(8,\)"):
        ca_ldm.published("uniaxial", {}, latent_channels=8)


# Bad input.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "line"),
    [
        ("encoder2d", (1, 20, 12, 1), "images of 20x12 are no multiples of 8x8, as this network halves them"),
        ("encoder2d", (1, 16, 16, 3), "the images have 3 channels, and this network takes 1"),
        ("encoder3d", (1, 16, 12, 8, 1), "volumes of 16x12x8 are no multiples of 8x8x8"),
        ("encoder3d", (1, 1, 16, 16, 1), "volumes of 1x16x16 are no multiples"),
        ("uniaxial", (1, 3, 3, 3, 3), "the latents have 3 channels, and this network takes 4"),
        ("multislice", (1, 4, 2, 2, 4), r"a window is of 5 slices \(config\.model\.slices\), and not of 4"),
        ("multislice", (1, 1, 2, 2, 4), "a window is of 5 slices .* and not of 1"),
        ("critic", (1, 16, 11, 1), "the critic needs images of 12 pixels a side"),
        ("diff3d", (1, 8, 8, 1, 4), "images of 8x8x1 cannot be halved 3 times; pad the data to a multiple of 8"),
    ],
)
def test_sizes_that_it_does_not_take(name, shape, line):
    model, x = ca_ldm.NETWORKS[name], jnp.zeros(shape)
    more = (jnp.zeros(1, jnp.int32), None, (), None) if name == "diff3d" else ()
    with pytest.raises(UserError, match=line):
        model.apply(tiny.shapes(model), x, *more)


@pytest.mark.parametrize(
    ("name", "fields", "line"),
    [
        ("encoder2d", {"width": 24}, "config.model.groups is 32, of which 24 channels are no multiple"),
        ("encoder3d", {"width": 20}, "config.model.groups is 32, of which 40 channels"),
        ("uniaxial", {"groups": 3}, "config.model.groups is 3, of which 4 channels are no multiple"),
        ("diff3d", {"width": 48}, "config.model.width is 48; take a multiple of 32, the number of groups, and of 8"),
        ("refiner", {"width": 96, "heads": 9}, "take a multiple of 32, the number of groups, and of 9, the number of"),
        ("decoder2d", {"multipliers": ()}, "config.model.multipliers must be of length at least 1"),
        (
            "multislice",
            {"slice": 3},
            "unknown field 'network multislice.slice'; did you mean network multislice.slices",
        ),
        ("diff2d", {}, "unknown value of network 'diff2d'; did you mean diff3d"),
        ("uniaxial", {"dtype": "float31"}, "did you mean float32"),
    ],
)
def test_fields_that_it_cannot_have(name, fields, line):
    with pytest.raises(UserError, match=line):
        ca_ldm.model(name, **fields)
