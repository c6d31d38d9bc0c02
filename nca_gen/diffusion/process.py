"""What follows from the levels of a process, whatever its time is: noisy images, targets, posteriors.

A process (:class:`nca_gen.contracts.Process`) is its times and levels. ``t`` here is one time an image, or one for all.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nca_gen import arrays
from nca_gen.contracts import Process, Time

Images = Float[Array, "B *S C"]
Level = Float[Array, ""]


def levels(process: Process, t: Time, ndim: int) -> tuple[Array, Array]:
    """(a_t, s_t) as they broadcast against images of ``ndim`` axes, batch and channels included."""
    a, s = (level.reshape(-1, *[1] * (ndim - 1)) for level in process.levels(t))
    return a, s


def noised(process: Process, x0: Images, eps: Images, t: Time) -> Images:
    """x_t = a_t x0 + s_t eps (Ho et al. 2020, equation 4)."""
    a, s = levels(process, t, x0.ndim)
    return a * x0 + s * eps


def target(process: Process, x0: Images, eps: Images, t: Time) -> Images:
    """What the network should say at x_t."""
    a, s = levels(process, t, x0.ndim)
    return process.predict.target(x0, eps, a, s)


def x0_of(process: Process, prediction: Images, x: Images, t: Time) -> Images:
    """The clean image that a prediction at x_t implies."""
    a, s = levels(process, t, x.ndim)
    return process.predict.x0(prediction, x, a, s)


def jump(process: Process, t: Array, u: Array) -> tuple[Level, Level]:
    """(r, beta) of q(x_t | x_u) = N(r x_u, beta) for scalar t > u: how noise is added again, exactly."""
    (a, s), (a_u, s_u) = process.levels(t), process.levels(u)
    r = a / a_u
    return r, jnp.maximum(s**2 - (r * s_u) ** 2, 0.0)


def renoise(process: Process, x: Images, eps: Images, t: Array, u: Array, published: bool = False) -> Images:
    """Adds noise again: x_t of q(x_t | x_u) (:func:`jump`) from x_u = ``x`` and standard normal ``eps``, scalar t > u.

    ``published``: with the deviation s_t - r s_u of URCDM's code in place of sqrt(s_t^2 - r^2 s_u^2). x_t is then less
    noisy than its level says; for parity alone.
    """
    r, beta = jump(process, t, u)
    if published:
        (_, s), (_, s_u) = process.levels(t), process.levels(u)
        return r * x + (s - r * s_u) * eps
    return r * x + jnp.sqrt(beta) * eps


def posterior(process: Process, x: Images, x0: Images, t: Array, u: Array) -> tuple[Images, Level]:
    """Mean and standard deviation of q(x_u | x_t, x0) (Ho et al. 2020, equation 7) for any scalar t > u."""
    (_, s), (a_u, s_u) = process.levels(t), process.levels(u)
    r, beta = jump(process, t, u)
    mean = (r * s_u**2 * x + a_u * beta * x0) / s**2
    return mean, s_u * jnp.sqrt(beta) / s


def log_ratio(a: Level, s: Level) -> Level:
    """lambda = log(a / s), half the log-SNR; capped where a level is 0."""
    return jnp.log(jnp.maximum(a, 1e-10)) - jnp.log(jnp.maximum(s, 1e-10))


def comb(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "*n"]:
    """Numbers in [0, 1), each uniform, together spread evenly: the teeth of a comb on a circle, all turned by one
    random offset, so that no image keeps to a part of it."""
    n = math.prod(shape)
    offset = arrays.cell_uniform(key[None], -2, (), 1)[0, 0]
    return ((jnp.arange(n) / n + offset) % 1.0).reshape(shape)
