"""Volumes ``[D, H, W, C]`` in files, read one at a time when they are asked for.

``.nii`` and ``.nii.gz`` (NIfTI: D goes to the head, H to the front, W to the right, as the nearest axes of the header's
affine say, which is RAS; where it has none, D is the third axis of the file, H its second, W its first), ``.npy`` and
``.npz`` (``[D, H, W]`` or ``[D, H, W, C]``, one volume a file). Axes of length 1 beyond these are left out. How large a
voxel is (``mpp``, micrometres along D, H and W) is as in :mod:`nca_gen.io.space`.

A folder of images, one a slice (B-scans), is a volume too (:class:`Scans`); what is mapped or sliced is read where a
part of it is asked for (:func:`stored`).

Grey levels follow from what the whole set holds. Volumes that are all uint8 go by their depth (``v/128 - 1``), float
volumes that all lie within [-1, 1] are taken as they are; of any other set each volume is stretched from its least to
its greatest value, to what uint8 would hold from 0 to 255, and a note says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8

from nca_gen.errors import UserError
from nca_gen.io import colour, images, npy, space, walk
from nca_gen.io import write as files

SUFFIXES = (".nii", ".nii.gz", *npy.SUFFIXES)
SCANS = walk.IMAGES  # of the slices of a volume
CHANNELS = 16  # of a volume, at the most
FROM_ZERO = "float volumes of [0, 1] or so are taken as [-1, 1], grey to white: store 2v - 1 if 0 is black"
HELD = {"bool": np.uint8, "float16": np.float32}  # types that NIfTI has not, and those that hold their values
Volume = Num[np.ndarray, "D H W C"]


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


@dataclass(frozen=True)
class Nifti:
    """A NIfTI file, its scaling applied to what is read, its axes in our order.

    ``axes``: of the file, which are D, H and W; ``flips``: of these, which run the other way. ``rest``: of the axes
    beyond the third, the channels or nothing.
    """

    proxy: Any
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    rest: tuple[slice | int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W and C."""
        return (*(self.proxy.shape[axis] for axis in self.axes), self.corner.shape[-1])

    @property
    def dtype(self) -> np.dtype:
        """The type in which parts come."""
        return self.corner.dtype

    @cached_property
    def corner(self) -> Volume:
        """The last voxel of the file: one that is cut short is known here."""
        return self._read([slice(n - 1, n) for n in self.proxy.shape[:3]])

    def __getitem__(self, box: Any) -> Volume:
        """The part in three slices."""
        stored: list[Any] = [slice(None)] * 3
        for part, axis, flip in zip(box, self.axes, self.flips, strict=True):
            start, stop, _ = part.indices(n := self.proxy.shape[axis])
            stored[axis] = slice(n - stop, n - start) if flip else slice(start, stop)
        return self._read(stored)

    def _read(self, stored: Sequence[slice]) -> Volume:
        voxels = np.asanyarray(self.proxy[(*stored, *self.rest)])
        voxels = np.moveaxis(voxels, self.axes, (0, 1, 2))[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        voxels = colour.of_fields(voxels) if voxels.dtype.names else voxels
        return voxels if voxels.ndim == 4 else voxels[..., None]


@dataclass(frozen=True)
class Scans:
    """A volume whose slices are image files, in natural order; a part decodes the slices that it touches."""

    paths: tuple[Path, ...]

    @cached_property
    def first(self) -> images.Image:
        """The first slice."""
        return images.read(self.paths[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W and C."""
        return (len(self.paths), *self.first.shape)

    @property
    def dtype(self) -> np.dtype:
        """The type of its pixels."""
        return self.first.dtype

    def __getitem__(self, box: Any) -> Volume:
        """The part in three slices. Raises Unreadable for a slice that is damaged, or is not like the first."""
        scans = []
        for path in self.paths[box[0]]:
            scan = images.read(path)
            if (scan.shape, scan.dtype) != (self.first.shape, self.first.dtype):
                raise images.Unreadable(path, f"a slice of {scan.shape} {scan.dtype}, others are {self.first.shape}")
            scans.append(scan[box[1], box[2]])
        return np.stack(scans)


@dataclass(frozen=True)
class Volumes:
    """Volumes, of one size or of several. ``x[i]`` is float32 ``[D, H, W, C]`` in [-1, 1]; ``x[a:b]`` stacks several.

    Only what is asked for is in memory. ``notes`` must stand beside every number that is made of them.
    """

    read: Callable[[int], Volume]
    shapes: tuple[tuple[int, ...], ...]
    digest: str
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    mpp: tuple[space.Sizes, ...] = ()  # of each, where they are known

    def __len__(self) -> int:
        """The number of volumes."""
        return len(self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, D, H, W, C)``. Raises UserError, which names two volumes, where they differ in size."""
        first = self.shapes[0]
        for name, shape in zip(self.names, self.shapes, strict=True):
            if shape != first:
                words = [" x ".join(map(str, s)) for s in (first, shape)]
                raise UserError(
                    f"volumes differ in size: {self.names[0]} has {words[0]}, {name} has {words[1]} (D x H x W x C); "
                    "bring them to one size"
                )
        return (len(self), *first)

    def __getitem__(self, index: Any) -> Float[np.ndarray, "*N D H W C"]:
        """One volume, or several on one another."""
        at = np.arange(len(self))[index]
        return np.stack([self.read(int(i)) for i in at]) if np.ndim(at) else self.read(int(at))


class Look(NamedTuple):
    """What is to be known of a volume before it is used."""

    shape: tuple[int, ...]
    dtype: np.dtype
    low: float
    high: float
    sha256: bytes
    mpp: space.Sizes = ()


WHOLE = (slice(None),) * 3


def read(path: str | Path) -> Volume:
    """The volume in a file or a folder of slices, in the type in which it is stored (NIfTI's scaling applied).

    Raises ``Unreadable``.
    """
    return np.asanyarray(stored(path)[WHOLE])


def stored(path: str | Path) -> Stored:
    """The volume at ``path``, of which parts can be read: numpy files are mapped, NIfTI and slices are read by part.

    ``.nii.gz`` and packed ``.npz`` are unpacked here, whole. Raises ``Unreadable``.
    """
    if Path(path).is_dir():
        paths = tuple(Path(path, name) for name in walk.below(path, SCANS) if "/" not in name)
        if not paths:
            raise images.Unreadable(path, "there are no slices in this folder")
        return Scans(paths)
    volume: Any = _array(path) if Path(path).suffix.lower() in npy.SUFFIXES else _nifti(path)
    if len(volume.shape) == 3:
        volume = volume[..., None]
    if volume.dtype == bool:
        volume = volume.view(np.uint8)
    if len(volume.shape) != 4 or 0 in volume.shape or volume.dtype.kind not in "uif":
        raise images.Unreadable(path, f"{volume.dtype} of shape {volume.shape} is no volume: it needs [D, H, W(, C)]")
    return volume


def _array(path: str | Path) -> np.ndarray:
    """A numpy file. More than ``CHANNELS`` in the last of four axes are the width of a volume that has none."""
    volume = npy.mapped(path)
    while volume.ndim > 4 and 1 in (volume.shape[0], volume.shape[-1]):
        volume = volume[0] if volume.shape[0] == 1 else volume[..., 0]
    if volume.ndim == 4 and volume.shape[-1] > CHANNELS >= volume.shape[0]:
        if volume.shape[0] > 1:
            raise images.Unreadable(path, f"channels come last, D x H x W x C, and it has {volume.shape}; transpose it")
        volume = volume[0]
    if volume.ndim == 3 and volume.shape[-1] in (3, 4) and min(volume.shape[:2]) > CHANNELS:
        raise images.Unreadable(path, f"{volume.shape} is an image, and no volume: save it as PNG or TIFF")
    return volume


def microns(path: str | Path) -> space.Sizes:
    """How large a voxel of the volume at ``path`` is; () where it does not say. Raises ``Unreadable``."""
    if Path(path).is_dir() or Path(path).suffix.lower() in npy.SUFFIXES:
        return ()
    file = _loaded(path)
    sides = space.of_nifti(file)
    return tuple(sides[axis] for axis in _order(file)[0]) if sides else ()


def _loaded(path: str | Path) -> Any:
    """A NIfTI file of version 1 or 2, whatever the case of its suffix (for nibabel.load that must be one)."""
    import nibabel

    try:
        holder = nibabel.FileHolder(str(path))
        with holder.get_prepare_fileobj("rb") as file:
            kind = nibabel.Nifti2Image if b"n+2" in file.read(8) else nibabel.Nifti1Image
        return kind.from_file_map({"image": holder}, mmap=False)
    except Exception as error:  # nibabel, gzip and zlib each raise what they like on damaged bytes
        raise images.Unreadable(path, str(error).lower() or type(error).__name__) from None


def _order(file: Any) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The axes of a NIfTI file that go to the head, to the front and to the right, and which of them run back."""
    import nibabel

    turns = nibabel.io_orientation(file.affine)  # by axis of the file: right, front or head, and which way
    said = int(file.header.get("sform_code", 1)) or int(file.header.get("qform_code", 1))
    if not said or np.isnan(turns).any():
        return (2, 1, 0), (False,) * 3
    axes = [int(np.flatnonzero(turns[:, 0] == world)[0]) for world in (2, 1, 0)]
    return tuple(axes), tuple(bool(turns[axis, 1] < 0) for axis in axes)


def _nifti(path: str | Path) -> Any:
    file = _loaded(path)
    rest = tuple(0 if n == 1 else slice(None) for n in file.shape[3:])
    channels = rest.count(slice(None)) + bool(file.get_data_dtype().names)
    if len(file.shape) < 3 or 0 in file.shape or channels > 1 or max(file.shape[3:], default=1) > CHANNELS:
        raise images.Unreadable(
            path, f"axes of {file.shape} are no volume: it needs three, and at most {CHANNELS} channels"
        )
    try:
        if Path(path).suffix.lower() == ".gz":
            return Nifti(np.asanyarray(file.dataobj), *_order(file), rest)[WHOLE]
        volume = Nifti(file.dataobj, *_order(file), rest)
        _ = volume.corner
        return volume
    except Exception as error:  # as above
        raise images.Unreadable(path, str(error).lower() or type(error).__name__) from None


def look(path: str | Path) -> Look:
    """Reads a volume once. Raises ``Unreadable``, also for voxels that are no finite numbers."""
    volume = read(path)
    low, high = float(volume.min()), float(volume.max())
    if not np.isfinite([low, high]).all():
        raise images.Unreadable(path, "it holds NaN or infinite voxels")
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
        return Look(volume.shape, volume.dtype, low, high, sha256, microns(path))
    except OSError as error:
        raise images.Unreadable(path, (error.strerror or str(error)).lower()) from None


def of(names: Sequence[str], load: Callable[[int], Volume], looks: Sequence[Look], notes: Sequence[str]) -> Volumes:
    """The set of the volumes that ``load`` reads. Raises UserError for volumes of different channels."""
    first = looks[0]
    for name, other in zip(names, looks, strict=True):
        if other.shape[-1] != first.shape[-1]:
            channels = f"{names[0]} has {first.shape[-1]} channels, {name} has {other.shape[-1]}"
            raise UserError(f"volumes of different kinds: {channels}; keep one kind a folder")
    depth = all(x.dtype == np.uint8 for x in looks)
    plain = all(x.dtype.kind == "f" and x.low >= -1 and x.high <= 1 for x in looks)

    def read_one(i: int) -> Float[np.ndarray, "D H W C"]:
        volume = load(i)
        if depth:
            return images.to_float(volume)
        return volume.astype(np.float32) if plain else stretched(volume, looks[i].low, looks[i].high)

    notes = [*notes, *space.within(names, [x.mpp for x in looks])]
    if plain and min(x.low for x in looks) >= 0:
        notes.append(FROM_ZERO)
    if depth:
        notes.extend(images.doubts(np.uint8, 0, max(x.high for x in looks)))
    if not (depth or plain):
        notes.append("each volume is stretched from its least to its greatest value (they are not all uint8)")
    key = hashlib.sha256(b"".join(x.sha256 for x in looks)).hexdigest()
    sizes = tuple(x.mpp for x in looks)
    return Volumes(read_one, tuple(x.shape for x in looks), key, tuple(names), tuple(notes), sizes)


def stretched(volume: Volume, low: int | float, high: int | float) -> Float[np.ndarray, "D H W C"]:
    """``low`` to -1 and ``high`` to 127/128, as 0 and 255 of uint8; a flat volume is -1."""
    x = np.subtract(volume, low, dtype=np.float32)
    x *= np.float32(255 / 128 / (high - low) if high > low else 0)
    x -= np.float32(1)
    return x


def write(path: str | Path, volume: Shaped[np.ndarray, "D H W *C"], mpp: Sequence[int | float] = ()) -> None:
    """Writes NIfTI or ``.npy``, by the suffix, such that :func:`read` gives the values of ``volume`` back.

    NIfTI lies as RAS and states ``mpp``, or unit voxels. What it has no type for (bool, float16) is held by the next
    larger one. Whole or not at all. Raises ValueError for another suffix, and for what is no number.
    """
    name = Path(path).name
    if not name.lower().endswith((".nii", ".nii.gz", ".npy")):
        raise ValueError(f"{name}: volumes are written as .nii, .nii.gz or .npy")
    if volume.dtype.kind not in "buif":
        raise ValueError(f"{name} cannot hold {volume.dtype}: give integers or floats")
    held = volume.astype(HELD.get(volume.dtype.name, volume.dtype.newbyteorder("=")), copy=False)
    with files.whole(path) as draft:
        if name.lower().endswith(".npy"):
            np.save(draft, held)
            return
        import nibabel

        sides = [size / 1000 for size in mpp[::-1]] if mpp else [1.0] * 3  # millimetres
        axes = np.moveaxis(held, (2, 1, 0), (0, 1, 2))
        file = nibabel.Nifti1Image(axes, np.diag([*sides, 1.0]), dtype=held.dtype)
        file.header.set_xyzt_units("mm" if mpp else None)
        nibabel.save(file, draft)


def planes(volume: Num[np.ndarray, "D H W C"], gap: int = 2) -> UInt8[np.ndarray, "h w K"]:
    """The three middle planes side by side, as a picture: across D (``H x W``), across H (``D x W``), across W
    (``D x H``); white below those that are less high."""
    shown = images.picture(np.asarray(volume))
    middles = [shown.take(side // 2, axis) for axis, side in enumerate(shown.shape[:3])]
    height, width = max(len(plane) for plane in middles), sum(plane.shape[1] + gap for plane in middles) - gap
    out, left = np.full((height, width, shown.shape[-1]), 255, np.uint8), 0
    for plane in middles:
        out[: len(plane), left : left + plane.shape[1]] = plane
        left += plane.shape[1] + gap
    return out


def through(volume: Num[np.ndarray, "D H W C"], axis: int = 0, frames: int = 0) -> UInt8[np.ndarray, "n h w K"]:
    """The slices along ``axis`` as pictures, for :func:`nca_gen.io.images.animation`; at most ``frames``, if any."""
    shown = np.moveaxis(images.picture(np.asarray(volume)), axis, 0)
    n = min(len(shown), frames or len(shown))
    return shown[(2 * np.arange(n) + 1) * len(shown) // (2 * n)]
