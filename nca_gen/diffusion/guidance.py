"""Guidance and clipping as wrappers around a denoiser."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen.diffusion.process import Diffusion
from nca_gen.diffusion.samplers import Denoiser


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """p_null + scale (p_cond - p_null) (Ho & Salimans 2022). memory is a pair, one for each half.

    scale 0 is unconditional, 1 conditional, above 1 guided.
    """

    def denoise(x, t, memory, key):
        cond, memory_cond = conditional(x, t, memory[0], key)
        null, memory_null = unconditional(x, t, memory[1], key)
        return null + scale * (cond - null), (memory_cond, memory_null)

    return denoise


def constrained(
    denoise: Denoiser, diffusion: Diffusion, clip: Callable[[Float[Array, "B *S C"]], Float[Array, "B *S C"]]
) -> Denoiser:
    """Passes the image of the implied x0 through ``clip``, and says what follows in the denoiser's own coordinate."""

    def constrained_denoise(x, t, memory, key):
        prediction, memory = denoise(x, t, memory, key)
        a, s = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in diffusion.levels(t))
        x0 = diffusion.encode(clip(diffusion.decode(diffusion.predict.x0(prediction, x, a, s))))
        eps = (x - a * x0) / s
        return diffusion.predict.target(x0, eps, a, s), memory

    return constrained_denoise


def static_range(x0: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
    """Clips to the range of images, [-1, 1]."""
    return jnp.clip(x0, -1.0, 1.0)


def dynamic_range(x0: Float[Array, "B *S C"], quantile: float = 0.95) -> Float[Array, "B *S C"]:
    """Dynamic thresholding (Saharia et al. 2022): clips at the quantile of |x0| per sample, at least 1; rescales."""
    limit = jnp.quantile(jnp.abs(x0), quantile, axis=tuple(range(1, x0.ndim)), keepdims=True)
    limit = jnp.maximum(limit, 1.0)
    return jnp.clip(x0, -limit, limit) / limit
