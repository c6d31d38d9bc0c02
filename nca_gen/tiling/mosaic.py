"""A plane painted patch by patch: where the patches of a grid lie, what each adds, and in which order they can be made.

A patch overlaps its neighbours, and keeps what an earlier one has painted. Patches are made in waves along the
diagonals: those of a wave do not touch what another of them adds. On disk every patch is one file, written whole or not
at all: which are there says what is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from nca_gen.io import huge
from nca_gen.tiling import tiles
from nca_gen.tiling.tiles import Slices

CHUNK = 256  # pixels a side of what a read decodes, at the most
Index = tuple[int, int]  # row and column of a patch


def starts(side: int, patch: int, step: int) -> tuple[int, ...]:
    """The first pixel of every patch along an axis: each a ``step`` on, the last as far as ``side`` lets it.

    With side 1024 + 896 (n - 1), patch 1024 and step 896 these are the n patches of URCDM (MICCAI 2024)."""
    return *range(0, side - patch, step), side - patch


def own(starts: Sequence[int], patch: int) -> list[slice]:
    """What each patch along an axis adds to those before it. Together these are the axis."""
    ends = [0, *(start + patch for start in starts)]
    return [slice(*pair) for pair in pairwise(ends)]


class Grid(NamedTuple):
    """Patches of ``patch`` pixels a side on a plane, by the first pixel of their rows and columns."""

    patch: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def of(cls, sides: tuple[int, int], patch: int, step: int) -> Grid:
        """Of a plane of ``sides``, each ``patch`` or more."""
        rows, columns = (starts(side, patch, step) for side in sides)
        return cls(patch, rows, columns)

    @property
    def sides(self) -> tuple[int, int]:
        """Of the plane."""
        return self.rows[-1] + self.patch, self.columns[-1] + self.patch

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return len(self.rows), len(self.columns)

    def enlarged(self, k: int) -> Grid:
        """The same patches where every pixel is ``k`` x ``k``."""
        return Grid(self.patch * k, *(tuple(start * k for start in axis) for axis in (self.rows, self.columns)))

    def corner(self, index: Index) -> tuple[int, int]:
        """The first pixel of a patch."""
        return self.rows[index[0]], self.columns[index[1]]

    def own(self, index: Index) -> Slices:
        """What a patch adds to those before it, in its own pixels."""
        axes = zip((self.rows, self.columns), index, strict=True)
        added = [(own(axis, self.patch)[i], axis[i]) for axis, i in axes]
        return tuple(slice(s.start - first, s.stop - first) for s, first in added)

    def waves(self) -> Iterator[list[Index]]:
        """The patches in an order in which each comes after all whose pixels it keeps; those of a wave at once."""
        n, m = self.shape
        for wave in range(n + m - 1):
            yield [(i, wave - i) for i in range(max(0, wave - m + 1), min(n, wave + 1))]


class Plane(NamedTuple):
    """What is painted of a grid, on disk: ``store`` [rows patch, columns patch, C] has every patch whole."""

    grid: Grid
    store: huge.Store
    folder: Path

    @classmethod
    def at(cls, folder: Path, grid: Grid, channels: int) -> Plane:
        """The plane in ``folder``, as it is there, or an empty one."""
        (n, m), patch = grid.shape, grid.patch
        side = tiles.chunk(patch, CHUNK)
        shape, shard, chunk = ((a, b, channels) for a, b in ((n * patch, m * patch), (patch, patch), (side, side)))
        return cls(grid, huge.array(folder, shape, np.uint8, shard, chunk, packed=True), folder)

    def done(self) -> set[Index]:
        """The patches that are there."""
        found = (path.relative_to(self.folder).parts for path in self.folder.glob("c/*/*/0"))
        return {(int(row), int(column)) for _, row, column, _ in found}

    def write(self, index: Index, pixels: UInt8[np.ndarray, "p p C"]) -> None:
        """Keeps a patch, for good."""
        into = (slice(i * self.grid.patch, (i + 1) * self.grid.patch) for i in index)
        self.store[tuple(into)].write(pixels).result()

    def read(self, top: int, left: int, height: int, width: int) -> UInt8[np.ndarray, "h w C"]:
        """A window of the plane: of every pixel, as the patch has it that added it."""
        out = np.empty((height, width, self.store.shape[-1]), np.uint8)
        rows = _whence(self.grid.rows, self.grid.patch, top, height)
        columns = _whence(self.grid.columns, self.grid.patch, left, width)
        parts = [((a, b), self.store[whence, there].read()) for a, whence in rows for b, there in columns]
        for into, pixels in parts:
            out[into] = pixels.result()
        return out

    def padded(
        self, top: int, left: int, height: int, width: int, colour: Sequence[int] = ()
    ) -> UInt8[np.ndarray, "h w C"]:
        """A window that may reach beyond the plane: there is ``colour``, or where none is given its nearest pixel."""
        ends = zip((top, left), (height, width), self.grid.sides, strict=True)
        inside = [(min(max(at, 0), n - 1), min(max(at + size, 1), n)) for at, size, n in ends]
        (y0, y1), (x0, x1) = inside
        pixels = self.read(y0, x0, y1 - y0, x1 - x0)
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        down, across = np.clip(rows - y0, 0, y1 - y0 - 1), np.clip(columns - x0, 0, x1 - x0 - 1)
        out = pixels.take(down, 0).take(across, 1)
        if len(colour):
            out[(rows < 0) | (rows >= self.grid.sides[0])] = colour
            out[:, (columns < 0) | (columns >= self.grid.sides[1])] = colour
        return out


def _whence(starts: Sequence[int], patch: int, first: int, size: int) -> list[tuple[slice, slice]]:
    """Where the pixels first .. first + size - 1 of an axis are kept: (in the window, in the store)."""
    found = []
    for i, (added, start) in enumerate(zip(own(starts, patch), starts, strict=True)):
        low, high = max(added.start, first), min(added.stop, first + size)
        if low < high:
            shift = i * patch - start
            found.append((slice(low - first, high - first), slice(low + shift, high + shift)))
    return found
