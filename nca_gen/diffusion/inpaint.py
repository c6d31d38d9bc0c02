"""Sampling a part of an image while the rest is known: wrappers around a denoiser and a sampler's step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from nca_gen import arrays
from nca_gen.contracts import Process, Time
from nca_gen.diffusion import process as forward
from nca_gen.diffusion.samplers import Carry, Denoiser, Step, advance
from nca_gen.errors import UserError

_KNOWN = -3  # the step that names the noise of known pixels; -1 is the sampler's
_BACK = -4  # of the noise that is added again
_VISIT = np.uint32(2**31)  # of the key of a visit after the first; tags of times and the initial noise are below


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


def path(steps: int, resample: int, jump: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Orders ``steps`` steps as RePaint does (Lugmayr et al. 2022, algorithm 1, and its jumps): returns the number of
    each, from 0 at the noisy end on, and how often it was taken before.

    ``jump`` steps on end are taken ``resample`` times before the next ones. The last step, into the clean image, is
    taken once, and so are those at the noisy end that make no whole jump. Raises UserError for a jump that is longer
    than all steps but the last.
    """
    if resample > 1 and not 1 <= jump < steps:
        cure = f"set it to {steps - 1} at the most" if steps > 1 else "set config.generate.resample=1, or more steps"
        raise UserError(f"config.generate.jump={jump} is no part of the {steps} steps of sampling: {cure}")
    first, last = np.arange((steps - 1) % jump), steps - 1
    jumps = np.arange(len(first), last).reshape(-1, 1, jump)
    visit, number = np.broadcast_arrays(np.arange(resample)[:, None], jumps)
    return np.r_[first, number.ravel(), last], np.r_[0 * first, visit.ravel(), 0]


def resampled(
    step: Step,
    process: Process,
    denoise: Denoiser,
    carry: Carry,
    times: Num[Array | np.ndarray, " n"],
    key: Key[Array, " B"],
    at: arrays.Coords,
    resample: int,
    jump: int,
    published: bool = False,
) -> Carry:
    """:func:`samplers.sample` in the order of :func:`path`: noise is added again, exactly, where it goes back.

    The hole and the known pixels come to agree, as each is denoised in sight of the other. A later visit has noise of
    its own; the first visits have that of :func:`samplers.sample`. ``published``: as :func:`process.renoise` has it.
    """
    number, visit = path(len(times) - 1, resample, jump)
    now = np.r_[0, number[:-1] + 1]
    times = jnp.asarray(times)

    def body(carry: Carry, row):
        here, t, u, visit = row
        again = jnp.where(visit > 0, arrays.fold(key, visit + _VISIT), key)
        eps = arrays.cell_normal(arrays.fold(again, process.tag(t)), _BACK, at, carry.x.shape[-1])
        x = jnp.where(t > here, forward.renoise(process, carry.x, eps, t, here, published), carry.x)
        # What a multistep solver knows of the step before lies on another path.
        carry = carry._replace(x=x, gap=jnp.where(t > here, 0.0, carry.gap))
        return advance(step, process, denoise, carry, t, u, again, at), None

    rows = times[now], times[number], times[number + 1], visit.astype(np.uint32)
    return jax.lax.scan(body, carry, rows)[0]
