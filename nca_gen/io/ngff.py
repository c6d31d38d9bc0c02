"""Volumes in OME-Zarr: axes z, y, x and channels, of versions 0.4 and 0.5; written slice by slice as 0.5.

The format states how large a voxel is, and not how a volume lies in the body: that is beside it, as the attribute
``nca_gen``, which this package reads back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen.io import huge, images, space
from nca_gen.io.geometry import Geometry
from nca_gen.io.stored import Found, Stored, Volume

SUFFIX = ".zarr"
AXES = {"z": "inferior-to-superior", "y": "posterior-to-anterior", "x": "left-to-right"}  # as RFC 4 of NGFF calls them
RUN, SIDE = 16, 128  # of a chunk, in slices and in voxels of a slice
LEAST = 128  # a pyramid ends with the first level whose sides are no longer


@dataclass(frozen=True)
class Cells:
    """A level of an OME-Zarr image whose ``axes`` are named."""

    store: Any
    axes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W and C."""
        sides = dict(zip(self.axes, self.store.shape, strict=True))
        return tuple(sides.get(axis, 1) for axis in "zyxc")

    @property
    def dtype(self) -> np.dtype:
        """The type of its voxels; truth values are 0 and 1."""
        kind = self.store.dtype.numpy_dtype
        return np.dtype(np.uint8) if kind.kind == "b" else kind

    def __getitem__(self, box: Any) -> Volume:
        """The part in three slices."""
        at = dict(zip("zyx", (slice(*s.indices(n)[:2]) for s, n in zip(box, self.shape, strict=False)), strict=True))
        voxels = self.store[tuple(at.get(axis, slice(None)) if axis in "zyxc" else 0 for axis in self.axes)]
        names = [axis for axis in self.axes if axis in "zyxc"]
        voxels = (
            voxels.read()
            .result()
            .astype(self.dtype, copy=False)
            .transpose([names.index(axis) for axis in "zyxc" if axis in names])
        )
        return voxels if "c" in names else voxels[..., None]


def is_volume(path: str | Path) -> bool:
    """Whether an OME-Zarr image has depth."""
    try:
        image = huge.multiscale(path)
        return dict(zip(image.axes, image.levels[0].shape, strict=True)).get("z", 1) > 1
    except (OSError, ValueError, KeyError, IndexError, TypeError):  # what is wrong with it is said by who reads it
        return False


def open_volume(path: str | Path) -> Found:
    """The largest level of an OME-Zarr image, and where it lies. Raises Unreadable."""
    try:
        image = huge.multiscale(path)
        sides = dict(zip(image.axes, image.levels[0].shape, strict=True))
        if missing := [axis for axis in "zyx" if axis not in sides]:
            raise ValueError(f"it has no axis {missing[0]}, and a volume has z, y and x")
        if others := [axis for axis, n in sides.items() if axis not in "zyxc" and n > 1]:
            raise ValueError(f"it has {sides[others[0]]} volumes along its axis {others[0]}: store one")
        mpp = tuple(image.sizes[axis] for axis in "zyx" if axis in image.sizes)
        known = image.attributes.get("nca_gen", {}).get("affine")
        geometry = Geometry.of_sizes(mpp) if len(mpp) == 3 and min(mpp) > 0 else None
        if known and geometry and space.alike(mpp, (there := Geometry.of(np.array(known, np.float64))).mpp):
            geometry = there
        return Found(Cells(image.levels[0], image.axes), geometry)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = (str(error).lower() or type(error).__name__).splitlines()[0]
        raise images.Unreadable(path, f"no OME-Zarr volume ({reason})") from None


def save(folder: Path, volume: Stored, geometry: Geometry | None, name: str) -> None:
    """Writes ``volume`` and its pyramid as OME-Zarr 0.5 into ``folder``, a few slices at a time."""
    dtype = np.dtype(np.uint8 if volume.dtype == bool else volume.dtype).newbyteorder("=")
    source, sizes = volume, _sizes(volume.shape[:3])
    for number, size in enumerate(sizes):
        level, k = _level(folder, number, size, volume.shape[3], dtype), 2 if number else 1
        for first in range(0, size[0], RUN):
            last = min(first + RUN, size[0])
            ends = (k * first, k * last), (0, k * size[1]), (0, k * size[2])
            part = np.asarray(source[tuple(slice(*one) for one in ends)])
            part = images.reduce(part, k) if number else part.astype(dtype, copy=False)
            level[:, first:last].write(np.ascontiguousarray(np.moveaxis(part, -1, 0))).result()
        source = Cells(level, ("c", "z", "y", "x"))
    axes = [{"name": axis} for axis in AXES]
    if geometry:
        axes = [one | {"orientation": {"type": "anatomical", "value": AXES[one["name"]]}} for one in axes]
    more = {"nca_gen": {"affine": geometry.affine.tolist()}} if geometry else {}
    mpp = geometry.mpp if geometry else ()
    huge.describe(folder, len(sizes), volume.shape[3], name, dtype, mpp, axes, more)


def _sizes(size: Sequence[int]) -> list[tuple[int, ...]]:
    """Depth, height and width of each level: halves, rounded down."""
    sizes = [tuple(size)]
    while max(sizes[-1]) > LEAST and min(sizes[-1]) > 1:
        sizes.append(tuple(n // 2 for n in sizes[-1]))
    return sizes


def _level(folder: Path, number: int, size: Sequence[int], channels: int, dtype: np.dtype) -> Any:
    chunk = [min(most, n) for most, n in zip((RUN, SIDE, SIDE), size, strict=True)]
    shard = [chunk[0], *(-(-n // side) * side for n, side in zip(size[1:], chunk[1:], strict=True))]
    shape = channels, *size
    return huge.array(folder / str(number), shape, dtype, (channels, *shard), (1, *chunk), "czyx", packed=True)
