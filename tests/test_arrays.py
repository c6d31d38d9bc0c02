"""Randomness that belongs to coordinates: known answers, cuts that change nothing, and honest distributions."""

from collections.abc import Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
import textbook
import tiny
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import TypeCheckError

from nca_gen import arrays
from nca_gen.diffusion import discrete
from nca_gen.errors import UserError

WHOLE = {1: (41,), 2: (23, 18), 3: (9, 7, 12)}
TILE = {1: (7,), 2: (5, 6), 3: (4, 1, 3)}
FAR = 2**30 + 12_345  # a gigapixel slide has coordinates of 2**17

DRAWS = {"normal": arrays.cell_normal, "uniform": arrays.cell_uniform}


@partial(jax.jit, static_argnums=3)
def _both(key, step, at, channels):
    return {name: draw(key, step, at, channels) for name, draw in DRAWS.items()}


def both(key, step, at, channels):
    """Normal and uniform numbers, compiled together."""
    return jax.device_get(_both(key, step, at, channels))


def grid(shape, origin=None):
    """The coordinates that ``arrays.coords`` has to give, in numpy."""
    return np.ix_(*(np.arange(n, dtype=np.int32) + o for n, o in zip(shape, origin or [0] * len(shape), strict=True)))


keys = cache(arrays.keys)


def mesh(shape):
    n = int(np.prod(shape))
    names = ("a", "b")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape), devices=jax.devices()[:n])


threefry = jax.jit(arrays.threefry)


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [  # kat_vectors of Random123 1.14, threefry2x32, 20 rounds
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(key, counter, answer):
    words = threefry(*np.uint32((*key, *counter)))
    assert tuple(int(w) for w in words) == answer


@pytest.mark.slow
def test_threefry_is_the_one_of_jax():
    """jax draws 32 bits as the two words of the block (0, i) xor-ed, and folds in as the block (0, data)."""
    key = jax.random.key(1234, impl="threefry2x32")
    k0, k1 = np.asarray(jax.random.key_data(key))
    x0, x1 = jax.device_get(threefry(k0, k1, np.uint32(0), np.arange(1000, dtype=np.uint32)))
    np.testing.assert_array_equal(x0 ^ x1, jax.random.bits(key, (1000,), jnp.uint32))
    folded = jax.random.key_data(jax.random.fold_in(key, 99))
    np.testing.assert_array_equal(folded, threefry(k0, k1, np.uint32(0), np.uint32(99)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda key: jax.random.normal(key, (3, 5)),
        lambda key: jax.random.truncated_normal(key, -2, 2, (7,)),
        lambda key: jax.random.bits(key, (9,), np.uint8),
        lambda key: jax.random.permutation(key, 9),
        lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
        lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
        lambda key: jax.random.uniform(jax.random.split(jax.random.fold_in(key, 3))[1]),
    ],
)
def test_a_key_that_is_written_out_draws_what_it_always_drew(draw):
    key = jax.random.key(1234, impl="threefry2x32")
    np.testing.assert_array_equal(draw(arrays.written_out(key)), draw(key))


def test_a_key_of_another_kind_stays_as_it_is():
    for impl in ("rbg", tiny.KEYS):
        key = jax.random.key(1234, impl=impl)
        assert arrays.written_out(key) is key


def test_keys_depend_on_their_own_number_only():
    def words(k):
        return np.asarray(jax.random.key_data(k))

    many = words(keys(7, 100))
    np.testing.assert_array_equal(many[40:43], words(keys(7, 3, first=40)))
    assert len(np.unique(many, axis=0)) == 100
    assert not set(map(tuple, many)) & set(map(tuple, words(keys(8, 100))))


@pytest.mark.slow
def test_fold_is_per_sample_and_per_number():
    def words(k):
        return set(map(tuple, np.asarray(jax.random.key_data(k)).tolist()))

    key, fold = keys(0, 5), jax.jit(arrays.fold)
    assert len(set().union(*(words(fold(key, t)) for t in range(20)))) == 100
    assert words(arrays.fold(key, 3)) == words(fold(key, 3))


@given(st.integers(0, FAR), st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_coords_are_an_open_mesh(y, x):
    expected = np.ix_(np.arange(y, y + 4), np.arange(x, x + 3))
    for mine, theirs in zip(arrays.coords((4, 3), (y, x)), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [1, 2, 3])
@given(st.data())
@settings(deadline=None, max_examples=8)
def test_a_tile_has_the_noise_of_its_region(ndim, data):
    """Wherever it lies, odd sizes, near the origin and far from it."""
    corner = [data.draw(st.integers(0, w - t)) for w, t in zip(WHOLE[ndim], TILE[ndim], strict=True)]
    start = [data.draw(st.sampled_from([0, 1, 2**17, FAR])) for _ in corner]
    at = grid(WHOLE[ndim], start)
    tile = grid(TILE[ndim], [s + c for s, c in zip(start, corner, strict=True)])
    region = (slice(None), *[slice(c, c + t) for c, t in zip(corner, TILE[ndim], strict=True)])
    part, whole = (both(keys(3, 2), 5, cells, 3) for cells in (tile, at))
    for name in DRAWS:
        np.testing.assert_array_equal(part[name], whole[name][region])


def test_a_coordinate_below_zero_is_its_twos_complement():
    """To the ends of 32 bits, against the hash in numpy."""
    ends = np.array([-(2**31), -1, 0, 2**31 - 1])
    at = np.ix_(ends.astype(np.int32), ends[:3].astype(np.int32))
    words = np.asarray(jax.random.key_data(keys(3, 1)))[0]
    step, (rows, columns) = textbook.threefry(*words, np.uint32(5), np.uint32(0)), np.ix_(ends, ends[:3])
    expected = textbook.threefry(*step, (rows % 2**32).astype(np.uint32), (columns % 2**32).astype(np.uint32))
    for mine, theirs in zip(arrays.cell_bits(keys(3, 1), 5, at, 1), expected, strict=True):
        np.testing.assert_array_equal(mine[0, ..., 0], theirs)


@pytest.mark.slow
def test_channels_are_a_prefix():
    """A cell's noise does not depend on how many channels are drawn beside it."""
    few, many = (both(keys(0, 2), 0, grid((4, 5)), channels) for channels in (3, 8))
    for name in DRAWS:
        np.testing.assert_array_equal(few[name], many[name][..., :3])


@pytest.mark.slow
def test_noise_of_a_sample_does_not_depend_on_the_batch():
    whole, two = (both(key, 2, grid((4, 5)), 3) for key in (keys(1, 8), keys(1, 2, first=5)))
    for name in DRAWS:
        np.testing.assert_array_equal(whole[name][5:7], two[name])


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "spec"), [((4,), P("a")), ((4,), P(None, "a")), ((2, 2), P(None, "a", "b"))])
def test_noise_does_not_depend_on_sharding(shape, spec):
    """Cut over 4 devices by samples, by rows, or by rows and columns: bit for bit the noise of one device."""

    def draw(key):
        return arrays.cell_normal(key, 2, arrays.coords((8, 12)), 3)

    whole = jax.jit(draw)(keys(1, 4))
    parts = jax.jit(draw, out_shardings=NamedSharding(mesh(shape), spec))(keys(1, 4))
    shards = parts.addressable_shards
    assert len({s.device for s in shards}) == 4
    assert np.prod(shards[0].data.shape) == whole.size // 4
    np.testing.assert_array_equal(parts, whole)


