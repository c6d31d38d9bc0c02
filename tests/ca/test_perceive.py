"""Four ways to one convolution, against numpy and scipy."""

import itertools

import jax
import numpy as np
import pytest
import scipy.ndimage

from nca_gen.ca import perceive

PRODUCTS = {n: jax.jit(getattr(perceive, n)) for n in ("shifted", "gathered", "scattered", "split", "convolved")}
pad = jax.jit(perceive.pad, static_argnums=(1, 2))
SIZES = {1: (11,), 2: (7, 6), 3: (4, 5, 3)}
SCIPY = {"constant": "constant", "reflect": "mirror", "wrap": "wrap"}  # numpy's names -> scipy's


def problem(ndim):
    rng = np.random.default_rng(ndim)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return draw(2, *SIZES[ndim], 3), draw(*(3,) * ndim, 3, 4), draw(2, *SIZES[ndim], 4)


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


@pytest.mark.parametrize("mode", SCIPY)
@pytest.mark.parametrize("ndim", SIZES)
def test_padded_perception_is_correlation(ndim, mode):
    x, kernel, _ = problem(ndim)
    expected = correlated(x, kernel, mode)
    for name, product in PRODUCTS.items():
        y = product(pad(x, mode), kernel)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("ndim", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
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
    mine = jax.jit(jax.grad(lambda x, k: (PRODUCTS[name](x, k) * w).sum(), (0, 1)))(x, kernel)
    np.testing.assert_allclose(mine[0], by_x, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(mine[1], by_kernel, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_tile_that_brings_its_halo(name):
    """The inside of a block is the product of the block: no padding is added at a cut."""
    x, kernel, _ = problem(2)
    product = PRODUCTS[name]
    np.testing.assert_allclose(product(x, kernel)[:, 1:4, 2:], product(x[:, 1:6, 2:], kernel), atol=1e-5)


def test_kernels_of_other_sizes():
    x = problem(2)[0]
    kernel = np.random.default_rng(0).standard_normal((5, 1, 3, 2)).astype(np.float32)
    expected = correlated(x, kernel, "constant")[:, 2:-2]
    for name, product in PRODUCTS.items():
        np.testing.assert_allclose(product(x, kernel), expected, atol=2e-5, err_msg=name)


def test_a_wider_border():
    x = problem(2)[0]
    for mode in SCIPY:
        np.testing.assert_array_equal(pad(x, mode, 3), np.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)], mode))
