"""Norm and activation in one: values in float64, and the written-out gradient against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.nn import norm

RNG = np.random.default_rng(0)
Y = RNG.standard_normal((3, 5, 4, 12)).astype(np.float32) * 2 + 0.7
SCALE, SHIFT = (RNG.standard_normal(12).astype(np.float32) + shift for shift in (0.5, 0.1))
WEIGHT = RNG.standard_normal(Y.shape).astype(np.float32)
activated = jax.jit(norm.activated)
AFFINE = {"group": (SCALE, SHIFT), "cell": None}


def textbook(y, affine, np=np):
    axes = tuple(range(1, y.ndim)) if affine else (-1,)
    y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + 1e-5)
    y = y * affine[0] + affine[1] if affine else y
    return np.where(y > 0, y, 0.01 * y)


@pytest.mark.parametrize("kind", AFFINE)
def test_values(kind):
    affine = AFFINE[kind]
    expected = textbook(Y.astype(np.float64), affine and tuple(np.float64(a) for a in affine))
    np.testing.assert_allclose(activated(Y, affine), expected, atol=1e-5)


@pytest.mark.parametrize("kind", AFFINE)
def test_moments(kind):
    """Before the activation mean 0 and variance 1, over the image or over the cell: seen where it changes no sign."""
    affine = (np.ones(12, np.float32), np.full(12, 50, np.float32)) if kind == "group" else None
    z = np.asarray(activated(Y, affine), np.float64)
    z = z - 50 if kind == "group" else np.where(z < 0, z / 0.01, z)
    axes = (1, 2, 3) if kind == "group" else -1
    np.testing.assert_allclose(z.mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(z.var(axes), 1, atol=1e-3)


@pytest.mark.parametrize("kind", AFFINE)
def test_gradient(kind):
    affine = AFFINE[kind]
    mine, auto = (
        jax.jit(jax.grad(lambda y, a, f=f: (f(y, a) * WEIGHT).sum(), (0, 1) if affine else 0))(Y, affine)
        for f in (norm.activated, lambda y, a: textbook(y, a, jnp))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), mine, auto)


def test_a_constant_cell_is_no_division_by_zero():
    """Variance 0: the eps of 1e-5 keeps the rate at 316 and the gradient finite."""
    flat = np.full((1, 2, 2, 8), 3, np.float32)  # of 8 channels the mean is exact, however it is summed
    weight = WEIGHT[:1, :2, :2, :8]
    value, pull = jax.jit(jax.value_and_grad(lambda y: (norm.activated(y, None) * weight).sum()))(flat)
    assert abs(float(value)) < 0.1
    assert np.all(np.isfinite(pull))
    np.testing.assert_allclose(np.sum(pull, -1), 0, atol=1e-2)  # a shift of the whole cell changes nothing
