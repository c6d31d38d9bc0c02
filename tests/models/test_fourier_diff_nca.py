"""FourierDiff-NCA against its plain numpy twin, and the published sizes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
import tiny
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nca_gen import arrays
from nca_gen.contracts import Listener, Place
from nca_gen.errors import UserError
from nca_gen.models import diff_nca, fourier_diff_nca


@partial(jax.jit, static_argnums=0)
def apply(model, params, x, t, key):
    return model.apply(params, x, t, None, (), key)[0]


@cache
def params(model):
    return tiny.params(model)


def start(*shape, channels=3):
    return tiny.images(0, 2, *shape, channels), jnp.array([3, 8]), arrays.keys(0, 2)


def count(model):
    return sum(x.size for x in jax.tree.leaves(tiny.shapes(model)))


SIZES = [(96, 512, 1_101_216), (128, 640, 1_849_632), (96, 256, 737_184), (48, 512, 525_792)]


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "hidden", "paper"), SIZES)
@pytest.mark.parametrize("steps", [10, 20, 30])
def test_published_counts(channels, hidden, paper, steps):
    """The paper also counts one normalisation of 2 h that is never used; steps cost nothing."""
    assert count(fourier_diff_nca.Model(channels=channels, hidden=hidden, steps=steps)) + 2 * hidden == paper


@pytest.mark.slow
def test_cell_norm_has_no_affine_part():
    """Two sides, 2 h each."""
    group, cell = (count(fourier_diff_nca.Model(norm=norm)) for norm in ("group", "cell"))
    assert group - cell == 2 * 2 * 512


slow = partial(pytest.param, marks=pytest.mark.slow)
CASES = [
    ({"norm": "group"}, (16, 16)),
    ({"norm": "cell"}, (16, 16)),
    slow({"norm": "group", "window": 6, "fourier_steps": 8, "image_channels": 1}, (13, 18)),
    slow({"norm": "cell", "window": 3, "fourier_steps": 3, "steps": 3, "ndim": 3}, (6, 7, 9)),
    slow({"norm": "cell", "ndim": 1}, (21,)),
    slow({"norm": "group", "window": 16, "fourier_steps": 4, "steps": 2}, (78, 64)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "shape"), CASES)
def test_the_numpy_twin_agrees(changes, shape):
    model = tiny.fourier(**changes)
    x, t, key = start(*shape, channels=model.image_channels)
    settings = 8, tiny.masks(model, key, shape), model.window, model.fourier_steps
    expected = textbook.fourier_diff_nca(params(model), x, np.asarray(t) / tiny.T, *settings)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(apply(model, params(model), x, t, key), expected, atol=1e-4)


@pytest.mark.slow
def test_the_fourier_phase_matters():
    """Without it the same image side says something else: what comes back from the window is not zero."""
    model = tiny.fourier()
    x, t, key = start(16, 16)
    silent = jax.tree.map(jnp.zeros_like, params(model)["fourier"]["fc1"]) | {"v": params(model)["fourier"]["fc1"]["v"]}
    deaf = params(model) | {"fourier": params(model)["fourier"] | {"fc1": silent}}
    assert np.abs(apply(model, params(model), x, t, key) - apply(model, deaf, x, t, key)).max() > 1e-2


@pytest.mark.slow
def test_zero_init_says_nothing():
    model = tiny.fourier(start="zero")
    x, t, key = start(16, 16)
    np.testing.assert_array_equal(apply(model, tiny.born(model), x, t, key), np.zeros_like(x))


@pytest.mark.slow
def test_every_cell_depends_on_the_whole_image():
    """One pixel in the corner is heard in the opposite corner, 12 cells away after 4 steps, even with ``cell`` norm."""
    model = tiny.fourier(norm="cell")
    assert isinstance(model, Listener)
    x, t, key = start(16, 16)
    y = x.copy()
    y[:, 0, 0] += 1.0
    a, b = (apply(model, params(model), z, t, key) for z in (x, y))
    assert np.abs(a - b)[:, 8:12, 8:12].min() > 0  # farther than 4 cells from it, also around the edge


@pytest.mark.slow
@pytest.mark.parametrize("conv", ["gathered", "scattered", "split", "convolved"])
def test_every_product_is_the_same_rule(conv):
    x, t, key = start(16, 16)
    a, b = (apply(tiny.fourier(conv=c), params(tiny.fourier()), x, t, key) for c in ("shifted", conv))
    np.testing.assert_allclose(a, b, atol=1e-5)


@cache
def gradient(model):
    x, t, key = start(16, 16)

    def loss(p):
        return jnp.mean(jnp.square(model.apply(p, jnp.asarray(x), t, None, (), key)[0] - 1))

    return jax.jit(jax.grad(loss))(params(tiny.fourier()))


@pytest.mark.slow
def test_what_is_kept_does_not_change_the_gradient():
    """And it reaches every parameter of both sides."""
    kept = gradient(tiny.fourier(remat="step"))
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(kept))
    scale = max(np.abs(x).max() for x in jax.tree.leaves(kept))
    mine = gradient(tiny.fourier(remat="fc0"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-4), mine, kept)


@pytest.mark.slow
def test_gradient_is_the_slope():
    """Central difference along a random direction of all parameters, in the twin's float64."""
    model = tiny.fourier(remat="step")
    x, t, key = start(16, 16)
    settings = np.asarray(t) / tiny.T, 8, tiny.masks(model, key, (16, 16)), model.window, model.fourier_steps

    def loss(p):
        return np.mean((textbook.fourier_diff_nca(p, x, *settings) - 1) ** 2)

    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params(model))
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda v: rng.standard_normal(v.shape), p)

    def moved(h):
        return jax.tree.map(lambda v, w: v + h * w, p, way)

    slope = (loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6
    pairs = zip(*map(jax.tree.leaves, (gradient(model), way)), strict=True)
    assert sum(float((np.float64(g) * w).sum()) for g, w in pairs) == pytest.approx(slope, rel=1e-3)


@pytest.mark.slow
def test_bf16_is_close():
    x, t, key = start(16, 16)
    exact, rough = (apply(tiny.fourier(dtype=d), params(tiny.fourier()), x, t, key) for d in ("float32", "bfloat16"))
    assert 1e-4 < np.sqrt(np.mean((exact - rough) ** 2)) / np.std(exact) < 0.05


@pytest.mark.slow
def test_one_time_for_all_or_one_each():
    model = tiny.fourier()
    x, _, key = start(16, 16)
    one, each, other = (apply(model, params(model), x, jnp.array(t), key) for t in ([5], [5, 5], [5, 9]))
    np.testing.assert_allclose(one, each, atol=1e-6)
    np.testing.assert_allclose(other[0], each[0], atol=1e-6)
    assert np.abs(other[1] - each[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "spec"), [((4, 1), P("data")), ((2, 2), P("data", "space"))])
def test_four_devices_say_what_one_says(shape, spec):
    model = tiny.fourier()
    x, t, key = tiny.images(0, 4, 16, 16, 3), jnp.array([3, 8, 0, 11]), arrays.keys(0, 4)
    mesh = jax.make_mesh(shape, ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    several = apply(model, params(model), jax.device_put(x, NamedSharding(mesh, spec)), t, key)
    assert len(several.sharding.device_set) == 4
    pairs = [apply(model, params(model), x[i : i + 2], t[i : i + 2], arrays.keys(0, 2, i)) for i in (0, 2)]
    np.testing.assert_allclose(several, np.concatenate(pairs), atol=1e-5)


@pytest.mark.slow
def test_small_images_are_refused():
    model = tiny.fourier()
    x, t, key = start(7, 16)
    with pytest.raises(UserError, match="at least 8 pixels a side"):
        apply(model, params(model), x, t, key)


def test_it_is_a_diff_nca():
    """The two models differ by the Fourier phase and by what a cell is told, not by their rule."""
    assert issubclass(fourier_diff_nca.Model, diff_nca.Model)
    assert (tiny.diff().scalars, tiny.fourier().scalars, tiny.fourier(ndim=3).scalars) == (2, 4, 5)


@pytest.mark.slow
def test_the_plain_rule_says_the_same():
    model = tiny.fourier()
    x, t, key = start(16, 16)
    plain, fast = (apply(tiny.fourier(rule=rule), params(model), x, t, key) for rule in ("plain", "fast"))
    np.testing.assert_allclose(plain, fast, atol=1e-5)


@pytest.mark.slow
def test_a_tile_that_has_heard_the_whole():
    """Two halves share what they have; with the sum a tile and its halo say what the whole image says."""
    model = tiny.fourier(norm="cell")
    x, t, key = start(16, 16)
    places = [Place(arrays.coords((8, 16), (row, 0)), (16, 16)) for row in (0, 8)]
    cores = [jnp.array([[row, row + 8], [0, 16]]) for row in (0, 8)]
    halves = [jax.device_put(half) for half in (x[:, :8], x[:, 8:])]

    @jax.jit
    def tile(p, x):
        total = sum(model.share(half, place, core) for half, place, core in zip(halves, places, cores, strict=True))
        place = Place(arrays.coords((11, 16), (5, 0)), (16, 16), model.heard(p, total, t))
        return model.apply(p, x, t, None, (), key, place)[0]

    assert model.halo == 4
    whole = apply(model, params(model), x, t, key)
    np.testing.assert_allclose(tile(params(model), x[:, 5:])[:, 4:], whole[:, 9:], atol=1e-5)
