"""The program of a run: compiled before the first step, in the background, while all else that it needs is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from nca_gen import devices
from nca_gen.contracts import Parts, Task
from nca_gen.errors import UserError
from nca_gen.runtime import mesh

LEVEL = "xla_backend_optimization_level"
SAID = LEVEL in os.environ.get("XLA_FLAGS", "")
ONCE: dict[str, str | bool] = {} if SAID else {LEVEL: "1"}
OFTEN: dict[str, str | bool] = {} if SAID else {LEVEL: "2"}
"""How a program is compiled that runs once, and one that runs often, where XLA_FLAGS do not say: to the same bits, in
two thirds of the time that XLA's own 3 takes, and in six sevenths, after which steps are as fast."""


class Program(NamedTuple):
    """A task's ``init`` and ``step`` on a mesh. ``state``: the shapes of its state, as they lie there."""

    state: PyTree
    key: Key[Array, ""]
    start: jax.stages.Traced
    starting: Future | None
    stepping: Future

    def init(self) -> PyTree:
        """The state before the first step."""
        return (self.starting.result() if self.starting else self.start.lower().compile(ONCE))(self.key)

    @property
    def step(self) -> Callable[..., tuple[PyTree, dict[str, Array]]]:
        """(state, batch, parts) -> the next state, and metrics; the state that it is given is used up."""
        return self.stepping.result()


def compiled(
    task: Task, key: Key[Array, ""], batch: Mapping[str, jax.ShapeDtypeStruct], parts: Parts, grid: Mesh, fresh: bool
) -> Program:
    """Begins to compile; ``fresh``: also ``init``, which a resumed run does without. ``batch``: its shapes
    (:func:`nca_gen.runtime.feed.shapes`).

    Raises UserError where ``batch`` is not for the model, and where no memory holds the state.
    """
    everywhere = devices.replicated(grid)
    start = jax.jit(partial(task.init, batch=batch), out_shardings=everywhere).trace(key)
    state = mesh.abstract(start.out_info, grid)
    need, room = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state, batch))) / 1e9, memory() / 1e9
    if need > room:
        raise UserError(
            f"the state and a batch alone take {need:.3g} GB of {room:.3g} GB of memory: make config.model smaller, or "
            "config.data.patch or config.train.batch"
        )
    pool = ThreadPoolExecutor(2)
    starting = pool.submit(start.lower().compile, ONCE) if fresh else None
    step = jax.jit(task.step, donate_argnums=0, out_shardings=everywhere).lower(state, batch, parts)
    stepping = pool.submit(step.compile, OFTEN)
    pool.shutdown(wait=False)
    return Program(state, key, start, starting, stepping)


def memory() -> int:
    """Bytes of the first device where it tells, else of the machine."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def size(tree: Any) -> int:
    """How many numbers are in ``tree``."""
    return sum(x.size for x in jax.tree.leaves(tree))
