"""GeCA against a plain numpy twin, its published sizes, and what its structure promises."""

from dataclasses import replace
from functools import cache, partial
from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from nn.test_local_attention import twin as attention

from nca_gen import arrays
from nca_gen.ca import rows
from nca_gen.contracts import Aging, Heir, Local, Place
from nca_gen.errors import UserError
from nca_gen.models.geca import Genes, Model
from nca_gen.verbs.describe_work import matmul_flop

XS = {"embed": 384, "heads": 6, "mlp": 64, "hidden": 32}
slow = partial(pytest.param, marks=pytest.mark.slow)


def small(**changes):
    fields = {"embed": 16, "heads": 2, "mlp": 24, "hidden": 5, "steps": 3, "classes": 3, "image_channels": 2}
    return Model(**fields | changes)


@partial(jax.jit, static_argnums=0)
def apply(model, params, x, t, cond, memory, key):
    return model.apply(params, x, t, None if cond is None else {"label": cond}, memory, key)


@partial(jax.jit, static_argnums=0)
def newborn(model, x, key, place=None):
    return model.newborn(x, key, place)


@cache
def params(model):
    return tiny.params(model)


def start(*size, n=2, seed=0):
    labels = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    return jnp.asarray(tiny.images(seed, n, *size, 2)), jnp.array([3, 800]), jnp.asarray(labels), arrays.keys(0, n)


def leaves(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"classes": 11}, 13_312_584),
        ({"classes": 5}, 13_307_976),
        (XS | {"classes": 11}, 2_255_720),
        (XS | {"classes": 5}, 2_253_416),
        ({"classes": 0}, 13_312_584 - 599_808),
    ],
)
def test_published_parameters(fields, count):
    assert leaves(tiny.shapes(Model(**fields))) == count


def test_where_the_parameters_are():
    """The facts' table of GeCA-S."""
    tree = tiny.shapes(Model(classes=11))
    block, last = tree["block"], tree["last"]
    assert leaves(tree["condition"]["time"]) == 787_968
    assert leaves(tree["condition"]["label"]) == 599_808
    assert leaves(tree["embedding"]) == 59_136
    assert leaves(block["condition"]) == 3_543_552
    assert leaves((block["norm0"], block["norm1"])) == 3_072
    assert (leaves(block["qkv"]), leaves(block["proj"])) == (1_769_472, 590_592)
    assert leaves((block["fc0"], block["fc1"])) == 4_722_432
    assert (leaves(last["condition"]), leaves(last["linear"])) == (1_181_184, 55_368)


def affine(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer.get("bias", 0.0), np.float64)


def norm(x, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x))


def features(t):
    return [f(t * 10000 ** (-k / 128)) for f in (np.cos, np.sin) for k in range(128)]


def twin(model, p, x, t, labels, out, hidden, fire):
    """The facts, section 3, word for word, in float64: everything again in every step."""
    x, size, width = np.asarray(x, np.float64), x.shape[1:-1], model.embed
    place = np.arange(np.prod(size)).reshape(size)[..., None]
    j = np.arange(width)
    code = np.where(j % 2 == 0, np.sin(place * 10000.0 ** (-j / width)), np.cos(place * 10000.0 ** (-j / width)))
    for k in range(model.steps):
        time = np.array([features(float(n)) for n in t])
        c = affine(silu(affine(time, p["condition"]["time"]["fc0"])), p["condition"]["time"]["fc1"])
        c = c + affine(affine(labels, p["condition"]["label"]["fc0"]), p["condition"]["label"]["fc1"])
        c = silu(c).reshape(len(x), *[1] * len(size), width)
        shift0, scale0, gate0, shift1, scale1, gate1 = np.split(affine(c, p["block"]["condition"]), 6, -1)
        e = affine(np.concatenate([x, out, hidden], -1), p["embedding"]) + code

        def own(e, layer):
            return norm(e, 1e-5) * np.asarray(layer["scale"]) + np.asarray(layer["bias"])

        a = own(e, p["block"]["norm0"]) * (1 + scale0) + shift0
        q, k_, v = np.split(affine(a, p["block"]["qkv"]), 3, -1)
        heads = (z.reshape(*z.shape[:-1], model.heads, -1) for z in (q, k_, v))
        e = e + gate0 * affine(
            attention(*heads, model.border, model.neighbourhood).reshape(e.shape), p["block"]["proj"]
        )
        b = affine(own(e, p["block"]["norm1"]) * (1 + scale1) + shift1, p["block"]["fc0"])
        b = b * (1 + np.vectorize(erf)(b / np.sqrt(2))) / 2
        e = e + gate1 * affine(b, p["block"]["fc1"])
        shift, scale = np.split(affine(c, p["last"]["condition"]), 2, -1)
        d = fire[k] * affine(norm(e, 1e-6) * (1 + scale) + shift, p["last"]["linear"])
        out, hidden = out + d[..., : model.predicts], hidden + d[..., model.predicts :]
    return out, hidden


