"""Embeddings of scalars, diffusion indices and labels."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from nca_gen.errors import UserError
from nca_gen.nn import modules


def scalar_features(scalars: Float[Array, "*S K"]) -> Float[Array, "*S K*K"]:
    """K scalars -> K*K features, linear in the scalars (Kalkhof et al. 2024, "Embedding").

    Scalar ``k`` gives ``value_k * [cos(k w_0), .., sin(k w_0), ..]`` with ``w_j = 10000^(-2j/K)``.
    """
    K = scalars.shape[-1]
    angle = jnp.arange(K)[:, None] * 10000.0 ** (-2.0 * jnp.arange((K + 1) // 2) / K)
    table = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)[:, :K]
    return (scalars[..., None] * table).reshape(*scalars.shape[:-1], K * K)


def timestep_features(t: Num[Array, " b"], width: int = 256) -> Float[Array, "b {width}"]:
    """``[cos(t w_0), .., sin(t w_0), ..]`` with ``w_k = 10000^(-2k/width)``; ``t`` in steps (0 .. 999).

    Dhariwal & Nichol 2021 (arXiv 2105.05233), and the transformers that followed; ``width`` is even.
    """
    angle = t[:, None] * 10000.0 ** (jnp.arange(width // 2) * (-2.0 / width))
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


class TimeEmbedding(nn.Module):
    """Diffusion indices ``[b]`` to ``[b, width]``: features, affine, SiLU, affine, as Peebles & Xie 2023 have them."""

    width: int
    features: int = 256

    @nn.compact
    def __call__(self, t: Num[Array, " b"]) -> Float[Array, "b {self.width}"]:
        small = nn.initializers.normal(0.02)
        x = modules.Dense(self.width, kernel_init=small, name="fc0")(timestep_features(t, self.features))
        return modules.Dense(self.width, kernel_init=small, name="fc1")(nn.silu(x))


class LabelEmbedding(nn.Module):
    """Labels ``[B, classes]``, one 0/1 column each, to ``[B, width]``: two affine maps, with nothing in between.

    Any number of labels may hold at once; no label at all is the null condition of classifier-free guidance.
    """

    width: int

    @nn.compact
    def __call__(self, labels: Float[Array, "B n"]) -> Float[Array, "B {self.width}"]:
        xavier = nn.initializers.xavier_uniform()
        x = modules.Dense(self.width, kernel_init=xavier, name="fc0")(labels)
        return modules.Dense(self.width, kernel_init=xavier, name="fc1")(x)


class Conditioning(nn.Module):
    """What a denoiser is told beside the image, ``[b or B, width]``: :class:`TimeEmbedding` + :class:`LabelEmbedding`.

    ``cond`` None is the null condition. 0 ``classes``: the time alone. Raises UserError where ``cond`` has not
    ``classes`` columns.
    """

    width: int
    classes: int = 0
    features: int = 256

    @nn.compact
    def __call__(self, t: Num[Array, " b"], cond: Float[Array, "B n"] | None = None) -> Float[Array, "_ {self.width}"]:
        time = TimeEmbedding(self.width, self.features, name="time")(t)
        labels = jnp.zeros((1, self.classes)) if cond is None else cond
        if labels.shape[-1] != self.classes:
            raise UserError(f"config.model.classes is {self.classes}, but the labels have {labels.shape[-1]} columns")
        return time + LabelEmbedding(self.width, name="label")(labels) if self.classes else time
