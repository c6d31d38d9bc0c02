"""Are samples copies? Distance to the nearest training image, against what unseen real images have.

The yardstick is the held-out set: real images that nobody has copied also have a nearest training image. Distances
are taken pixel by pixel, so a shifted copy is missed, and a blurred sample is near to everything: look at the
neighbours too.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from nca_gen.io.sets import Images
from nca_gen.metrics.about import About
from nca_gen.metrics.distances import blocks as slices

BLOCK = 2**22  # numbers of one set that are held in float64 at a time
HELD = 16  # blocks of queries that meet each block of references at one reading of it

ABOUT = About(
    kinds=("images", "volumes"),
    alike="shape",
    reads=frozenset({"real", "train"}),
    reference="the ratio is our own",
    range="from 0",
    protocol=(
        "Distance of each sample to the nearest of the given training patches (root mean square over pixels and "
        "channels, pixels in [-1, 1], patches not shifted or flipped), median over samples divided by the same median "
        "for held-out real patches. Near 1 is better: below 1 samples are closer to the training data than unseen real "
        "data is (copies, or blur); neighbours_min is the closest sample's distance over the same real median (0 is an "
        "exact copy)."
    ),
)


def nearest(queries: Images, references: Images) -> tuple[Float[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Root-mean-square distance to the nearest reference, and its index (the first of equals), for every query.

    Works in blocks: beyond the arrays given it needs about 0.2 GB, and 0.3 GB more for images that are read from disk;
    or a few images in float64 where they are larger.
    Raises ValueError where the images of the two sets differ in shape.
    """
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(f"neighbours need images of one shape, got {queries.shape[1:]} and {references.shape[1:]}")
    width = math.prod(queries.shape[1:])
    rows = max(1, min(1024, BLOCK // width))

    def rows_of(x: Images, at: np.ndarray | slice) -> Float[np.ndarray, "_ _"]:
        return x[at].reshape(-1, width).astype(np.float64)

    distance, index = np.full(len(queries), np.inf), np.zeros(len(queries), int)
    for block in slices(len(queries), HELD * rows):
        some, near, which = queries[block], distance[block], index[block]  # two views: what they get is the result
        for seen in slices(len(references), rows):
            b = rows_of(references, seen)
            for at in slices(len(some), rows):
                a = rows_of(some, at)
                squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
                best = squares.argmin(1)
                value = squares[np.arange(len(a)), best]
                closer = value < near[at]
                near[at] = np.where(closer, value, near[at])
                which[at] = np.where(closer, best + seen.start, which[at])
        # The expansion rounds where two images are nearly equal, the case that matters: a copy is to be exactly at 0.
        for at in slices(len(some), rows):
            near[at] = np.sqrt(np.mean((rows_of(some, at) - rows_of(references, which[at])) ** 2, 1))
    return distance, index


def statistics(images: Images, train: Images) -> Float[np.ndarray, " N"]:
    """Distance of every image to its nearest training image."""
    return nearest(images, train)[0]


def distance(real: Float[np.ndarray, " M"], generated: Float[np.ndarray, " N"]) -> dict[str, float]:
    """Median and smallest ratio to the median of ``real``, and both medians. NaN ratios if that median is 0."""
    usual, median = float(np.median(real)), float(np.median(generated))
    unit = usual or float("nan")
    return {
        "neighbours": median / unit,
        "neighbours_min": float(np.min(generated)) / unit,
        "neighbours_generated": median,
        "neighbours_real": usual,
    }


def score(generated: Images, real: Images, train: Images, seed: int) -> dict[str, float]:
    """How close ``generated`` is to ``train``, against how close ``real`` is (see ``ABOUT``); reads no ``seed``."""
    del seed
    return distance(statistics(real, train), statistics(generated, train))
