"""Vector quantisation (van den Oord et al. 2017, arXiv 1711.00937): each place of a latent becomes one of n vectors."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Int, Key

from nca_gen.errors import UserError

ROWS = 1024  # places that are compared with all vectors at once: 64 MiB of distances to 16384


class Weights(NamedTuple):
    """Of the loss: how latents follow the codebook, and how the codebook follows latents."""

    commitment: float
    codebook: float


PUBLISHED = Weights(commitment=1.0, codebook=0.25)  # of VQGAN's code and of CA-LDM: the other way round than the papers
STANDARD = Weights(commitment=0.25, codebook=1.0)
LOSSES = {"published": PUBLISHED, "standard": STANDARD}


def start(key: Key[Array, ""], n: int, width: int) -> Float[Array, "{n} {width}"]:
    """A codebook before training: uniform in +-1/n."""
    return jax.random.uniform(key, (n, width), minval=-1 / n, maxval=1 / n)


def nearest(z: Float[Array, "*S d"], codebook: Float[Array, "n d"]) -> Int[Array, "*S"]:
    """The number of the vector nearest to each place, of equally near ones the first.

    The places come in parts, so that memory grows with n, and not with n times the number of places.
    """
    z, codebook = (jax.lax.stop_gradient(x).astype(jnp.float32) for x in (z, codebook))
    # |z|^2 is the same for all vectors. Without it no digits are lost where they lie close together and far from z.
    squares = jnp.square(codebook).sum(-1)

    def part(rows: Array) -> Array:
        return jnp.argmin(squares - 2 * jnp.matmul(rows, codebook.T, precision=Precision.HIGHEST), -1)

    rows = z.reshape(-1, z.shape[-1])
    return jax.lax.map(part, rows, batch_size=ROWS).reshape(z.shape[:-1])


def quantise(
    z: Float[Array, "*S d"], codebook: Float[Array, "n c"], weights: Weights = PUBLISHED
) -> tuple[Float[Array, "*S d"], Float[Array, ""], Int[Array, "*S"]]:
    """The nearest vector of ``codebook`` for each place, the loss of both, and the numbers of these vectors.

    The first has the gradient of ``z`` itself, and none of the codebook, which learns by the loss alone:
    ``weights.commitment`` mean((sg(zq) - z)^2) + ``weights.codebook`` mean((zq - sg(z))^2). Raises UserError where
    vectors and places have not the same number of channels.
    """
    if z.shape[-1] != codebook.shape[-1]:
        raise UserError(f"latents of {z.shape[-1]} channels have no place in a codebook of {codebook.shape[-1]}")
    indices = nearest(z, codebook)
    vectors, stop = codebook[indices], jax.lax.stop_gradient
    apart = lambda a, b: jnp.mean(jnp.square(a - b))
    loss = weights.commitment * apart(stop(vectors), z) + weights.codebook * apart(vectors, stop(z))
    return stop(vectors) + (z - stop(z)), loss, indices
