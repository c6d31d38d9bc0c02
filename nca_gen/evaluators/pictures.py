"""Pictures of samples on disk, whole or not at all: grids and films; a volume is shown by its three middle planes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from nca_gen.io import images, volumes, write

FILM = 4  # pictures in a row of a film
SLICES = 32  # of a volume in a film, at the most


def flat(samples: Shaped[np.ndarray, "N *T C"]) -> Shaped[np.ndarray, "N h w C"]:
    """Images as they are; of each volume its three middle planes."""
    return np.stack([volumes.planes(volume) for volume in samples]) if samples.ndim == 5 else samples


def picture(path: Path, image: UInt8[np.ndarray, "H W C"]) -> None:
    """Writes one picture."""
    with write.whole(path) as draft:
        images.write(draft, image)


def grid(path: Path, samples: Shaped[np.ndarray, "N *T C"], columns: int | None = None) -> None:
    """Writes samples in rows of ``columns``, by default as square as it goes."""
    picture(path, images.grid(flat(samples), columns))


def film(path: Path, frames: Iterable[Shaped[np.ndarray, "N *T C"]], fps: int | float, columns: int = FILM) -> None:
    """Writes an animation of samples, in rows of ``columns``."""
    with write.whole(path) as draft:
        images.animation(draft, [images.grid(flat(frame), columns) for frame in frames], fps=fps)


def slices(path: Path, *rows: Shaped[np.ndarray, "N D H W C"]) -> None:
    """Writes a film through the slices of a few volumes of each of ``rows``."""
    few = [[volumes.through(volume, frames=SLICES) for volume in row[:FILM]] for row in rows]
    columns = min(map(len, few))
    film(path, np.stack([cut for row in few for cut in row[:columns]], 1), fps=8, columns=columns)
