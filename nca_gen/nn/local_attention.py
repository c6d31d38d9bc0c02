"""Attention of every cell to its 3 x 3 neighbours (Elbatel et al. 2024; Tesfaldet et al. 2022), in any dimension.

Keys and values are looked at in place, once for each of the 3^n shifts: never copied to every cell that sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen.ca.perceive import NEIGHBOURHOODS, taps
from nca_gen.errors import unknown

BORDERS = ("zero", "mask", "wrap")


def local_attention(
    q: Float[Array, "B *S h d"],
    k: Float[Array, "B *S h d"],
    v: Float[Array, "B *S h d"],
    border: str = "zero",
    neighbourhood: str = "moore",
) -> Float[Array, "B *S h d"]:
    """softmax(q k^T / sqrt(d)) v over the window around each cell, in each of ``h`` heads; float32 inside.

    ``neighbourhood``: the window is "moore", all 3^n, or "von_neumann", the cell and the 2 n that share a face with it.
    ``border`` "zero": beyond the grid there are keys and values of zero, which take their part of the softmax (as
    published); "mask": there is nothing; "wrap": there is the opposite edge. Raises UserError for any other. The
    gradient is written out: it keeps q, k, v and the weights.
    """
    if border not in BORDERS:
        raise unknown("border of local attention", border, BORDERS)
    if neighbourhood not in NEIGHBOURHOODS:
        raise unknown("neighbourhood of local attention", neighbourhood, NEIGHBOURHOODS)
    return _attention(border, neighbourhood, q, k, v)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(border, neighbourhood, q, k, v):
    return _attend(border, neighbourhood, q, k, v)[0]


def _attend(border, neighbourhood, q, k, v):
    views = partial(_views, border=border, neighbourhood=neighbourhood)
    logits = _dots(_scaled(q), views(k))
    if border == "mask":
        there = jnp.stack(views(jnp.ones((1, *q.shape[1:-2], 1), bool), axes=q.ndim - 3))
        logits = jnp.where(there, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, 0)
    return _mix(weights, views(v)).astype(v.dtype), (q, k, v, weights)


def _attention_gradient(border, neighbourhood, residuals, dy):
    q, k, v, weights = residuals
    views = partial(_views, border=border, neighbourhood=neighbourhood)
    dweights = _dots(dy.astype(jnp.float32), views(v))
    dlogits = weights * (dweights - jnp.sum(weights * dweights, 0))
    dq = _mix(dlogits, views(k)) * q.shape[-1] ** -0.5
    dk, dv = _spread(dlogits, _scaled(q), views), _spread(weights, dy, views)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


_attention.defvjp(_attend, _attention_gradient)


def _scaled(q: Array) -> Array:
    return q.astype(jnp.float32) * q.shape[-1] ** -0.5


def _views(x: Array, border: str, neighbourhood: str, axes: int | None = None) -> list[Array]:
    """``x`` [B, *S, ..] as each cell's first .. last neighbour has it, round the edge or zero there. ``axes``: of S."""
    n = axes or x.ndim - 3
    pad = [(0, 0), *[(1, 1)] * n, *[(0, 0)] * (x.ndim - 1 - n)]
    x = jnp.pad(x, pad, "wrap" if border == "wrap" else "constant")
    cut = lambda tap: tuple(slice(s, s + m - 2) for s, m in zip(tap, x.shape[1:], strict=False))
    return [x[(slice(None), *cut(tap))] for tap in taps(n, neighbourhood)]


def _dots(x: Array, views: list[Array]) -> Array:
    """[9, B, *S, h]: the sum over d of ``x`` times each view."""
    return jnp.stack([_sum(x * y) for y in views])


def _sum(x: Array) -> Array:
    """Over the last axis, by halves: XLA for CPU then computes many in one instruction, 7 times as fast."""
    while x.shape[-1] % 2 == 0:
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    return x.sum(-1)


def _mix(weights: Array, views: list[Array]) -> Array:
    """The sum of the views, each by its weight."""
    return sum(w[..., None] * y for w, y in zip(weights, views, strict=True))


def _spread(weights: Array, x: Array, views: Callable[..., list[Array]]) -> Array:
    """``x`` by each weight, back to the cells that it was seen in: the transpose of :func:`_mix` in what it views."""
    n, seen = x.ndim - 3, views(x.astype(jnp.float32))
    last = len(seen) - 1  # the neighbour opposite to i is last - i
    return sum(views(w, axes=n)[last - i][..., None] * seen[last - i] for i, w in enumerate(weights))
