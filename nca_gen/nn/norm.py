"""Normalisation, and with its activation in one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

SLOPE = 0.01  # of leaky_relu
EPS = 1e-5  # beside a variance
Affine = tuple[Float[Array, " h"], Float[Array, " h"]] | None


def normed(y: Float[Array, "B *S h"], affine: Affine, eps: float = EPS) -> Float[Array, "B *S h"]:
    """(y - mean) / deviation. ``affine`` given: GroupNorm(1, h) over channels and space. None: of each cell alone."""
    axes = tuple(range(1, y.ndim)) if affine else (-1,)
    mean, var = y.mean(axes, keepdims=True), y.var(axes, keepdims=True)
    scale, shift = affine or (1.0, 0.0)
    return (y - mean) / jnp.sqrt(var + eps) * scale + shift


@jax.custom_vjp
def activated(y: Float[Array, "B *S h"], affine: Affine) -> Float[Array, "B *S h"]:
    """leaky_relu(:func:`normed`).

    The gradient is written out (Ioffe & Szegedy 2015, section 3): it keeps ``y`` alone, and not what follows.
    """
    return _activated(y, affine)[0]


def _activated(y, affine):
    axes = tuple(range(1, y.ndim)) if affine else (-1,)
    mean = jnp.mean(y, axes, keepdims=True)
    var = jnp.mean(jnp.square(y), axes, keepdims=True) - jnp.square(mean)
    mean, rate = checkpoint_name((mean, jax.lax.rsqrt(jnp.maximum(var, 0.0) + EPS)), "moments")
    scale, shift = affine or (1.0, 0.0)
    u = (y - mean) * (rate * scale) + shift
    return jnp.where(u >= 0, u, SLOPE * u), (y, mean, rate, affine)


def _activated_gradient(residuals, dz):
    y, mean, rate, affine = residuals
    scale, shift = affine or (1.0, 0.0)
    n = (y - mean) * rate
    du = jnp.where(n * scale + shift >= 0, dz, SLOPE * dz)
    if affine is None:
        pull = jnp.mean(du, -1, keepdims=True) + n * jnp.mean(du * n, -1, keepdims=True)
        return rate * (du - pull), None
    space = tuple(range(1, y.ndim - 1))
    # Behind a barrier, or XLA would take the sums over the batch from the start once more.
    sums = jax.lax.optimization_barrier((jnp.sum(du, space, keepdims=True), jnp.sum(du * n, space, keepdims=True)))
    level, tilt = (jnp.sum(scale * s, -1, keepdims=True) / y[0].size for s in sums)
    dshift, dscale = (jnp.sum(s, tuple(range(s.ndim - 1))) for s in sums)
    return rate * (scale * du - level - n * tilt), (dscale, dshift)


activated.defvjp(_activated, _activated_gradient)
