"""Are samples copies? Distance to the nearest training image, against what unseen real images have.

The yardstick is the held-out set: real images that nobody has copied also have a nearest training image. Distances
are taken pixel by pixel, so a shifted copy is missed, and a blurred sample is near to everything: look at the
neighbours too.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

BLOCK = 2**22  # numbers of one set that are held in float64 at a time

PROTOCOL = (
    "Distance of each sample to the nearest of the given training patches (root mean square over pixels and channels, "
    "pixels in [-1, 1], patches not shifted or flipped), median over samples divided by the same median for held-out "
    "real patches. Near 1 is better: below 1 samples are closer to the training data than unseen real data is (copies, "
    "or blur); neighbours_min is the closest sample's distance over the same real median (0 is an exact copy)."
)


def nearest(
    queries: Float[np.ndarray, "Q ..."], references: Float[np.ndarray, "R ..."]
) -> tuple[Float[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Root-mean-square distance to the nearest reference, and its index (the first of equals), for every query.

    Works in blocks: beyond the arrays given it needs about 0.2 GB, or a few images in float64 where they are larger.
    Raises ValueError where the images of the two sets differ in shape.
    """
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(f"neighbours need images of one shape, got {queries.shape[1:]} and {references.shape[1:]}")
    q, r = (x.reshape(len(x), -1) for x in (queries, references))
    rows = max(1, min(1024, BLOCK // q.shape[1]))
    blocks = lambda x: (slice(i, i + rows) for i in range(0, len(x), rows))  # noqa: E731
    distance, index = np.full(len(q), np.inf), np.zeros(len(q), int)
    for at in blocks(q):
        a = q[at].astype(np.float64)
        for seen in blocks(r):
            b = r[seen].astype(np.float64)
            squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
            best = squares.argmin(1)
            value = squares[np.arange(len(a)), best]
            closer = value < distance[at]
            distance[at] = np.where(closer, value, distance[at])
            index[at] = np.where(closer, best + seen.start, index[at])
        # The expansion rounds where two images are nearly equal, the case that matters: a copy is to be exactly at 0.
        distance[at] = np.sqrt(np.mean((a - r[index[at]]) ** 2, 1))
    return distance, index


def statistics(images: Float[np.ndarray, "N *S C"], train: Float[np.ndarray, "T *S C"]) -> Float[np.ndarray, " N"]:
    """Distance of every image to its nearest training image."""
    return nearest(images, train)[0]


def distance(real: Float[np.ndarray, " M"], generated: Float[np.ndarray, " N"]) -> dict[str, float]:
    """Median and smallest ratio to the median of ``real``, and both medians. NaN ratios if that median is 0."""
    usual, median = float(np.median(real)), float(np.median(generated))
    ratio = lambda d: d / usual if usual else float("nan")  # noqa: E731
    return {
        "neighbours": ratio(median),
        "neighbours_min": ratio(float(np.min(generated))),
        "neighbours_generated": median,
        "neighbours_real": usual,
    }


def score(
    generated: Float[np.ndarray, "N *S C"],
    real: Float[np.ndarray, "M *S C"],
    train: Float[np.ndarray, "T *S C"],
    seed: int,
) -> dict[str, float]:
    """How close ``generated`` is to ``train``, against how close ``real`` is (see ``PROTOCOL``); reads no ``seed``."""
    del seed
    return distance(statistics(real, train), statistics(generated, train))
