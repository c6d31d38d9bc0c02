"""An image cut into tiles: each has a core, which is its own, and a window, which is what it must see to make it.

Windows of a plan all have one shape, so that one program computes them all. A window that would reach over a border is
moved back inside: it then sees more than it must. On a torus it goes on at the opposite edge instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

Slices = tuple[slice, ...]
CHUNK = 64  # cells: tiles above it are made of whole chunks of about this side


class Tile(NamedTuple):
    """A part of the whole that is made at a time, and the window that it is made from."""

    core: Slices  # in the whole
    inside: Slices  # the core in the window
    origin: tuple[int, ...]  # of the window in the whole


class Plan(NamedTuple):
    """How a whole is cut."""

    extent: tuple[int, ...]
    window: tuple[int, ...]  # the shape of every window
    tiles: tuple[Tile, ...]

    @property
    def overhead(self) -> float:
        """Cells that are computed for nothing, as a fraction of the cells of the whole."""
        return len(self.tiles) * math.prod(self.window) / math.prod(self.extent) - 1


def side(extent: int, most: int) -> int:
    """The side of the fewest equal tiles of about ``most`` cells at the most; above ``CHUNK`` it has a like divisor."""
    even = math.ceil(extent / math.ceil(extent / most))
    chunks = math.ceil(even / CHUNK)
    return math.ceil(even / chunks) * chunks


def chunk(side: int, most: int = CHUNK) -> int:
    """The largest divisor of ``side`` up to ``most``."""
    return max(n for n in range(1, min(side, most) + 1) if side % n == 0)


def plan(extent: tuple[int, ...], sides: tuple[int, ...], halo: int, wrap: bool = False) -> Plan:
    """Tiles of ``sides`` cells that together are ``extent``, in C order; the last of each axis may be smaller.

    Within a window the core is ``halo`` cells or more away from every edge that is not a border of the whole. A window
    that would see all of an axis is that axis: there the border is the border, also that of a torus.
    """
    axes = [_spans(*axis, halo, wrap) for axis in zip(extent, sides, strict=True)]
    window = tuple(min(s + 2 * halo, n) for n, s in zip(extent, sides, strict=True))
    return Plan(extent, window, tuple(Tile(*zip(*spans, strict=True)) for spans in product(*axes)))


def _spans(extent: int, side: int, halo: int, wrap: bool) -> list[tuple[slice, slice, int]]:
    window, spans = min(side + 2 * halo, extent), []
    for start in range(0, extent, side):
        stop = min(start + side, extent)
        low = start - halo if wrap and window < extent else min(max(start - halo, 0), extent - window)
        spans.append((slice(start, stop), slice(start - low, stop - low), low % extent))
    return spans


def smaller(size: Sequence[int], k: int) -> tuple[int, ...]:
    """Sides of the picture that is ``k`` times smaller, and covers one of ``size``."""
    return tuple(-(-side // k) for side in size)


def below(start: int, stop: int, k: int, side: int) -> Int[np.ndarray, " n"]:
    """Of the pixels ``start`` .. ``stop`` - 1 of an axis, the place of each in a picture ``k`` times smaller.

    Beyond the ``side`` of that lies its last place.
    """
    return np.minimum(np.arange(start, stop) // k, side - 1)


def pieces(origin: tuple[int, ...], shape: tuple[int, ...], extent: tuple[int, ...]) -> list[tuple[Slices, Slices]]:
    """Where the blocks of a window on a torus lie: (in the window, in the whole). One block where it does not wrap."""
    blocks = product(*(_along(*axis) for axis in zip(origin, shape, extent, strict=True)))
    return [tuple(zip(*block, strict=True)) for block in blocks]


def _along(start: int, size: int, n: int) -> list[tuple[slice, slice]]:
    """:func:`pieces` of one axis."""
    first = min(size, n - start)
    head = (slice(0, first), slice(start, start + first))
    return [head] if first == size else [head, (slice(first, size), slice(0, size - first))]
