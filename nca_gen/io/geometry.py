"""Where the voxels of a volume lie in the body.

NIfTI says it by an affine, in millimetres to the right, to the front and to the head (RAS); DICOM by the place of the
first pixel of every slice and the directions of rows and columns, in millimetres to the left, to the back and to the
head (LPS). Both are one :class:`Geometry`, which is exact where a volume lies obliquely: its axes then go by the
nearest axes of the body, and its affine stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from nca_gen.io import space

Affine = Float[np.ndarray, "4 4"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from RAS, and back
LOOSE = 1e-4  # cosine of two axes that still count as at right angles


@dataclass(frozen=True)
class Geometry:
    """Where a volume ``[D, H, W]`` lies: voxel (d, h, w) is ``affine @ (w, h, d, 1)`` millimetres to the right, to the
    front and to the head.

    ``rows``: the three rows of the affine above its last, which is 0, 0, 0, 1. Raises ValueError for numbers that are
    not finite, and for voxels without extent.
    """

    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not np.isfinite(self.affine).all() or not abs(np.linalg.det(self.affine)) > 0:
            raise ValueError(f"no three axes: an affine of {self.rows}")

    @classmethod
    def of(cls, affine: Num[np.ndarray, "4 4"]) -> Geometry:
        """Of an affine of (w, h, d, 1) as NIfTI has it, in millimetres."""
        return cls(tuple(tuple(map(float, row)) for row in affine[:3]))

    @classmethod
    def of_sizes(cls, mpp: Sequence[int | float]) -> Geometry:
        """Of voxels of ``mpp`` micrometres (D, H, W), the first at the origin: D to the head, H to the front, W to the
        right."""
        return cls.of(np.diag([*(size / 1000 for size in mpp[::-1]), 1.0]))

    @property
    def affine(self) -> Affine:
        """From (w, h, d, 1) to millimetres."""
        return np.array([*self.rows, (0, 0, 0, 1)], np.float64)

    @property
    def mpp(self) -> space.Sizes:
        """How large a voxel is, in micrometres along D, H and W."""
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)[::-1]
        return tuple(float(f"{1000 * side:.7g}") for side in sides)  # of float32

    @property
    def square(self) -> bool:
        """Whether rows stand at right angles to columns, as they must in a slice of DICOM."""
        across, down = self.affine[:3, :2].T
        return bool(abs(across @ down) <= LOOSE * np.linalg.norm(across) * np.linalg.norm(down))

    def flipped(self, flips: Sequence[bool], shape: Sequence[int]) -> Geometry:
        """Of the same volume whose axes D, H and W run the other way where ``flips`` says so; it has ``shape``."""
        turn = np.eye(4)
        for column, (flip, n) in enumerate(zip(flips[::-1], shape[2::-1], strict=True)):
            if flip:
                turn[column, column], turn[column, 3] = -1, n - 1
        return Geometry.of(self.affine @ turn)


def turned(affine: Num[np.ndarray, "4 4"], shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[bool, ...], Geometry]:
    """How a stored volume becomes ``[D, H, W]``: its axes that go to the head, to the front and to the right, which of
    them run back, and the geometry of what comes of it.

    ``affine``: from an index of ``shape``, in the order of its axes, to RAS millimetres. Raises ValueError as
    :class:`Geometry` does.
    """
    import nibabel

    turns = nibabel.io_orientation(affine)  # by stored axis: right, front or head, and which way
    if np.isnan(turns).any():
        raise ValueError("no three axes")
    axes = tuple(int(np.flatnonzero(turns[:, 0] == world)[0]) for world in (2, 1, 0))
    flips = tuple(bool(turns[axis, 1] < 0) for axis in axes)
    ordered = Geometry.of(affine[:, [*axes[::-1], 3]])
    return axes, flips, ordered.flipped(flips, [shape[axis] for axis in axes])
