"""Diff-NCA against a plain numpy twin, and what its structure promises: locality, symmetry, many ways to compute it."""

import os
from dataclasses import replace
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
from nca_gen.ca import perceive
from nca_gen.ca.rollout import repeated
from nca_gen.ca.seed import seed
from nca_gen.contracts import Automaton, Local, Place
from nca_gen.errors import UserError
from nca_gen.models import diff_nca


@partial(jax.jit, static_argnums=0)
def apply(model, params, x, t, key):
    return model.apply(params, x, t, None, (), key)[0]


@cache
def params(model):
    return tiny.params(model)


CELL, CALM = tiny.diff(norm="cell"), tiny.diff(norm="cell", fire_rate=1.0)  # of the same shapes, to compile less


def start(*shape, channels=3, seed=0):
    return tiny.images(seed, 2, *shape, channels), jnp.array([3, 8]), arrays.keys(0, 2)


def leaves(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "cell"])
def test_331k_parameters(norm):
    """The paper also counts a normalisation of 2 h that is never used; ``cell`` has no affine part either."""
    model = diff_nca.Model(norm=norm)
    assert (model.channels, model.hidden, model.steps) == (96, 512, 20)
    tree = tiny.shapes(model)
    unused = 2 * 512 * (1 if norm == "group" else 2)
    assert leaves(tree) + unused == 331_464
    # perceive of the facts' table, with its gain: 9 C (C + e) + 2 C.
    assert leaves(tree["image"]["perceive"]) == 9 * 96 * 98 + 2 * 96


@pytest.mark.parametrize("steps", [10, 30])
def test_steps_cost_no_parameters(steps):
    assert leaves(tiny.shapes(diff_nca.Model(steps=steps))) + 1024 == 331_464


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_neighbour_costs_so_many_parameters(ndim):
    """Perception has taps x C (C + e) of them, and gain and bias; all else is as large in any number of axes."""
    for neighbourhood, taps in {"moore": 3**ndim, "von_neumann": 2 * ndim + 1}.items():
        model = diff_nca.Model(channels=64, hidden=192, ndim=ndim, neighbourhood=neighbourhood, norm="cell")
        perceive = taps * 64 * (64 + 2) + 2 * 64
        products = (2 * 64 + 2) * 192 + 192 * 64 + 2 * (192 + 64)
        gates = 2 * (2 * 48 + 2 * 48) + 48 * (2 * 64 + 2 + 192) + 2 * (2 * 64 + 2 + 192)
        embedding = 4 * 256 + 256 * 2 + 2 * (256 + 2)
        assert leaves(tiny.shapes(model)) == perceive + products + gates + embedding


slow = partial(pytest.param, marks=pytest.mark.slow)
CASES = [
    ({"norm": "group"}, (16, 16)),
    ({"norm": "cell"}, (16, 16)),
    ({"norm": "cell", "fire_rate": 0.5, "ndim": 3, "steps": 3}, (6, 5, 7)),
    slow({"norm": "group", "steps": 7, "fire_rate": 1.0, "image_channels": 1}, (9, 14)),
    slow({"norm": "group", "ndim": 3, "steps": 3, "image_channels": 1}, (6, 5, 7)),
    slow({"norm": "cell", "ndim": 1}, (23,)),
    slow({"norm": "group", "steps": 3}, (78, 64)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "shape"), CASES)
def test_the_numpy_twin_agrees(changes, shape):
    model = tiny.diff(**changes)
    x, t, key = start(*shape, channels=model.image_channels)
    expected = textbook.diff_nca(params(model), x, np.asarray(t) / tiny.T, 8, tiny.masks(model, key, shape))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(apply(model, params(model), x, t, key), expected, atol=1e-4)


FACES = tiny.diff(norm="cell", ndim=3, neighbourhood="von_neumann")
VOLUME = (6, 5, 7)


def blocked(tree):
    """Parameters whose kernels of faces are blocks of 3^n, which are zero elsewhere: as long, so of the same gain."""
    perceived = tree["image"]["perceive"]
    return {"image": tree["image"] | {"perceive": perceived | {"v": perceive.block(perceived["v"], 3)}}}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["cell", slow("group")])
