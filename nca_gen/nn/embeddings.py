"""Embeddings of scalars."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def scalar_features(scalars: Float[Array, "*S K"]) -> Float[Array, "*S K*K"]:
    """K scalars -> K*K features, linear in the scalars (Diff-NCA, "Embedding").

    Scalar ``k`` gives ``value_k * [cos(k w_0), .., sin(k w_0), ..]`` with ``w_j = 10000^(-2j/K)``.
    """
    K = scalars.shape[-1]
    angle = jnp.arange(K)[:, None] * 10000.0 ** (-2.0 * jnp.arange((K + 1) // 2) / K)
    table = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)[:, :K]
    return (scalars[..., None] * table).reshape(*scalars.shape[:-1], K * K)
