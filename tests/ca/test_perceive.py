"""Four ways to one convolution, against numpy and scipy."""

import itertools
from functools import cache

import jax
import numpy as np
import pytest
import scipy.ndimage

from nca_gen.ca import perceive

PRODUCTS = ("shifted", "gathered", "scattered", "split", "convolved")
pad = jax.jit(perceive.pad, static_argnums=(1, 2))
SIZES = {1: (11,), 2: (7, 6), 3: (4, 5, 3)}
SCIPY = {"constant": "constant", "reflect": "mirror", "wrap": "wrap"}  # numpy's names -> scipy's


def problem(ndim):
    rng = np.random.default_rng(ndim)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return draw(2, *SIZES[ndim], 3), draw(*(3,) * ndim, 3, 4), draw(2, *SIZES[ndim], 4)


@jax.jit
def products(x, kernel):
    """All of them, by their names: compiled together."""
    return {name: getattr(perceive, name)(x, kernel) for name in PRODUCTS}


@jax.jit
def pulled(x, kernel, w):
    """Values, and the gradients of <w, value> by x and by the kernel."""
    found = {}
    for name in PRODUCTS:
        value, pull = jax.vjp(getattr(perceive, name), x, kernel)
        found[name] = value, pull(w)
    return found


@cache
def wrapped(ndim):
    """:func:`pulled` of a problem on a torus."""
    x, kernel, w = problem(ndim)
    return jax.device_get(pulled(np.asarray(pad(x, "wrap")), kernel, w))


def correlated(x, kernel, mode):
    """Channel by channel with scipy, in float64."""

    def one(image, k):
        return scipy.ndimage.correlate(image.astype(np.float64), k.astype(np.float64), mode=SCIPY[mode])

    return np.stack(
        [
            np.stack([sum(one(b[..., i], kernel[..., i, o]) for i in range(b.shape[-1])) for b in x])
            for o in range(kernel.shape[-1])
        ],
        -1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", SCIPY)
@pytest.mark.parametrize("ndim", SIZES)
def test_padded_perception_is_correlation(ndim, mode):
    x, kernel, w = problem(ndim)
    expected = correlated(x, kernel, mode)
    for name, (y, _) in pulled(pad(x, mode), kernel, w).items():
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("ndim", SIZES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients(name, ndim):
    """<w, y> = sum over taps of <w, x(. + tap) K(tap)>: its gradients by x and by K, tap by tap in float64."""
    inside, kernel, w = problem(ndim)
    x = np.pad(inside, [(0, 0), *[(1, 1)] * ndim, (0, 0)], mode="wrap")
    by_x, by_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for tap in itertools.product(range(3), repeat=ndim):
        here = (slice(None), *[slice(t, t + n) for t, n in zip(tap, SIZES[ndim], strict=True)])
        by_x[here] += w @ kernel[tap].T.astype(np.float64)
        by_kernel[tap] = np.tensordot(x[here].astype(np.float64), w, (range(ndim + 1),) * 2)
    _, mine = wrapped(ndim)[name]
    np.testing.assert_allclose(mine[0], by_x, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(mine[1], by_kernel, rtol=1e-5, atol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_tile_that_brings_its_halo(name):
    """The inside of a block is the product of the block: no padding is added at a cut."""
    x, kernel, _ = problem(2)
    tile = products(np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="wrap")[:, 1:6, 2:], kernel)[name]
    np.testing.assert_allclose(wrapped(2)[name][0][:, 1:4, 2:], tile, atol=1e-5)


def test_kernels_of_other_sizes():
    x = problem(2)[0]
    kernel = np.random.default_rng(0).standard_normal((5, 1, 3, 2)).astype(np.float32)
    expected = correlated(x, kernel, "constant")[:, 2:-2]
    for name, y in products(x, kernel).items():
        np.testing.assert_allclose(y, expected, atol=2e-5, err_msg=name)


def test_a_wider_border():
    x = problem(2)[0]
    for mode in SCIPY:
        np.testing.assert_array_equal(pad(x, mode, 3), np.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)], mode))


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
def test_von_neumanns_neighbourhood(ndim):
    """Every product, and its gradients, are those of a kernel that is zero but for a cell and the faces around it."""
    x, _, w = problem(ndim)
    star = np.random.default_rng(9).standard_normal((2 * ndim + 1, 3, 4)).astype(np.float32)
    centre, steps = np.ones(ndim, int), np.eye(ndim, dtype=int)
    at = tuple(np.array(sorted([tuple(centre), *map(tuple, centre + steps), *map(tuple, centre - steps)])).T)
    kernel = np.zeros(((3,) * ndim + (3, 4)), np.float32)
    kernel[at] = star
    np.testing.assert_array_equal(perceive.block(jax.numpy.asarray(star), ndim), kernel)
    padded = np.asarray(pad(x, "wrap"))
    expected, (by_x, by_kernel) = jax.device_get(pulled(padded, kernel, w))["shifted"]
    for name, (y, (mine, taps)) in pulled(padded, star, w).items():
        np.testing.assert_allclose(y, expected, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(mine, by_x, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(taps, by_kernel[at], rtol=1e-5, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_neighbours_face_each_other(ndim):
    """There are 3^n taps, or 2 n + 1; the first and the last lie opposite each other, and so on."""
    for neighbourhood, n in {"moore": 3**ndim, "von_neumann": 2 * ndim + 1}.items():
        taps = np.array(perceive.taps(ndim, neighbourhood))
        assert taps.shape == (n, ndim)
        assert np.prod(perceive.sides(ndim, neighbourhood)) == n
        assert (taps + taps[::-1] == 2).all()
