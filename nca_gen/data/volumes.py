"""A folder of volumes ``[D, H, W, C]``: NIfTI, numpy files, OME-Zarr, DICOM files of many frames, and sub folders of
DICOM slices or of B-scans, each of which is one volume.

Labels, patients and splits come from an optional ``labels.csv``, see :mod:`nca_gen.data.table`; ``filename`` there is
a file or a sub folder. D, H and W are the axes of the body, where a file says so (see :mod:`nca_gen.io.volumes`).

Grey levels: with ``window`` = (low, high) those of every volume; with ``percentiles`` = (low, high) of each volume its
own; else uint8 goes by its depth, floats that all lie within [-1, 1] are taken as they are, and of any other set each
volume reaches from its least to its greatest value. ``low`` becomes -1 and ``high`` what 255 of uint8 is, 127/128; what
lies beyond is cut off. The two values stand beside every example as ``window``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Len
from jaxtyping import Float32, Int32, Num, UInt8

from nca_gen.data import table
from nca_gen.data.source import Box, Example, Source, Splits, clipped, complain, fits, remember
from nca_gen.errors import UserError
from nca_gen.io import images, space, volumes
from nca_gen.ranges import Count, Gigabytes, Natural, Percent

SAMPLE = 2**24  # voxels of which percentiles are taken, evenly spread, where a volume has more
PACKED = (".gz", ".npz")  # endings of volumes of which no part can be read
ENDINGS = (
    f"volumes ({', '.join(volumes.SUFFIXES)}) or sub folders of DICOM slices or B-scans ({', '.join(volumes.SCANS)})"
)


class Look(NamedTuple):
    """What is known of a volume: shape, type and voxels as stored, and the values that become -1 and 127/128."""

    shape: tuple[int, ...]
    dtype: np.dtype
    low: int | float
    high: int | float
    mpp: space.Sizes


class Scale(NamedTuple):
    """From the grid in which voxels are stored to that of an example: reduced (area mean), then brought to a size."""

    reduce: tuple[int, ...]
    resize: tuple[int, ...] | None

    def sides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """D, H, W of an example whose stored volume has ``shape``."""
        return self.resize or tuple(n // k for n, k in zip(shape, self.reduce, strict=False))

    def microns(self, shape: Sequence[int], mpp: space.Sizes) -> space.Sizes:
        """How large a voxel of an example is, whose stored volume has ``shape`` and voxels of ``mpp``."""
        return space.scaled(mpp, [n // k * k for n, k in zip(shape, self.reduce, strict=False)], self.sides(shape))

    def fitted(self, voxels: Num[np.ndarray, "D H W C"]) -> Num[np.ndarray, "d h w C"]:
        """Grey levels on the grid of the example."""
        small = images.reduce(voxels, self.reduce)
        return images.resize(small, self.resize) if self.resize else small

    def mapped(self, classes: Num[np.ndarray, "D H W 1"]) -> Int32[np.ndarray, "d h w 1"]:
        """Classes on that grid: each place has the one in its middle."""
        covered = tuple(slice(n // k * k) for n, k in zip(classes.shape, self.reduce, strict=False))
        return images.nearest(classes[covered], self.sides(classes.shape)).astype(np.int32)


@dataclass(frozen=True)
class View:
    """A volume on the grid of its example, of which parts are read."""

    shape: tuple[int, ...]
    part: Callable[[tuple[slice, ...]], np.ndarray]

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """The part in three slices."""
        return self.part(box)


def splits(
    path: str = "",
    reduce: Annotated[tuple[Count, ...], Len(3, 3)] = (1, 1, 1),
    resize: Annotated[tuple[Count, ...], Len(3, 3)] | None = None,
    window: tuple[int | float, ...] = (),
    percentiles: tuple[Percent, ...] = (),
    label_maps: str = "",
    labels: tuple[str, ...] = (),
    context_factor: Count = 1,
    square: Natural = 0,
    split_seed: int = 0,
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """The three splits of the folder ``path``, by patient.

    ``reduce``: blocks of so many voxels along D, H and W become one (area mean). ``resize``: (depth, height, width) to
    which a volume is then brought (bicubic). ``label_maps``: a folder of volumes of the same names, whose classes
    become the field ``label_map`` (int32 ``[D, H, W, 1]``). ``labels``: the columns of labels.csv that are labels, ()
    for all that hold numbers. ``context_factor`` and ``square``: see :meth:`nca_gen.data.source.Source.read`.

    Every volume is read once here, so that a damaged one is known before the first step: it is named and skipped
    (``strict``: UserError). Where a ``window`` is given, volumes in ``.npy``, ``.nii`` and folders are not: their heads
    suffice. Volumes stay in memory if all fit into ``memory_gb``; else only what a patch needs is read, unless the
    volume is packed (``.nii.gz``) or is resized: such are read whole, and as many as fit are kept.
    Raises UserError for a missing or empty folder, a wrong labels.csv, and volumes of different channels or types.
    """
    for field, ends in (("window", window), ("percentiles", percentiles)):
        if ends and not (len(ends) == 2 and ends[0] < ends[1]):
            raise UserError(f"config.data.{field}={ends} must be two numbers, the lower first")
    if len(reduce) != 3 or (resize and len(resize) != 3):
        raise UserError(f"config.data.reduce={reduce} and resize={resize} need 3 numbers: depth, height and width")
    files, scale = _files(path), Scale(tuple(reduce), tuple(resize) if resize else None)
    root, names, _ = files
    rows = table.read(files, split_seed, labels)
    map_of = table.beside(label_maps, volumes.SUFFIXES) if label_maps else None
    known, lost = table.probe(
        rows, names, lambda name: _look(root / name, window, percentiles, map_of and map_of(name)), "reading volumes", 2
    )
    complain(lost, strict)
    table.uniform(root, {name: f"{x.shape[-1]} channels" for name, x in known.items()}, lost)
    numbers, shown = table.labels(rows, [*known]), _levels(known, bool(window or percentiles))
    rows = rows._replace(notes=[*rows.notes, *_notes(known, shown, map_of)])
    shapes = {name: (*scale.sides(x.shape), x.shape[-1]) for name, x in known.items()}
    resident = fits(shapes.values(), 4 + 4 * bool(map_of), memory_gb)
    fields = ("label_map",) if map_of else ()

    def about(name: str) -> Example:
        ends = {"window": (known[name].low, known[name].high)} if shown is _stretched else {}
        size = scale.microns(known[name].shape, known[name].mpp)
        return {"name": name, "patient": rows.patient[name]} | ends | numbers[name] | ({"mpp": size} if size else {})

    def where(name: str, field: str) -> Path:
        return root / name if field == "image" or map_of is None else map_of(name)

    def fitted(name: str, field: str, voxels: np.ndarray) -> np.ndarray:
        images.checked(voxels, where(name, field), bounded=False)
        return shown(scale.fitted(voxels), known[name]) if field == "image" else scale.mapped(voxels)

    def load(name: str) -> Example:
        grids = {field: fitted(name, field, volumes.read(where(name, field))) for field in ("image", *fields)}
        return about(name) | grids | {"image": np.array(grids["image"])}

    get = remember(load, memory_gb)

    def view(name: str, field: str) -> View:
        stored = volumes.stored(where(name, field))

        def part(box: tuple[slice, ...]) -> np.ndarray:
            inside = tuple(slice(s.start * k, s.stop * k) for s, k in zip(box, scale.reduce, strict=True))
            return fitted(name, field, stored[inside])

        return View(shapes[name], part)

    def read(name: str, field: str, box: Box, k: int) -> np.ndarray:
        whole = scale.resize or name.lower().endswith(PACKED)
        return images.reduce(clipped(get(name)[field] if whole else view(name, field), box), k)

    def source(names: list[str], lost: list[tuple[str, str]]) -> Source:
        return Source(
            lambda i: get(names[i]),
            [shapes[name] for name in names],
            resident,
            lost,
            fields,
            context_factor,
            None if resident else lambda i, field, box, k: read(names[i], field, box, k),
            lambda i: about(names[i]),
            square=square,
        )

    return table.sources(rows, [*known], lost, source, map_of)


def _levels(looks: Mapping[str, Look], windowed: bool) -> Callable[[np.ndarray, Look], np.ndarray]:
    """How voxels become what an example holds; see the head of this file."""
    if not windowed and all(x.dtype == np.uint8 for x in looks.values()):
        return _stored
    if not windowed and all(x.dtype.kind == "f" and x.low >= -1 and x.high <= 1 for x in looks.values()):
        return _plain
    return _stretched


def _stored(voxels: Num[np.ndarray, "D H W C"], _: Look) -> UInt8[np.ndarray, "D H W C"]:
    return voxels


def _plain(voxels: Num[np.ndarray, "D H W C"], _: Look) -> Float32[np.ndarray, "D H W C"]:
    return voxels.astype(np.float32)


def _stretched(voxels: Num[np.ndarray, "D H W C"], look: Look) -> Float32[np.ndarray, "D H W C"]:
    return np.clip(volumes.stretched(voxels, look.low, look.high), -1.0, np.float32(127 / 128))


def _look(path: Path, window: Sequence[int | float], percentiles: Sequence[int | float], map_path: Path | None) -> Look:
    """What is to be known of a volume. Raises Unreadable, also for a label map of another size."""
    volume = volumes.stored(path)
    if map_path is not None and (classes := volumes.stored(map_path)).shape != (*volume.shape[:3], 1):
        sides = (" x ".join(map(str, shape)) for shape in (classes.shape, volume.shape))
        raise images.Unreadable(path, "its label map has {}, not {}".format(*sides))
    low, high = window or _ends(volume, percentiles)
    if not np.isfinite([low, high]).all():
        raise images.Unreadable(path, "it holds NaN or infinite voxels")
    return Look(tuple(volume.shape), np.dtype(volume.dtype), low, high, volumes.microns(path))


def _notes(looks: Mapping[str, Look], shown: Callable, map_of: Callable[[str], Path] | None) -> Iterator[str]:
    """What has to be said of the voxels of a folder, and of label maps that may lie elsewhere."""
    yield from space.within([*looks], [x.mpp for x in looks.values()])
    if shown is _plain and min(x.low for x in looks.values()) >= 0:
        yield volumes.FROM_ZERO
    if shown is _stored:
        yield from images.doubts(np.uint8, 0, max(x.high for x in looks.values()))
    if map_of is None:
        return
    for name, look in looks.items():
        if not space.alike(look.mpp, other := volumes.microns(map_of(name))):
            yield f"{name} has {space.words(look.mpp)} a voxel, and its label map {space.words(other)}"
            return


def _ends(volume: volumes.Stored, percentiles: Sequence[int | float]) -> tuple[float, float]:
    """Two ``percentiles`` of the voxels, or the least and the greatest."""
    if percentiles:
        step = slice(None, None, math.ceil((math.prod(volume.shape) / SAMPLE) ** (1 / 3)))
        low, high = np.percentile(volume[step, step, step], percentiles)
        return float(low), float(high)
    slabs = (volume[d : d + 1, :, :] for d in range(volume.shape[0]))
    ends = np.array([(slab.min(), slab.max()) for slab in slabs])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def _files(path: str) -> table.Files:
    """The volumes of a folder, in natural order: files, and sub folders that have images and no folders in them."""
    root, files, notes = table.below(path, (*volumes.SUFFIXES, *volumes.SCANS), ENDINGS)
    whole = volumes.gathered(root, [name for name in files if name.lower().endswith(volumes.SUFFIXES)])
    scans = [name for name in files if not name.lower().endswith(volumes.SUFFIXES)]
    folders = {Path(name).parent.as_posix() for name in scans} - {"."}
    if "." in whole:
        whole, notes = [name for name in whole if name != "."], [*notes, "passed over: DICOM slices in no sub folder"]
    if not whole and not folders:
        raise UserError(f"no volume in {root}: put {ENDINGS} there")
    if loose := [name for name in scans if "/" not in name]:
        notes = [*notes, f"passed over: {len(loose)} images that lie in no sub folder ({loose[0]})"]
    return table.Files(root, sorted({*whole, *folders}, key=images.natural), notes)