@pytest.fixture(scope="module")
def cloud():
    """Normal and uniform draws of [2 samples, 2 steps, 128, 128, 4 channels]."""
    draws = [both(keys(0, 2), step, grid((128, 128)), 4) for step in (0, 1)]
    return {name: np.stack([draw[name] for draw in draws], 1).astype(np.float64) for name in DRAWS}


@pytest.mark.slow
def test_distributions(cloud):
    """Kolmogorov-Smirnov, and the first four moments within four standard errors."""
    z, u = cloud["normal"].ravel(), cloud["uniform"].ravel()
    assert scipy.stats.kstest(z, "norm").pvalue > 0.01
    assert scipy.stats.kstest(u, "uniform").pvalue > 0.01
    assert u.min() >= 0
    assert u.max() < 1
    n = z.size
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(u.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / n)


@pytest.mark.slow
def test_uniform_has_24_bits():
    """Every bit is fair, and the smallest step is 2**-24."""
    u = both(keys(0, 1), 0, grid((256, 256)), 1)["uniform"].astype(np.float64).ravel() * 2**24
    np.testing.assert_array_equal(u, np.rint(u))
    bits = (u.astype(np.int64)[:, None] >> np.arange(24)) & 1
    assert np.all(np.abs(bits.mean(0) - 0.5) < 5 * 0.5 / np.sqrt(u.size))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_nothing_is_correlated(cloud, name):
    """Samples, steps, channels, and neighbouring cells along both axes and the diagonal."""
    x = (cloud[name] - cloud[name].mean()) / cloud[name].std()
    pairs = {
        "samples": (x[0], x[1]),
        "steps": (x[:, 0], x[:, 1]),
        "channels": (x[..., :-1], x[..., 1:]),
        "rows": (x[:, :, 1:], x[:, :, :-1]),
        "columns": (x[:, :, :, 1:], x[:, :, :, :-1]),
        "diagonal": (x[:, :, 1:, 1:], x[:, :, :-1, :-1]),
        "transposed": (x, x.swapaxes(2, 3)),
        "step and channel": (x[:, 0, ..., 1], x[:, 1, ..., 0]),
    }
    for what, (a, b) in pairs.items():
        bound = 4 / np.sqrt(a.size) * (2 if what == "transposed" else 1)
        # Cells on the diagonal are their own transposed, 1 in 128.
        expected = 1 / 128 if what == "transposed" else 0
        assert abs((a * b).mean() - expected) < bound, what


