"""URCDM's networks: published counts, imagen-pytorch's digits, and what no peer says: 3-D, weights, bad input."""

from dataclasses import replace
from functools import partial

import cascade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
import tiny

from nca_gen.errors import UserError
from nca_gen.io import weights
from nca_gen.models.efficient_unet import Model, architecture, middle, published
from nca_gen.nn import port
from nca_gen.nn.convolution import convolution
from nca_gen.nn.efficient import alike, conv, doubled, halved, product

TEXT = {"first": 2_572_032, "second": 958_848, "third": 958_848}  # parameters that serve text alone
COUNTS = {  # of imagen-pytorch, without and with a context image
    "first": (412_817_828, 412_873_892),
    "second": (300_477_302, 300_505_334),
    "third": (690_316_942, 690_344_974),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("context", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_as_many_parameters_as_published(kind, context):
    model = Model(**cascade.KINDS[kind], context_channels=context)
    shapes = jax.eval_shape(model.network.init, jax.random.key(0), *model.example())
    ours = sum(x.size for x in jax.tree.leaves(shapes))
    assert ours + TEXT[kind] == COUNTS[kind][context > 0]


def test_the_fields_as_given_are_the_first_network():
    assert Model() == Model(**cascade.KINDS["first"])


# imagen-pytorch 1.18.5 with the seeded weights and images of cascade.py, 8 x 8: mean, deviation and ordered sum of the
# prediction, and 12 of its numbers; tests/peers/test_efficient_unet.py has it whole.
DIGITS = {
    "first": [
        *(-2.434302, 16.37556, -2.643602),
        *(-20.86105, 5.110423, 3.723281, -1.887864, -38.22017, -1.165892),
        *(-14.38498, -14.96393, 2.075127, -5.471429, 3.546202, -17.90746),
    ],
    "second": [
        *(-1.871459, 9.068325, -2.702773),
        *(-14.15451, 17.56949, -0.8333484, 14.84834, -2.05822, -11.16858),
        *(-7.251671, 5.133679, -1.295771, -12.27755, 5.500884, -6.200484),
    ],
    "third": [
        *(-3.426184, 10.23433, -3.114256),
        *(-6.2633, 17.45321, -14.21756, 9.878114, -6.327327, -16.59393),
        *(6.621978, -6.380894, -8.988002, 12.46004, -12.72372, -13.15641),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["second", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("first", "third"))]
)
def test_the_digits_of_imagen_pytorch(kind):
    model = Model(**cascade.TINY[kind])
    y = np.asarray(cascade.call(model, cascade.params(model), *cascade.inputs(model, 8)))
    digits = [*seeded.digits(y), *y[1, 4:6, 2:4].ravel()]
    np.testing.assert_allclose(digits, DIGITS[kind], rtol=2e-4, atol=2e-4 * y.std())


@pytest.mark.slow
def test_weights_say_of_which_network_they_are():
    """A file tells no more than names and shapes. Those of text go unseen, and the way back has every tensor."""
    for kind, fields in cascade.TINY.items():
        model = Model(**fields)
        state = cascade.state(model)
        assert architecture(state).network == model.network, kind
        assert architecture(state).example() == model.example(), kind
    text = {"null_text_hidden": np.ones((1, 9)), "attn_pool.layers.0.0.to_q.weight": np.ones((3, 3))}
    again = port.state({"params": published(state | text)})
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.slow
def test_each_network_finds_itself_in_a_cascade(tmp_path):
    """A whole ``Imagen``, with what it holds beside its networks; of two that are alike nobody can tell which."""
    models = [Model(**fields) for fields in cascade.TINY.values()]
    states = {f"unets.{k}.{name}": x for k, model in enumerate(models) for name, x in cascade.state(model).items()}
    beside = {"noise_schedulers.0.steps": np.ones(2, np.float32), "_temp": np.zeros(1, np.float32)}
    weights.write(tmp_path / "imagen.safetensors", states | beside)
    for model in models:
        params = replace(model, remat="block").load(tmp_path / "imagen.safetensors")
        jax.tree.map(np.testing.assert_array_equal, params, cascade.params(model))
    with pytest.raises(UserError, match=r"unets\.0, unets\.1, unets\.2: say of which model"):
        published(states)
    with pytest.raises(UserError, match=r"unets\.0, unets\.1, unets\.2 none has the architecture"):
        published(states, replace(models[0], width=32))
    twice = states | {f"unets.3.{name}": x for name, x in cascade.state(models[1]).items()}
    with pytest.raises(UserError, match=r"unets\.1 and unets\.3 has the architecture"):
        published(twice, models[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s.pop("mid_attn.layers.0.0.null_kv"), r"lack mid_attn\.layers\.0\.0\.null_kv \(2, 64\)"),
        (
            lambda s: s.pop("downs.1.1.cross_attn.to_kv.weight"),
            r"lack downs\.1\.1\.cross_attn\.to_kv\.weight \(1024, 16\)",
        ),
        (
            lambda s: s.update({"ups.0.1.0.gca.to_k.bias": np.ones(2)}),
            r"ups\.0\.1\.0\.gca\.to_k\.bias is \(2,\), not \(1,\)",
        ),
        (
            lambda s: s.update({"downs.0.1.block2.project.weight": np.ones((9, 16, 3, 3))}),
            r"weight is \(9, 16, 3, 3\), not",
        ),
        (lambda s: s.update({"text_to_cond.weight": np.ones((2, 3))}), r"text_to_cond\.weight \(2, 3\) has no place"),
        (lambda s: s.clear(), r"the weights lack "),
    ],
)
def test_other_weights_are_one_line(change, line):
    state = dict(cascade.state(Model(**cascade.TINY["first"])))
    change(state)
    with pytest.raises(UserError, match=line) as error:
        published(state)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3])
