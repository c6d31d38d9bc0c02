"""Samplers: how to step from x_t to x_u, u < t, given what the denoiser says at x_t.

A sampler is one pure step over a :class:`Carry`; :func:`sample` takes it through descending times of any process. The
denoiser is ``(x, t, memory, key) -> (output, memory)``, with t a time of the process, and its output has twice the
channels of x where it knows the variance too (:mod:`variance`); guidance, heredity, inpainting and clipping wrap it or
the step. In the letters of the papers: a, s signal and noise level; lambda = log(a / s).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from nca_gen import arrays
from nca_gen.contracts import Process
from nca_gen.diffusion import variance
from nca_gen.diffusion.process import jump, log_ratio, posterior, x0_of

Denoiser = Callable[..., tuple[Float[Array, "B *S C"], Any]]


class Carry(NamedTuple):
    """State between denoising steps.

    ``x0`` and ``gap`` (lambda_t - lambda_previous, 0 at the start) serve multistep solvers.
    """

    x: Float[Array, "B *S C"]
    memory: Any
    x0: Float[Array, "B *S C"]
    gap: Float[Array, ""]


Step = Callable[..., Float[Array, "B *S C"]]  # (process, carry, x0, t, u, noise, v) -> x_u


def ddpm(process: Process, carry: Carry, x0, t, u, noise, v=None) -> Float[Array, "B *S C"]:
    """Ancestral sampling with the posterior variance (Ho et al. 2020, eq. 7), exact between any t > u.

    With ``v`` the variance is the network's (:mod:`variance`).
    """
    mean, deviation = posterior(process, carry.x, x0, t, u)
    if v is not None:
        (_, s), (_, s_u) = process.levels(t), process.levels(u)
        deviation = variance.deviation(jump(process, t, u)[1], s_u / s, v)
    return mean + deviation * noise


def ddim(process: Process, carry: Carry, x0, t, u, noise, v=None) -> Float[Array, "B *S C"]:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0); on the straight path Euler's step of its flow."""
    (a, s), (a_u, s_u) = process.levels(t), process.levels(u)
    return a_u * x0 + s_u * (carry.x - a * x0) / s


def dpm_solver_pp(process: Process, carry: Carry, x0, t, u, noise, v=None) -> Float[Array, "B *S C"]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); first order at its first step and into t = 0 and the clean end.

    The log-SNR leaps towards t = 0: over that step the last two predictions say nothing of a slope.
    """
    (a, s), (a_u, s_u) = process.levels(t), process.levels(u)
    h = log_ratio(a_u, s_u) - log_ratio(a, s)
    second = (carry.gap > 0) & (u > 0)
    r = jnp.where(second, carry.gap, 1.0) / h
    D = jnp.where(second, x0 + (x0 - carry.x0) / (2 * r), x0)
    return s_u / s * carry.x - a_u * jnp.expm1(-h) * D


def consistency(process: Process, carry: Carry, x0, t, u, noise, v=None) -> Float[Array, "B *S C"]:
    """The end of the path that x0 is, in new noise (Song et al. 2023, algorithm 1): for students of
    :mod:`nca_gen.tasks.distil`, and few steps."""
    a_u, s_u = process.levels(u)
    return a_u * x0 + s_u * noise


SAMPLERS: dict[str, Step] = {"ddpm": ddpm, "ddim": ddim, "dpm_solver_pp": dpm_solver_pp, "consistency": consistency}
DETERMINISTIC = ("ddim", "dpm_solver_pp")  # of which noise is the start alone


def begin(x: Float[Array, "B *S C"], memory: Any = ()) -> Carry:
    """The carry at the start of sampling, x ~ N(0, 1)."""
    return Carry(x, memory, jnp.zeros_like(x), jnp.zeros(()))


def advance(
    step: Step,
    process: Process,
    denoise: Denoiser,
    carry: Carry,
    t: Num[Array, ""],
    u: Num[Array, ""],
    key: Key[Array, " B"],
    at: arrays.Coords,
) -> Carry:
    """The carry at u, from that at t > u. All randomness is keyed by (``key``, tag of t)."""
    k = arrays.fold(key, process.tag(t))
    batch_t = jnp.full(carry.x.shape[:1], t)
    output, memory = denoise(carry.x, batch_t, carry.memory, k)
    prediction, v = variance.parted(output, carry.x.shape[-1])
    x0 = x0_of(process, prediction, carry.x, batch_t)
    noise = arrays.cell_normal(k, -1, at, carry.x.shape[-1])
    x = step(process, carry, x0, t, u, noise, v)
    (a, s), (a_u, s_u) = process.levels(t), process.levels(u)
    gap = log_ratio(a_u, s_u) - log_ratio(a, s)
    return Carry(x, memory, x0, gap)


def sample(
    step: Step,
    process: Process,
    denoise: Denoiser,
    carry: Carry,
    times: Num[Array | np.ndarray, " n"],
    key: Key[Array, " B"],
    at: arrays.Coords | None = None,
    span: Int[Array, " 2"] | None = None,
) -> Carry:
    """Carries the images from ``times[0]`` to ``times[-1]`` (usually ``process.times(n)``) in one loop.

    All randomness of the step at time t is keyed by (key, tag of t), so a run cut into several calls equals
    one call, and a picture can be taken between them. ``at``: coordinates of the cells, default the whole image.
    ``span``: from which of the times to which; known when it runs, so that all parts of a way are one program.
    """
    at = arrays.coords(carry.x.shape[1:-1]) if at is None else at
    times = jnp.asarray(times)

    def body(carry: Carry, pair: tuple[Num[Array, ""], Num[Array, ""]]) -> tuple[Carry, None]:
        return advance(step, process, denoise, carry, *pair, key, at), None

    if span is None:
        return jax.lax.scan(body, carry, (times[:-1], times[1:]))[0]
    return jax.lax.fori_loop(span[0], span[1], lambda i, carry: body(carry, (times[i], times[i + 1]))[0], carry)


@partial(jax.jit, static_argnums=(1, 2))
def initial_noise(key: Key[Array, " B"], shape: tuple[int, ...], channels: int, at: arrays.Coords | None = None):
    """x_T ~ N(0, 1), [B, *shape, channels], keyed by coordinates."""
    return arrays.cell_normal(arrays.fold(key, 2**31 - 1), -1, at or arrays.coords(shape), channels)
