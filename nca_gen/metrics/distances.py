"""Euclidean distances between large sets of features, a block at a time.

Nothing here holds an N x N array: beyond the features given, a call needs a few arrays of ``BLOCK`` x ``BLOCK`` and
``BLOCK`` x D in float64 (0.3 GB for D = 4096), whatever N is.

|a - b|^2 is expanded to |a|^2 + |b|^2 - 2 a.b, a matrix product in float64. The expansion cancels where two rows are
nearly equal; such pairs are evaluated again term by term (:func:`pairs`), as is every pair whose order decides. So
copies are exactly at 0, and distances that are equal compare as equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Float64, Int

BLOCK = 2048
# The expansion is off by less than 2 D eps (|a|^2 + |b|^2), with eps = 2^-53. Where it leaves more than NEAR of the
# squares it is thus right to MARGIN, for D up to 8,192.
NEAR, MARGIN = 1e-6, 2e-6


def blocks(n: int, size: int | None = None) -> Iterator[slice]:
    """Slices that cut ``range(n)`` into pieces of ``size`` (default ``BLOCK``)."""
    size = size or BLOCK
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def unit(features: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N D"]:
    """Every row at length 1, but for those that are all 0."""
    rows = features.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def pairs(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    rows: Int[np.ndarray, " P"],
    columns: Int[np.ndarray, " P"],
) -> Float64[np.ndarray, " P"]:
    """Squared distance of ``a[rows[i]]`` and ``b[columns[i]]`` for every i, term by term: symmetric to the last bit."""
    squared = np.empty(len(rows))
    for at in blocks(len(rows)):
        squared[at] = ((a[rows[at]].astype(np.float64) - b[columns[at]]) ** 2).sum(1)
    return squared


def squares(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"], origin: Float[np.ndarray, " D"] | float = 0.0
) -> Float64[np.ndarray, "N M"]:
    """Squared distances of two blocks, to ``MARGIN`` relative, and exactly 0 for equal rows.

    ``origin`` is a point near to both: the nearer, the fewer pairs cancel and need a second evaluation.
    """
    p, q = a.astype(np.float64) - origin, b.astype(np.float64) - origin
    squared, scale = p @ q.T, (p * p).sum(1)[:, None] + (q * q).sum(1)
    squared *= -2
    squared += scale
    scale *= NEAR
    rows, columns = np.nonzero(squared <= scale)
    if len(rows):
        squared[rows, columns] = 0
        # A collapsed set is nothing but copies: they are told by their bytes, without arithmetic.
        of_a, of_b = (np.array([hash(row.tobytes()) for row in x]) for x in (a, b))
        differ = of_a[rows] != of_b[columns]
        rows, columns = rows[differ], columns[differ]
        squared[rows, columns] = pairs(a, b, rows, columns)
    return squared


def nearest(
    queries: Float[np.ndarray, "N D"], references: Float[np.ndarray, "M D"], k: int = 1, among_itself: bool = False
) -> tuple[Float64[np.ndarray, "N k"], Int[np.ndarray, "N k"]]:
    """Squared distances to the ``k`` nearest references, in ascending order, and their indices.

    With ``among_itself`` the two sets are one, and a row is no neighbour of itself (a copy of it is).
    Raises ValueError where there are fewer than ``k`` references.
    """
    if len(references) - among_itself < k:
        raise ValueError(f"no {k} neighbours among {len(references)} references")
    origin = references.mean(0, dtype=np.float64)
    values, indices = np.full((len(queries), k), np.inf), np.zeros((len(queries), k), int)
    for at in blocks(len(queries)):
        for seen in blocks(len(references)):
            squared = squares(queries[at], references[seen], origin)
            if among_itself and at == seen:
                np.fill_diagonal(squared, np.inf)
            squared = np.concatenate([values[at], squared], 1)
            best = np.argpartition(squared, k - 1, axis=1)[:, :k]
            known = np.take_along_axis(indices[at], np.minimum(best, k - 1), 1)
            indices[at] = np.where(best < k, known, best - k + seen.start)
            values[at] = np.take_along_axis(squared, best, 1)
    rows = np.repeat(np.arange(len(queries)), k)
    values = pairs(queries, references, rows, indices.ravel()).reshape(-1, k)
    order = np.lexsort((indices, values))
    return np.take_along_axis(values, order, 1), np.take_along_axis(indices, order, 1)


def radii(points: Float[np.ndarray, "N D"], k: int) -> Float64[np.ndarray, " N"]:
    """Squared distance of every point to its ``k``-th nearest other one: 0 where it has ``k`` copies."""
    return nearest(points, points, k, among_itself=True)[0][:, -1]


def balls(
    points: Float[np.ndarray, "P D"],
    centres: Float[np.ndarray, "C D"],
    squared_radii: Float64[np.ndarray, " C"],
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.less_equal,
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " C"]]:
    """How many balls hold each point, and how many points each ball holds.

    ``inside(squared distance, squared radius)`` tells whether the surface belongs to the ball: ``np.less_equal`` or
    ``np.less``. A point that is exactly on it (such as the copy of the neighbour that fixed the radius) is decided
    without rounding.
    """
    origin = centres.mean(0, dtype=np.float64)
    of_points, of_balls = np.zeros(len(points), int), np.zeros(len(centres), int)
    for at in blocks(len(points)):
        for of in blocks(len(centres)):
            limit = squared_radii[of]
            squared = squares(points[at], centres[of], origin)
            rows, columns = np.nonzero((squared > 0) & (np.abs(squared - limit) <= MARGIN * limit))
            squared[rows, columns] = pairs(points[at], centres[of], rows, columns)
            hit = inside(squared, limit)
            of_points[at] += np.count_nonzero(hit, 1)
            of_balls[of] += np.count_nonzero(hit, 0)
    return of_points, of_balls
