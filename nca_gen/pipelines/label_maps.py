"""Label maps of volumes, as networks of latents are told them: of each place the share that every class has of it.

A map is a volume of classes on the grid of the voxels, of which a few slices are read at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Integer, UInt8

from nca_gen.errors import UserError
from nca_gen.io import images, volumes, walk
from nca_gen.io.images import Unreadable
from nca_gen.io.stored import Stored


def opened(path: str, n: int, size: Sequence[int]) -> list[Stored]:
    """The maps of ``n`` volumes of ``size`` voxels: that in the file ``path``, or those of the folder in turn.

    Raises UserError where there is none, and for one of another size.
    """
    root = Path(path).expanduser()
    names = volumes.gathered(root, walk.below(root, volumes.SUFFIXES)) if root.is_dir() else [""]
    if not names:
        raise UserError(f"config.generate.label_maps={path}: there are no volumes in this folder")
    found: list[Stored] = []
    for name in names[:n]:
        try:
            found.append(volumes.stored(root / name))
        except (Unreadable, OSError) as e:
            raise UserError(f"config.generate.label_maps={path}: {e}") from e
        if tuple(found[-1].shape[:3]) != tuple(size):
            sides = "x".join(map(str, found[-1].shape[:3]))
            raise UserError(f"the label map {root / name} is of {sides} voxels: make config.sample.size that")
    return [found[i % len(found)] for i in range(n)]


def reduced(labels: Integer[np.ndarray, "*T 1"], each: Sequence[int], classes: int) -> UInt8[np.ndarray, "*S K"]:
    """Of 255, how much of every block of ``each`` places the ``classes`` have."""
    masks = (np.where(labels == k, np.uint8(255), np.uint8(0)) for k in range(classes))
    return np.concatenate([images.reduce(mask, each) for mask in masks], -1)


def shares(labels: Stored, first: int, stop: int, each: Sequence[int], classes: int) -> Float32[np.ndarray, "d h w K"]:
    """Of the slices ``first`` to ``stop`` how much of every block of ``each`` voxels the classes have.

    In steps of 1/255, as they were encoded for training. Raises UserError for a class that there is not.
    """
    some = np.asarray(labels[first:stop, :, :])[..., 0]
    if some.min() < 0 or some.max() >= classes:
        raise UserError(f"a label map has classes from {some.min()} to {some.max()}, and networks learned {classes}")
    return reduced(some[..., None], each, classes) / np.float32(255)


def shares_of_all(labels: Stored, factor: int, classes: int) -> Float32[np.ndarray, "d h w K"]:
    """The same of cubes of ``factor`` voxels a side, of all slices."""
    slabs = range(0, labels.shape[0], factor)
    return np.concatenate([shares(labels, d, d + factor, (factor,) * 3, classes) for d in slabs])
