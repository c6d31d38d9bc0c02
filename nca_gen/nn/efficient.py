"""The parts of the efficient U-Net (Saharia et al. 2022, arXiv 2205.11487), in any number of dimensions.

Parameters have the names of imagen-pytorch, for :mod:`nca_gen.nn.port`.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nca_gen import arrays
from nca_gen.nn import blocks, modules
from nca_gen.nn.attention import QUERIES, attention
from nca_gen.nn.blocks import spread

GROUPS = 8
TAPS = (3, 7, 15)  # of the first convolutions
FREQUENCIES = 8  # of a time
TOKENS = 2  # that say a time
EXPANSION = 2  # of a token, within its MLP

Norm = partial(modules.GroupNorm, GROUPS, epsilon=1e-5)
Linear = partial(modules.Dense, kernel_init=spread)
Map = partial(Linear, use_bias=False)


def conv(x: Array, width: int, taps: int = 3, **how: Any) -> nn.Conv:
    """:func:`nca_gen.nn.blocks.conv`, as one product where that is faster.

    A CPU rearranges the kernel of a convolution at every call, and twice more for the gradient. Where a field has fewer
    cells than channels, that takes longer than to rearrange the field.
    """
    gathered = taps > 1 and prod(x.shape[1:-1]) < width and jax.default_backend() == "cpu"
    return blocks.conv(x, width, taps, **how, **({"conv_general_dilated": product} if gathered else {}))


def product(x: Array, kernel: Array, strides: Any, padding: Any, *, precision: Any = None, **_: Any) -> Array:
    """A convolution of stride 1 as one product: of all that a cell sees, side by side, with the kernel.

    Equal to :func:`jax.lax.conv_general_dilated`, whose arguments it has. The gradient gathers the cells again.
    """

    @jax.checkpoint
    def run(x: Array, kernel: Array) -> Array:
        around = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        windows = (
            tuple(slice(i, i + n) for i, n in zip(at, x.shape[1:-1], strict=True))
            for at in np.ndindex(*kernel.shape[:-2])
        )
        cells = jnp.concatenate([around[:, *window] for window in windows], -1)
        return jnp.matmul(cells, kernel.reshape(-1, kernel.shape[-1]), precision=precision)

    return run(x, kernel)


class Gain(modules.Module):
    """Each cell normalised over its channels, in float32, times a factor a channel; nothing is added."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        gain = self.param("g", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        return (y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5) * gain).astype(self.dtype)


class Fourier(modules.Module):
    """``[s, sin 2 pi w s, .., cos 2 pi w s, ..]`` of numbers s, by frequencies w that are learned."""

    @nn.compact
    def __call__(self, s: Float[Array, " B"]) -> Float[Array, "B f"]:
        angle = 2 * jnp.pi * s[:, None] * self.param("weights", nn.initializers.normal(1.0), (FREQUENCIES,))
        return jnp.concatenate([s[:, None], jnp.sin(angle), jnp.cos(angle)], -1)


class CrossAttention(modules.Module):
    """Of every cell to the tokens and to one more, which is learned: it stands for nothing."""

    heads: int
    head: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], tokens: Float[Array, "B n D"]) -> Float[Array, "B *S C"]:
        how, inside = {"dtype": self.dtype}, self.heads * self.head
        rows = Gain(**how, name="norm")(x.reshape(x.shape[0], -1, x.shape[-1]))
        q = Map(inside, **how, name="to_q")(rows).reshape(*rows.shape[:2], self.heads, self.head)
        pairs = Map(2 * inside, **how, name="to_kv")(tokens).reshape(*tokens.shape[:2], 2, self.heads, self.head)
        nothing = self.param("null_kv", nn.initializers.normal(1.0), (2, self.head)).astype(self.dtype)
        nothing = jnp.broadcast_to(nothing[:, None], (x.shape[0], 1, *pairs.shape[2:]))
        k, v = jnp.moveaxis(jnp.concatenate([nothing, pairs], 1), 2, 0)
        y = attention(q, k, v, queries=q.shape[1]).reshape(*rows.shape[:2], inside)  # the keys are so few
        y = Map(x.shape[-1], **how, name="to_out.0")(y)
        return Gain(**how, name="to_out.1")(y).reshape(x.shape)


class SelfAttention(modules.Module):
    """Of every cell to all, to the tokens, and to one more, which is learned. The heads share their keys and values."""

    heads: int
    head: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], tokens: Float[Array, "B n D"] | None) -> Float[Array, "B *S C"]:
        how, inside = {"dtype": self.dtype}, self.heads * self.head
        rows = Gain(**how, name="norm")(x.reshape(x.shape[0], -1, x.shape[-1]))
        q = Map(inside, **how, name="to_q")(rows)
        nothing = self.param("null_kv", nn.initializers.normal(1.0), (2, self.head)).astype(self.dtype)
        pairs = [jnp.broadcast_to(nothing.reshape(1, 1, -1), (x.shape[0], 1, 2 * self.head))]
        if tokens is not None:
            named = modules.LayerNorm(epsilon=1e-5, **how, name="to_context.0")(tokens)
            pairs.insert(0, Linear(2 * self.head, **how, name="to_context.1")(named))
        pairs.append(Map(2 * self.head, **how, name="to_kv")(rows))
        k, v = jnp.split(jnp.concatenate(pairs, 1)[:, :, None], 2, -1)
        # With keys that all share, a head of a cell is a query like any other.
        y = attention(q.reshape(x.shape[0], -1, 1, self.head), k, v, queries=QUERIES * self.heads)
        y = Map(x.shape[-1], **how, name="to_out.0")(y.reshape(q.shape))
        return Gain(**how, name="to_out.1")(y).reshape(x.shape)


