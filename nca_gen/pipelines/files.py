"""Samples as files: an image is a PNG (or TIFF, where PNG cannot hold it), a volume NIfTI with a picture beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nca_gen.io import images, volumes
from nca_gen.io import write as disk

SUFFIXES = {"images": (".png", ".tif"), "volumes": (".nii.gz",)}
SHOWN = 64  # samples in a grid, at the most


def kind(axes: int) -> str:
    """What samples of so many spatial axes are: "images" or "volumes"."""
    return "images" if axes == 2 else "volumes"


def write(stem: Path, sample: Float[np.ndarray, "*T C"], dtype: Any = np.uint8) -> Path:
    """``sample`` in [-1, 1] as a file that begins with ``stem``, in values of ``dtype``; whole or not at all.

    A volume is ``stem``.nii.gz, and ``stem``.png its three middle planes.
    """
    stored = images.from_float(sample, dtype)
    if sample.ndim == 4:
        image(stem.with_name(f"{stem.name}.png"), volumes.planes(stored))
        path = stem.with_name(f"{stem.name}.nii.gz")
        with disk.whole(path) as draft:
            volumes.write(draft, stored)
        return path
    suffix = ".png" if stored.dtype != np.float32 and stored.shape[-1] in (1, 3) else ".tif"
    return image(stem.with_name(f"{stem.name}{suffix}"), stored)


def image(path: Path, stored: np.ndarray) -> Path:
    """Writes an image as it is stored, whole or not at all; returns ``path``."""
    with disk.whole(path) as draft:
        images.write(draft, stored)
    return path


def missing(folder: Path, n: int, batch: int, kind: str) -> list[range]:
    """The batches of samples ``0 .. n - 1`` of which ``folder`` lacks some."""
    stems = {path.name.partition(".")[0] for path in folder.iterdir() if path.name.endswith(SUFFIXES[kind])}
    batches = [range(first, min(first + batch, n)) for first in range(0, n, batch)]
    return [some for some in batches if not all(f"{i:05d}" in stems for i in some)]


def beside(folder: Path, n: int, rows: int, kind: str) -> list[str]:
    """Writes the grid of the ``n`` samples in ``folder`` beside it; returns what to say.

    ``rows`` > 1: sample i is in row i mod ``rows``.
    """
    columns = min(n, SHOWN) // rows if rows > 1 else 0
    shown = [row + rows * i for row in range(rows) for i in range(columns)] or range(min(n, SHOWN))
    suffix = ".tif" if (folder / f"{0:05d}.tif").is_file() else ".png"
    pictures = np.stack([images.read(folder / f"{i:05d}{suffix}") for i in shown])
    grid = folder.with_name(f"{folder.name}.png")
    image(grid, images.grid(pictures, columns or None))
    noun = "pictures" if kind == "images" else "volumes"
    return [f"{n} {noun} are in {folder}, a grid of them in {grid}"]