def test_fire_and_noise_of_one_key_are_independent():
    """Masks are drawn at steps 0, 1, .., noise at step -1 and times at -2: the same key serves all."""
    noise, *others = (both(keys(0, 1), step, grid((256, 256)), 1) for step in (-1, 0, 1, -2))
    for other in others:
        assert abs(np.corrcoef(noise["normal"].ravel(), other["uniform"].ravel())[0, 1]) < 4 / 256


@pytest.mark.parametrize("shape", [(6,), (4, 6), (4, 2, 6)])
def test_blocks_are_neighbouring_pixels(shape):
    """The channels of cell i are the pixels k i .. k i + k - 1 along every axis, row by row; and back."""
    x = np.arange(2 * np.prod(shape) * 3).reshape(2, *shape, 3).astype(np.float32)
    cells = np.asarray(jax.jit(arrays.blocked, static_argnums=1)(x, 2))
    for i in np.ndindex(*cells.shape[1:-1]):
        region = tuple(slice(2 * j, 2 * j + 2) for j in i)
        np.testing.assert_array_equal(cells[(slice(None), *i)], x[(slice(None), *region)].reshape(2, -1))
    np.testing.assert_array_equal(jax.jit(arrays.unblocked, static_argnums=1)(cells, 2), x)


def test_labels_as_conditions():
    """0/1 columns as they are, a grade as one of them; one class of one is a column."""
    columns = jax.jit(arrays.multi_hot, static_argnums=1)
    np.testing.assert_array_equal(columns(np.array([[2], [0]]), 3), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(columns(np.array([[1, 0, 1]]), 3), [[1, 0, 1]])
    np.testing.assert_array_equal(columns(np.array([[1], [0]]), 1), [[1], [0]])
    with pytest.raises(UserError, match=r"2 labels each; set --config\.model\.classes=2"):
        arrays.multi_hot(np.zeros((4, 2)), 3)


def test_label_maps_as_conditions():
    """Classes as their share of one, shares as they are; what is no class stops a training."""
    shares = jax.jit(arrays.shares, static_argnums=1)
    np.testing.assert_array_equal(shares(np.int32([[[2], [0]]]), 3), [[[0, 0, 1], [1, 0, 0]]])
    np.testing.assert_allclose(shares(np.uint8([[[51, 204, 0]]]), 3), [[[0.2, 0.8, 0]]], rtol=1e-6)
    assert np.isnan(shares(np.int32([[[3], [-1]]]), 3)).all()
    with pytest.raises(UserError, match="have 3 channels; the model takes 4 classes"):
        arrays.shares(np.zeros((1, 2, 3), np.uint8), 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: arrays.coords(7),  # what is no sequence
        lambda: arrays.blocked(np.zeros(3, np.float32), 1),  # too few axes
        lambda: arrays.multi_hot(np.zeros((2, 1), np.int32), classes="2"),
        lambda: discrete.Process(timesteps="300"),
    ],
)
def test_types_and_shapes_are_checked_at_every_call(call):
    """Of the first one too, at which checks.py makes the checks of a function."""
    for _ in range(2):
        with pytest.raises(TypeCheckError):
            call()


def test_functions_within_functions_are_checked_each_with_its_own_variables():
    """Which share a check (checks.py): of arguments, of results, and where one calls another of its kind."""

    def adder(n, before=lambda x: x):
        @jaxtyping.jaxtyped(typechecker=beartype)
        def added(x: "int") -> "int":
            return before(x) + n

        return added

    class Sums(Sequence):
        __len__ = lambda _: 5
        __getitem__ = lambda _, i: adder(i)(1)

    @jaxtyping.jaxtyped(typechecker=beartype)
    def count(some: "Sequence[int]") -> "int":
        return len(some)

    assert [adder(1)(1), adder(10)(1), adder(1, adder(10))(1)] == [2, 11, 12]
    assert count(Sums()) == 5  # whose check asks for one of them
    for wrong in (lambda: adder(1)("1"), lambda: adder(0.5)(1), lambda: adder(1, adder(0.5))(1)):
        with pytest.raises(TypeCheckError):
            wrong()
    assert adder(2)(1) == 3
