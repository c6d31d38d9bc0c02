"""The variance-preserving process q(x_t | x_0) = N(a_t x_0, s_t^2) in discrete time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from nca_gen import arrays
from nca_gen.diffusion import predictions, schedules
from nca_gen.errors import UserError, unknown


@dataclass(frozen=True)
class Diffusion:
    """A schedule of ``timesteps`` levels and the coordinate in which the network speaks.

    ``schedule``: a function of :mod:`schedules` ("cosine", "linear", "sqrt_linear").
    ``prediction``: a member of :mod:`predictions` ("eps", "x0", "v").
    ``mean``, ``std``, ``block``: x0 is the image standardised per channel (one value for all, or one each), a square
    (cube, ..) of ``block`` pixels a side as the channels of one cell; by default it is the image itself.
    Index t runs from 0 (almost clean) to T-1 (almost noise); t = -1 is the clean image itself.
    """

    schedule: str = "cosine"
    timesteps: int = 300
    prediction: str = "eps"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    block: int = 1

    def __post_init__(self):
        for field, module in (("schedule", schedules), ("prediction", predictions)):
            if getattr(self, field) not in module.NAMES:
                raise unknown(f"value of config.diffusion.{field}", getattr(self, field), module.NAMES)

    def encode(self, image: Float[Array, "B *T C"]) -> Float[Array, "B *S D"]:
        """x0 of an image in [-1, 1]. Raises UserError where ``block`` does not divide its sides."""
        if any(size % self.block for size in image.shape[1:-1]):
            raise UserError(f"config.diffusion.block={self.block} does not divide an image of {image.shape[1:-1]}")
        return arrays.blocked((image - jnp.asarray(self.mean)) / jnp.asarray(self.std), self.block)

    def decode(self, x: Float[Array, "B *S D"]) -> Float[Array, "B *T C"]:
        """The image of an x0: the inverse of :meth:`encode`."""
        return arrays.unblocked(x, self.block) * jnp.asarray(self.std) + jnp.asarray(self.mean)

    @cached_property
    def abar(self) -> Float64[np.ndarray, " T"]:
        return getattr(schedules, self.schedule)(self.timesteps)

    @property
    def predict(self) -> predictions.Prediction:
        return getattr(predictions, self.prediction)

    def levels(self, t: Int[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """(a_t, s_t), with (1, 0) at t = -1. s is taken from 1 - abar in float64, so it keeps its digits."""
        abar = np.append(self.abar, 1.0)  # index -1 reads the appended 1
        a, s = np.sqrt(abar), np.sqrt(1.0 - abar)
        return jnp.asarray(a, jnp.float32)[t], jnp.asarray(s, jnp.float32)[t]

    def noised(
        self, x0: Float[Array, "B *S C"], eps: Float[Array, "B *S C"], t: Int[Array, " b"]
    ) -> Float[Array, "B *S C"]:
        """x_t = a_t x0 + s_t eps (Ho et al. 2020, eq. 4). ``t`` here and below: one index an image, or one for all."""
        a, s = (v.reshape(-1, *[1] * (x0.ndim - 1)) for v in self.levels(t))
        return a * x0 + s * eps

    def target(
        self, x0: Float[Array, "B *S C"], eps: Float[Array, "B *S C"], t: Int[Array, " b"]
    ) -> Float[Array, "B *S C"]:
        """What the network should say at x_t."""
        a, s = (v.reshape(-1, *[1] * (x0.ndim - 1)) for v in self.levels(t))
        return self.predict.target(x0, eps, a, s)

    def x0(
        self, prediction: Float[Array, "B *S C"], x: Float[Array, "B *S C"], t: Int[Array, " b"]
    ) -> Float[Array, "B *S C"]:
        """The clean image that a prediction at x_t implies."""
        a, s = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in self.levels(t))
        return self.predict.x0(prediction, x, a, s)

    def respaced(self, steps: int) -> Int[np.ndarray, " {steps}+1"]:
        """``steps`` indices from T-1 down to 0, evenly spaced, then -1 (Nichol & Dhariwal 2021, section 4).

        Raises UserError for more steps than the diffusion has.
        """
        if not 1 <= steps <= self.timesteps:
            raise UserError(f"config.sample.steps={steps}: this diffusion has 1 to {self.timesteps} steps")
        t = np.round(np.linspace(self.timesteps - 1, 0, steps)).astype(int)
        return np.append(t, -1)
