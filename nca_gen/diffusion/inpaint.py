"""Sampling a part of an image while the rest is known: wrappers around a denoiser and a sampler's step."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from nca_gen import arrays
from nca_gen.contracts import Process, Time
from nca_gen.diffusion import process as forward
from nca_gen.diffusion.samplers import Denoiser, Step

_KNOWN = -3  # the step that names the noise of known pixels; -1 is the sampler's


def noised(
    process: Process, x0: Float[Array, "B *S C"], t: Time, key: Key[Array, " B"], at: arrays.Coords
) -> Float[Array, "B *S C"]:
    """Known pixels as noisy as the rest: q(x_t | x0), drawn anew at every level (RePaint: Lugmayr et al. 2022, eq. 8a).

    ``key`` is that of the level, as a denoiser receives it; ``at`` the cells' coordinates.
    """
    return forward.noised(process, x0, arrays.cell_normal(key, _KNOWN, at, x0.shape[-1]), t)


def clean(
    process: Process, x0: Float[Array, "B *S C"], t: Time, key: Key[Array, " B"], at: arrays.Coords
) -> Float[Array, "B *S C"]:
    """Known pixels as they are, at every level: noise lies in the hole alone (Diff-NCA, section 4.7)."""
    return x0


KNOWN = {"noised": noised, "clean": clean}


def replaced(denoise: Denoiser, hole: Bool[Array, "*H"], known: Callable[[Time, Key[Array, " B"]], Array]) -> Denoiser:
    """Shows ``denoise`` the pixels of the hole as they are and ``known(t, key)`` in place of all others.

    Steps are elementwise, so this is to restore the known pixels at the end of every step.
    """
    return lambda x, t, memory, key: denoise(jnp.where(hole, x, known(t, key)), t, memory, key)


def blended(step: Step, x0: Float[Array, "B *S C"], weight: float) -> Step:
    """``step``, which then lets ``weight`` of x0 into the image (Diff-NCA, section 4.8)."""
    return lambda *args: (1.0 - weight) * step(*args) + weight * x0
