"""The program of a run: compiled before the first step, in the background, while all else that it needs is loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from nca_gen import devices
from nca_gen.contracts import Part, Parts, Task
from nca_gen.errors import UserError
from nca_gen.runtime import draws, effort

ONCE, OFTEN = "1", "2"
"""At which level of optimisation a program is compiled that runs once, and one that runs often, where XLA_FLAGS do not
say: in two thirds of the time that XLA's own 3 takes, and in six sevenths, after which steps are as fast. Between
levels the last bits of a sum may differ."""


TASKS = 16
"""How many of them stay traced: networks of a cascade that are alike, and a run that goes on, are not traced again."""


def options(level: str) -> dict[str, str | bool]:
    """Those of a compiler that works at ``level``, where XLA_FLAGS do not say at which."""
    return {} if effort.stated() else {effort.LEVEL: level}


class Program(NamedTuple):
    """A task's ``init`` and ``step`` on a mesh, compiled in the background where they will be needed.

    ``state``: the shapes of its state, as its arrays lie there. ``parts``: those that a step reads.
    """

    state: PyTree
    key: Key[Array, ""]
    start: jax.stages.Traced
    starting: Future | None
    advance: jax.stages.Traced
    stepping: Future | None
    parts: Parts

    def init(self) -> PyTree:
        """The state before the first step."""
        return (self.starting.result() if self.starting else self.start.lower().compile(options(ONCE)))(self.key)

    @property
    def step(self) -> Callable[..., tuple[PyTree, dict[str, Array]]]:
        """(state, batch, parts) -> the next state, and metrics; the state that it is given is used up."""
        return self.stepping.result() if self.stepping else self.advance.lower().compile(options(OFTEN))


def compiled(
    task: Task,
    key: Key[Array, ""],
    batch: Mapping[str, jax.ShapeDtypeStruct],
    parts: Parts,
    grid: Mesh,
    fresh: bool,
    left: bool,
    shard: str = "auto",
    pool: ThreadPoolExecutor | None = None,
) -> Program:
    """Begins to compile ``init`` where a run is ``fresh``, and ``step`` where some are ``left``. ``batch``: its shapes
    (:func:`nca_gen.runtime.feed.shapes`). ``parts``: all that there are. ``shard``: how the state lies, see
    :func:`nca_gen.devices.laid`. ``pool``: of those who compile, two of its own where there is none.

    Raises UserError where ``batch`` is not for the model, where a part that a step reads cannot be opened, and where no
    memory holds the state.
    """
    state = devices.laid(beginning(task, *hashable(batch)).trace(key).out_info, grid, shard)
    need, room = devices.share((state, batch)) / 1e9, memory() / 1e9
    if need > room:
        raise UserError(
            f"the state and a batch alone take {need:.3g} GB of {room:.3g} GB of memory: make config.model smaller, or "
            "config.data.patch or config.train.batch, or cut the state over more devices (config.mesh.shard)"
        )
    own = pool or ThreadPoolExecutor(2)
    start = beginning(task, *hashable(batch), *hashable(devices.shardings(state))).trace(key)  # which jax remembers
    begin = lambda: own.submit(start.lower().compile, options(ONCE)) if fresh else None
    starting = None if parts else begin()
    advance, read = traced(task, state, batch, parts, grid)
    starting = begin() if parts else starting  # a missing part is told of at once, and not when a compiler is done
    stepping = own.submit(advance.lower().compile, options(OFTEN)) if left else None
    if own is not pool:
        own.shutdown(wait=False)
    return Program(state, key, start, starting, advance, stepping, read)


def traced(
    task: Task, state: PyTree, batch: Mapping[str, jax.ShapeDtypeStruct], parts: Parts, grid: Mesh
) -> tuple[jax.stages.Traced, Parts]:
    """The step of ``task`` on shapes that lie on ``grid``, to be compiled, whose state is used up; and those of
    ``parts`` that it reads, on ``grid``: it is traced anew with each that it asks for, and once where it asks for none.
    """
    lay, read, names = hashable((devices.shardings(state), devices.replicated(grid))), {}, None
    while True:
        try:
            return advancing(task, *lay, names).trace(state, batch, read), read
        except UnopenedError as e:
            names = tuple(parts)
            if e.name is not None:
                read = read | {e.name: jax.device_put(parts[e.name], devices.replicated(grid))}


Leaves = tuple[Any, ...]


def hashable(tree: PyTree) -> tuple[Leaves, Any]:
    """The leaves of ``tree``, and its form."""
    leaves, form = jax.tree.flatten(tree)
    return tuple(leaves), form


@lru_cache(TASKS)
def beginning(task: Task, batch: Leaves, fields: Any, lay: Leaves = (), form: Any = None) -> Any:
    """``task.init`` for a batch of these shapes, as a program; its results lie as ``lay`` says, where it does.

    The same one for equal tasks: jax knows programs by identity, and traces each once, wherever its results lie.
    """
    return jax.jit(started(task, batch, fields), out_shardings=jax.tree.unflatten(form, lay) if form else None)


@lru_cache(TASKS)
def started(task: Task, batch: Leaves, fields: Any) -> Callable[[Key[Array, ""]], PyTree]:
    """``task.init`` for a batch of these shapes, as a function of a key."""
    shapes = jax.tree.unflatten(fields, batch)

    def init(key: Key[Array, ""]) -> PyTree:
        return task.init(key, batch=shapes)

    return draws.together(init)


@lru_cache(TASKS)
def advancing(task: Task, lay: Leaves, form: Any, names: tuple[str, ...] | None) -> Any:
    """``task.step`` as a program of a state, a batch and the parts that it reads; the same one for equal tasks.

    ``names``: of all parts. None: to ask for any raises UnopenedError, so that a step that asks for none is the same
    whatever there are.
    """

    def step(state: PyTree, batch: Mapping[str, Array], read: Parts) -> tuple[PyTree, dict[str, Array]]:
        return task.step(state, batch, Asked(read, names))

    return jax.jit(step, donate_argnums=0, out_shardings=jax.tree.unflatten(form, lay))


class UnopenedError(Exception):
    """A step has asked for the part ``name``, which it is not given yet; None: for the names of all."""

    def __init__(self, name: str | None):
        super().__init__(f"the part {name!r} is not opened")
        self.name = name


@dataclass(frozen=True)
class Asked(Mapping):
    """The parts ``read`` as a step sees them while it is traced; of others, ``names``, it raises UnopenedError."""

    read: Parts
    names: tuple[str, ...] | None

    def __getitem__(self, name: str) -> Part:
        """The part. Raises KeyError where there is none of this name."""
        if name not in self.read and (self.names is None or name in self.names):
            raise UnopenedError(name)
        return self.read[name]

    def all(self) -> tuple[str, ...]:
        """The names of all."""
        if self.names is None:
            raise UnopenedError(None)
        return self.names

    def __iter__(self) -> Iterator[str]:
        """The names of all."""
        return iter(self.all())

    def __len__(self) -> int:
        """The number of all."""
        return len(self.all())


@contextlib.contextmanager
def cache(workdir: Path | None) -> Iterator[None]:
    """Keeps what is compiled inside in ``<workdir>/compiled``, wherever that folder will lie; None changes nothing.

    XLA's own caches are left out: on jax 0.10 their path, which is below this one, is part of every program's name.
    """
    if workdir is None:
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(workdir / "compiled"),
        "jax_persistent_cache_enable_xla_caches": "none",
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    former = {name: jax.config.values[name] for name in settings}
    try:
        _configured(settings)
        for programs in (beginning, started, advancing):  # what this process has compiled already lies in no folder
            programs.cache_clear()
        yield
    finally:
        _configured(former)


def _configured(settings: Mapping[str, Any]) -> None:
    """Sets jax's cache, which is opened once and then stays, anew."""
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def memory() -> int:
    """Bytes of the first device where it tells, else of the machine."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def size(tree: Any) -> int:
    """How many numbers are in ``tree``."""
    return sum(x.size for x in jax.tree.leaves(tree))