CASES = [
    ({}, (6, 5)),
    slow({"border": "mask", "learned_variance": False, "hidden_seed": "centre"}, (4, 5)),
    slow({"fire_rate": 1.0, "heads": 4, "steps": 2, "ndim": 3}, (3, 2, 4)),
    slow({"steps": 2, "ndim": 3, "neighbourhood": "von_neumann"}, (3, 2, 4)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "size"), CASES)
def test_the_numpy_twin_agrees(changes, size):
    model = small(**changes)
    x, t, labels, key = start(*size)
    mine, genes = apply(model, params(model), x, t, labels, (), key)
    born = newborn(model, x, key)
    fire = tiny.masks(model, key, size)
    out, hidden = twin(
        model, params(model), x, t, np.asarray(labels), np.asarray(born.out), np.asarray(born.hidden), fire
    )
    assert mine.shape[-1] == (2 if model.learned_variance else 1) * 2
    assert np.abs(out).max() > 0.3
    np.testing.assert_allclose(mine, out, atol=2e-4)
    np.testing.assert_array_equal(genes.out, mine)
    np.testing.assert_allclose(genes.hidden, hidden, atol=2e-4)


@pytest.mark.parametrize("seed", [slow("zeros"), "centre"])
@pytest.mark.slow
def test_newborn_cells(seed):
    """Zero but for the centre of the whole, where a tile that has it draws the same."""
    model = small(hidden_seed=seed)
    x, *_, key = start(6, 7)
    genes = newborn(model, x, key)
    middle = np.zeros((6, 7), bool)
    middle[3, 3] = True
    np.testing.assert_array_equal((np.asarray(genes.out) != 0).all((0, -1)), middle)
    np.testing.assert_array_equal((np.asarray(genes.out) != 0).any((0, -1)), middle)
    assert (np.asarray(genes.hidden) != 0).any() == (seed == "centre")
    tile = newborn(model, x[:, 2:, 1:5], key, Place(arrays.coords((4, 4), (2, 1)), (6, 7)))
    jax.tree.map(np.testing.assert_array_equal, tile, Genes(genes.out[:, 2:, 1:5], genes.hidden[:, 2:, 1:5]))


@pytest.mark.slow
def test_the_centre_is_standard_normal():
    model = replace(small(), hidden_seed="centre", hidden=64)
    genes = newborn(model, jnp.zeros((500, 1, 1, 2)), arrays.keys(0, 500))
    for drawn in (np.asarray(genes.out), np.asarray(genes.hidden)):
        assert drawn.mean() == pytest.approx(0, abs=0.06)
        assert drawn.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(np.asarray(genes.out[:, 0, 0, 0]), np.asarray(genes.hidden[:, 0, 0, 0]))[0, 1] < 0.15


