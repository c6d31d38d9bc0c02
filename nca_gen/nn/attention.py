"""Full attention (Vaswani et al. 2017, arXiv 1706.03762) that never keeps its weights, N x N for each head."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen.nn import modules

QUERIES = 256  # of one image at a time: their weights still fit the caches of a CPU


def attention(
    q: Float[Array, "B N h c"], k: Float[Array, "B M h c"], v: Float[Array, "B M h c"], queries: int = QUERIES
) -> Float[Array, "B N h c"]:
    """softmax(q k^T / sqrt(c)) v of each of ``h`` heads; softmax and sums in float32.

    The gradient computes the weights again, and beyond ``queries`` of them the queries come in equal parts, one after
    the other: memory grows with M, and not with N M.
    """
    n, (q, k, v) = q.shape[1], (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    parts = -(-n // queries)
    if parts == 1:
        return _answers(q, k, v).swapaxes(1, 2)
    each = -(-n // parts)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, parts * each - n), (0, 0)))
    q = jnp.moveaxis(q.reshape(*q.shape[:2], parts, each, -1), 2, 0)
    y = jnp.moveaxis(jax.lax.map(lambda some: _answers(some, k, v), q), 0, 2)
    return y.reshape(*y.shape[:2], parts * each, -1)[:, :, :n].swapaxes(1, 2)


_times = partial(jnp.matmul, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _answers(q: Array, k: Array, v: Array) -> Array:
    """Of fields [B, h, N, c]. The gradient is written out so that nothing of N x M is turned: a CPU is slow at it."""
    return _times(nn.softmax(_times(q, k.mT)).astype(v.dtype), v).astype(v.dtype)


def _forward(q, k, v):
    logits = _times(q, k.mT)
    most = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - most)
    total = weights.sum(-1, keepdims=True)
    y = (_times(weights.astype(v.dtype), v) / total).astype(v.dtype)
    return y, (q, k, v, y, most + jnp.log(total))


def _gradient(residuals, d):
    q, k, v, y, level = residuals
    weights = jnp.exp(_times(k, q.mT) - level.mT)  # [M, N], here and below
    own = jnp.sum(d.astype(jnp.float32) * y, -1)[..., None, :]
    dlogits = (weights * (_times(v, d.mT) - own)).astype(q.dtype)
    dq, dk, dv = _times(k.mT, dlogits).mT, _times(dlogits, q), _times(weights.astype(d.dtype), d)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


_answers.defvjp(_forward, _gradient)


class SelfAttention(nn.Module):
    """Of all tokens ``[B, N, D]`` to all, in heads of ``D / heads`` features, with affine maps around it.

    ``zero``: starts as the zero map. ``dtype``: of the products and of what comes out.
    """

    heads: int
    kernel_init: Any = nn.initializers.xavier_uniform()
    zero: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        d, last = x.shape[-1], nn.initializers.zeros if self.zero else self.kernel_init
        qkv = modules.Dense(3 * d, kernel_init=self.kernel_init, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        y = attention(q, k, v).reshape(x.shape)
        return modules.Dense(d, kernel_init=last, dtype=self.dtype, name="proj")(y)
