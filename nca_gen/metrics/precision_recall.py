"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): how much of each set the other covers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from nca_gen.metrics.about import About
from nca_gen.metrics.bootstrap import interval
from nca_gen.metrics.distances import balls, radii
from nca_gen.metrics.notes import check, note
from nca_gen.ranges import Count

ABOUT = About(
    features="vgg16:fc2",
    reference="Kynkaanniemi et al. 2019, NeurIPS, arXiv 1904.06991",
    range="0 to 1",
    least={"generated": 4, "real": 4},
    protocol=(
        "Precision: share of generated images inside of at least one ball around a real one, whose radius is the "
        "distance to its k-th nearest real neighbour (k = 3 unless the option says otherwise), the surface included; "
        "recall: the same with the roles exchanged; the headline is their harmonic mean. Intervals are 95 %, "
        "bootstrapped over the images counted. Higher is better. The radii fall with the number of images: compare at "
        "equal numbers only."
    ),
)


class Manifold(NamedTuple):
    """A set and its squared radii."""

    features: Float[np.ndarray, "N D"]
    radii: Float64[np.ndarray, " N"]


def statistics(features: Float[np.ndarray, "N D"], k: int = 3, name: str = "given") -> Manifold:
    """The balls around ``features``.

    Raises UserError for fewer than k + 1 images, or features that are not finite; it calls the images by ``name``.
    """
    check("precision_recall", k + 1, **{name: features})
    return Manifold(features, radii(features, k))


def distance(real: Manifold, generated: Manifold, seed: int) -> dict[str, float]:
    """``precision_recall`` (harmonic mean), ``precision_recall_precision`` and ``_recall``, with intervals.

    Notes balls of radius 0, which images with k copies have: they hold nothing but copies.
    """
    for name, of in (("generated", generated), ("real", real)):
        if copies := int((of.radii == 0).sum()):
            note(f"precision_recall: {copies} of {len(of.radii)} {name} images have radius 0, they are copies")
    parts = {
        "precision": balls(generated.features, *real)[0] > 0,
        "recall": balls(real.features, *generated)[0] > 0,
    }
    scores = {}
    for part, covered in parts.items():
        low, high = interval(covered, seed)
        name = f"precision_recall_{part}"
        scores |= {name: float(covered.mean()), f"{name}_low": low, f"{name}_high": high}
    precision, recall = (scores[f"precision_recall_{part}"] for part in parts)
    return {"precision_recall": 2 * precision * recall / max(1e-5, precision + recall)} | scores


def score(
    generated: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"], train: object, seed: int, *, k: Count = 3
) -> dict[str, float]:
    """Precision and recall of ``generated`` against ``real`` (see ``ABOUT``); ``train`` is not read."""
    del train
    return distance(statistics(real, k, "real"), statistics(generated, k, "generated"), seed)
