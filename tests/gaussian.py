"""Data N(MEAN, VARIANCE) per channel, of which the best denoiser is known.

x_t ~ N(a m, a^2 S + s^2), so E[x0 | x_t] = m + a S (x_t - a m) / (a^2 S + s^2) is the denoiser, and the
probability-flow ODE keeps (x_t - a m) / sqrt(a^2 S + s^2). Of any process: of its levels alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

MEAN, VARIANCE = np.float32([[0.5, -0.3, 0.0], [0.04, 0.5, 0.01]])


@partial(jax.jit, static_argnums=0)
def _levels(process, t):
    return process.levels(t)


def levels(process, t):
    """(a, s) at the times ``t``, in numpy."""
    return jax.device_get(_levels(process, np.asarray(t)))


def best(process):
    """The best denoiser of N(MEAN, VARIANCE) per channel, in the process's own prediction; counts its calls."""

    def denoise(x, t, memory, key):
        a, s = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in process.levels(t))
        x0 = MEAN + a * VARIANCE * (x - a * MEAN) / (a**2 * VARIANCE + s**2)
        return process.predict.target(x0, (x - a * x0) / s, a, s), memory + 1

    return denoise


def point(process):
    """The denoiser of data that is MEAN everywhere."""

    def denoise(x, t, memory, key):
        a, s = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in process.levels(t))
        x0 = jnp.broadcast_to(MEAN, x.shape)
        return process.predict.target(x0, (x - a * x0) / s, a, s), memory

    return denoise


def exact(process, x, t, u):
    """The solution of the probability-flow ODE at u that is ``x`` at t, in float64."""
    mean, variance = (np.asarray(v, np.float64) for v in (MEAN, VARIANCE))
    ends = [[float(v) for v in levels(process, i)] for i in (t, u)]
    (before, after), (old, new) = zip(*[(a * mean, np.sqrt(a**2 * variance + s**2)) for a, s in ends], strict=True)
    return after + new * (np.asarray(x) - before) / old
