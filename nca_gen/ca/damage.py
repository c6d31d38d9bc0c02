"""Damage: cells of a box lose all of their state."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nca_gen import arrays


def box(size: Sequence[int], corner: Int[Array, "B n"], sides: Sequence[int]) -> Bool[Array, "B *S 1"]:
    """Which of ``size`` cells lie within ``sides`` cells from ``corner``, a corner a sample."""
    within = jnp.ones((len(corner), *size, 1), bool)
    for axis, (at, side) in enumerate(zip(arrays.coords(size), sides, strict=True)):
        first = corner[:, axis].reshape(-1, *[1] * len(size))
        within &= ((at >= first) & (at < first + side))[..., None]
    return within


def damaged(cells: Float[Array, "B *S C"], corner: Int[Array, "B n"], sides: Sequence[int]) -> Float[Array, "B *S C"]:
    """``cells`` whose state is zero within :func:`box`."""
    return jnp.where(box(cells.shape[1:-1], corner, sides), 0.0, cells)
