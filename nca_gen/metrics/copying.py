"""The data-copying test C_T (Meehan, Chaudhuri & Dasgupta 2020, AISTATS, arXiv 2004.05675).

In every cell of the space of features: are generated images nearer to the training images than held-out ones are?
"""

from __future__ import annotations

import math
import warnings
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge
from jaxtyping import Float, Float64, Int
from scipy.cluster.vq import kmeans2
from scipy.linalg import eigh
from scipy.stats import rankdata

from nca_gen.metrics import fid
from nca_gen.metrics.about import About
from nca_gen.metrics.distances import blocks, nearest
from nca_gen.metrics.notes import check, note

WIDTH, CELLS = 64, 25  # components of the features; cells, at the most
NEAR = 1  # percent of the real images, the nearest
LEAST, USUAL = 20, 40  # generated images of a cell that counts; and as many, or more, if cells were equal

ABOUT = About(
    features="inception:2048",
    reads=frozenset({"real", "train"}),
    reference="Meehan, Chaudhuri & Dasgupta 2020, AISTATS, arXiv 2004.05675",
    range="any number; copies of training images alone give - sqrt(3 n m / (n + m + 1)) of a cell's n and m images",
    least={"generated": LEAST, "real": LEAST, "train": LEAST},
    protocol=(
        f"C_T: features on their first {WIDTH} principal components, of the training images, in cells by k-means of "
        f"these (option cells; unless it says otherwise {CELLS}, or fewer so that {USUAL} generated and real images a "
        "cell remain). In each cell the Mann-Whitney U of the distances to the nearest training image, of generated "
        "against held-out real images, less its mean and over its deviation if they were of one distribution; the mean "
        f"weighted by the share of real images. Cells of fewer than {LEAST} generated images do not count. Near 0 is "
        "better: below -3 samples are nearer to the training images than unseen real ones are (copies), above 3 "
        "farther (not learned). copying_least is the smallest U of a cell, copying_cells how many count. A mean hides "
        "few copies: copying_near is the percentage of generated images that are nearer to a training image than "
        f"{100 - NEAR} % of the real ones are, {NEAR} where nothing is copied."
    ),
)


class Cells(NamedTuple):
    """What is known of training images: mean and axes of features, the images on these, and middles of cells."""

    mean: Float64[np.ndarray, " D"]
    axes: Float64[np.ndarray, "D K"]
    train: Float64[np.ndarray, "T K"] = np.empty((0, 0))
    middles: Float64[np.ndarray, "C K"] = np.empty((0, 0))

    def on_axes(self, features: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N K"]:
        """Features on the axes."""
        return np.concatenate([(features[at] - self.mean) @ self.axes for at in blocks(len(features))])

    def place(self, features: Float[np.ndarray, "N D"]) -> tuple[Float64[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Of every image the distance to the nearest training image, and its cell."""
        rows = self.on_axes(features)
        return np.sqrt(nearest(rows, self.train)[0][:, 0]), nearest(rows, self.middles)[1][:, 0]


def statistics(train: Float[np.ndarray, "T D"], cells: int, seed: int) -> Cells:
    """Principal axes and ``cells`` cells of the training images; k-means begins by k-means++, drawn from the seed."""
    check("copying", LEAST, train=train)
    moments = fid.statistics(train)
    width = len(moments.mean)
    keep = min(WIDTH, width)
    _, axes = eigh(moments.scatter, subset_by_index=(width - keep, width - 1))
    of = Cells(moments.mean, axes)
    rows = of.on_axes(train)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        middles, _ = kmeans2(rows, cells, iter=50, minit="++", rng=np.random.default_rng([seed, 3]))
    return of._replace(train=rows, middles=middles)


def z_score(generated: Float64[np.ndarray, " N"], real: Float64[np.ndarray, " M"]) -> float:
    """Mann and Whitney's U of ``generated`` above ``real``, ties counting half, in deviations from its mean."""
    n, m = len(generated), len(real)
    u = rankdata(np.concatenate([generated, real]))[:n].sum() - n * (n + 1) / 2
    return float((u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))


def ratios(of: Cells, generated: Float[np.ndarray, "N D"], real: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " N"]:
    """Of every generated image the distance to its nearest training image, over the median of real images in its cell.

    Far below 1 is a copy. In a cell without real images the median is that of all.
    """
    (distance, cell), (others, theirs) = of.place(generated), of.place(real)
    known = [others[theirs == i] for i in range(len(of.middles))]
    usual = [np.median(here if here.size else others) for here in known]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / np.array(usual)[cell])


def score(
    generated: Float[np.ndarray, "N D"],
    real: Float[np.ndarray, "M D"],
    train: Float[np.ndarray, "T D"],
    seed: int,
    *,
    cells: Annotated[int, Ge(2)] | None = None,
) -> dict[str, float]:
    """``copying`` and its parts (see ``ABOUT``).

    Raises UserError for fewer than 20 images of a set, or features that are not finite. Where no cell counts, there is
    one, with a note.
    """
    check("copying", LEAST, generated=generated, real=real)
    of = statistics(train, cells or max(1, min(CELLS, len(generated) // USUAL, len(real) // USUAL)), seed)
    (distance, cell), (others, theirs) = of.place(generated), of.place(real)
    near = np.percentile(others, NEAR)
    counted = [i for i in range(len(of.middles)) if (cell == i).sum() >= LEAST and (theirs == i).any()]
    if not counted:
        note(f"copying: no cell has {LEAST} generated images and a real one; all images are taken as one cell")
        counted, cell, theirs = [0], np.zeros_like(cell), np.zeros_like(theirs)
    each = [z_score(distance[cell == i], others[theirs == i]) for i in counted]
    weights = [(theirs == i).sum() for i in counted]
    return {
        "copying": float(np.average(each, weights=weights)),
        "copying_least": min(each),
        "copying_cells": float(len(counted)),
        "copying_near": 100 * float(np.mean(distance < near)),
    }
