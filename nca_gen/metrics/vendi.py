"""Vendi score (Friedman & Dieng 2023, arXiv 2210.02410): how many different images a set is worth."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float64

from nca_gen.metrics.about import About
from nca_gen.metrics.distances import blocks, unit
from nca_gen.metrics.notes import check, note

ABOUT = About(
    features="inception:2048",
    yardstick=True,
    reference="Friedman & Dieng 2023, TMLR, arXiv 2210.02410",
    range="from 1 (all alike) to the number of images (no two alike)",
    protocol=(
        "exp of the entropy (option q: of Renyi's of that order, 1 unless it says another) of the eigenvalues of X X^T "
        "/ n, the rows of X being the features of the n generated images, each of length 1: the effective number of "
        "different images. vendi_real is the same of as many real images. Higher is better, as far as real images go: "
        "noise is diverse too. It grows with the number of images: compare at equal numbers only."
    ),
)


def statistics(features: Float[np.ndarray, "N D"], name: str = "given") -> Float64[np.ndarray, " K"]:
    """Eigenvalues of the similarity of images, K = min(N, D) of them, which add up to 1.

    Raises UserError for no image, and features that are not finite; it calls the images by ``name``.
    """
    check("vendi", 1, **{name: features})
    n, width = features.shape
    if n <= width:
        rows = unit(features)
        return np.linalg.eigvalsh(rows @ rows.T / n)
    small = np.zeros((width, width))  # X^T X has the eigenvalues of X X^T but for zeros
    for at in blocks(n):
        rows = unit(features[at])
        small += rows.T @ rows
    return np.linalg.eigvalsh(small / n)


def effective(eigenvalues: Float64[np.ndarray, " K"], q: float = 1.0) -> float:
    """exp of their entropy of order ``q`` (Renyi; 1 is Shannon's, inf that of the largest alone)."""
    p = eigenvalues[eigenvalues > 1e-12]
    if q == 1:
        return math.exp(-float((p * np.log(p)).sum()))
    return 1 / float(p.max()) if math.isinf(q) else float((p**q).sum()) ** (1 / (1 - q))


def score(
    generated: Float[np.ndarray, "N D"],
    real: Float[np.ndarray, "M D"],
    train: object,
    seed: int,
    *,
    q: int | float | str = 1,
) -> dict[str, float]:
    """``vendi`` and ``vendi_real`` (see ``ABOUT``); ``train`` is not read. ``q``: a number from 0, or "inf"."""
    del train
    check("vendi", 1, generated=generated, real=real)
    n, order = len(generated), float(q)
    if len(real) < n:
        note(f"vendi: {n} generated against {len(real)} real images: vendi_real is of fewer, and lower for that alone")
    some = real if len(real) <= n else real[np.sort(np.random.default_rng(seed).choice(len(real), n, replace=False))]
    values = (effective(statistics(x, name), order) for x, name in ((generated, "generated"), (some, "real")))
    return dict(zip(("vendi", "vendi_real"), values, strict=True))
