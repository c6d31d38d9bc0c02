"""Windows over a part of an image: the few equal boxes that hold some of its cells, and what those cells must see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int


class Windows(NamedTuple):
    """Windows of one size, and the way between their cells and those of the hole, which are numbered row by row.

    ``at``: coordinates of the hole's cells, one array per axis. ``grids``: those of every window's cells, as open
    meshes. ``index``: which of the hole's cells a window's cell is, any where it is none. ``owner``: which of all the
    windows' cells answers for a cell of the hole.
    """

    at: Int[np.ndarray, "A M"]
    grids: tuple[Int[np.ndarray, "n ..."], ...]
    index: Int[np.ndarray, "n ..."]
    owner: Int[np.ndarray, " M"]


def cover(hole: Bool[np.ndarray, "*S"], side: Sequence[int]) -> list[tuple[int, ...]]:
    """First corners of boxes of ``side`` cells that hold the hole: strip by strip, and within a strip likewise.

    Boxes do not overlap; along one axis they are as few as possible.
    """
    occupied = np.flatnonzero(hole.any(tuple(range(1, hole.ndim))))
    boxes = []
    while occupied.size:
        first, end = int(occupied[0]), int(occupied[0]) + side[0]
        inner = cover(hole[first:end].any(0), side[1:]) if side[1:] else [()]
        boxes += [(first, *rest) for rest in inner]
        occupied = occupied[occupied >= end]
    return boxes


def _sides(longest: int, least: int) -> list[int]:
    """Lengths to try for a box: the longest, then each two thirds of the one before, down to about ``least``."""
    sides = [longest]
    while sides[-1] > max(least, 1):
        sides.append(max(1, sides[-1] * 2 // 3))
    return sides


def windows(hole: Bool[np.ndarray, "*S"], halo: int | None, torus: bool = False) -> Windows:
    """The least work that this search meets to compute the cells of ``hole``, at least one, with ``halo`` around each.

    Tried are boxes of one size each, from that of the hole's own down to the halo's, grown by the halo on every side.
    Where a window would leave the image it is moved back inside, so that its border is the image's; on a torus it
    goes round the edge. With ``halo`` None there is one window, the whole image.
    """
    extent, reach = hole.shape, halo or 0
    places = np.argwhere(hole)
    if halo is None:
        side, boxes = extent, [(0,) * hole.ndim]
    else:
        whole = lambda side: prod(min(s + 2 * reach, e) for s, e in zip(side, extent, strict=True))
        work, side, boxes = np.inf, extent, []
        for size in product(*(_sides(int(n), reach // 2) for n in np.ptp(places, axis=0) + 1)):
            if -(-len(places) // prod(size)) * whole(size) < work:  # or there is no need to count the boxes
                corners = cover(hole, size)
                work, side, boxes = min((work, side, boxes), (len(corners) * whole(size), size, corners))
        inside = (hole[tuple(slice(c, c + s) for c, s in zip(box, side, strict=True))] for box in boxes)
        side = tuple(int(n) for n in np.max([np.argwhere(part).max(0) for part in inside], 0) + 1)
    shape = tuple(min(s + 2 * reach, e) for s, e in zip(side, extent, strict=True))
    starts, room = np.array(boxes) - reach, np.subtract(extent, shape)
    starts = starts * (room > 0) if torus else np.clip(starts, 0, room)

    mesh = lambda v, axis: v.reshape(len(boxes), *[-1 if a == axis else 1 for a in range(hole.ndim)])
    grids = tuple(mesh((starts[:, a, None] + np.arange(n)) % extent[a], a) for a, n in enumerate(shape))
    number = np.zeros(extent, int)
    number[hole] = np.arange(len(places))
    index, owned = number[grids], hole[grids]
    for a, (grid, size) in enumerate(zip(grids, side, strict=True)):
        first = mesh(np.array(boxes)[:, a, None], a)
        owned = owned & (first <= grid) & (grid < first + size)
    owner = np.empty(len(places), int)
    owner[index[owned]] = np.flatnonzero(owned)
    return Windows(places.T, grids, index, owner)
