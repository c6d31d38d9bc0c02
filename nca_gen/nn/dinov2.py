"""DINOv2's vision transformers of 14 x 14 patches (Oquab et al. 2023, arXiv 2304.07193), with their published names.

Those without registers. The position embedding is of 37 x 37 patches (518 pixels) and is resampled for other sizes as
the published code does it: bicubic, and as if there were a tenth of a patch more than there is.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float

from nca_gen.nn import modules, resize

PATCH, GRID, DEPTH, HEAD = 14, 37, 12, 64
SURPLUS = 0.1  # the tenth of a patch


def resampling(n: int) -> Float[np.ndarray, "n 37"]:
    """The matrix that resamples ``GRID`` positions to ``n``, as if there were a tenth of a patch more than there is."""
    return resize.cubic((np.arange(n) + 0.5) * GRID / (n + SURPLUS) - 0.5, GRID)


def positions(grid: Float[Array, "37*37 D"], rows: int, columns: int) -> Float[Array, "{rows}*{columns} D"]:
    """The embedding of every patch of an image of ``rows`` x ``columns`` of them."""
    if rows == columns == GRID:
        return grid
    y, x, square = resampling(rows), resampling(columns), grid.reshape(GRID, GRID, -1)
    resampled = jnp.einsum("iy,jx,yxd->ijd", y, x, square, precision=Precision.HIGHEST)
    return resampled.reshape(rows * columns, -1)


Dense = partial(modules.Dense, precision=Precision.HIGHEST)
Norm = partial(modules.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class Attention(nn.Module):
    """Of all patches to all, in heads of 64 features."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        d = x.shape[-1]
        q, k, v = jnp.moveaxis(Dense(3 * d, name="qkv")(x).reshape(*x.shape[:2], 3, d // HEAD, HEAD), 2, 0)
        weights = nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q * HEAD**-0.5, k, precision=Precision.HIGHEST))
        y = jnp.einsum("bhqk,bkhc->bqhc", weights, v, precision=Precision.HIGHEST)
        return Dense(d, name="proj")(y.reshape(x.shape))


class MLP(nn.Module):
    """Four times as wide inside, with an exact GELU."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        y = nn.gelu(Dense(4 * x.shape[-1], name="fc1")(x), approximate=False)
        return Dense(x.shape[-1], name="fc2")(y)


class LayerScale(modules.Module):
    """A factor for every feature (Touvron et al. 2021, arXiv 2103.17239)."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return x * self.param("gamma", nn.initializers.ones, x.shape[-1:])


class Block(nn.Module):
    """Attention, then MLP, each behind a norm and with a factor, added to what came in."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        for i, part in enumerate((Attention(name="attn"), MLP(name="mlp")), 1):
            x = x + LayerScale(name=f"ls{i}")(part(Norm(name=f"norm{i}")(x)))
        return x


class DINOv2(modules.Module):
    """Images ``[B, H, W, 3]``, normalised, H and W multiples of 14, to ``cls`` ``[B, D]``, the class token at the end.

    The mask token of the published files is left out: only training reads it.
    """

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B D"]]:
        b, h, w, _ = x.shape
        d, small = self.width, nn.initializers.normal(0.02)
        token = self.param("cls_token", small, (1, 1, d))
        places = self.param("pos_embed", small, (1, 1 + GRID**2, d))
        size = (PATCH, PATCH)
        x = modules.Conv(d, size, size, "VALID", precision=Precision.HIGHEST, name="patch_embed.proj")(x)
        x = x.reshape(b, -1, d) + positions(places[0, 1:], h // PATCH, w // PATCH)
        x = jnp.concatenate([jnp.broadcast_to(token + places[:, :1], (b, 1, d)), x], 1)
        for i in range(DEPTH):
            x = Block(name=f"blocks.{i}")(x)
        return {"cls": Norm(name="norm")(x)[:, 0]}


def vit_s14() -> DINOv2:
    """384 features, 6 heads; 22,056,576 parameters with the mask token."""
    return DINOv2(384)


def vit_b14() -> DINOv2:
    """768 features, 12 heads; 86,580,480 parameters with the mask token."""
    return DINOv2(768)