def test_the_numpy_twin_agrees_of_faces_alone(norm):
    """In three axes: what the twin says of a kernel that is zero at all other neighbours."""
    model = replace(FACES, norm=norm)
    x, t, key = start(*VOLUME)
    fire = tiny.masks(model, key, VOLUME)
    expected = textbook.diff_nca(blocked(params(model)), x, np.asarray(t) / tiny.T, 8, fire)
    for rule in ("fast", "plain"):
        np.testing.assert_allclose(apply(replace(model, rule=rule), params(model), x, t, key), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("neighbourhood", ["moore", slow("von_neumann")])
@pytest.mark.parametrize("norm", ["cell", slow("group")])
def test_a_volume_that_is_constant_along_an_axis_is_an_image(norm, neighbourhood):
    """The rule of three axes says of it what that of two says whose kernel is the sum along the axis."""
    model = tiny.diff(norm=norm, ndim=3, neighbourhood=neighbourhood, fire_rate=1.0)
    x, t, key = start(9, 8)
    kernel = model.side(8).apply({"params": params(model)["image"]}).perceive.kernel
    flat = jax.tree.map(lambda leaf: leaf, params(model))
    v = perceive.block(kernel, 3).sum(0)
    flat["image"]["perceive"] |= {"v": v, "g": jnp.sqrt(jnp.sum(v * v, (0, 1, 2)))}
    image = apply(tiny.diff(norm=norm, fire_rate=1.0), flat, x, t, key)
    volume = apply(model, params(model), np.broadcast_to(x[:, None], (2, 5, 9, 8, 3)), t, key)
    np.testing.assert_allclose(volume, np.broadcast_to(image[:, None], volume.shape), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("neighbourhood", [slow("moore"), "von_neumann"])
def test_a_tile_of_a_volume_is_the_whole(neighbourhood):
    """As in two axes; and in strips, which cut the last axis."""
    model = replace(FACES, neighbourhood=neighbourhood, steps=2)
    x, t, key = start(7, 8, 9)
    whole = apply(model, params(model), x, t, key)
    tile = jax.jit(lambda p, x, at: model.apply(p, x, t, None, (), key, Place(at, (7, 8, 9)))[0])
    mine = tile(params(model), x[:, :6, 2:8, 3:], np.ix_(np.arange(6), np.arange(2, 8), np.arange(3, 9)))
    np.testing.assert_allclose(mine[:, :4, 2:4, 2:], whole[:, :4, 4:6, 5:], atol=1e-6)
    strips = apply(replace(model, strip=2 * 7 * 8 * 2), params(model), x, t, key)
    np.testing.assert_allclose(strips, whole, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("conv", ["gathered", *map(slow, ("scattered", "split", "convolved"))])
def test_every_product_is_the_same_rule(conv):
    x, t, key = start(16, 16)
    a, b = (apply(replace(CALM, conv=c), params(CALM), x, t, key) for c in ("shifted", conv))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("norm", [slow("cell"), slow("group")])
def test_bf16_is_close(norm):
    """Products in 8 bits of mantissa: a few percent after four steps, and not float32 under another name."""
    x, t, key = start(16, 16)
    model = tiny.diff(norm=norm)
    exact, rough = (apply(tiny.diff(norm=norm, dtype=d), params(model), x, t, key) for d in ("float32", "bfloat16"))
    error = np.sqrt(np.mean((exact - rough) ** 2)) / np.std(exact)
    assert 1e-4 < error < 0.03
    assert rough.dtype == np.float32


@pytest.mark.slow
def test_zero_init_says_nothing():
    x, t, key = start(16, 16)
    model = tiny.diff(start="zero")
    np.testing.assert_array_equal(apply(model, tiny.born(model), x, t, key), np.zeros_like(x))


def gradient(model):
    x, t, key = start(*((16, 16) if model.ndim == 2 else VOLUME))

    def loss(p):
        return jnp.mean(jnp.square(model.apply(p, jnp.asarray(x), t, None, (), key)[0] - 1))

    plain = {"norm": model.norm, "steps": model.steps, "ndim": model.ndim, "neighbourhood": model.neighbourhood}
    return jax.jit(jax.grad(loss))(params(tiny.diff(**plain)))


@cache
def kept(norm, **fields):
    return gradient(tiny.diff(norm=norm, steps=7, remat="none", **fields))


@pytest.mark.slow
@pytest.mark.parametrize("way", [{"remat": "fc0"}, {"remat": "nested", "conv": "gathered"}, {"rule": "plain"}], ids=str)
def test_the_gradient_of_volumes_is_the_same_every_way(way):
    mine, other = gradient(replace(FACES, steps=7, **way)), kept("cell", ndim=3, neighbourhood="von_neumann")
    scale = max(np.abs(x).max() for x in jax.tree.leaves(other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-4), mine, other)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", slow("cell")])
def test_the_plain_rule_says_the_same(norm):
    """The letters of the paper, and the fast form of them."""
    x, t, key = start(16, 16)
    model = tiny.diff(norm=norm)
    plain, fast = (apply(tiny.diff(norm=norm, rule=rule), params(model), x, t, key) for rule in ("plain", "fast"))
    np.testing.assert_allclose(plain, fast, atol=1e-5)


WAYS = [slow("cell", {"remat": "fc0"}), slow("cell", {"remat": "nested", "conv": "gathered"})]
WAYS += [slow("group", {"remat": way}) for way in ("fc0", "seen", "nested")]
WAYS += [slow("group", {"remat": "step", "conv": "shifted"})]
WAYS += [slow(norm, {"remat": "step", "rule": "plain"}) for norm in ("group", "cell")]


@pytest.mark.parametrize(("norm", "way"), WAYS)
def test_the_gradient_is_the_same_every_way(norm, way):
    """Whatever is kept or computed again, whichever product is taken, and as the paper words it."""
    mine = gradient(tiny.diff(norm=norm, steps=7, **way))
    scale = max(np.abs(x).max() for x in jax.tree.leaves(kept(norm)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-4), mine, kept(norm))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "cell"])
def test_gradient_is_the_slope(norm):
    """Central difference along a random direction of all parameters, in the twin's float64."""
    model = tiny.diff(norm=norm, steps=7)
    x, t, key = start(16, 16)
    fire = tiny.masks(model, key, (16, 16))

    def loss(p):
        return np.mean((textbook.diff_nca(p, x, np.asarray(t) / tiny.T, 8, fire) - 1) ** 2)

    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params(model))
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda v: rng.standard_normal(v.shape), p)

    def moved(h):
        return jax.tree.map(lambda v, w: v + h * w, p, way)

    slope = (loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6
    pairs = zip(*map(jax.tree.leaves, (kept(norm), way)), strict=True)
    assert sum(float((np.float64(g) * w).sum()) for g, w in pairs) == pytest.approx(slope, rel=1e-3)


def changed(model, size=16):
    """The cells that answer otherwise when the central pixel changes."""
    x, t, key = start(size, size)
    y = x.copy()
    y[:, size // 2, size // 2] += 1.0
    a, b = (np.asarray(apply(model, params(model), z, t, key)) for z in (x, y))
    return np.argwhere((a != b).any((0, 3))) - size // 2


@pytest.mark.slow
@pytest.mark.parametrize("steps", [slow(1), 2, slow(4)])
def test_a_cell_is_heard_within_the_halo(steps):
    """Bit for bit nothing beyond ``halo`` cells, and everything within, as long as it is loud enough for float32."""
    model = tiny.diff(norm="cell", fire_rate=1.0, steps=steps)
    assert model.halo == steps
    square = {(i, j) for i in range(-steps, steps + 1) for j in range(-steps, steps + 1)}
    heard = set(map(tuple, changed(model).tolist()))
    assert heard == square if steps < 4 else heard < square


@pytest.mark.slow
def test_faces_are_heard_as_far_as_steps_go():
    """Of two steps the diamond, and no corner."""
    model = tiny.diff(norm="cell", fire_rate=1.0, steps=2, neighbourhood="von_neumann")
    heard = set(map(tuple, changed(model).tolist()))
    assert heard == {(i, j) for i in range(-2, 3) for j in range(-2, 3) if abs(i) + abs(j) <= 2}


@pytest.mark.slow
def test_group_norm_is_heard_everywhere():
    model = tiny.diff(norm="group", fire_rate=1.0)
    assert model.halo is None
    assert np.abs(changed(model)).max() > 4


@pytest.mark.slow
def test_a_tile_with_its_halo_is_the_whole():
    """Cells at their absolute coordinates: noise, masks and answers are those of the whole image."""
    x, t, key = start(16, 16)
    whole = apply(CELL, params(CELL), x, t, key)
    tile = jax.jit(lambda p, x, at: CELL.apply(p, x, t, None, (), key, Place(at, (16, 16)))[0])
    mine = tile(params(CELL), x[:, 1:14, 3:14], np.ix_(np.arange(1, 14), np.arange(3, 14)))
    np.testing.assert_allclose(mine[:, 4:-4, 4:-4], whole[:, 5:10, 7:10], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [tiny.diff(norm="cell", border="wrap"), slow(tiny.fourier(norm="cell", border="wrap"))]
)
def test_a_torus_is_the_plane_paved_with_it(model):
    """The middle of 3 x 3 copies of cells and randomness, farther than a call sees from the end of the pavement."""
    x, t, key = start(11, 9)
    plane = replace(model, border="reflect")

    @partial(jax.jit, static_argnums=0)
    def run(model, params, x):
        at = tuple(c % e for c, e in zip(arrays.coords(x.shape[1:-1]), (11, 9), strict=True))
        step = model.step(params, t, key, Place(at, (11, 9)))
        return repeated(step, model.steps)(seed(x, 3, 2)).out

    paved = run(plane, params(plane), np.tile(x, (1, 3, 3, 1)))
    torus = run(model, params(model), x)
    np.testing.assert_allclose(torus, paved[:, 11:22, 9:18], atol=1e-5)


@pytest.mark.slow
def test_the_rule_is_the_same_everywhere():
    """Shifted images have shifted answers, away from borders and with all cells firing."""
    x, t, key = start(16, 16)
    shifted = apply(CALM, params(CALM), np.roll(x, (3, 5), (1, 2)), t, key)
    whole = np.roll(apply(CALM, params(CALM), x, t, key), (3, 5), (1, 2))
    np.testing.assert_allclose(shifted[:, 7:-4, 9:-4], whole[:, 7:-4, 9:-4], atol=1e-5)


@pytest.mark.slow
def test_one_time_for_all_or_one_each():
    model = tiny.diff(norm="cell")
    x, _, key = start(16, 16)
    one, each, other = (apply(model, params(model), x, jnp.array(t), key) for t in ([5], [5, 5], [5, 9]))
    np.testing.assert_allclose(one, each, atol=1e-6)
    np.testing.assert_allclose(other[0], each[0], atol=1e-6)
    assert np.abs(other[1] - each[1]).max() > 1e-3


@pytest.mark.slow
def test_images_of_a_batch_do_not_meet():
    """Bit for bit: another neighbour, of another time and key, changes nothing."""
    model = tiny.diff(norm="group")
    x, t, key = start(16, 16)
    keys = arrays.keys(0, 3)[jnp.array([2, 1])]
    other = apply(model, params(model), np.stack([x[0] + 1, x[1]]), jnp.array([9, 8]), keys)
    mine = apply(model, params(model), x, t, key)
    np.testing.assert_array_equal(mine[1], other[1])
    assert np.abs(mine[0] - other[0]).max() > 0.1


@pytest.mark.slow
def test_every_step_fires_anew():
    """Cells that never fire say nothing; with the same key the same cells fire."""
    model = tiny.diff(norm="cell", fire_rate=0.5, steps=1)
    x, t, key = start(16, 16)
    out = np.asarray(apply(model, params(model), x, t, key))
    np.testing.assert_array_equal((out != 0).any(-1, keepdims=True), tiny.masks(model, key, (16, 16))[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "spec", "norm"),
    [
        ((2, 2), P("data", "space"), "cell"),
        slow((2, 2), P("data", "space"), "group"),
        slow((4, 1), P("data"), "group"),
        slow((1, 4), P(None, "space"), "cell"),
    ],
)
def test_four_devices_say_what_one_says(shape, spec, norm):
    model = tiny.diff(norm=norm)
    x, t, key = tiny.images(0, 4, 16, 16, 3), jnp.array([3, 8, 0, 11]), arrays.keys(0, 4)
    mesh = jax.make_mesh(shape, ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    spread = jax.device_put(x, NamedSharding(mesh, spec))
    several = apply(model, params(model), spread, t, key)
    assert len(several.sharding.device_set) == 4
    pairs = [apply(model, params(model), x[i : i + 2], t[i : i + 2], arrays.keys(0, 2, i)) for i in (0, 2)]
    np.testing.assert_allclose(several, np.concatenate(pairs), atol=2e-6)


@pytest.mark.slow
def test_four_devices_say_of_volumes_what_one_says():
    """Two volumes, each cut into two slabs."""
    x, t, key = start(8, 5, 4)
    mesh = jax.make_mesh((2, 2), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    several = apply(FACES, params(FACES), jax.device_put(x, NamedSharding(mesh, P("data", "space"))), t, key)
    assert len(several.sharding.device_set) == 4
    np.testing.assert_allclose(several, apply(FACES, params(FACES), x, t, key), atol=2e-6)


@pytest.mark.slow
def test_what_starts_at_zero():
    """``zero``: the last product alone. ``torch``: nothing; every gain is the length of its v."""
    zero, torch = (tiny.born(tiny.diff(start=start))["image"] for start in ("zero", "torch"))

    def layers(side):
        return {name: layer for name, layer in side.items() if isinstance(layer, dict)}

    gains = {name: np.abs(layer["g"]).min() for name, layer in layers(zero).items()}
    assert [name for name, least in gains.items() if least == 0] == ["fc1"]
    for layer in layers(torch).values():
        length = np.sqrt((np.asarray(layer["v"]) ** 2).sum(tuple(range(layer["v"].ndim - 1))))
        np.testing.assert_allclose(layer["g"], length, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"norm": "grup"}, "did you mean group"),
        ({"start": "zeros"}, "did you mean zero"),
        ({"conv": "shift"}, "did you mean shifted"),
        ({"remat": "steps"}, "did you mean step"),
        ({"dtype": "float16"}, "did you mean .*float"),
        ({"neighbourhood": "neumann"}, "did you mean von_neumann"),
        ({"channels": 6}, "image and prediction alone take 6"),
        ({"image_channels": 5}, "image and prediction alone take 10"),
    ],
)
def test_wrong_fields(changes, line):
    with pytest.raises(UserError, match=line):
        tiny.diff(**changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (tiny.diff, {}),
        pytest.param(tiny.diff, {"border": "wrap"}, marks=pytest.mark.slow),
        pytest.param(tiny.diff, {"fire_rate": 1.0, "conv": "gathered"}, marks=pytest.mark.slow),
        pytest.param(tiny.fourier, {"border": "wrap"}, marks=pytest.mark.slow),
        pytest.param(tiny.fourier, {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_strips_change_nothing(kind, changes):
    """Three columns at a time, of 16; where position enters, what a cell knows of its neighbour's comes in the halo."""
    x, t, key = start(16, 16)
    whole, strips = (kind(norm="cell", strip=n, **changes) for n in (0, 2 * 16 * 3))
    said, again = (apply(m, params(whole), x, t, key) for m in (whole, strips))
    np.testing.assert_allclose(again, said, atol=2e-6)


@pytest.mark.slow
def test_growth_ends_in_the_prediction():
    """Newborn cells say nothing; after all steps they say what the call says."""
    x, t, key = start(16, 16)
    frames = jax.jit(CALM.growth)(params(CALM), jnp.asarray(x, jnp.float32), t, None, key)
    assert frames.shape == (5, *x.shape)
    np.testing.assert_array_equal(frames[0], 0)
    np.testing.assert_allclose(frames[-1], apply(CALM, params(CALM), x, t, key), atol=1e-6)


def test_what_can_be_asked_of_it():
    """Local with a halo where the norm is of each cell; other borders and other ages are the same cells."""
    model = tiny.diff(norm="cell")
    assert isinstance(model, Local)
    assert isinstance(model, Automaton)
    assert (model.reads, model.predicts, dict(model.conditions), model.halo) == (3, 3, {}, 4)
    assert (model.bordered("wrap").border, model.grown(7).halo) == ("wrap", 7)
    assert model.inference() == replace(model, strip=2048 * os.cpu_count())


def test_other_axes_are_refused():
    with pytest.raises(AssertionError, match="rank"):
        tiny.diff().apply({}, jnp.zeros((1, 8, 8, 8, 3)), jnp.zeros(1), None, (), arrays.keys(0, 1))