@pytest.mark.slow
def test_genes_are_inherited():
    """A call that goes on from another is what the twin says; a field that is None, or no genes, is born anew."""
    model = small()
    x, t, labels, key = start(6, 5)
    fire, born = tiny.masks(model, key, (6, 5)), newborn(model, x, key)
    genes = twin(model, params(model), x, t, np.asarray(labels), *map(np.asarray, born), fire)
    again = twin(model, params(model), x, t, np.asarray(labels), *genes, fire)
    kept = Genes(*(jnp.asarray(g, jnp.float32) for g in genes))
    said, left = apply(model, params(model), x, t, labels, kept, key)
    np.testing.assert_allclose(said, again[0], atol=5e-4)
    np.testing.assert_allclose(left.hidden, again[1], atol=5e-4)
    begin = jax.jit(lambda memory: model.begin(x, memory, key, Place.of(x)))
    for memory, out, hidden in [((), *born), (Genes(None, kept.hidden), born.out, kept.hidden), (kept, *kept)]:
        cells = begin(memory)
        np.testing.assert_array_equal(cells.out, out)
        np.testing.assert_array_equal(cells.hidden, hidden)


@pytest.mark.slow
def test_any_number_of_steps_with_the_same_parameters():
    """Without fire masks 2 + 3 steps are 5."""
    two, three, five = (small(fire_rate=1.0, steps=n) for n in (2, 3, 5))
    x, t, labels, key = start(6, 5)
    whole, _ = apply(five, params(small()), x, t, labels, (), key)
    _, genes = apply(two, params(small()), x, t, labels, (), key)
    again, _ = apply(three, params(small()), x, t, labels, genes, key)
    np.testing.assert_allclose(again, whole, atol=1e-5)


@pytest.mark.slow
def test_no_condition_is_the_null_condition():
    model = small()
    x, t, labels, key = start(6, 5)
    none, zero, some = (apply(model, params(model), x, t, c, (), key)[0] for c in (None, 0 * labels, labels))
    np.testing.assert_allclose(none, zero, atol=1e-5)
    assert np.abs(some - zero).max() > 1e-2


@pytest.mark.slow
def test_one_time_for_all_or_one_each():
    model = small()
    x, _, labels, key = start(6, 5)
    one, each = (apply(model, params(model), x, jnp.array(t), labels, (), key)[0] for t in ([5], [5, 5]))
    np.testing.assert_allclose(one, each, atol=1e-5)


@pytest.mark.slow
def test_every_step_fires_anew():
    """Cells that do not fire do not change; with the same key the same cells fire."""
    model = small(steps=1)
    x, t, labels, key = start(6, 5)
    _, genes = apply(model, params(model), x, t, labels, (), key)
    np.testing.assert_array_equal(
        (np.asarray(genes.hidden) != 0).any(-1, keepdims=True), tiny.masks(model, key, (6, 5))[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"border": "mask"}, {"border": "zero"}, {"rule": "gathered", "keeps": True, "fire_rate": 0.2}], ids=str
)
def test_a_tile_with_its_halo_is_the_whole(fields):
    """Cells at their absolute coordinates: code, noise, masks and answers are those of the whole image."""
    model = small(**fields)
    x, t, labels, key = start(14, 12)
    whole, _ = apply(model, params(model), x, t, labels, (), key)
    place, h = Place(arrays.coords((9, 8), (3, 2)), (14, 12)), model.halo
    call = jax.jit(lambda p, x: model.apply(p, x, t, {"label": labels}, (), key, place)[0])
    tile = call(params(model), x[:, 3:12, 2:10])
    np.testing.assert_allclose(tile[:, h:-h, h:-h], whole[:, 3 + h : 12 - h, 2 + h : 10 - h], atol=1e-5)


@partial(jax.jit, static_argnums=0)
def _learned(model, p, x, genes):
    _, t, labels, key = start(6, 5)

    def loss(p):
        out = model.apply(p, x, t, {"label": labels}, genes, key)[0]
        return jnp.mean(jnp.square(out - 1)), out

    return jax.grad(loss, has_aux=True)(p)[::-1]


def learned(model, x):
    """What it says of x, and the gradient of its distance from 1."""
    return _learned(model, params(small()), x, newborn(small(), start(6, 5)[0], arrays.keys(0, 2)))


@cache
def gradient(model):
    return learned(model, start(6, 5)[0])[1]


