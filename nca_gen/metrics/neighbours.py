"""Are samples copies? Distance to the nearest training image, against what unseen real images have.

The yardstick is the held-out set: real images that nobody has copied also have a nearest training image. Distances
are taken pixel by pixel, so a shifted copy is missed, and a blurred sample is near to everything: look at the
neighbours too.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float32, Int

from nca_gen import screen
from nca_gen.io.sets import Images, Lazy
from nca_gen.metrics.about import About
from nca_gen.metrics.distances import blocks as slices
from nca_gen.metrics.notes import note

BLOCK, ROWS = 2**23, 1024  # numbers, and at most images, of one set that meet a block of the other
HELD = 8  # blocks of queries that meet each block of references at one reading of it
ROUNDING = 8  # standard deviations
KEPT = 4  # pairs of sets on disk of which the nearest are remembered: a score and a page ask the same
_FOUND: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}

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

    A product of matrices in float32 says which pairs may be nearest, up to its rounding, and those are taken term by
    term in float64. Works in blocks: beyond the arrays given it needs about 0.1 GB, and 0.3 GB more for images that are
    read from disk; or a few images in float64 where they are larger. Of sets on disk it is found once.
    Raises ValueError where the images of the two sets differ in shape.
    """
    pair = tuple(x.digest if isinstance(x, Lazy) else "" for x in (queries, references))
    if not all(pair):
        return _nearest(queries, references)
    if pair not in _FOUND:
        _FOUND[pair] = _nearest(queries, references)
        for array in _FOUND[pair]:
            array.flags.writeable = False
        for old in list(_FOUND)[:-KEPT]:
            del _FOUND[old]
    return _FOUND[pair]


def _nearest(queries: Images, references: Images) -> tuple[Float[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(f"neighbours need images of one shape, got {queries.shape[1:]} and {references.shape[1:]}")
    width = math.prod(queries.shape[1:])
    rows = max(1, min(ROWS, BLOCK // width))
    # Errors of a sum of d rounded terms add up like the steps of a random walk (Higham and Mary 2019).
    unit = ROUNDING * math.sqrt(width) * np.finfo(np.float32).eps

    def rows_of(x: Images, at: slice) -> tuple[Float[np.ndarray, "n _"], Float32[np.ndarray, "n _"], np.ndarray]:
        """Images as rows, the same in float32, and their squared norms."""
        flat = x[at].reshape(-1, width)
        single = flat.astype(np.float32, copy=False)
        return flat, single, np.einsum("ij,ij->i", single, single, dtype=np.float64)

    def meet(queries: tuple, references: tuple, near: np.ndarray, which: np.ndarray, first: int) -> None:
        """Writes into ``near`` and ``which`` where a reference, of which ``first`` is the first's number, is nearer."""
        (some, a, lengths), (others, b, heights) = queries, references
        for at in slices(len(some), ROWS):
            expanded = lengths[at, None] + heights - 2 * (a[at] @ b.T)
            rounding = unit * np.sqrt(lengths[at, None] * heights)
            reach = np.minimum(near[at], (expanded + rounding).min(1))
            maybe = (expanded - rounding <= reach[:, None]) & (near[at, None] > 0)  # no nearer than a copy
            for i, j in zip(*np.nonzero(maybe), strict=True):
                i += at.start
                difference = np.subtract(some[i], others[j], dtype=np.float64)
                if (exact := np.vdot(difference, difference)) < near[i]:
                    near[i], which[i] = exact, first + j

    squares, index = np.full(len(queries), np.inf), np.zeros(len(queries), int)
    with screen.bar("nearest of the training images", len(queries) * len(references), "pairs") as bar:
        for block in slices(len(queries), HELD * rows):
            mine = rows_of(queries, block)
            for seen in slices(len(references), rows):
                theirs = rows_of(references, seen)
                meet(mine, theirs, squares[block], index[block], seen.start)  # views: what they get is the result
                bar.advance(len(mine[0]) * len(theirs[0]))
    return np.sqrt(squares / width), index


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
    usual = statistics(real, train)
    if not np.median(usual):
        note("the real images are among the training images, so there is no distance to compare with: hold some out")
    return distance(usual, statistics(generated, train))
