"""Density and coverage (Naeem et al. 2020, arXiv 2002.09797): precision and recall that outliers do not inflate."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from nca_gen.metrics.about import About
from nca_gen.metrics.bootstrap import interval
from nca_gen.metrics.distances import balls, radii
from nca_gen.metrics.notes import check, note
from nca_gen.ranges import Count

ABOUT = About(
    features="inception:2048",
    reference="Naeem et al. 2020, ICML, arXiv 2002.09797",
    range="coverage 0 to 1, density from 0",
    least={"real": 6},
    protocol=(
        "Around every real image lies a ball, whose radius is the distance to its k-th nearest real neighbour (k = 5 "
        "unless the option says otherwise), the surface excluded. Coverage, the headline: share of balls that hold a "
        "generated image, at most 1. Density: mean number of balls that hold a generated image, over k; about 1 for "
        "real images, more where samples crowd in the middle. Intervals are 95 %, bootstrapped over the images "
        "counted. Higher is better. Coverage grows with the number of generated images: compare at equal numbers only."
    ),
)


def statistics(features: Float[np.ndarray, "M D"], k: int = 5) -> Float64[np.ndarray, " M"]:
    """Squared radii of the real images. Raises UserError for fewer than k + 1, or features that are not finite."""
    check("density_coverage", k + 1, real=features)
    return radii(features, k)


def distance(
    real: Float[np.ndarray, "M D"],
    squared_radii: Float64[np.ndarray, " M"],
    generated: Float[np.ndarray, "N D"],
    seed: int,
    k: int = 5,
) -> dict[str, float]:
    """``density_coverage`` (the coverage) and ``density_coverage_density``, with intervals.

    Notes balls of radius 0, which images with k copies have: they hold nothing. Raises UserError for no generated
    image, or features that are not finite.
    """
    check("density_coverage", 1, generated=generated)
    if copies := int((squared_radii == 0).sum()):
        note(f"density_coverage: {copies} of {len(real)} real images have radius 0, they are copies and hold nothing")
    of_points, of_balls = balls(generated, real, squared_radii, np.less)
    scores = {}
    for name, values in (("density_coverage", of_balls > 0), ("density_coverage_density", of_points / k)):
        low, high = interval(values, seed)
        scores |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    return scores


def score(
    generated: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"], train: object, seed: int, *, k: Count = 5
) -> dict[str, float]:
    """Density and coverage of ``generated`` against ``real`` (see ``ABOUT``); ``train`` is not read."""
    del train
    return distance(real, statistics(real, k), generated, seed, k)
