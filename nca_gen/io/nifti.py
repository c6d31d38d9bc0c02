"""Volumes in NIfTI files: axes, units and scaling as the header says; written slice by slice."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen.io import colour, images
from nca_gen.io.geometry import Geometry, turned
from nca_gen.io.stored import Stored, Turned, Volume, runs

SUFFIXES = (".nii", ".nii.gz")
CHANNELS = 16  # of a volume, at the most
HELD = {"bool": np.uint8, "float16": np.float32}  # types that NIfTI has not, and those that hold their values
MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}  # the last by custom
SIDE = 2**15 - 1  # the longest axis that version 1 can count


@dataclass(frozen=True)
class Raw:
    """A NIfTI file as it lies, its scaling applied to what is read. ``rest``: of the axes beyond the third, the
    channels or nothing."""

    proxy: Any
    rest: tuple[slice | int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Three axes of the file, and C."""
        return (*self.proxy.shape[:3], self.corner.shape[-1])

    @property
    def dtype(self) -> np.dtype:
        """The type in which parts come."""
        return self.corner.dtype

    @cached_property
    def corner(self) -> Volume:
        """The last voxel of the file: one that is cut short is known here."""
        return self[tuple(slice(n - 1, n) for n in self.proxy.shape[:3])]

    def __getitem__(self, box: Any) -> Volume:
        """The part in three slices."""
        voxels = np.asanyarray(self.proxy[(*box, *self.rest)])
        voxels = colour.of_fields(voxels) if voxels.dtype.names else voxels
        return voxels if voxels.ndim == 4 else voxels[..., None]


def stored(path: str | Path) -> Any:
    """The volume in a file; ``.nii.gz`` is unpacked here, whole. Raises Unreadable."""
    file = _loaded(path)
    rest = tuple(0 if n == 1 else slice(None) for n in file.shape[3:])
    channels = rest.count(slice(None)) + bool(file.get_data_dtype().names)
    if len(file.shape) < 3 or 0 in file.shape or channels > 1 or max(file.shape[3:], default=1) > CHANNELS:
        raise images.Unreadable(
            path, f"axes of {file.shape} are no volume: it needs three, and at most {CHANNELS} channels"
        )
    axes, flips, _ = _turns(file)
    try:
        if str(path).lower().endswith(".gz"):
            return Turned(Raw(np.asanyarray(file.dataobj), rest), axes, flips)[(slice(None),) * 3]
        raw = Raw(file.dataobj, rest)
        _ = raw.corner
        return Turned(raw, axes, flips)
    except Exception as error:  # as in _loaded
        raise images.Unreadable(path, str(error).lower() or type(error).__name__) from None


def geometry(path: str | Path) -> Geometry | None:
    """Where the volume in a file lies, None where it does not say. Raises Unreadable."""
    return _turns(_loaded(path))[2]


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


def _turns(file: Any) -> tuple[tuple[int, ...], tuple[bool, ...], Geometry | None]:
    """The axes of a file that go to the head, to the front and to the right, which of them run back, and where the
    volume lies. Where no code says that its affine means something, the axes are as stored and ``pixdim`` gives their
    lengths. A unit that is not named is the millimetre, unless voxels are of side 1 and the first is at the origin: so
    is written what nobody knows."""
    header, affine = file.header, np.asarray(file.affine, np.float64)
    unit, sides = header.get_xyzt_units()[0], np.abs(np.asarray(header.get_zooms()[:3], np.float64))
    scale = MILLIMETRES.get(unit, 1.0)
    if int(header.get("sform_code", 0)) or int(header.get("qform_code", 0)):
        try:
            axes, flips, there = turned(np.diag([scale, scale, scale, 1.0]) @ affine, file.shape)
        except (ValueError, np.linalg.LinAlgError):
            pass  # an affine of zeros, as some tools leave it
        else:
            unsaid = unit == "unknown" and set(there.mpp) == {1000.0} and not affine[:3, 3].any()
            return axes, flips, None if unsaid else there
    if len(sides) < 3 or not min(sides) > 0 or (unit == "unknown" and set(sides) == {1.0}):
        return (2, 1, 0), (False,) * 3, None
    return (2, 1, 0), (False,) * 3, Geometry.of_sizes([float(f"{1000 * scale * side:.7g}") for side in sides[::-1]])


def save(path: Path, volume: Stored, geometry: Geometry | None, packed: bool) -> None:
    """Writes ``volume`` to ``path`` a few slices at a time, ``packed`` with gzip: the same bytes for the same volume.

    It lies as RAS; where ``geometry`` is None, with voxels of side 1 of no unit. Raises ValueError for what NIfTI
    cannot hold.
    """
    import nibabel

    depth, height, width, channels = volume.shape
    dtype = np.dtype(HELD.get(volume.dtype.name, volume.dtype)).newbyteorder("<")
    header = (nibabel.Nifti1Header if max(volume.shape) <= SIDE else nibabel.Nifti2Header)(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape((width, height, depth, *([channels] if channels > 1 else [])))
    affine = geometry.affine if geometry else np.eye(4)
    header.set_qform(affine, 0)
    header.set_sform(affine, 2)
    header.set_xyzt_units("mm" if geometry else None)
    header.set_slope_inter(1, 0)
    header.set_data_offset(header.single_vox_offset)
    head = header.binaryblock
    with open(path, "wb") as plain:
        out: Any = gzip.GzipFile("", "wb", 1, plain, mtime=0) if packed else plain
        out.write(head + bytes(header.single_vox_offset - len(head)))
        for channel in range(channels):  # the slowest axis of a file
            for some in runs(volume):
                out.write(np.ascontiguousarray(some[..., channel], dtype).data)
        if packed:
            out.close()
