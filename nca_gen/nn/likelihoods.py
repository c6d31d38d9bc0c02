"""How probable a pixel is, by what a decoder says of it: log-likelihoods of stored values, in nats, and their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HALF = 1 / 256  # of the distance between two values of 8 bits, which lie 1/128 apart in [-1, 1)
LEAST, MOST = -7.0, 7.0  # of the logarithm of a scale: PixelCNN++ has the first, float32 needs the other


class Bernoulli(NamedTuple):
    """Values of two kinds: those of at least 0, the middle of [-1, 1], are 1, others 0; each channel for itself.

    The numbers are logits.
    """

    channels: int

    @property
    def size(self) -> int:
        """One a channel."""
        return self.channels

    def log_prob(self, outputs: Float[Array, "*S O"], image: Float[Array, "*S C"]) -> Float[Array, "*S"]:
        """Of every pixel, in nats."""
        return -jax.nn.softplus(jnp.where(image >= 0, -outputs, outputs)).sum(-1)

    def mean(self, outputs: Float[Array, "*S O"]) -> Float[Array, "*S C"]:
        """The expected picture, 2 p - 1."""
        return jnp.tanh(outputs / 2)


class Logistics(NamedTuple):
    """The discretised mixture of logistics of PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517, section 2).

    The mass of each of the 256 values k / 128 - 1 of 8 bits; the tails belong to the first and the last. The means of a
    channel are linear in the channels before it. The numbers: a logit of each of ``mixtures`` components, then their
    means, their logarithms of scales, and before tanh their coefficients, the components outermost.
    """

    channels: int
    mixtures: int

    @property
    def size(self) -> int:
        """1 + 2 C + C (C - 1) / 2 a component: 10 for colours."""
        return self.mixtures * (1 + 2 * self.channels + self.channels * (self.channels - 1) // 2)

    def parts(self, outputs: Float[Array, "*S O"]) -> tuple[Array, Array, Array, Array]:
        """Logits [*S, M], means [*S, M, C], logarithms of scales [*S, M, C], and coefficients [*S, M, C, C]: of a
        channel those of the channels before it, elsewhere 0."""
        n, c = self.mixtures, self.channels
        logits, *rest = jnp.split(outputs, (n, n + n * c, n + 2 * n * c), -1)
        means, log_scales, slopes = (part.reshape(*part.shape[:-1], n, -1) for part in rest)
        below = jnp.tril_indices(c, -1)
        coefficients = jnp.zeros((*means.shape, c)).at[..., below[0], below[1]].set(jnp.tanh(slopes))
        return logits, means, jnp.clip(log_scales, LEAST, MOST), coefficients

    def log_prob(self, outputs: Float[Array, "*S O"], image: Float[Array, "*S C"]) -> Float[Array, "*S"]:
        """Of every pixel, in nats. ``image``: values of 8 bits in [-1, 1)."""
        logits, means, log_scales, coefficients = self.parts(outputs)
        x = image[..., None, :]
        centred = x - means - (coefficients * x[..., None, :]).sum(-1)
        upper, lower = ((centred + end) * jnp.exp(-log_scales) for end in (HALF, -HALF))
        first, last = x < -1 + HALF, x > 1 - 3 * HALF
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)): exact where both sigmoids are near 0 or 1.
        mass = jnp.where(first | last, 0.0, jnp.log(-jnp.expm1(-2 * HALF * jnp.exp(-log_scales))))
        mass += jnp.where(last, 0.0, jax.nn.log_sigmoid(upper)) + jnp.where(first, 0.0, jax.nn.log_sigmoid(-lower))
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + mass.sum(-1), axis=-1)

    def mean(self, outputs: Float[Array, "*S O"]) -> Float[Array, "*S C"]:
        """The expected picture: means of the components, each within [-1, 1] and at its own means of the channels
        before, by weight."""
        logits, means, _, coefficients = self.parts(outputs)
        known = jnp.zeros_like(means)
        for i in range(self.channels):
            here = means[..., i] + (coefficients[..., i, :] * known).sum(-1)
            known = known.at[..., i].set(jnp.clip(here, -1.0, 1.0))
        return (jax.nn.softmax(logits)[..., None] * known).sum(-2)


Likelihood = Bernoulli | Logistics
"""A distribution of the values of a pixel [C] by ``size`` numbers [O]."""

LIKELIHOODS: dict[str, Callable[[int, int], Likelihood]] = {  # of (channels, mixtures)
    "bernoulli": lambda channels, mixtures: Bernoulli(channels),
    "logistics": Logistics,
}
