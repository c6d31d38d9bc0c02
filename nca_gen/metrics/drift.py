"""Drift of colour and contrast: how far the mean and the standard deviation of each channel have moved."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from nca_gen.io.sets import Images, blocks
from nca_gen.metrics.about import About

ABOUT = About(
    kinds=("images", "volumes"),
    alike="channels",
    reference="the Wasserstein-2 distance of normal distributions in one dimension (Givens & Shortt 1984)",
    range="0 to 2",
    protocol=(
        "Absolute difference between generated and real images in the mean and the standard deviation of each channel "
        "over all images and pixels, for pixels in [-1, 1] (0.01 is 1.28 of 256 grey levels); the headline is the mean "
        "over channels of sqrt(mean drift^2 + std drift^2), the Wasserstein-2 distance of two normal distributions. "
        "Lower is better."
    ),
)


class Stats(NamedTuple):
    """Mean and variance (ddof 0) of every channel of every image of a set."""

    means: Float64[np.ndarray, "N C"]
    variances: Float64[np.ndarray, "N C"]


def statistics(images: Images) -> Stats:
    """Moments of images or volumes ``[N, *S, C]``, in float64, one of them at a time."""
    axes = tuple(range(len(images.shape) - 2))
    each = ((np.mean(x, axes, dtype=np.float64), np.var(x, axes, dtype=np.float64)) for b in blocks(images) for x in b)
    return Stats(*(np.array(of) for of in zip(*each, strict=True)))


def merge(one: Stats, other: Stats) -> Stats:
    """The statistics of both sets, of images of one size."""
    return Stats(*map(np.concatenate, zip(one, other, strict=True)))


def moments(of: Stats) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
    """Mean and standard deviation (ddof 0) per channel over all images and pixels."""
    return of.means.mean(0), np.sqrt(of.variances.mean(0) + of.means.var(0))  # the law of total variance


def distance(real: Stats, generated: Stats) -> dict[str, float]:
    """``drift`` and its parts ``drift_mean_<channel>``, ``drift_std_<channel>``, in the units of the images."""
    mean, std = (np.abs(g - r) for g, r in zip(moments(generated), moments(real), strict=True))
    parts = {f"drift_{name}_{c}": float(v) for name, of in (("mean", mean), ("std", std)) for c, v in enumerate(of)}
    return {"drift": float(np.mean(np.hypot(mean, std)))} | parts


def score(generated: Images, real: Images, train: object, seed: int) -> dict[str, float]:
    """Drift of ``generated`` against ``real`` (see ``ABOUT``); reads neither ``train`` nor ``seed``."""
    del train, seed
    return distance(statistics(real), statistics(generated))
