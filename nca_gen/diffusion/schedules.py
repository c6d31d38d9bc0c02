"""Noise schedules: abar_t for t = 0 .. T-1, the fraction of signal variance left (Ho et al. 2020, eq. 4).

Computed in float64. ``abar`` is all a schedule is; everything else follows from it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def from_betas(betas: Float64[np.ndarray, " T"]) -> Float64[np.ndarray, " T"]:
    """abar_t = prod_{s <= t} (1 - beta_s)."""
    return np.cumprod(1.0 - betas)


def linear(T: int, first: float = 1e-4, last: float = 0.02) -> Float64[np.ndarray, " T"]:
    """beta linear in t (Ho et al. 2020). Made for T = 1000: at T = 300 abar_T is still 0.048."""
    return from_betas(np.linspace(first, last, T))


def sqrt_linear(T: int, first: float = 1e-4, last: float = 0.02) -> Float64[np.ndarray, " T"]:
    """sqrt(beta) linear in t (latent diffusion; called "scaled linear" elsewhere)."""
    return from_betas(np.linspace(first**0.5, last**0.5, T) ** 2)


def cosine(T: int, s: float = 0.008, clip: float = 0.999) -> Float64[np.ndarray, " T"]:
    """abar_t = f(t+1) / f(0), f(t) = cos^2(((t/T + s) / (1 + s)) pi/2), betas clipped.

    Nichol & Dhariwal 2021, eq. 17.
    """
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.minimum(1.0 - f[1:] / f[:-1], clip))


SCHEDULES = {"cosine": cosine, "linear": linear, "sqrt_linear": sqrt_linear}