def plain():
    return gradient(small(remat="none"))


WAYS = [{"remat": "out"}, {"remat": "nested"}, {"rule": "plain"}]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_gradient_is_the_same_every_way(way):
    """Whatever is kept, and as the paper words it."""
    scale = max(np.abs(x).max() for x in jax.tree.leaves(plain()))
    close = partial(np.testing.assert_allclose, atol=1e-5 * scale, rtol=1e-4)
    jax.tree.map(close, gradient(small(**way)), plain())


VOLUME = {"ndim": 3, "neighbourhood": "von_neumann"}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, slow({"border": "mask"}), slow({"rule": "gathered", "fire_rate": 0.2})])
def test_the_plain_rule_says_the_same_of_volumes(changes):
    """By faces alone: the letters of the paper, the fast form, and that of the cells that fire alone."""
    fast = small(**VOLUME | changes)
    x, t, labels, key = start(4, 5, 6)
    models = (replace(fast, rule="plain"), fast)
    plain, said = (apply(model, params(small(**VOLUME)), x, t, labels, (), key)[0] for model in models)
    np.testing.assert_allclose(said, plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("border", ["mask", "wrap"])
def test_a_volume_that_is_constant_along_an_axis_is_an_image(border):
    """Neighbours come three times each, which a softmax does not tell. Slices have the code of the image's cells."""
    x, t, labels, key = start(6, 5)
    model = small(border=border, fire_rate=1.0)
    genes = Genes(*(jnp.asarray(tiny.images(seed, 2, 6, 5, n)) for seed, n in ((1, 4), (2, 5))))
    image, _ = apply(model, params(model), x, t, labels, genes, key)
    thick = lambda x: jnp.broadcast_to(x[:, None], (2, 4, *x.shape[1:]))
    place = Place((jnp.zeros((4, 1, 1), int), *(c[None] for c in arrays.coords((6, 5)))), (1, 6, 5))
    call = lambda p, x: replace(model, ndim=3).apply(
        p, x, t, {"label": labels}, jax.tree.map(thick, genes), key, place
    )[0]
    np.testing.assert_allclose(jax.jit(call)(params(model), thick(x)), thick(image), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("neighbourhood", ["moore", "von_neumann"])
def test_a_tile_of_a_volume_is_the_whole(neighbourhood):
    model = small(ndim=3, neighbourhood=neighbourhood, steps=2)
    x, t, labels, key = start(7, 6, 8)
    whole, _ = apply(model, params(model), x, t, labels, (), key)
    place = Place(arrays.coords((6, 6, 6), (1, 0, 2)), (7, 6, 8))
    call = jax.jit(lambda p, x: model.apply(p, x, t, {"label": labels}, (), key, place)[0])
    tile = call(params(model), x[:, 1:, :, 2:])
    np.testing.assert_allclose(tile[:, 2:, :, 2:], whole[:, 3:, :, 4:], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("border", ["zero", slow("mask"), slow("wrap")])
def test_the_plain_rule_says_the_same(border):
    """The letters of the paper, and the fast form of them."""
    x, t, labels, key = start(6, 5)
    models = (small(border=border, rule=rule) for rule in ("plain", "fast"))
    plain, fast = (apply(model, params(small()), x, t, labels, (), key)[0] for model in models)
    np.testing.assert_allclose(plain, fast, atol=1e-5)


# Of eight images over four devices, cells that fire are gathered in pairs of images.
GATHERED = {
    "rows for all that fire": ({}, 0.2, 6),
    "keys kept": ({"keeps": True}, 0.2, 6),
    "too few rows in some steps": ({"remat": "none"}, 0.21, 0),
    "too few, keys kept": ({"keeps": True}, 0.21, 0),
    "one image a group": ({"border": "wrap"}, 0.22, 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", GATHERED)
def test_cells_that_fire_alone_are_computed(case, monkeypatch):
    """Prediction, genes and gradient of the gathered rule are those of the dense one, to 1e-6."""
    changes, rate, deviations = GATHERED[case]
    monkeypatch.setattr(rows, "DEVIATIONS", deviations)
    n = 6 if case == "one image a group" else 8
    dense = small(fire_rate=rate, border=changes.get("border", "zero"))
    gathered = replace(dense, rule="gathered", **changes)
    assert 0 < gathered.room((n, 6, 5, 9)) < 30 * n // rows.groups(n)
    x, key = jnp.asarray(tiny.images(0, n, 6, 5, 2)), arrays.keys(0, n)
    told, labels = jnp.arange(n) * 100, jnp.asarray(np.eye(3, dtype=np.float32)[np.arange(n) % 3])

    @partial(jax.jit, static_argnums=0)
    def learn(model, p):
        def loss(p):
            said = model.apply(p, x, told, {"label": labels}, (), key)
            return jnp.mean(jnp.square(said[0] - 1)), said

        return jax.grad(loss, has_aux=True)(p)

    for mine, plain in zip(learn(gathered, params(small())), learn(dense, params(small())), strict=True):
        mine, plain = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (mine, plain))
        assert np.linalg.norm(mine - plain) < 1e-6 * np.linalg.norm(plain)


@pytest.mark.slow
def test_cells_that_do_not_fire_cost_nothing():
    """Products of a call of GeCA-S on 32 x 32, by a count: of so many rows, and once all keys."""
    model = Model(rule="gathered")
    shapes = tiny.shapes(model)

    def gflop(model):
        x, key = jax.ShapeDtypeStruct((1, 32, 32, 4), np.float32), arrays.keys(0, 1)
        return matmul_flop(jax.make_jaxpr(lambda p, x: model.apply(p, x, jnp.zeros(1), None, (), key))(shapes, x).jaxpr)

    d, cells, few = 768, 1024, 1024 // 2 + 96
    once = 2 * (256 * d + 9 * d * d)  # time, and what it makes of norms and gates
    keys = 2 * (76 * d + 2 * d * d)
    row = 2 * (76 * d + 2 * d * d + 8 * d * d + 72 * d)
    assert gflop(replace(model, rule="fast")) == once + 12 * cells * (row + 4 * d * d)
    assert gflop(model.inference()) == once + cells * keys + 12 * few * (row + keys)
    assert gflop(model) == once + 12 * (cells * keys + few * row)


@pytest.mark.slow
def test_the_gradient_is_the_slope():
    """Central difference along a random direction of all parameters, in the twin's float64."""
    model = small(remat="none")
    x, t, labels, key = start(6, 5)
    fire, born = tiny.masks(model, key, (6, 5)), [np.asarray(v) for v in newborn(model, x, key)]

    def loss(p):
        return np.mean((twin(model, p, x, t, np.asarray(labels), *born, fire)[0] - 1) ** 2)

    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params(small()))
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda v: rng.standard_normal(v.shape), p)

    def moved(h):
        return jax.tree.map(lambda v, w: v + h * w, p, way)

    slope = (loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6
    pairs = zip(*map(jax.tree.leaves, (plain(), way)), strict=True)
    assert sum(float((np.float64(g) * w).sum()) for g, w in pairs) == pytest.approx(slope, rel=1e-3)


@pytest.mark.slow
def test_axes_and_neighbours_cost_no_parameters():
    shapes = tiny.shapes(Model())
    for fields in (VOLUME, {"ndim": 3}, {"neighbourhood": "von_neumann"}):
        assert tiny.shapes(Model(**fields)) == shapes


def spread(x):
    """Two images, and the rows of each, over four devices."""
    mesh = jax.make_mesh((2, 2), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    return jax.device_put(x, NamedSharding(mesh, P("data", "space")))


@pytest.mark.slow
def test_bf16_is_close():
    """Products in 8 bits of mantissa on four devices, forward and back, to float32 on one."""
    x, *_ = start(6, 5)
    (exact, kept), (rough, mine) = learned(small(remat="none"), x), learned(small(dtype="bfloat16"), spread(x))
    assert rough.dtype == np.float32
    assert len(rough.sharding.device_set) == 4
    assert 1e-4 < np.sqrt(np.mean((exact - rough) ** 2)) / np.std(exact) < 0.03

    def flat(tree):
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

    error = flat(mine) - flat(kept)
    assert 1e-4 < np.sqrt(np.mean(error**2)) / np.std(flat(kept)) < 0.05


@pytest.mark.slow
def test_four_devices_say_what_one_says():
    """Here and in the gradient, whatever of it is kept."""
    x, *_ = start(6, 5)
    gathered = {"rule": "gathered", "fire_rate": 0.2}
    for fields, plain in (({"remat": "fc0"}, {}), (gathered, {"fire_rate": 0.2})):
        several, one = learned(small(**fields), spread(x)), learned(small(remat="none", **plain), x)
        assert len(several[0].sharding.device_set) == 4
        scale = max(np.abs(g).max() for g in jax.tree.leaves(one[1]))
        np.testing.assert_allclose(several[0], one[0], atol=2e-5)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5 * scale, rtol=1e-4), several[1], one[1])


@pytest.mark.slow
def test_it_starts_as_the_zero_map():
    """What comes out is what went in: the newborn cells."""
    model = small()
    x, t, labels, key = start(6, 5)
    born = tiny.born(model)
    out, genes = apply(model, born, x, t, labels, (), key)
    fresh = newborn(model, x, key)
    np.testing.assert_array_equal(out, fresh.out)
    np.testing.assert_array_equal(genes.hidden, fresh.hidden)
    for layer in (born["block"]["condition"], born["last"]["condition"], born["last"]["linear"]):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(layer))
    kernel = np.asarray(born["block"]["qkv"]["kernel"])
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (16 + 48)), rel=0.05)  # Xavier
    assert np.asarray(born["condition"]["time"]["fc0"]["kernel"]).std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"border": "zeros"}, "did you mean zero"),
        ({"neighbourhood": "neumann"}, "did you mean von_neumann"),
        ({"hidden_seed": "center"}, "did you mean centre"),
        ({"remat": "steps"}, "did you mean step"),
        ({"dtype": "bf16"}, "did you mean bfloat16"),
        ({"embed": 15}, "multiple of the 2 heads"),
    ],
)
def test_wrong_fields(changes, line):
    with pytest.raises(UserError, match=line):
        small(**changes)


