"""CLIP's vision transformer of 14 x 14 patches (Radford et al. 2021, arXiv 2103.00020), with the names of Transformers.

The text half of the published file is left out.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

from nca_gen.nn import modules

PATCH, HEAD = 14, 64

Dense = partial(modules.Dense, precision=Precision.HIGHEST)
Norm = partial(modules.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class Embedding(modules.Module):
    """A table of vectors, as torch names it."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("weight", nn.initializers.normal(0.02), self.shape)


class Attention(nn.Module):
    """Of all patches to all, in heads of 64 features."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        d = x.shape[-1]
        q, k, v = (Dense(d, name=f"{of}_proj")(x).reshape(*x.shape[:2], d // HEAD, HEAD) for of in "qkv")
        weights = nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q * HEAD**-0.5, k, precision=Precision.HIGHEST))
        y = jnp.einsum("bhqk,bkhc->bqhc", weights, v, precision=Precision.HIGHEST)
        return Dense(d, name="out_proj")(y.reshape(x.shape))


class MLP(nn.Module):
    """Four times as wide inside, with CLIP's approximation of GELU, x sigmoid(1.702 x)."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        y = Dense(4 * x.shape[-1], name="fc1")(x)
        return Dense(x.shape[-1], name="fc2")(y * nn.sigmoid(1.702 * y))


class Block(nn.Module):
    """Attention, then MLP, each behind a norm, added to what came in."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        x = x + Attention(name="self_attn")(Norm(name="layer_norm1")(x))
        return x + MLP(name="mlp")(Norm(name="layer_norm2")(x))


class Vision(modules.Module):
    """Images ``[B, size, size, 3]``, normalised, to ``embedding`` ``[B, features]``, the space shared with texts."""

    width: int
    depth: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B F"]]:
        b, d, patch, part = len(x), self.width, (PATCH, PATCH), "vision_model"
        places = (x.shape[1] // PATCH) * (x.shape[2] // PATCH)
        token = self.param(f"{part}.embeddings.class_embedding", nn.initializers.normal(0.02), (d,))
        conv = partial(modules.Conv, d, patch, patch, "VALID", use_bias=False, precision=Precision.HIGHEST)
        x = conv(name=f"{part}.embeddings.patch_embedding")(x).reshape(b, places, d)
        x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, d)), x], 1)
        x = x + Embedding((places + 1, d), name=f"{part}.embeddings.position_embedding")()
        x = Norm(name=f"{part}.pre_layrnorm")(x)
        for i in range(self.depth):
            x = Block(name=f"{part}.encoder.layers.{i}")(x)
        x = Norm(name=f"{part}.post_layernorm")(x[:, 0])
        return {"embedding": Dense(self.features, use_bias=False, name="visual_projection")(x)}


def vit_l14() -> Vision:
    """1,024 features inside, 768 outside, 24 blocks; 304,293,888 parameters for images of 336 pixels."""
    return Vision(1024, 24, 768)
