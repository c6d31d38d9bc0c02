"""A field in strips: what is made on the way to a result is then small enough for the caches of a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def in_strips(f: Callable[..., Array], cells: int, *fields: Array) -> Float[Array, "B *S C"]:
    """``f(*fields)``, at most ``cells`` cells at a time, or all for 0: strips of whole columns of the last space axis.

    ``f`` maps fields ``[B, *S, C]`` to one; a field may bring a halo along the last axis, or be constant along it. The
    last strip ends at the border, and may go over a few columns of its neighbour again. No gradient is taken through
    strips.
    """
    if not cells or max(math.prod(field.shape[:-1]) for field in fields) <= cells:
        return f(*fields)  # at once, or it would be traced twice
    whole = jax.eval_shape(f, *fields)
    columns = whole.shape[-2]
    most = max(1, cells * columns // (whole.size // whole.shape[-1]))
    if most >= columns:
        return f(*fields)
    n = -(-columns // most)
    width = -(-columns // n)  # of equal strips less is done twice than of the widest

    def cut(field: Array, start: Array) -> Array:
        if field.ndim < 2 or field.shape[-2] == 1:
            return field
        return jax.lax.dynamic_slice_in_dim(field, start, width + field.shape[-2] - columns, -2)

    def strip(done: Array, start: Array) -> tuple[Array, None]:
        part = f(*(cut(field, start) for field in fields))
        return jax.lax.dynamic_update_slice_in_dim(done, part, start, -2), None

    starts = jnp.minimum(jnp.arange(n) * width, columns - width)
    return jax.lax.scan(strip, jnp.zeros(whole.shape, whole.dtype), starts)[0]
