"""Which devices do a piece of work, and how its arrays lie on them: axes (data, space), one rule for all.

Samples are dealt over ``data`` and the rows of an image over ``space``, each over the most devices that divide them.
The state of training lies whole on every device, or, where it is large, cut over all of them (:func:`laid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

AXES = ("data", "space")
SMALL = 2**12  # numbers of an array that is not worth cutting
LARGE = 4 * 10**9  # bytes of a state that is, where nothing else is said: 250 M parameters, moments and average


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


def cut(grid: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """One array of a state over all devices: along its largest axis that they divide.

    It is whole on each where it is small, or has no such axis.
    """
    axes = [axis for axis, side in enumerate(shape) if side % grid.size == 0]
    if prod(shape) < SMALL or not axes:
        return replicated(grid)
    largest = max(axes, key=shape.__getitem__)
    return NamedSharding(grid, P(*[None] * largest, AXES))


def laid(state: PyTree, grid: Mesh, shard: str = "never") -> PyTree:
    """The shapes of ``state`` as its arrays lie on ``grid``: what is compiled for, and what a checkpoint becomes.

    ``shard``: "always" each array is :func:`cut`, "never" all are whole on every device, "auto" cut from
    :data:`LARGE` bytes on. XLA then gathers the parameters of a layer when it needs them (Rajbhandari et al. 2020,
    arXiv 1910.02054, stage 3; FSDP).
    """
    apart = shard == "always" or (shard == "auto" and size(state) >= LARGE)
    lay = lambda x: cut(grid, x.shape) if apart else replicated(grid)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lay(x)), state)


def shardings(tree: PyTree) -> PyTree:
    """How the arrays of ``tree`` lie."""
    return jax.tree.map(lambda x: x.sharding, tree)


def size(tree: PyTree) -> int:
    """Bytes of all arrays of ``tree``, or of what their shapes stand for."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def share(tree: PyTree) -> int:
    """Bytes of ``tree`` on each device that it lies on."""
    return sum(prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def gathered(tree: Any) -> PyTree:
    """``tree`` as whole arrays of numpy, on every host."""
    if all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
