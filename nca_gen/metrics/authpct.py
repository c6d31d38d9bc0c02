"""Authenticity (Alaa et al. 2022, arXiv 2102.08921): generated images that are not all too close to a training image.

AuthPct is the form in which Jiralerspong et al. (2023, arXiv 2302.04440) report it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64

from nca_gen.metrics.about import About
from nca_gen.metrics.bootstrap import interval
from nca_gen.metrics.distances import nearest, radii
from nca_gen.metrics.notes import check

ABOUT = About(
    features="inception:2048",
    reads=frozenset({"real", "train"}),
    reference="Alaa et al. 2022, ICML, arXiv 2102.08921, in percent as in Jiralerspong et al. 2023, arXiv 2302.04440",
    range="0 to 100",
    least={"train": 2},
    protocol=(
        "Percentage of generated images that are farther from their nearest training image than that one is from its "
        "own nearest training image, by Euclidean distance of features; authpct_real is the same for held-out real "
        "images, what samples that are neither copied nor off would have. The interval is 95 %, bootstrapped over the "
        "generated images. Higher is better up to authpct_real: less means copies, more means samples far from all "
        "real images."
    ),
)


def statistics(train: Float[np.ndarray, "T D"]) -> Float64[np.ndarray, " T"]:
    """Squared distance of every training image to the nearest other one. UserError for less than 2, or not finite."""
    check("authpct", 2, train=train)
    return radii(train, 1)


def authentic(
    features: Float[np.ndarray, "N D"], train: Float[np.ndarray, "T D"], squared_radii: Float64[np.ndarray, " T"]
) -> Bool[np.ndarray, " N"]:
    """Which images are farther from their nearest training image than its own neighbour is (not at equal distance)."""
    values, indices = nearest(features, train)
    return values[:, 0] > squared_radii[indices[:, 0]]


def ratios(
    features: Float[np.ndarray, "N D"], train: Float[np.ndarray, "T D"], squared_radii: Float64[np.ndarray, " T"]
) -> Float64[np.ndarray, " N"]:
    """Squared distance to the nearest training image over that of its own neighbour: far below 1 is a copy.

    Beside a training image that has a copy itself it is 0, or infinite.
    """
    values, indices = nearest(features, train)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values[:, 0] == 0, 0.0, values[:, 0] / squared_radii[indices[:, 0]])


def score(
    generated: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"], train: Float[np.ndarray, "T D"], seed: int
) -> dict[str, float]:
    """``authpct`` with its interval, and ``authpct_real``, in percent (see ``ABOUT``)."""
    check("authpct", 1, generated=generated, real=real)
    own = statistics(train)
    values, yardstick = (100.0 * authentic(x, train, own) for x in (generated, real))
    low, high = interval(values, seed)
    return {
        "authpct": float(values.mean()),
        "authpct_low": low,
        "authpct_high": high,
        "authpct_real": float(yardstick.mean()),
    }
