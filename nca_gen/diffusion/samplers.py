"""Samplers: how to step from x_t to x_u, u < t, given the denoiser's word at x_t.

A sampler is one pure step over a :class:`Carry`; :func:`sample` scans it over descending times. The
denoiser is ``(x, t, memory, key) -> (prediction, memory)``, and says twice the channels of x where it knows the
variance too (:mod:`variance`); guidance, heredity, inpainting and clipping wrap it or the step. In the letters of the
papers: a, s signal and noise level; lambda = log(a / s).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nca_gen import arrays
from nca_gen.diffusion import variance
from nca_gen.diffusion.discrete import Diffusion

Denoiser = Callable[..., tuple[Float[Array, "B *S C"], Any]]


class Carry(NamedTuple):
    """State between denoising steps.

    ``x0`` and ``gap`` (lambda_t - lambda_previous, 0 at the start) serve multistep solvers.
    """

    x: Float[Array, "B *S C"]
    memory: Any
    x0: Float[Array, "B *S C"]
    gap: Float[Array, ""]


Step = Callable[..., Float[Array, "B *S C"]]  # (diffusion, carry, x0, t, u, noise, v) -> x_u


def _safe_log_snr(a, s):
    """lambda = log(a/s), capped where s = 0 (the clean end)."""
    return jnp.log(a) - jnp.log(jnp.maximum(s, 1e-10))


def ddpm(diffusion: Diffusion, carry: Carry, x0, t, u, noise, v=None) -> Float[Array, "B *S C"]:
    """Ancestral sampling with the posterior variance (Ho et al. 2020, eq. 7), exact between any t > u.

    With ``v`` the variance is the network's (:mod:`variance`).
    """
    (a, s), (a_u, s_u) = diffusion.levels(t), diffusion.levels(u)
    r = a / a_u
    var = jnp.maximum(s**2 - (r * s_u) ** 2, 0.0)  # of q(x_t | x_u): the beta of this jump
    mean = (r * s_u**2 * carry.x + a_u * var * x0) / s**2
    if v is None:
        return mean + s_u * jnp.sqrt(var) / s * noise
    return mean + variance.deviation(var, s_u / s, v) * noise


def ddim(diffusion: Diffusion, carry: Carry, x0, t, u, noise, v=None) -> Float[Array, "B *S C"]:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0)."""
    (a, s), (a_u, s_u) = diffusion.levels(t), diffusion.levels(u)
    return a_u * x0 + s_u * (carry.x - a * x0) / s


def dpm_solver_pp(diffusion: Diffusion, carry: Carry, x0, t, u, noise, v=None) -> Float[Array, "B *S C"]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); first order at its first step and into t = 0 and the clean end.

    The log-SNR leaps towards t = 0: over that step the last two predictions say nothing of a slope.
    """
    (a, s), (a_u, s_u) = diffusion.levels(t), diffusion.levels(u)
    h = _safe_log_snr(a_u, s_u) - _safe_log_snr(a, s)
    second = (carry.gap > 0) & (u > 0)
    r = jnp.where(second, carry.gap, 1.0) / h
    D = jnp.where(second, x0 + (x0 - carry.x0) / (2 * r), x0)
    return s_u / s * carry.x - a_u * jnp.expm1(-h) * D


def begin(x: Float[Array, "B *S C"], memory: Any = ()) -> Carry:
    """The carry at the start of sampling, x ~ N(0, 1)."""
    return Carry(x, memory, jnp.zeros_like(x), jnp.zeros(()))


def sample(
    step: Step,
    diffusion: Diffusion,
    denoise: Denoiser,
    carry: Carry,
    times: Int[Array | np.ndarray, " n"],
    key: Key[Array, " B"],
    at: arrays.Coords | None = None,
) -> Carry:
    """Carries the images from ``times[0]`` to ``times[-1]`` (usually ``diffusion.respaced(n)``) in one scan.

    All randomness of the step at index t is keyed by (key, t), so a run cut into several calls equals
    one call, and a picture can be taken between them. ``at``: coordinates of the cells, default the whole image.
    """
    at = arrays.coords(carry.x.shape[1:-1]) if at is None else at

    def body(carry: Carry, pair):
        t, u = pair
        k = arrays.fold(key, t)
        batch_t = jnp.full(carry.x.shape[:1], t)
        said, memory = denoise(carry.x, batch_t, carry.memory, k)
        prediction, v = variance.parted(said, carry.x.shape[-1])
        x0 = diffusion.x0(prediction, carry.x, batch_t)
        noise = arrays.cell_normal(k, -1, at, carry.x.shape[-1])
        x = step(diffusion, carry, x0, t, u, noise, v)
        (a, s), (a_u, s_u) = diffusion.levels(t), diffusion.levels(u)
        gap = _safe_log_snr(a_u, s_u) - _safe_log_snr(a, s)
        return Carry(x, memory, x0, gap), None

    pairs = jnp.asarray(times[:-1]), jnp.asarray(times[1:])
    return jax.lax.scan(body, carry, pairs)[0]


@partial(jax.jit, static_argnums=(1, 2))
def initial_noise(key: Key[Array, " B"], shape: tuple[int, ...], channels: int, at: arrays.Coords | None = None):
    """x_T ~ N(0, 1), [B, *shape, channels], keyed by coordinates."""
    return arrays.cell_normal(arrays.fold(key, 2**31 - 1), -1, at or arrays.coords(shape), channels)
