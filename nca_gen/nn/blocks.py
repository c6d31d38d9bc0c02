"""The parts of diffusion U-Nets (Dhariwal & Nichol 2021, arXiv 2105.05233), in any number of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen.nn import modules
from nca_gen.nn.attention import SelfAttention
from nca_gen.nn.convolution import convolution

GROUPS = 32

spread = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # as torch's layers start
Norm = partial(modules.GroupNorm, epsilon=1e-5)


def conv(x: Array, width: int, taps: int = 3, *, stride: int = 1, zero: bool = False, **how: Any) -> nn.Conv:
    """A convolution for fields like ``x``, whose border is padded with zeros; ``zero``: starts as the zero map."""
    n = x.ndim - 2
    how = {"kernel_init": nn.initializers.zeros if zero else spread, "conv_general_dilated": convolution} | how
    return modules.Conv(width, (taps,) * n, stride, taps // 2, **how)


def doubled(x: Float[Array, "B *S C"]) -> Float[Array, "B *T C"]:
    """Twice as large along every space axis: each value in the place of 2, 4 or 8."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, 2, axis)
    return x


def halved(x: Float[Array, "B *T C"]) -> Float[Array, "B *S C"]:
    """Half as large along every space axis: the mean of 2, 4 or 8 values."""
    window = (2,) * (x.ndim - 2)
    return nn.avg_pool(x, window, window)


class Residual(nn.Module):
    """Two convolutions of 3 taps an axis, each behind a norm, and ``c``, after its SiLU, added between them.

    ``scale``: not added, ``c`` sets scale and shift behind the second norm. ``resize``: is applied to the field behind
    the first SiLU, and to the shortcut. Starts as the shortcut.
    """

    width: int
    dtype: Any
    groups: int = GROUPS
    scale: bool = False
    resize: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B *S _"], c: Float[Array, "b E"]) -> Float[Array, "B *T _"]:
        how = {"dtype": self.dtype}
        y = nn.silu(Norm(self.groups, **how, name="norm0")(x))
        if self.resize:
            x, y = self.resize(x), self.resize(y)
        y = conv(x, self.width, **how, name="conv0")(y)
        c = modules.Dense((1 + self.scale) * self.width, kernel_init=spread, **how, name="condition")(c)
        c = c.reshape(c.shape[0], *[1] * (x.ndim - 2), -1)
        norm = Norm(self.groups, **how, name="norm1")
        if self.scale:
            scale, shift = jnp.split(c, 2, -1)
            y = norm(y) * (1 + scale) + shift
        else:
            y = norm(y + c)
        y = conv(x, self.width, zero=True, **how, name="conv1")(nn.silu(y))
        if x.shape[-1] != self.width:
            x = conv(x, self.width, 1, **how, name="shortcut")(x)
        return x + y


class Attention(nn.Module):
    """Of every cell to all, in so many heads, behind a norm, added to what came in; starts as identity."""

    heads: int
    dtype: Any
    groups: int = GROUPS

    @nn.compact
    def __call__(self, x: Float[Array, "B *S D"]) -> Float[Array, "B *S D"]:
        y = Norm(self.groups, dtype=self.dtype, name="norm")(x).reshape(x.shape[0], prod(x.shape[1:-1]), -1)
        y = SelfAttention(self.heads, spread, zero=True, dtype=self.dtype, name="attention")(y)
        return x + y.reshape(x.shape)


def plain(module: nn.Module, fields: Sequence[Float[Array, "B *S _"]], *more: Array) -> Float[Array, "B *T _"]:
    """``module`` of ``fields`` with their channels side by side, and of ``more``."""
    return cast("Any", module)(jnp.concatenate(fields, -1) if len(fields) > 1 else fields[0], *more)


def sparing(module: Residual | Attention, fields: Sequence[Float[Array, "B *S _"]], *more: Array) -> Any:
    """:func:`plain`, of which the gradient keeps ``fields`` and ``more``, and computes again what is inside.

    It has done with this block, the gradients of its parameters too, before it goes on to what was computed before it:
    a compiler that puts these off keeps the fields of many blocks. Gradients of kernels wait for the optimiser in the
    type of the products that they come from.
    """
    again = nn.remat(plain)

    def backward(back: Callable[..., Any], d: Array) -> Any:
        grads, *others = back(d)
        short = jax.tree.map(lambda g: g.astype(module.dtype) if g.ndim > 1 else g, grads)
        short, others = jax.lax.optimization_barrier((short, others))
        return jax.tree.map(lambda g, long: g.astype(long.dtype), short, grads), *others

    forward = lambda *given: nn.vjp(again, *given)
    return nn.custom_vjp(plain, forward, backward)(module, tuple(fields), *more)
