"""Which devices do a piece of work, and how its arrays lie on them: axes (data, space), one rule for all.

Samples are dealt over ``data`` and the rows of an image over ``space``, each over the most devices that divide them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "space")


def divisor(n: int, most: int) -> int:
    """The largest divisor of ``n`` that is at most ``most``."""
    return max(d for d in range(1, most + 1) if n % d == 0)


def mesh(devices: Sequence[jax.Device], data: int, space: int = 1) -> Mesh:
    """The first ``data`` x ``space`` of ``devices``."""
    # Auto: XLA chooses the layout of what lies between; jax's default has become Explicit.
    grid = np.reshape(np.array(devices[: data * space]), (data, space))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def fitting(devices: Sequence[jax.Device], samples: int, rows: int = 1, space: int = 1) -> Mesh:
    """``rows`` cut over ``space`` of ``devices`` or fewer, and ``samples`` dealt over what that leaves or fewer.

    A prime number of rows stays on one device.
    """
    cuts = divisor(rows, min(space, len(devices)))
    return mesh(devices, divisor(samples, len(devices) // cuts), cuts)


@lru_cache
def replicated(grid: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(grid, P())


@lru_cache
def dealt(grid: Mesh, ndim: int = 1) -> NamedSharding:
    """Samples over ``data``; of images (``ndim`` >= 3: [B, H, ..., C]) also the rows over ``space``."""
    return NamedSharding(grid, P(*AXES) if ndim >= 3 else P(AXES[0]))