class Transformer(nn.Module):
    """Self-attention, then an MLP of each cell, each added to what came in."""

    heads: int
    head: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], tokens: Float[Array, "B n D"] | None) -> Float[Array, "B *S C"]:
        how, width = {"dtype": self.dtype}, x.shape[-1]
        x = x + SelfAttention(self.heads, self.head, **how, name="layers.0.0")(x, tokens)
        y = Map(EXPANSION * width, **how, name="layers.0.1.1")(Gain(**how, name="layers.0.1.0")(x))
        y = Gain(**how, name="layers.0.1.3")(nn.gelu(y, approximate=False))
        return x + Map(width, **how, name="layers.0.1.4")(y)


class Gate(nn.Module):
    """How much of every channel passes, in (0, 1), by a mean over all cells that weighs them itself.

    The global context of Cao et al. 2019, arXiv 1904.11492.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *s C"]:
        how, width, space = {"dtype": self.dtype}, x.shape[-1], tuple(range(1, x.ndim - 1))
        weights = nn.softmax(conv(x, 1, 1, **how, name="to_k")(x).astype(jnp.float32), space)
        y = (weights * x).sum(space, keepdims=True)
        y = nn.silu(conv(x, max(3, width // 2), 1, **how, name="net.0")(y))
        return nn.sigmoid(conv(x, width, 1, **how, name="net.2")(y))


class Residual(nn.Module):
    """Two convolutions of 3 taps an axis, each behind a norm. ``c``, of the time after its SiLU, sets the second one's
    scale and shift; between them cells hear ``tokens``, where they are given. ``gated``: behind a :class:`Gate`."""

    width: int
    heads: int
    head: int
    dtype: Any
    gated: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *S _"], c: Float[Array, "B E"], tokens: Float[Array, "B n D"] | None
    ) -> Float[Array, "B *S _"]:
        how = {"dtype": self.dtype}
        y = nn.silu(Norm(**how, name="block1.groupnorm")(x))
        y = conv(x, self.width, **how, name="block1.project")(y)
        if tokens is not None:
            y = y + CrossAttention(self.heads, self.head, **how, name="cross_attn")(y, tokens)
        c = Linear(2 * self.width, **how, name="time_mlp.1")(c)
        scale, shift = jnp.split(c.reshape(c.shape[0], *[1] * (x.ndim - 2), -1), 2, -1)
        y = nn.silu(Norm(**how, name="block2.groupnorm")(y) * (1 + scale) + shift)
        y = conv(x, self.width, **how, name="block2.project")(y)
        if self.gated:
            y = y * Gate(**how, name="gca")(y)
        if x.shape[-1] != self.width:
            x = conv(x, self.width, 1, **how, name="res_conv")(x)
        return x + y


def first(x: Float[Array, "B *S _"], width: int, dtype: Any, name: str) -> Float[Array, "B *S {width}"]:
    """Convolutions of 3, 7 and 15 taps an axis, side by side: a half, a quarter, and the rest of the channels."""
    widths = width // 2, width // 4, width - width // 2 - width // 4
    sizes = enumerate(zip(widths, TAPS, strict=True))
    return jnp.concatenate([conv(x, n, taps, dtype=dtype, name=f"{name}.{i}")(x) for i, (n, taps) in sizes], -1)


def down(x: Float[Array, "B *T _"], width: int, dtype: Any, name: str) -> Float[Array, "B *S {width}"]:
    """Half as many cells along every axis."""
    return conv(x, width, 1, dtype=dtype, name=name)(halved(x))


def up(x: Float[Array, "B *S _"], width: int, dtype: Any, name: str) -> Float[Array, "B *T {width}"]:
    """Twice as many cells along every axis."""
    n = x.ndim - 2
    return doubled(nn.silu(modules.Conv(2**n * width, (1,) * n, kernel_init=alike, dtype=dtype, name=name)(x)))


def halved(x: Float[Array, "B *T C"]) -> Float[Array, "B *S D"]:
    """Half as many cells along every axis; the 2, 4 or 8 values of a channel lie side by side."""
    return _turned(arrays.blocked(x, 2), 2 ** (x.ndim - 2))


def doubled(x: Float[Array, "B *S D"]) -> Float[Array, "B *T C"]:
    """The inverse of :func:`halved`."""
    return arrays.unblocked(_turned(x, x.shape[-1] // 2 ** (x.ndim - 2)), 2)


def _turned(x: Array, rows: int) -> Array:
    return x.reshape(*x.shape[:-1], rows, -1).swapaxes(-1, -2).reshape(x.shape)


def alike(key: Any, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    """The start of a kernel before :func:`doubled`: the values that a channel becomes are equal, and no lattice shows
    (Aitken et al. 2017, arXiv 1707.02937)."""
    copies = 2 ** (len(shape) - 2)
    return jnp.repeat(spread(key, (*shape[:-1], shape[-1] // copies), dtype), copies, -1)
