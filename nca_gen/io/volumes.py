"""Volumes ``[D, H, W, C]`` in files, read one at a time when they are asked for.

``.nii`` and ``.nii.gz`` (NIfTI: D goes to the head, H to the front, W to the right, as the nearest axes of the header's
affine say, which is RAS; where it has none, D is the third axis of the file, H its second, W its first), ``.npy`` and
``.npz`` (``[D, H, W]`` or ``[D, H, W, C]``, one volume a file). Axes of length 1 beyond these are left out. DICOM, a
folder of slices or a file of many frames, and OME-Zarr are turned to the body likewise. How large a voxel is (``mpp``,
micrometres along D, H and W) is as in :mod:`nca_gen.io.space`, where it lies as in :mod:`nca_gen.io.geometry`.

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
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8

from nca_gen.errors import UserError
from nca_gen.io import dicom, dicom_save, huge, images, ngff, nifti, npy, space, walk
from nca_gen.io import write as files
from nca_gen.io.geometry import Geometry
from nca_gen.io.nifti import CHANNELS
from nca_gen.io.stored import Found, Stored, Volume, runs

SUFFIXES = (*nifti.SUFFIXES, *npy.SUFFIXES, *dicom.SUFFIXES, ngff.SUFFIX)
SCANS = walk.IMAGES  # of the slices of a volume
SERIES = ".dicom"  # a folder of slices that this package writes
FROM_ZERO = "float volumes of [0, 1] or so are taken as [-1, 1], grey to white: store 2v - 1 if 0 is black"


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

    def some(self, at: Sequence[int]) -> Volumes:
        """The volumes at these places, with their notes."""
        shapes, names = tuple(self.shapes[i] for i in at), tuple(self.names[i] for i in at)
        mpp, name = tuple(self.mpp[i] for i in at) if self.mpp else (), f"{self.digest} {[*at]}"
        return Volumes(lambda i: self.read(at[i]), shapes, name, names, self.notes, mpp)

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
    """The volume in a file or a folder of slices, in the type in which it is stored (rescaled, where the file says so).

    Raises ``Unreadable``.
    """
    return np.asanyarray(stored(path)[WHOLE])


def stored(path: str | Path) -> Stored:
    """The volume at ``path``, of which parts can be read: numpy files are mapped, the others are read by part.

    ``.nii.gz`` and packed ``.npz`` are unpacked here, whole. Raises ``Unreadable``.
    """
    volume = _opened(Path(path))
    if len(volume.shape) == 3:
        volume = volume[..., None]
    if volume.dtype == bool:
        volume = volume.view(np.uint8)
    if len(volume.shape) != 4 or 0 in volume.shape or volume.dtype.kind not in "uif":
        raise images.Unreadable(path, f"{volume.dtype} of shape {volume.shape} is no volume: it needs [D, H, W(, C)]")
    return volume


def _opened(path: Path) -> Any:
    """What holds the volume at ``path``."""
    if path.name.lower().endswith(npy.SUFFIXES):
        return _array(path)
    if path.name.lower().endswith(nifti.SUFFIXES):
        return nifti.stored(path)
    if open_volume := _opener(path):
        return open_volume(path).volume
    paths = tuple(Path(path, name) for name in walk.below(path, SCANS) if "/" not in name)
    if not paths:
        raise images.Unreadable(path, "there are no slices in this folder")
    return Scans(paths)


def _opener(path: Path) -> Callable[[Path], Found] | None:
    """How a volume is opened that states where it lies, as OME-Zarr and DICOM do; None for a folder of pictures."""
    if path.name.lower().endswith(ngff.SUFFIX):
        return ngff.open_volume
    return dicom.open_volume if dicom.is_series(path) or not path.is_dir() else None


def geometry(path: str | Path) -> Geometry | None:
    """Where the volume at ``path`` lies and how large its voxels are; None where it does not say.

    Raises ``Unreadable``.
    """
    path = Path(path)
    if path.name.lower().endswith(npy.SUFFIXES):
        return None
    if path.name.lower().endswith(nifti.SUFFIXES):
        return nifti.geometry(path)
    open_volume = _opener(path)
    return open_volume(path).geometry if open_volume else None


def microns(path: str | Path) -> space.Sizes:
    """How large a voxel of the volume at ``path`` is; () where it does not say. Raises ``Unreadable``."""
    there = geometry(path)
    return there.mpp if there else ()


def gathered(root: Path, names: Sequence[str]) -> list[str]:
    """``names`` below ``root`` in which slices of DICOM are the folder that holds them: "." is ``root`` itself.

    Where the first file of a folder has many frames, each file there is a volume by itself.
    """
    slices: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(dicom.SUFFIXES):
            slices.setdefault(Path(name).parent.as_posix(), []).append(name)
    found = [name for name in names if not name.lower().endswith(dicom.SUFFIXES)]
    for folder, some in slices.items():
        found += some if dicom.is_whole(root / some[0]) else [folder]
    return sorted(found, key=images.natural)


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


def look(path: str | Path) -> Look:
    """Reads a volume once. Raises ``Unreadable``, also for voxels that are no finite numbers."""
    volume = read(path)
    low, high = float(volume.min()), float(volume.max())
    if not np.isfinite([low, high]).all():
        raise images.Unreadable(path, "it holds NaN or infinite voxels")
    try:
        if Path(path).is_dir():
            sha256 = walk.content(Path(path))
        else:
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


def write(
    path: str | Path,
    volume: Shaped[np.ndarray, "D H W *C"],
    mpp: Sequence[int | float] = (),
    modality: str = "",
) -> None:
    """:func:`save` of an array whose voxels are of ``mpp`` micrometres, and lie D to the head, H to the front and W to
    the right."""
    whole: Any = volume if volume.ndim == 4 or str(path).lower().endswith(".npy") else volume[..., None]
    save(path, whole, Geometry.of_sizes(mpp) if len(mpp) else None, modality)


def save(path: str | Path, volume: Stored, geometry: Geometry | None = None, modality: str = "") -> None:
    """Writes a volume by the suffix of ``path``, a few slices at a time, such that :func:`read` gives its values back.

    ``.nii``, ``.nii.gz``: NIfTI; ``.npy``; ``.zarr``: OME-Zarr 0.5 (both may be another name: x.ome.zarr); ``.dcm``:
    one DICOM file of OCT (Enhanced multi-frame OPT); ``.dicom``, which may be called x.ct.dicom: a folder of the DICOM
    slices of ``modality``, CT or MR. ``geometry``: where it lies, None where nobody knows (a DICOM file must say at
    least how large a voxel is). The same input gives the same bytes. What NIfTI has no type for (bool, float16) is held
    by the next larger one. Whole or not at all. Raises ValueError for another suffix, and for what is no number;
    UserError for what DICOM cannot say.
    """
    name = Path(path).name
    low = name.lower()
    if volume.dtype.kind not in "buif":
        raise ValueError(f"{name} cannot hold {volume.dtype}: give integers or floats")
    if low.endswith(nifti.SUFFIXES):
        with files.whole(path) as draft:
            nifti.save(draft, volume, geometry, low.endswith(".gz"))
    elif low.endswith(".npy"):
        if geometry:
            raise ValueError(f"{name} cannot say where a volume lies: write .nii.gz, or give no geometry")
        with files.whole(path) as draft:
            npy.save(draft, volume.shape, nifti.HELD.get(volume.dtype.name, volume.dtype), runs(volume))
    elif low.endswith(ngff.SUFFIX):
        with files.folder(path) as draft, huge.refusals(path):
            ngff.save(draft, volume, geometry, name[: -len(ngff.SUFFIX)].removesuffix(".ome"))
    elif low.endswith(".dcm"):
        with files.whole(path) as draft:
            dicom_save.save(draft, volume, geometry, "OPT", name[: -len(".dcm")])
    elif low.endswith(SERIES) and modality in ("CT", "MR"):
        with files.folder(path) as draft:
            stem = name[: -len(SERIES)].removesuffix(f".{modality.lower()}")
            dicom_save.save(draft, volume, geometry, modality, stem)
    else:
        more = " (of CT or MR)" if low.endswith(SERIES) else ""
        raise ValueError(f"{name}: volumes are written as .nii, .nii.gz, .npy, .zarr, .dcm or .dicom{more}")


def planes(volume: Stored, gap: int = 2) -> UInt8[np.ndarray, "h w K"]:
    """The three middle planes side by side, as a picture: across D (``H x W``), across H (``D x W``), across W
    (``D x H``); white below those that are less high."""
    boxes = [[slice(None)] * axis + [slice(n // 2, n // 2 + 1)] for axis, n in enumerate(volume.shape[:3])]
    parts = [volume[(*box, *WHOLE[len(box) :])] for box in boxes]
    middles = [images.picture(part.squeeze(axis)) for axis, part in enumerate(map(np.asarray, parts))]
    height, width = max(len(plane) for plane in middles), sum(plane.shape[1] + gap for plane in middles) - gap
    out, left = np.full((height, width, middles[0].shape[-1]), 255, np.uint8), 0
    for plane in middles:
        out[: len(plane), left : left + plane.shape[1]] = plane
        left += plane.shape[1] + gap
    return out


def through(volume: Num[np.ndarray, "D H W C"], axis: int = 0, frames: int = 0) -> UInt8[np.ndarray, "n h w K"]:
    """The slices along ``axis`` as pictures, for :func:`nca_gen.io.images.animation`; at most ``frames``, if any."""
    shown = np.moveaxis(images.picture(np.asarray(volume)), axis, 0)
    n = min(len(shown), frames or len(shown))
    return shown[(2 * np.arange(n) + 1) * len(shown) // (2 * n)]
