"""Volumes ``[D, H, W, C]`` in files, read one at a time when they are asked for.

``.nii`` and ``.nii.gz`` (NIfTI: D is the third axis of the file, H its second, W its first; voxels come in the order
in which they are stored, whatever the orientation in the header says), ``.npy`` and ``.npz`` (``[D, H, W]`` or
``[D, H, W, C]``, one volume a file).

Grey levels are told by what the whole set holds. Volumes that are all uint8 go by their depth (``v/128 - 1``), float
volumes that all lie within [-1, 1] are taken as they are; of any other set each volume is stretched from its least to
its greatest value, to what uint8 would hold from 0 to 255, and a note says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from nca_gen.errors import UserError
from nca_gen.io import images, npy

SUFFIXES = (".nii", ".nii.gz", *npy.SUFFIXES)
Volume = Num[np.ndarray, "D H W C"]


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

    def __len__(self) -> int:
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
        at = np.arange(len(self))[index]
        return np.stack([self.read(int(i)) for i in at]) if np.ndim(at) else self.read(int(at))


class Look(NamedTuple):
    """What is to be known of a volume before it is used."""

    shape: tuple[int, ...]
    dtype: np.dtype
    low: float
    high: float
    sha256: bytes


def read(path: str | Path) -> Volume:
    """The volume in a file, in the type in which it is stored (NIfTI's scaling applied). Raises ``Unreadable``."""
    volume = npy.mapped(path) if Path(path).suffix in npy.SUFFIXES else _nifti(path)
    if volume.ndim not in (3, 4) or not volume.size or volume.dtype.kind not in "uif":
        raise images.Unreadable(path, f"{volume.dtype} of shape {volume.shape} is no volume: it needs [D, H, W(, C)]")
    return volume if volume.ndim == 4 else volume[..., None]


def _nifti(path: str | Path) -> np.ndarray:
    import nibabel

    try:
        stored = np.asanyarray(nibabel.load(path, mmap=False).dataobj)
    except Exception as error:  # nibabel, gzip and zlib each raise what they like on damaged bytes
        raise images.Unreadable(path, str(error).lower() or type(error).__name__) from None
    return np.moveaxis(stored, (0, 1, 2), (2, 1, 0)) if stored.ndim >= 3 else stored


def look(path: str | Path) -> Look:
    """Reads a volume once. Raises ``Unreadable``, also for voxels that are no finite numbers."""
    volume = read(path)
    low, high = float(volume.min()), float(volume.max())
    if not np.isfinite([low, high]).all():
        raise images.Unreadable(path, "it holds NaN or infinite voxels")
    try:
        with open(path, "rb") as file:
            return Look(volume.shape, volume.dtype, low, high, hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise images.Unreadable(path, (error.strerror or str(error)).lower()) from None


def of(names: Sequence[str], load: Callable[[int], Volume], looks: Sequence[Look], notes: Sequence[str]) -> Volumes:
    """The set of the volumes that ``load`` reads. Raises UserError for volumes of different channels."""
    first = looks[0]
    for name, found in zip(names, looks, strict=True):
        if found.shape[-1] != first.shape[-1]:
            channels = f"{names[0]} has {first.shape[-1]} channels, {name} has {found.shape[-1]}"
            raise UserError(f"volumes of different kinds: {channels}; keep one kind a folder")
    depth = all(x.dtype == np.uint8 for x in looks)
    plain = all(x.dtype.kind == "f" and x.low >= -1 and x.high <= 1 for x in looks)

    def read_one(i: int) -> Float[np.ndarray, "D H W C"]:
        volume = load(i)
        if depth:
            return images.to_float(volume)
        return volume.astype(np.float32) if plain else _stretched(volume, looks[i].low, looks[i].high)

    notes = list(notes)
    if plain and min(x.low for x in looks) >= 0:
        notes.append("float volumes of [0, 1] or so are taken as [-1, 1], grey to white: store 2v - 1 if 0 is black")
    if not (depth or plain):
        notes.append("each volume is stretched from its least to its greatest value (they are not all uint8)")
    key = hashlib.sha256(b"".join(x.sha256 for x in looks)).hexdigest()
    return Volumes(read_one, tuple(x.shape for x in looks), key, tuple(names), tuple(notes))


def _stretched(volume: Volume, low: float, high: float) -> Float[np.ndarray, "D H W C"]:
    """``low`` to -1 and ``high`` to 127/128, as 0 and 255 of uint8; a flat volume is -1."""
    x = np.subtract(volume, low, dtype=np.float32)
    x *= np.float32(255 / 128 / (high - low) if high > low else 0)
    x -= np.float32(1)
    return x


def write(path: str | Path, volume: Num[np.ndarray, "D H W *C"]) -> None:
    """Writes NIfTI (unit voxels) or ``.npy``, by the suffix, such that :func:`read` gives ``volume`` back."""
    if Path(path).suffix == ".npy":
        return np.save(path, volume)
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.moveaxis(volume, (2, 1, 0), (0, 1, 2)), np.eye(4)), path)
    return None
