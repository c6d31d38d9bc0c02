"""Volumes on disk of which parts are read, and volumes that grow there slice by slice.

A part is asked for by a slice of step 1 for each of the axes D, H and W, and is an array ``[d, h, w, C]``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num

from nca_gen.io import write as files
from nca_gen.io.geometry import Geometry

Volume = Num[np.ndarray, "D H W C"]
RUN = 2**22  # numbers that are read at once, or one slice where it has more


@runtime_checkable
class Stored(Protocol):
    """A volume in a file of which parts are read: an array, or what reads them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W and C."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The type in which parts come."""
        ...

    def __getitem__(self, box: Any) -> Volume:
        """The part in slices of step 1, one for each of the three axes."""
        ...


class Found(NamedTuple):
    """A volume, and where it lies; None where nobody says."""

    volume: Stored
    geometry: Geometry | None


@dataclass(frozen=True)
class Turned:
    """A volume whose axes lie otherwise in its file. ``axes``: of the file, which are D, H and W; ``flips``: of these,
    which run the other way."""

    raw: Stored
    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W and C."""
        return (*(self.raw.shape[axis] for axis in self.axes), self.raw.shape[3])

    @property
    def dtype(self) -> np.dtype:
        """The type in which parts come."""
        return self.raw.dtype

    def __getitem__(self, box: Any) -> Volume:
        """The part in three slices."""
        where: list[Any] = [slice(None)] * 3
        for part, axis, flip in zip(box, self.axes, self.flips, strict=True):
            start, stop, _ = part.indices(n := self.raw.shape[axis])
            where[axis] = slice(n - stop, n - start) if flip else slice(start, stop)
        voxels = np.moveaxis(self.raw[tuple(where)], self.axes, (0, 1, 2))
        return voxels[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]


@dataclass(frozen=True)
class Stack:
    """A volume ``[D, H, W, C]`` that is made slice by slice, each a file of its own in ``folder``, whole or not at all.

    What is there when a run is killed stays, and the next one makes what is :attr:`missing`; slices can be written in
    any order, by several processes. A whole one is :class:`Stored`, and becomes a file by
    :func:`nca_gen.io.volumes.save`, slice by slice.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def beside(cls, path: Path, shape: Sequence[int], dtype: Any, identity: str) -> Stack:
        """The slices of the volume that ``path`` is to hold, as they are there, or none yet.

        ``identity`` names all that the voxels depend on (parameters, seed, ...): slices of another are not gone on
        with.
        """
        folder = path.with_name(f".{path.name}.{identity}.part")
        with files.refusals(path):
            folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, tuple(shape), np.dtype(dtype))

    @property
    def missing(self) -> list[int]:
        """The slices that are not there."""
        names = {path.name for path in self.folder.iterdir()}
        return [d for d in range(self.shape[0]) if self._path(d).name not in names]

    def append(self, first: int, slices: Num[np.ndarray, "d H W C"]) -> None:
        """Keeps the slices first, first + 1, ..., for good. Raises ValueError for those of another size or type."""
        if (slices.shape[1:], slices.dtype) != (self.shape[1:], self.dtype):
            raise ValueError(f"slices of {slices.shape[1:]} {slices.dtype}, not {self.shape[1:]} {self.dtype}")
        for d, voxels in enumerate(slices, first):
            with files.whole(self._path(d)) as draft:
                np.save(draft, voxels)

    def __getitem__(self, box: Any) -> Volume:
        """The part in three slices, all of which are there."""
        depth, *sides = box
        some = [np.load(self._path(d))[tuple(sides)] for d in range(*depth.indices(self.shape[0]))]
        return np.stack(some) if some else np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *sides)]

    def finish(self, save: Callable[[Stored], None]) -> None:
        """Has ``save`` make the volume, then takes the slices away. Raises ValueError where some are missing."""
        if missing := self.missing:
            raise ValueError(f"{len(missing)} of {self.shape[0]} slices are missing, the first is {missing[0]}")
        save(self)
        shutil.rmtree(self.folder)

    def _path(self, d: int) -> Path:
        return self.folder / f"{d:05d}.npy"


def runs(volume: Stored) -> Iterator[Volume]:
    """The volume in its order, a few slices at a time: memory does not grow with D."""
    step = max(1, RUN // max(1, int(np.prod(volume.shape[1:]))))
    for first in range(0, volume.shape[0], step):
        yield np.asarray(volume[first : min(first + step, volume.shape[0]), :, :])
