"""The batches of a run, on its mesh."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nca_gen import devices
from nca_gen.data import pipeline
from nca_gen.data.source import Source
from nca_gen.runtime import mesh


def shapes(source: Source, patch: tuple[int, ...], batch: int, grid: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of ``source`` is, on the mesh; one patch of it is read for that."""
    row = pipeline.examples(source, patch=patch, n=1, seed=0)

    def like(x: np.ndarray) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return jax.ShapeDtypeStruct((batch, *x.shape[1:]), dtype, sharding=devices.dealt(grid, x.ndim))

    return {name: like(x) for name, x in row.items()}


def batches(config: Any, source: Source, grid: Mesh, step: int, rollbacks: int) -> Iterator[dict[str, jax.Array]]:
    """The batches from ``step`` on, in another order after each rollback; every process reads its share.

    The first is read at once.
    """
    data, (process, processes) = config.data, (jax.process_index(), jax.process_count())
    read = pipeline.batches(
        source,
        patch=tuple(data.patch),
        batch=config.train.batch,
        flips=data.get("flips", "all"),
        seed=config.seed + rollbacks,
        step=step,
        process=process,
        processes=processes,
    )
    placed = (mesh.put(batch, grid) for batch in read)
    return chain([next(placed)], placed)
