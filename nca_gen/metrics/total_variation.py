"""Total variation of whole volumes (Rudin, Osher, Fatemi 1992), as a measure of noise: CA-LDM, MICCAI 2024, table 1.

The paper states neither norm nor range, so the number to compare between papers is the relative one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from nca_gen.errors import UserError
from nca_gen.metrics import bootstrap
from nca_gen.metrics.about import About

NORMS = ("l1", "l2")

ABOUT = About(
    kinds=("volumes",),
    reference="Rudin, Osher & Fatemi 1992, Physica D 60; of volumes in Huang et al. 2024, MICCAI (CA-LDM), table 1",
    range="from 0",
    protocol=(
        "Total variation of a whole volume, mean over volumes: the sum over voxels and channels of the anisotropic L1 "
        "norm |d/dD| + |d/dH| + |d/dW| of forward differences (option norm=l2: of the isotropic root of the sum of "
        "squares), 0 at the far borders, voxels in [0, 1] (8 bits divided by 255, none clipped). Lower is better, as "
        "published; but a blur is lower too, so read total_variation_relative, generated over real, each per voxel: it "
        "should be near 1. total_variation_std is the deviation over volumes (ddof 0)."
    ),
)


def variation(volume: Float[np.ndarray, "*S C"], norm: str = "l1", planes: int | None = None) -> float:
    """Sum over cells and channels of the norm of forward differences along every axis of space, in the units given.

    ``planes`` of the first axis are in float64 at a time (default: about 2^22 numbers).
    """
    planes = planes or max(1, 2**22 // math.prod(volume.shape[1:]))
    total = 0.0
    for start in range(0, len(volume), planes):
        block = volume[start : start + planes + 1].astype(np.float64)  # with the first plane of the next block
        n = min(planes, len(volume) - start)
        differences = [np.diff(block, axis=axis, append=block.take([-1], axis))[:n] for axis in range(volume.ndim - 1)]
        each = sum(map(np.abs, differences)) if norm == "l1" else np.sqrt(sum(d * d for d in differences))
        total += float(each.sum())
    return total


def statistics(volumes: Any, norm: str = "l1") -> Float[np.ndarray, "N 2"]:
    """Total variation and number of voxels (times channels) of each of ``volumes`` (``x[i]`` in [-1, 1], any sizes)."""
    totals = []
    for i in range(len(volumes)):
        volume = volumes[i]
        totals.append((variation(volume, norm) * 128 / 255, volume.size))  # [-1, 1) are 256 levels of 1/128
    return np.array(totals, np.float64).reshape(-1, 2)


def merge(one: Float[np.ndarray, "N 2"], other: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "K 2"]:
    """The statistics of both sets."""
    return np.concatenate([one, other])


def distance(real: Float[np.ndarray, "M 2"], generated: Float[np.ndarray, "N 2"], seed: int = 0) -> dict[str, float]:
    """Means over volumes with their interval and deviation, those of ``real``, and the ratio per voxel.

    NaN for that where ``real`` is flat.
    """
    totals = generated[:, 0]
    low, high = bootstrap.interval(totals, seed)
    voxel, usual = (float(np.mean(x[:, 0] / x[:, 1])) for x in (generated, real))
    return {
        "total_variation": float(totals.mean()),
        "total_variation_low": low,
        "total_variation_high": high,
        "total_variation_std": float(totals.std()),
        "total_variation_real": float(real[:, 0].mean()),
        "total_variation_relative": voxel / usual if usual else float("nan"),
    }


def score(generated: Any, real: Any, train: object, seed: int, *, norm: str = "l1") -> dict[str, float]:
    """Total variation of ``generated`` and of ``real`` volumes (see ``ABOUT``); ``train`` is not read.

    ``norm`` is "l1" or "l2". Raises UserError for another, and where there are no volumes.
    """
    del train
    if norm not in NORMS:
        raise UserError(f"total_variation has the norms {' and '.join(NORMS)}, not {norm!r}")
    if not (len(generated) and len(real)):
        raise UserError(f"total_variation needs volumes, got {len(generated)} generated and {len(real)} real")
    return distance(statistics(real, norm), statistics(generated, norm), seed)
