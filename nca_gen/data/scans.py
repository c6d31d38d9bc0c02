"""Parts of a volume of B-scans, reduced and brought to another size, of which only the B-scans that matter are decoded.

The numbers are those of the whole volume brought to that size (:class:`nca_gen.data.volumes.Scale`), to a grey level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Integer, Num

from nca_gen.data.volumes import Scale
from nca_gen.io import images, volumes


def part(stored: volumes.Stored, scale: Scale, box: Sequence[slice]) -> Num[np.ndarray, "d h w C"]:
    """The part in three slices of what ``scale`` makes of a volume, which holds whole numbers; in its own type."""
    depth, *plane = box
    (k, *_), shape = scale.reduce, stored.shape

    def reduced(scan: int) -> Num[np.ndarray, "H W C"]:
        everything = (slice(0, shape[1]), slice(0, shape[2]))
        return images.reduce(stored[(slice(scan * k, scan * k + k), *everything)], scale.reduce)[0]

    if scale.resize is None:
        return np.stack([reduced(d)[tuple(plane)] for d in range(depth.start, depth.stop)])
    size = scale.resize

    def resized(scan: int) -> Float32[np.ndarray, "h w C"]:
        return images.resize(reduced(scan).astype(np.float32), size[1:])[tuple(plane)]

    rows = blended(resized, shape[0] // k, size[0], depth)
    ends = np.iinfo(stored.dtype)
    return np.stack([np.clip(np.rint(row), ends.min, ends.max).astype(stored.dtype) for row in rows])


def blended(
    scan: Callable[[int], Float32[np.ndarray, "h w C"]], n: int, size: int, depth: slice
) -> Iterator[Float32[np.ndarray, "h w C"]]:
    """The planes of ``depth`` among ``size`` that ``n`` scans become, bicubic; each scan is made once."""
    known: dict[int, Float32[np.ndarray, "h w C"]] = {}
    for d in range(depth.start, depth.stop):
        first, weights = taps(n, size, d)
        known = {i: known[i] if i in known else scan(i) for i in range(first, first + len(weights))}
        total = np.zeros_like(known[first])
        for i, weight in enumerate(weights):
            total += np.float32(weight) * known[first + i]
        yield total


def taps(n: int, size: int, place: int) -> tuple[int, Float64[np.ndarray, " T"]]:
    """Of which of ``n`` places, from the first on, ``place`` of ``size`` is made, and with which weights.

    The cubic of Keys (1981) with a = -1/2, as wide as the coarser of the two grids, as pillow has it.
    """
    step = n / size
    wide, middle = max(step, 1.0), (place + 0.5) * step
    first, last = max(0, math.floor(middle - 2 * wide + 0.5)), min(n, math.floor(middle + 2 * wide + 0.5))
    x = np.abs((np.arange(first, last) + 0.5 - middle) / wide)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return first, weights / weights.sum()


def middles(n: int, k: int, size: int, some: slice) -> Integer[np.ndarray, " s"]:
    """Which of ``n`` places, reduced by ``k`` and brought to ``size``, lies in the middle of each of ``some``."""
    return (2 * np.arange(size)[some] + 1) * (n // k * k) // (2 * size)
