"""Weight normalisation (Salimans & Kingma 2016): w = g v / |v|, one gain per output channel."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Linear(NamedTuple):
    """An affine map's effective weights; ``kernel`` is ``[*taps, Cin, Cout]``."""

    kernel: Float[Array, "..."]
    bias: Float[Array, " Cout"]


class WeightNorm(nn.Module):
    """Declares v, g and bias; called without input, returns the :class:`Linear` they stand for.

    Computed once per rollout, not once per step. Starts as torch's convolution does, uniform in
    +-1/sqrt(fan in), with ``g = |v|``; ``zero=True`` starts at the zero map instead (g = bias = 0).
    """

    shape: tuple[int, ...]  # [*taps, Cin, Cout]
    zero: bool = False

    @nn.compact
    def __call__(self) -> Linear:
        *fan, cout = self.shape
        bound = 1.0 / jnp.sqrt(jnp.prod(jnp.array(fan)))
        uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)  # noqa: E731
        size = lambda v: jnp.sqrt(jnp.sum(v * v, axis=tuple(range(v.ndim - 1))))  # noqa: E731
        v = self.param("v", uniform, self.shape)
        g = self.param("g", nn.initializers.zeros if self.zero else lambda *_: size(v), (cout,))
        bias = self.param("bias", nn.initializers.zeros if self.zero else uniform, (cout,))
        return Linear(v * (g / size(v)), bias)