@pytest.mark.slow
def test_a_torus_turns():
    """Without the code of places, cells that all fire answer to a turned image with a turned answer."""
    model = small(border="wrap", fire_rate=1.0)
    x, t, labels, key = start(6, 5)
    down, across = np.ix_((np.arange(6) - 2) % 6, (np.arange(5) - 1) % 5)
    turned = Place((jnp.asarray(down), jnp.asarray(across)), (6, 5))
    call = jax.jit(lambda p, x, place: model.apply(p, x, t, {"label": labels}, (), key, place)[0])
    whole = call(params(model), x, Place.of(x))
    mine = call(params(model), np.roll(x, (2, 1), (1, 2)), turned)
    np.testing.assert_allclose(mine, np.roll(whole, (2, 1), (1, 2)), atol=1e-5)


def test_what_can_be_asked_of_it():
    model = small()
    assert all(isinstance(model, contract) for contract in (Local, Heir, Aging))
    assert (model.reads, model.predicts, dict(model.conditions), model.halo) == (2, 4, {"label": 3}, 3)
    assert (small(classes=0).conditions, model.grown(5).halo, model.bordered("wrap").border) == ({}, 5, "wrap")
    wide = small(embed=64)
    assert (model.inference(), wide.inference()) == (model, replace(wide, rule="gathered", keeps=True))


@pytest.mark.slow
def test_growth_ends_in_the_prediction():
    model = small()
    x, t, labels, key = start(6, 5)
    frames = jax.jit(model.growth)(params(model), x, t, {"label": labels}, key)
    np.testing.assert_array_equal(frames[0], newborn(model, x, key).out)
    np.testing.assert_allclose(frames[-1], apply(model, params(model), x, t, labels, (), key)[0], atol=1e-5)