def test_cells_halve_and_double(n):
    """Value c of a pixel at (y, x) lies at 4 c + 2 (y mod 2) + x mod 2 of its cell, in any number of dimensions."""
    x = np.arange(2.0 * 4**n * 5, dtype=np.float32).reshape(2, *(4,) * n, 5)
    y = np.asarray(halved(jax.device_put(x)))
    for at in np.ndindex(*(4,) * n):
        inner = np.ravel_multi_index([i % 2 for i in at], (2,) * n)
        cell = y[(slice(None), *(i // 2 for i in at), slice(inner, None, 2**n))]
        np.testing.assert_array_equal(cell, x[(slice(None), *at)])
    np.testing.assert_array_equal(doubled(jax.device_put(y)), x)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(3,), (3, 2), (2, 1, 3)])
def test_a_convolution_of_few_cells_is_one_product(sides):
    """Of values and gradients, batched, in any number of dimensions; where there are more cells than channels it is
    that of all networks."""
    x = jax.random.normal(jax.random.key(0), (2, *sides, 5))
    gathered, own = conv(x, 7), conv(jnp.zeros((1, 4, 4, 4, 5)), 7)
    assert gathered.conv_general_dilated is product
    assert own.conv_general_dilated is convolution
    start = jax.jit(gathered.init)(jax.random.key(1), x)

    def answer(layer, values, x):
        y = layer.apply(values, x)
        return jnp.sum(jnp.sin(y)), y

    there, here = (
        jax.jit(jax.grad(partial(answer, layer), (0, 1), has_aux=True))(start, x)
        for layer in (gathered.clone(conv_general_dilated=None), gathered)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), here, there)


@pytest.mark.slow
def test_doubling_starts_without_a_lattice():
    kernel = alike(jax.random.key(0), (1, 1, 6, 12), jnp.float32)
    pixels = np.asarray(doubled(kernel.reshape(6, 1, 1, 12)))  # what a cell of 1 in one of 6 channels becomes
    assert np.ptp(pixels, (1, 2)).max() == 0
    assert np.ptp(pixels) > 0


@pytest.mark.slow
def test_bad_input_is_one_line():
    model = Model(**cascade.TINY["second"])
    params, (x, log_snr, cond) = tiny.shapes(model), cascade.inputs(model, 8)

    def answer(x, **changes):
        told = {field: changes.get(field, value) for field, value in cond.items()}
        return jax.eval_shape(partial(cascade.call, model), params, x, log_snr, told)

    with pytest.raises(UserError, match=r"images of 8x6 are no multiples of 4"):
        answer(x[:, :, :6])
    with pytest.raises(UserError, match=r"condition 'low' is of \(2, 4, 4, 3\); beside x_t .* give \(2, 8, 8, 3\)"):
        answer(x, low=cond["low"][:, ::2, ::2])
    with pytest.raises(UserError, match=r"config\.model\.width is 20; take a multiple of 8"):
        replace(model, width=20)
    with pytest.raises(UserError, match=r"config\.model\.zoom=2 enlarges a context, and .*context_channels is 0"):
        replace(model, context_channels=0, zoom=2)
    with pytest.raises(UserError, match=r"config.model.attention is \(True,\): give one for all, or 2, one a level"):
        replace(model, attention=(True,))


