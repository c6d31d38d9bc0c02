"""The variance-preserving process q(x_t | x_0) = N(a_t x_0, s_t^2) in discrete time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from annotated_types import Interval
from jaxtyping import Array, Float, Float64, Int, Key, UInt32

from nca_gen import ranges
from nca_gen.diffusion.predictions import PREDICTIONS, Prediction
from nca_gen.diffusion.process import comb
from nca_gen.diffusion.schedules import SCHEDULES
from nca_gen.errors import UserError
from nca_gen.ranges import OneOf


@dataclass(frozen=True)
class Process:
    """A schedule of ``timesteps`` levels and the coordinate in which the network speaks.

    ``schedule``: of :mod:`schedules` ("cosine", "linear", "sqrt_linear").
    ``prediction``: of :mod:`predictions` ("eps", "x0", "v", "velocity").
    A time is an index t from 0 (almost clean) to T-1 (almost noise); t = -1 is the clean image itself.
    """

    schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    timesteps: Annotated[int, Interval(ge=1, le=1_000_000)] = 300
    prediction: Annotated[str, OneOf(PREDICTIONS)] = "eps"

    def __post_init__(self):
        ranges.check_fields(self, "diffusion")

    @cached_property
    def abar(self) -> Float64[np.ndarray, " T"]:
        """The fraction of signal variance left at every index."""
        return SCHEDULES[self.schedule](self.timesteps)

    @property
    def predict(self) -> Prediction:
        """The coordinate in which the network speaks."""
        return PREDICTIONS[self.prediction]

    @property
    def span(self) -> int:
        """Number of indices."""
        return self.timesteps

    def levels(self, t: Int[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """(a_t, s_t), with (1, 0) at t = -1. s is taken from 1 - abar in float64, so it keeps its digits."""
        abar = np.append(self.abar, 1.0)  # index -1 reads the appended 1
        a, s = np.sqrt(abar), np.sqrt(1.0 - abar)
        return jnp.asarray(a, jnp.float32)[t], jnp.asarray(s, jnp.float32)[t]

    def times(self, n: int) -> Int[np.ndarray, " {n}+1"]:
        """``n`` indices from T-1 down to 0, evenly spaced, then -1 (Nichol & Dhariwal 2021, section 4).

        Raises UserError for more steps than the process has.
        """
        if not 1 <= n <= self.timesteps:
            raise UserError(f"config.sample.steps={n}: this diffusion has 1 to {self.timesteps} steps")
        t = np.round(np.linspace(self.timesteps - 1, 0, n)).astype(int)
        return np.append(t, -1)

    def draw(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Int[Array, "*n"]:
        """Random indices to train at, each uniform in 0 .. T-1, together spread evenly over them."""
        return jnp.floor(comb(key, shape) * self.timesteps).astype(jnp.int32)

    def told(self, t: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """The index itself."""
        return t

    def weight(self, t: Int[Array, "*n"]) -> Float[Array, "*n"]:
        """1 everywhere."""
        return jnp.ones(t.shape)

    def tag(self, t: Int[Array, "*n"]) -> UInt32[Array, "*n"]:
        """The index itself."""
        return t.astype(jnp.uint32)
