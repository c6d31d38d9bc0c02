"""Affine maps with written-out gradients: against numpy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.nn import dense

RNG = np.random.default_rng(0)
SHAPES = [(2, 5, 4, 3, 8), (2, 30, 8, 3), (3, 2, 3, 2, 4, 4)]  # B, *S, I, O


def problem(shape):
    *cells, i, o = shape
    sizes = (*cells, i), (cells[0], i, o), (cells[0], 1, o), (*cells, o)
    return [RNG.standard_normal(s).astype(np.float32) for s in sizes]


def expected(x, kernel, d):
    """x @ kernel and the gradients of <d, x @ kernel> by x and by the kernel, each image with its own."""
    x, kernel, d = (v.astype(np.float64) for v in (x, kernel, d))
    return (
        np.einsum("b...i,bio->b...o", x, kernel),
        np.einsum("b...o,bio->b...i", d, kernel),
        np.einsum("bni,bno->bio", x.reshape(len(x), -1, x.shape[-1]), d.reshape(len(d), -1, d.shape[-1])),
    )


@partial(jax.jit, static_argnums=0)
def both(f, d, *args):
    """The value and the gradients of <d, f>."""
    y, pull = jax.vjp(f, *args)
    return y, *pull(d)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear(shape):
    x, kernel, _, d = problem(shape)
    for mine, theirs in zip(both(dense.linear, d, x, kernel), expected(x, kernel, d), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_affine(shape):
    x, kernel, bias, d = problem(shape)
    value, by_x, by_kernel = expected(x, kernel, d)
    value = value + np.expand_dims(bias, tuple(range(2, x.ndim - 1)))
    by_bias = d.astype(np.float64).sum(tuple(range(1, d.ndim - 1)))[:, None]
    for mine, theirs in zip(both(dense.affine, d, x, kernel, bias), (value, by_x, by_kernel, by_bias), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_bf16_keeps_types_and_accumulates_in_float32():
    """A sum of 4096 ones is 4096; in bfloat16 it would stop at 256."""
    x, kernel = (np.ones(shape, jnp.bfloat16) for shape in ((1, 3, 4096), (1, 4096, 2)))
    y, *gradients = both(dense.affine, np.ones((1, 3, 2), np.float32), x, kernel, np.zeros((1, 1, 2), np.float32))
    np.testing.assert_array_equal(y, np.full((1, 3, 2), 4096.0, np.float32))
    assert y.dtype == jnp.float32
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    assert jax.eval_shape(dense.linear, x, kernel).dtype == jnp.float32


@pytest.mark.parametrize(("i", "o"), [(3, 8), (8, 3)])
def test_one_kernel_for_all_cells(i, o):
    """Against numpy, and in bfloat16 to its 8 bits."""
    x, kernel, d = (RNG.standard_normal(s).astype(np.float32) for s in ((2, 5, 4, i), (i, o), (2, 5, 4, o)))
    want = (x @ kernel, d @ kernel.T, np.einsum("bhwi,bhwo->io", x, d))
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)):
        found = both(lambda x, kernel, dtype=dtype: dense.product(x, kernel, dtype), d, x, kernel)
        for mine, theirs in zip(found, want, strict=True):
            assert mine.dtype == jnp.float32
            np.testing.assert_allclose(mine, theirs, atol=tolerance * np.abs(theirs).max())
