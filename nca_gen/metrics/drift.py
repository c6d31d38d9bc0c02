"""Drift of colour and contrast: how far the mean and the standard deviation of each channel have moved."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from nca_gen.io.sets import Images, blocks

FEATURES = None
READS = frozenset({"real"})

PROTOCOL = (
    "Absolute difference between generated and real images in the mean and the standard deviation of each channel over "
    "all images and pixels, for pixels in [-1, 1] (0.01 is 1.28 of 256 grey levels); the headline is the mean over "
    "channels of sqrt(mean drift^2 + std drift^2), the Wasserstein-2 distance of two normal distributions. "
    "Lower is better."
)

Stats = tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]  # mean, standard deviation


def statistics(images: Images) -> Stats:
    """Mean and standard deviation (ddof 0) per channel of images ``[N, *S, C]``, in float64, an image at a time."""
    axes = tuple(range(len(images.shape) - 2))
    each = ((np.mean(x, axes, dtype=np.float64), np.var(x, axes, dtype=np.float64)) for b in blocks(images) for x in b)
    means, variances = (np.array(of) for of in zip(*each, strict=True))
    return means.mean(0), np.sqrt(variances.mean(0) + means.var(0))  # the law of total variance


def distance(real: Stats, generated: Stats) -> dict[str, float]:
    """``drift`` and its parts ``drift_mean_<channel>``, ``drift_std_<channel>``, in the units of the images."""
    mean, std = (np.abs(g - r) for g, r in zip(generated, real, strict=True))
    parts = {f"drift_{name}_{c}": float(v) for name, of in (("mean", mean), ("std", std)) for c, v in enumerate(of)}
    return {"drift": float(np.mean(np.hypot(mean, std)))} | parts


def score(generated: Images, real: Images, train: object, seed: int) -> dict[str, float]:
    """Drift of ``generated`` against ``real`` (see ``PROTOCOL``); reads neither ``train`` nor ``seed``."""
    del train, seed
    return distance(statistics(real), statistics(generated))
