"""CMMD (Jayasumana et al. 2024, CVPR, arXiv 2401.09603): the discrepancy of embeddings by CLIP.

No normal distribution is assumed, and few images suffice.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from nca_gen.metrics.about import About
from nca_gen.metrics.distances import blocks, unit
from nca_gen.metrics.notes import check

SIGMA, SCALE = 10.0, 1000.0

ABOUT = About(
    features="clip-vitl14-336:embedding",
    elsewhere="gaussian_mmd",
    reference="Jayasumana et al. 2024, CVPR, arXiv 2401.09603",
    range="from 0 to 39.6 (2,000 (1 - exp(-0.02)): two points that are opposite)",
    protocol=(
        f"{SCALE:,.0f} times the squared maximum mean discrepancy (the biased estimate) of the features of generated "
        f"and real images, each of length 1, under the kernel exp(-|x - y|^2 / (2 {SIGMA:g}^2)), in float64. Lower is "
        "better. The bias is at most 20 (1/n + 1/m): compare at equal numbers where there are few."
    ),
)


def statistics(features: Float[np.ndarray, "N D"], name: str = "given") -> Float64[np.ndarray, "N D"]:
    """The features as vectors of length 1. Raises UserError for none, and for those that are not finite."""
    check("cmmd", 1, **{name: features})
    return unit(features)


def merge(one: Float64[np.ndarray, "N D"], other: Float64[np.ndarray, "M D"]) -> Float64[np.ndarray, "K D"]:
    """The vectors of both sets."""
    return np.concatenate([one, other])


def apart(x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "M D"]) -> float:
    """Mean of 1 - the kernel over all pairs: to the last digit, where the kernel itself is nearly 1."""
    total = sum(np.expm1((x[at] @ y[of].T - 1) / SIGMA**2).sum() for at in blocks(len(x)) for of in blocks(len(y)))
    return -float(total) / (len(x) * len(y))


def distance(real: Float64[np.ndarray, "M D"], generated: Float64[np.ndarray, "N D"]) -> dict[str, float]:
    """``cmmd`` of two sets of vectors of length 1."""
    return {"cmmd": SCALE * (2 * apart(real, generated) - apart(real, real) - apart(generated, generated))}


def score(
    generated: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"], train: object, seed: int
) -> dict[str, float]:
    """CMMD of ``generated`` against ``real`` (see ``ABOUT``); reads neither ``train`` nor ``seed``."""
    del train, seed
    return distance(statistics(real, "real"), statistics(generated, "generated"))
