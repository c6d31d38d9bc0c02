"""Weight normalisation (Salimans & Kingma 2016): w = g v / |v|, one gain per output channel."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nca_gen.nn import modules
from nca_gen.nn.weights import Linear


def uniform(key: Key[Array, ""], shape: tuple[int, ...], fan: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws between +-1/sqrt(product of ``fan``, the inputs of the layer), as torch's layers start."""
    bound = 1.0 / jnp.sqrt(jnp.prod(jnp.array(fan)))
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def length(v: Float[Array, "... Cout"]) -> Float[Array, " Cout"]:
    """|v| of every output channel."""
    return jnp.sqrt(jnp.sum(v * v, axis=tuple(range(v.ndim - 1))))


class WeightNorm(modules.Module):
    """Declares v, g and bias; called without input, returns the :class:`Linear` they stand for.

    Computed once per rollout, not once per step. Starts as torch's convolution does, uniform in
    +-1/sqrt(fan in), with ``g = |v|``; ``zero=True`` starts at the zero map instead (g = bias = 0).
    """

    shape: tuple[int, ...]  # [*taps, Cin, Cout]
    zero: bool = False

    @nn.compact
    def __call__(self) -> Linear:
        """The effective weights."""
        *fan, cout = self.shape
        start = partial(uniform, fan=tuple(fan))
        v = self.param("v", start, self.shape)
        g = self.param("g", nn.initializers.zeros if self.zero else lambda *_: length(v), (cout,))
        bias = self.param("bias", nn.initializers.zeros if self.zero else start, (cout,))
        return Linear(v * (g / length(v)), bias)
