"""Processes in continuous time: t in (0, 1], noisier as it grows, described by the log-SNR log(a^2 / s^2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval
from jaxtyping import Array, Float, Key, UInt32

from nca_gen import ranges
from nca_gen.diffusion.predictions import PREDICTIONS, STRAIGHT, Prediction
from nca_gen.diffusion.process import comb
from nca_gen.errors import UserError
from nca_gen.ranges import OneOf, Weight

OFFSET = 0.008  # of the cosine: keeps t = 0 a little noisy (Nichol & Dhariwal 2021, equation 17)
THOUSAND = 1000  # what networks that were made for discrete time read at t = 1


def cosine(t: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """-2 log tan(pi/2 (t + s) / (1 + s)) with s = ``OFFSET``: the cosine of Nichol & Dhariwal (2021) for every t."""
    angle = (t + OFFSET) / (1.0 + OFFSET) * (jnp.pi / 2)
    return 2.0 * (jnp.log(jnp.maximum(jnp.cos(angle), 1e-20)) - jnp.log(jnp.sin(angle)))


def linear(t: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """-log(expm1(1e-4 + 10 t^2)): beta linear in t (Ho et al. 2020) for every t."""
    return -jnp.log(jnp.expm1(1e-4 + 10.0 * jnp.square(t)))


def straight(t: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """2 log((1 - t) / t): of x_t = (1 - t) x0 + t eps (Liu et al. 2022)."""
    return 2.0 * (jnp.log1p(-t) - jnp.log(t))


SCHEDULES: dict[str, Callable[[Array], Array]] = {"cosine": cosine, "linear": linear, "straight": straight}
LogSNR = Annotated[float, Interval(ge=-80, le=80)]  # beyond, a level is 0 in float32


@dataclass(frozen=True)
class Process:
    """A log-SNR at every t in (0, 1], and the coordinate in which the network speaks. t = 0 is the clean image itself.

    ``schedule``: "cosine" and "linear" preserve the variance, a^2 + s^2 = 1; "straight" is the path of rectified flow,
    a = 1 - t, s = t. ``prediction``: of :mod:`predictions`. ``ends``: the log-SNR is clipped to them (Saharia
    et al. 2022). ``clock``: networks read 1000 t ("time") or the log-SNR ("log_snr"). ``gamma``: the loss is weighted
    by min-SNR (Hang et al. 2023); 0 weights all times alike. Raises UserError for names that it does not know, and for
    a prediction that does not fit the path.
    """

    schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    prediction: Annotated[str, OneOf(PREDICTIONS)] = "v"
    ends: tuple[LogSNR, LogSNR] = (-20.0, 20.0)
    clock: Annotated[str, OneOf(("time", "log_snr"))] = "time"
    gamma: Weight = 0.0

    def __post_init__(self):
        ranges.check_fields(self, "diffusion")
        if self.schedule == "straight" and self.prediction not in STRAIGHT:
            raise UserError(
                f"diffusion.prediction={self.prediction} says nothing on the straight path, where a^2 + s^2 is not 1 "
                f"and a falls to 0: choose one of {', '.join(STRAIGHT)}"
            )
        if not self.ends[0] < self.ends[1]:
            raise UserError(f"diffusion.ends={self.ends}: give the lower end of the log-SNR first")

    @property
    def predict(self) -> Prediction:
        """The coordinate in which the network speaks."""
        return PREDICTIONS[self.prediction]

    @property
    def span(self) -> int:
        """What the absolute value of :meth:`told` does not exceed."""
        return THOUSAND if self.clock == "time" else int(np.ceil(np.abs(self.ends).max()))

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """log(a_t^2 / s_t^2), clipped to ``ends``."""
        return jnp.clip(SCHEDULES[self.schedule](jnp.asarray(t, jnp.float32)), *self.ends)

    def levels(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """(a_t, s_t), with (1, 0) at t = 0."""
        if self.schedule == "straight":
            return 1.0 - t, t
        ratio = self.log_snr(t)
        a, s = (jnp.sqrt(jax.nn.sigmoid(sign * ratio)) for sign in (1.0, -1.0))
        return jnp.where(t > 0, a, 1.0), jnp.where(t > 0, s, 0.0)

    def times(self, n: int) -> Float[np.ndarray, " {n}+1"]:
        """``n`` evenly spaced times from 1 on, then 0. Raises UserError for less than one."""
        if n < 1:
            raise UserError(f"config.sample.steps={n}: give at least 1")
        return np.linspace(1.0, 0.0, n + 1, dtype=np.float32)

    def draw(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "*n"]:
        """Random times to train at, each uniform in (0, 1], together spread evenly (Kingma et al. 2021)."""
        return 1.0 - comb(key, shape)

    def told(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """1000 t or the log-SNR, as ``clock`` says."""
        return THOUSAND * t if self.clock == "time" else self.log_snr(t)

    def weight(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """1, or with ``gamma`` min(SNR, gamma) of the error of x0, whatever the network predicts."""
        if not self.gamma:
            return jnp.ones(t.shape)
        a, s = self.levels(t)
        snr = jnp.square(a / s)
        return jnp.minimum(snr, self.gamma) * jnp.square(self.predict.gain(a, s))

    def tag(self, t: Float[Array, "*n"]) -> UInt32[Array, "*n"]:
        """The bits of t."""
        return jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32)
