"""Samples as files: an image is a PNG (or TIFF, where PNG cannot hold it), a volume NIfTI, DICOM or OME-Zarr with a
picture beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from annotated_types import MaxLen
from jaxtyping import Float, PyTree

from nca_gen import arrays, hosts, screen
from nca_gen.contracts import Condition, Pipeline
from nca_gen.data.source import Splits
from nca_gen.errors import UserError
from nca_gen.io import images, space, volumes
from nca_gen.io import write as disk
from nca_gen.io.geometry import Geometry
from nca_gen.io.stored import Stored
from nca_gen.ranges import OneOf, Positive

FORMATS = {  # of volumes
    "nifti": ".nii.gz",
    "opt": ".dcm",
    "ct": ".ct.dicom",
    "mr": ".mr.dicom",
    "zarr": ".ome.zarr",
}
DICOM = ("opt", "ct", "mr")
SHOWN = 64  # samples in a grid, at the most
Depth = Annotated[str, OneOf(("", "uint8", "uint16", "float32"))]
Microns = Annotated[tuple[Positive, ...], MaxLen(3)]
Format = Annotated[str, OneOf(FORMATS)]


def kind(axes: int) -> str:
    """What samples of so many spatial axes are: "images" or "volumes"."""
    return "images" if axes == 2 else "volumes"


def write(
    stem: Path,
    sample: Float[np.ndarray, "*T C"],
    dtype: Any = np.uint8,
    mpp: Sequence[int | float] = (),
    form: str = "nifti",
) -> Path:
    """``sample`` in [-1, 1] as a file that begins with ``stem``, in values of ``dtype`` ("" is uint8); whole or not at
    all.

    A volume is of ``form``, one of ``FORMATS``, of uint8 or float32 (all other types mean a stretch of their own; in
    DICOM uint16, as it has no floats), and ``stem``.png its three middle planes. ``mpp``: how large a pixel is, in
    micrometres, for all axes or for each.
    """
    dtype, sizes = np.dtype(dtype or np.uint8), sides(mpp, sample.ndim - 1)
    if sample.ndim == 4:
        voxels: Any = images.from_float(np.clip(sample, -1, 1), depth(dtype, form))
        return volume(stem, voxels, sizes, form)
    stored = images.from_float(np.clip(sample, -1, 1) if dtype.kind == "f" else sample, dtype)
    return image(stem.with_name(f"{stem.name}{suffix(dtype, stored.shape[-1])}"), stored, sizes)


def depth(dtype: Any, form: str) -> np.dtype:
    """Of the voxels of a volume that is to have ``dtype``, in a file of ``form``; see :func:`write`."""
    deep = np.uint16 if form in DICOM else np.float32
    return np.dtype(np.uint8 if np.dtype(dtype or np.uint8) == np.uint8 else deep)


def volume(stem: Path, stored: Stored, sizes: space.Sizes, form: str) -> Path:
    """Writes a volume as it is stored, a few slices at a time, and a picture of its middle planes; whole or not at
    all."""
    image(stem.with_name(f"{stem.name}.png"), volumes.planes(stored))
    path = stem.with_name(f"{stem.name}{FORMATS[form]}")
    volumes.save(path, stored, Geometry.of_sizes(sizes) if sizes else None, form.upper())
    return path


def image(path: Path, stored: np.ndarray, mpp: Sequence[int | float] = ()) -> Path:
    """Writes an image as it is stored, whole or not at all; returns ``path``."""
    with disk.whole(path) as draft:
        images.write(draft, stored, mpp)
    return path


def identity(what: str, params: PyTree, cond: Condition = None) -> str:
    """Names all that pixels depend on, in 10 hexadecimal digits: ``what`` they are, in words, and all numbers."""
    digest = hashlib.sha256(what.encode())
    for path, leaf in jax.tree.leaves_with_path((params, cond)):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:10]


def suffix(dtype: Any, channels: int) -> str:
    """Of the file of an image: PNG, or TIFF where PNG cannot hold it."""
    return ".png" if np.dtype(dtype) != np.float32 and channels in (1, 3) else ".tif"


def endings(kind: str, form: str = "nifti", mpp: Sequence[int | float] = ()) -> tuple[str, ...]:
    """Of the files that hold samples. Raises UserError for DICOM whose voxels are of no known size, ``mpp``."""
    if kind == "images":
        return (".png", ".tif")
    if form in DICOM and not mpp:
        raise UserError(
            f"config.generate.volume_format={form}: DICOM states how large a voxel is; set config.generate.mpp"
        )
    return (FORMATS[form],)


def sides(mpp: Sequence[int | float], axes: int) -> space.Sizes:
    """How large a pixel of so many axes is, from one number for all or one for each. Raises UserError for others."""
    if len(mpp) not in (0, 1, axes):
        raise UserError(f"config.generate.mpp={tuple(mpp)} has {len(mpp)} numbers: give one, or {axes}, one an axis")
    return tuple(map(float, mpp)) * (axes if len(mpp) == 1 else 1)


def learned(config: Any, splits: Splits) -> Any:
    """``config`` whose ``generate`` says in which type and at which size of a pixel the training images come, or those
    that the latents were encoded from, where it leaves that open."""
    fields = config.get("generate", {})
    unsaid = [field for field in ("dtype", "mpp") if field in fields and not fields[field]]
    if not unsaid:
        return config
    source = splits["train"]
    example = source.head(0) if splits.origin else source.read(0, [(0, 1)] * source.ndim)
    dtype = example.get("dtype", "") if splits.origin else str(example["image"].dtype)
    known = {"dtype": dtype, "mpp": tuple(example.get("mpp", ()))}
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.generate.update({field: known[field] for field in unsaid})
    return config


def missing(folder: Path, n: int, batch: int, ends: tuple[str, ...]) -> list[range]:
    """The batches of samples ``0 .. n - 1`` that this process makes, and of which ``folder`` lacks some: files with one
    of the :func:`endings`.

    Of several processes each has something to do, so batches may be smaller than ``batch``.
    """
    stems = {path.name.partition(".")[0] for path in folder.iterdir() if path.name.endswith(ends)}
    batch = min(batch, -(-n // jax.process_count()))
    batches = hosts.dealt([range(first, min(first + batch, n)) for first in range(0, n, batch)])
    return [some for some in batches if not all(f"{i:05d}" in stems for i in some)]


def drawn(
    pipeline: Pipeline, seed: int, n: int, size: tuple[int, ...], cond: Condition, what: str
) -> Float[np.ndarray, "n *T C"]:
    """``n`` samples of ``pipeline`` from ``seed``, of which every process draws its share, on all of them.

    ``what``: is done, in words.
    """
    key, left = arrays.keys(seed, n), hosts.dealt(range(n))

    def make(some: slice) -> Iterator[np.ndarray]:
        samples = pipeline.draw(key[some], size, jax.tree.map(lambda field: field[some], cond))
        return screen.track(samples, what, len(left), "images", quiet=not hosts.first())

    return hosts.together(make, n)


def beside(folder: Path, n: int, rows: int, kind: str) -> list[str]:
    """Writes the grid of the ``n`` samples in ``folder`` beside it, once all processes have made theirs; returns what
    to say.

    ``rows`` > 1: sample i is in row i mod ``rows``.
    """
    hosts.meet()
    grid, noun = folder.with_name(f"{folder.name}.png"), "pictures" if kind == "images" else "volumes"
    if not hosts.first():
        return []
    columns = min(n, SHOWN) // rows if rows > 1 else 0
    shown = [row + rows * i for row in range(rows) for i in range(columns)] or range(min(n, SHOWN))
    ending = ".tif" if (folder / f"{0:05d}.tif").is_file() else ".png"
    pictures = np.stack([images.read(folder / f"{i:05d}{ending}") for i in shown])
    image(grid, images.grid(pictures, columns or None))
    return [f"{n} {noun} are in {folder}, a grid of them in {grid}"]