@pytest.mark.slow
@pytest.mark.parametrize("zoom", [2, 2.5])
def test_the_middle_of_a_context_is_enlarged_where_it_lies(zoom):
    """Interpolation keeps a ramp: a pixel of the enlarged middle is what the context has at its place."""
    y, x = (np.arange(n, dtype=np.float32) + 0.5 for n in (10, 20))
    ramp = jnp.asarray(np.stack(np.broadcast_arrays(y[:, None], 2 * x[None]), -1)[None])
    inside = [(axis - n / 2) / zoom + n / 2 for axis, n in ((y, 10), (x, 20))]
    expected = np.stack(np.broadcast_arrays(inside[0][:, None], 2 * inside[1][None]), -1)
    np.testing.assert_allclose(middle(ramp, zoom)[0], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_network_sees_the_middle_of_its_context():
    """A network that is shown it, with the weights of this alone, says what the plain one says of that context."""
    plain = Model(**cascade.TINY["second"])
    shown = replace(plain, zoom=2)
    params, (x, log_snr, cond) = cascade.params(plain), cascade.inputs(plain, 8)
    moved = dict(params)
    for name, layer in params.items():
        if name.startswith("init_conv"):
            kernel = layer["kernel"]
            moved[name] = layer | {"kernel": jnp.concatenate([0 * kernel[..., :3, :], kernel], -2)}
    other = cond | {"context": middle(jnp.asarray(cond["context"]), 2)}
    expected = cascade.call(plain, params, x, log_snr, other)
    np.testing.assert_allclose(cascade.call(shown, moved, x, log_snr, cond), expected, atol=2e-4)


@pytest.mark.slow
def test_a_batch_of_any_number():
    """As an export has it, whose program draws as many samples as it is asked for."""
    model = Model(**cascade.TINY["second"], zoom=2)
    (n,) = jax.export.symbolic_shape("n")
    like = lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype)
    x, log_snr, cond = jax.tree.map(like, cascade.inputs(model, 8))
    y = jax.eval_shape(partial(cascade.call, model), tiny.shapes(model), x, log_snr, cond)
    assert y.shape == (n, 8, 8, 3)


@pytest.mark.slow
def test_what_is_left_out_is_zero_and_one_time_is_for_all():
    model = Model(**cascade.TINY["second"])
    params, (x, log_snr, cond) = cascade.params(model), cascade.inputs(model, 8)
    zeros = {field: np.zeros_like(value) for field, value in cond.items()}
    said = cascade.call(model, params, x, log_snr, zeros)
    np.testing.assert_allclose(cascade.call(model, params, x, log_snr, None), said, atol=1e-5)
    np.testing.assert_allclose(cascade.call(model, params, x, log_snr[1:], None)[1], said[1], atol=1e-5)
    for field, value in cond.items():
        assert np.abs(cascade.call(model, params, x, log_snr, zeros | {field: value}) - said).max() > 1e-2, field


def deep(path, leaf):
    """A parameter of the network of volumes that does with every slice what ``leaf`` does with an image: of a kernel's
    taps in depth the middle one; of a pair of slices that one place was made of the first; both slices of a place."""
    name, last = path[-2].key, path[-1].key
    if name.endswith(".0.1") and name.startswith("downs") and last == "kernel":  # [1, 1, 4 C, K]
        first = leaf.reshape(-1, 4, leaf.shape[-1])
        return np.stack([first, 0 * first], 1).reshape(1, 1, 1, -1, leaf.shape[-1])
    if ".net." in name and name.startswith("ups"):
        pair = leaf.reshape(*leaf.shape[:-1], -1, 1, 4)
        pair = np.concatenate([pair, pair], -2).reshape(*leaf.shape[:-1], -1)
        return pair[None] if last == "kernel" else pair
    if last == "kernel" and leaf.ndim == 4:
        taps = np.zeros((leaf.shape[0], *leaf.shape), leaf.dtype)
        taps[len(taps) // 2] = leaf
        return taps
    return leaf


@pytest.mark.slow
def test_a_volume_of_one_image_is_that_image():
    """Of equal slices, with kernels that look at one slice; in the middle, where all attend to all, one is left."""
    flat = Model(**cascade.TINY["third"])
    model, (x, log_snr, cond) = replace(flat, ndim=3), cascade.inputs(flat, 8)
    params = jax.tree.map_with_path(deep, jax.device_get(cascade.params(flat)))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, tiny.shapes(model))

    def slices(picture):
        return np.repeat(picture[:, None], model.multiple, 1)

    volume = cascade.call(model, params, slices(x), log_snr, cond | {"low": slices(cond["low"])})
    expected = np.asarray(cascade.call(flat, cascade.params(flat), x, log_snr, cond))
    np.testing.assert_allclose(volume, slices(expected), atol=2e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_bf16_is_close_and_remat_changes_nothing():
    one_level = {"multipliers": (1,), "blocks": 1, "attention": True, "cross_attention": True}
    model = Model(**cascade.TINY["second"] | one_level)
    params, (x, log_snr, cond) = cascade.params(model), jax.device_put(cascade.inputs(model, 8))

    @partial(jax.jit, static_argnums=0)
    @partial(jax.grad, argnums=1, has_aux=True)
    def gradient(model, params):
        y, _ = model.apply(params, x, log_snr, cond, (), None)
        return jnp.mean(jnp.square(y - 1)), y

    (plain, exact), (nested, _) = gradient(model, params), gradient(replace(model, remat="block"), params)
    rough = np.asarray(cascade.call(replace(model, dtype="bfloat16"), params, x, log_snr, cond))
    assert rough.dtype == np.float32
    assert 1e-4 < np.std(exact - rough) / np.std(exact) < 0.05
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain))
    deaf = {jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(plain) if not np.abs(leaf).max()}
    assert all("['to_k']['bias']" in path for path in deaf), deaf  # a softmax minds no level
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-3), plain, nested)
