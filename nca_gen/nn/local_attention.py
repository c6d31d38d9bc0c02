"""Attention of every cell to its 3 x 3 neighbours (Elbatel et al. 2024; Tesfaldet et al. 2022), in any dimension.

Keys and values are looked at in place, once for each of the 3^n shifts: never copied to every cell that sees them.
"""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen.errors import unknown

BORDERS = ("zero", "mask", "wrap")


def local_attention(
    q: Float[Array, "B *S h d"], k: Float[Array, "B *S h d"], v: Float[Array, "B *S h d"], border: str = "zero"
) -> Float[Array, "B *S h d"]:
    """softmax(q k^T / sqrt(d)) v over the 3^n window around each cell, in each of ``h`` heads; float32 inside.

    ``border`` "zero": beyond the grid there are keys and values of zero, which take their part of the softmax (as
    published); "mask": there is nothing; "wrap": there is the opposite edge. Raises UserError for any other. The
    gradient is written out: it keeps q, k, v and the weights.
    """
    if border not in BORDERS:
        raise unknown("border of local attention", border, BORDERS)
    return _attention(border, q, k, v)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(border, q, k, v):
    return _attend(border, q, k, v)[0]


def _attend(border, q, k, v):
    logits = _dots(_scaled(q), _views(k, border))
    if border == "mask":
        there = jnp.stack(_views(jnp.ones((1, *q.shape[1:-2], 1), bool), border, q.ndim - 3))
        logits = jnp.where(there, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, 0)
    return _mix(weights, _views(v, border)).astype(v.dtype), (q, k, v, weights)


def _attention_gradient(border, residuals, dy):
    q, k, v, weights = residuals
    dweights = _dots(dy.astype(jnp.float32), _views(v, border))
    dlogits = weights * (dweights - jnp.sum(weights * dweights, 0))
    dq = _mix(dlogits, _views(k, border)) * q.shape[-1] ** -0.5
    dk, dv = _spread(dlogits, _scaled(q), border), _spread(weights, dy, border)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


_attention.defvjp(_attend, _attention_gradient)


def _scaled(q: Array) -> Array:
    return q.astype(jnp.float32) * q.shape[-1] ** -0.5


def _views(x: Array, border: str, axes: int | None = None) -> list[Array]:
    """``x`` [B, *S, ..] as each cell's first .. last neighbour has it, round the edge or zero there. ``axes``: of S."""
    n = axes or x.ndim - 3
    pad = [(0, 0), *[(1, 1)] * n, *[(0, 0)] * (x.ndim - 1 - n)]
    x = jnp.pad(x, pad, "wrap" if border == "wrap" else "constant")
    at = itertools.product(range(3), repeat=n)
    return [x[(slice(None), *(slice(s, s + m - 2) for s, m in zip(shift, x.shape[1:], strict=False)))] for shift in at]


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


def _spread(weights: Array, x: Array, border: str) -> Array:
    """``x`` by each weight, back to the cells that it was seen in: the transpose of :func:`_mix` in what it views."""
    n, views = x.ndim - 3, _views(x.astype(jnp.float32), border)
    last = len(views) - 1  # the neighbour opposite to i is last - i
    return sum(_views(w, border, n)[last - i][..., None] * views[last - i] for i, w in enumerate(weights))
