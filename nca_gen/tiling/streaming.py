"""Pictures larger than memory from a local denoiser, equal to those made whole.

A pass reads every tile with what lies around it from one array on disk, takes some denoising steps on it, and writes
its core into the other of two arrays. The first pass reads nothing, because noise is a hash of coordinates; the last
one writes pixels. Passes that halve the pixels follow, until the picture has its pyramid. A journal names the finished
tiles, and no pass writes what it reads, so that a run that is killed anywhere goes on to the same picture.

A :class:`nca_gen.contracts.Listener` tiles too: every tile adds its share of the summary of what it writes, the next
pass sums the shares, asks once what is heard of the sum, and tells every tile.

A model that resolves a smaller picture reads, in every pass, the part of it that lies below the window, enlarged.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from nca_gen import hosts, screen
from nca_gen.contracts import Condition, Listener, Local, Place, Process, Resolving
from nca_gen.diffusion import grids, guidance, samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import log_ratio
from nca_gen.errors import UserError, chosen
from nca_gen.io import huge, images
from nca_gen.tiling import tiles

MULTISTEP = ("dpm_solver_pp",)  # samplers that read the x0 of the step before
WORTH = 0.05  # of the cells may be computed twice to save a pass; the first step of a pass is for free
PIXELS = 512  # side of the chunks in which pixels are kept, at the most
CELLS, PICTURE = "cells", "pixels"  # folders of what is between two passes, and of the pyramid while it grows


@dataclass(frozen=True)
class Job:
    """A picture of ``size`` pixels to be made in tiles of ``sides`` cells, ``calls`` denoising steps a pass.

    Of ``size`` () it is a plane without an end, of which :mod:`nca_gen.tiling.plane` makes what it is asked for.
    ``scale``: of guidance (:func:`nca_gen.diffusion.guidance.classifier_free`). ``conditions``: the fields of the
    condition that the picture has, and their columns; () for none. ``task``: of a model that resolves a smaller
    picture, what it is told of that; None for others. ``growth``: of guidance by the age of cells.
    """

    model: Any
    process: Any
    codec: Codec
    size: tuple[int, ...]
    sampler: str
    steps: int
    clip: str
    scale: float
    conditions: tuple[tuple[str, int], ...]
    sides: tuple[int, ...]
    calls: int
    grid: str = "uniform"
    task: Resolving | None = field(default=None, repr=False)
    growth: guidance.Growth | None = field(default=None, repr=False)

    @property
    def extent(self) -> tuple[int, ...]:
        """Cells of the whole."""
        return self.codec.cells(self.size)

    @property
    def channels(self) -> int:
        """Colours of a pixel."""
        return self.codec.colours(self.model.reads, self.model.ndim)

    @property
    def halo(self) -> int:
        """Cells that a call hears beyond a tile."""
        return self.model.halo or 0

    @property
    def listens(self) -> bool:
        """Whether the model hears a summary of the whole."""
        return isinstance(self.model, Listener)

    @property
    def multistep(self) -> bool:
        """Whether x0 is kept beside x."""
        return self.sampler in MULTISTEP

    @cached_property
    def passes(self) -> tuple[np.ndarray, ...]:
        """The times that each pass goes through, from its first to its last."""
        times = grids.times(self.process, self.steps, self.grid)
        stops = np.linspace(0, self.steps, math.ceil(self.steps / self.calls) + 1).round().astype(int)
        return tuple(times[a : b + 1] for a, b in pairwise(stops))

    @cached_property
    def share(self) -> jax.ShapeDtypeStruct:
        """Shape of what one tile adds to the summary, [1, *K, D]. The model may refuse a whole that is too small."""
        like, n = jax.ShapeDtypeStruct, len(self.size)
        x = like((1, *(1,) * n, self.model.reads), jnp.float32)
        at = tuple(like((1,) * n, jnp.int32) for _ in range(n))
        make = lambda x, at, core: self.model.share(x, Place(at, self.extent), core)
        return jax.eval_shape(make, x, at, like((n, 2), jnp.int32))

    def plan(self, steps: int) -> tiles.Plan:
        """The tiles of a pass of ``steps`` denoising steps."""
        return tiles.plan(self.extent, self.sides, steps * self.halo, self.model.border == "wrap")


def job(
    model: Any,
    process: Process,
    codec: Codec,
    size: tuple[int, ...],
    *,
    sampler: str = "ddpm",
    steps: int = 300,
    clip: str = "none",
    scale: int | float = 1.0,
    cond: Condition = None,
    tile: int = 1024,
    calls: int = 0,
    grid: str = "uniform",
    task: Resolving | None = None,
    growth: guidance.Growth | None = None,
) -> Job:
    """How to make a picture of ``size`` pixels in tiles of about ``tile`` pixels a side.

    ``calls``: denoising steps a pass; 0 takes as many as cost less than ``WORTH``. ``cond``: of the picture, one row.
    ``task``: where the model resolves a smaller picture, which :func:`run` is then given.
    Raises UserError for what couples the whole image, and so cannot be tiled.
    """
    tileable(model, sampler, clip)
    if tile < 1 or calls < 0 or min(size) < 1:
        raise UserError("sizes and config.generate.tile are 1 pixel or more, config.generate.calls is 0 or more")
    grids.times(process, steps, grid)
    extent = codec.cells(size)
    most = max(1, tile // codec.block)
    sides = tuple(tiles.side(n, most) for n in extent)
    how = (sampler, steps, clip, float(scale), columns(cond), sides, 1, grid, task, growth)
    one = Job(model, process, codec, tuple(size), *how)
    if one.listens:
        if calls > 1:
            raise UserError("this model hears the whole image at every step: config.generate.calls is 0 or 1")
        _ = one.share  # it may refuse the size
        return one
    if not calls:
        calls = 1
        while calls < steps and one.plan(calls + 1).overhead <= WORTH:
            calls += 1
    return replace(one, calls=min(calls, steps))


def tileable(model: Any, sampler: str, clip: str) -> None:
    """Raises UserError for what couples the whole image, so that a tile cannot be made by itself."""
    chosen(samplers.SAMPLERS, "config.sample.sampler", sampler)
    chosen(guidance.CLIPS, "config.sample.clip", clip)
    if not isinstance(model, Local) or model.halo is None:
        raise UserError(
            "every cell of this model depends on the whole image, so a tile cannot be made by itself; take a "
            "local model, such as an automaton with config.model.norm=cell"
        )
    if clip == "dynamic":
        raise UserError(
            "config.sample.clip=dynamic takes a quantile over the whole image, so a tile cannot be made by itself; "
            "choose static or none"
        )
    if model.ndim != 2:
        raise UserError(f"config.model.ndim={model.ndim}: pictures in tiles have two axes")


def columns(cond: Condition) -> tuple[tuple[str, int], ...]:
    """The fields of ``cond`` and their columns, as a :class:`Job` has them."""
    return tuple((name, field.shape[-1]) for name, field in (cond or {}).items())


# What is done to a tile.


@cache
def program(job: Job, window: tuple[int, ...], steps: int) -> Any:
    """The compiled ``steps`` denoising steps on a window: (params, x, x0, gap, whole, at, times, key, cond) -> (x, x0).

    ``x0`` is None for samplers of one step, ``whole`` for models that do not listen, ``cond`` for none. A smaller
    picture is in it in pixels, enlarged, and without its noise.
    """
    step, bound = samplers.SAMPLERS[job.sampler], guidance.CLIPS[job.clip]
    model, process = job.model.inference(), job.process

    def run(params, x, x0, gap, whole, at, times, key, cond):
        place, network = Place(at, job.extent or None, whole), guidance.network(process, model, params, job.growth)
        if job.task:
            cond = job.task.augmented(cond | {"low": job.codec.encode(cond["low"])}, key, at=at)

        def forgetful(x, t, cond, memory, key):
            return network(x, t, cond, (), key, place)[0], ()

        denoise = guidance.classifier_free(forgetful, cond, job.scale if job.conditions else 1.0)
        if bound:
            denoise = guidance.constrained(denoise, process, job.codec, bound)
        carry = samplers.begin(x)
        carry = carry._replace(x0=x0, gap=gap) if job.multistep else carry
        carry = samplers.sample(step, process, denoise, carry, times, key, at)
        return carry.x, carry.x0 if job.multistep else None

    like, root = jax.ShapeDtypeStruct, jax.random.key(0, impl="threefry2x32")
    x = like((1, *window, model.reads), jnp.float32)
    params = jax.eval_shape(model.init, root)
    at = tuple(like(c.shape, jnp.int32) for c in np.ix_(*map(range, window)))
    times = jax.eval_shape(lambda: jnp.asarray(job.passes[0])[: steps + 1])
    told = jax.eval_shape(process.told, like((1,), times.dtype))
    whole = jax.eval_shape(model.heard, params, job.share, told) if job.listens else None
    cond: Any = {name: like((1, width), jnp.float32) for name, width in job.conditions}
    if job.task:
        cond["low"] = like((1, *(side * job.codec.block for side in window), job.channels), jnp.float32)
    cond = cond or None
    given = x if job.multistep else None, like((), jnp.float32), whole, at, times, like((1,), root.dtype), cond
    return jax.jit(run).lower(params, x, *given).compile()


def _at(job: Job, origin: tuple[int, ...], window: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Coordinates of a window in the whole, round the edge of a torus; an open mesh."""
    axes = [(start + np.arange(size)) % n for start, size, n in zip(origin, window, job.extent, strict=True)]
    return tuple(c.astype(np.int32) for c in np.ix_(*axes))


def gap_before(job: Job, number: int) -> np.ndarray:
    """lambda_t - lambda_previous at the start of a pass, for multistep samplers."""
    if not number:
        return np.zeros((), np.float32)
    before, now = (log_ratio(*job.process.levels(t)) for t in jnp.asarray(job.passes[number - 1][-2:]))
    return np.asarray(now - before)


@cache
def _share(job: Job) -> Any:
    return jax.jit(lambda x, at, core: job.model.share(x, Place(at, job.extent), core))


@cache
def _heard(job: Job) -> Any:
    return jax.jit(lambda params, total, t: job.model.heard(params, total, job.process.told(t)))


@cache
def decoder(codec: Codec) -> Any:
    """The compiled way from cells to pixels."""
    return jax.jit(codec.decode)


# What is kept on disk.


class Stores(NamedTuple):
    """Arrays on disk. Of pairs each pass reads one and writes the other; () where there are none."""

    x: tuple[huge.Store, ...]  # [*S, C] of cells
    x0: tuple[huge.Store, ...]  # of the step before, for multistep samplers
    shares: tuple[huge.Store, ...]  # [tiles, *K, D]: what each tile adds to the summary of x
    levels: tuple[huge.Store, ...]  # [C, H, W] of pixels, whole, halved, ..


def stores(job: Job, folder: Path, dtype: Any = np.uint8, pyramid: bool = True) -> Stores:
    """The arrays of a job, as they are or new; without a ``pyramid`` the first level of the picture alone."""
    c, block, sides = job.model.reads, job.codec.block, job.sides
    chunk = [tiles.chunk(side) for side in sides]

    def pair(name: str, shape: tuple[int, ...], shard: tuple[int, ...], chunk: tuple[int, ...]) -> tuple:
        return tuple(huge.array(folder / CELLS / f"{name}{i}", shape, np.float32, shard, chunk) for i in (0, 1))

    cells = (*job.extent, c), (*sides, c), (*chunk, c)
    shard = [side * block for side in sides]
    cut = shard, [tiles.chunk(side, PIXELS) for side in shard]
    level = lambda i, size: huge.level(folder / PICTURE, i, size, job.channels, dtype, *cut)
    return Stores(
        pair("x", *cells),
        pair("clean", *cells) if job.multistep else (),
        pair("shares", (len(job.plan(1).tiles), *job.share.shape[1:]), *[job.share.shape] * 2) if job.listens else (),
        tuple(level(i, size) for i, size in enumerate(huge.sizes(*job.size)[: None if pyramid else 1])),
    )


# What is done in a pass.


class Stage(NamedTuple):
    """One pass over tiles. ``work`` is given what ``read`` has asked for; ``write`` begins to write what it makes."""

    tiles: tuple[tiles.Tile, ...]
    read: Callable[[tiles.Tile], list[Any]]
    work: Callable[[tiles.Tile, list[Any]], list[Any]]
    write: Callable[[int, list[Any]], list[Any]]


Reading = list[tuple[tiles.Slices, Any]]  # the blocks of a window: where in it, and the future of what is there


def listening(job: Job, key: Key[Array, " 1"], disk: Stores) -> Stage:
    """Before the first pass: what every tile adds to the summary of the noise with which all begins."""
    plan = job.plan(0)
    work = lambda tile, _: [_share(job)(*_noise(job, plan, tile, key), _ends(tile))]
    write = lambda i, made: [disk.shares[0][i].write(np.asarray(made[0])[0])]
    return Stage(plan.tiles, lambda tile: [], work, write)


def denoising(
    job: Job,
    params: PyTree,
    key: Key[Array, " 1"],
    disk: Stores,
    number: int,
    cond: Condition = None,
    low: huge.Store | None = None,
) -> Stage:
    """Pass ``number`` of ``job.passes``: from the arrays of its parity into the others, at last into pixels.

    ``low``: the smaller picture of ``job.task``, [C, h, w], of floats.
    """
    times = jnp.asarray(job.passes[number])
    plan, gap, last = job.plan(len(times) - 1), gap_before(job, number), number == len(job.passes) - 1
    run, here, there = program(job, plan.window, len(times) - 1), number % 2, (number + 1) % 2
    whole = _heard(job)(params, _total(disk.shares[here]), times[:1]) if job.listens else None
    pairs = [pair for pair in (disk.x, disk.x0) if pair]

    def read(tile: tiles.Tile) -> list[Any]:
        cells = [_fetch(pair[here], plan, tile) for pair in pairs] if number else []
        return [*cells, *([_under(job, low, plan, tile)] if job.task else [])]

    def work(tile: tiles.Tile, readings: list[Any]) -> list[Any]:
        given = (cond or {}) | {"low": _enlarged(job, plan, readings.pop())} if job.task else cond
        if number:
            at, (x, *x0) = _at(job, tile.origin, plan.window), (_window(plan, reading) for reading in readings)
        else:
            x, at = _noise(job, plan, tile, key)
            x0 = [np.zeros(x.shape, np.float32)] * (len(pairs) - 1)
        x, x0 = run(params, x, x0[0] if x0 else None, gap, whole, at, times, key, given)
        if last:
            return [decoder(job.codec)(x)]
        return [x, *([x0] if job.multistep else []), *([_share(job)(x, at, _ends(tile))] if job.listens else [])]

    def write(i: int, made: list[Any]) -> list[Any]:
        tile = plan.tiles[i]
        if last:
            return [_paint(job, disk.levels[0], tile, np.asarray(made[0])[0])]
        core = lambda new: np.ascontiguousarray(np.asarray(new)[(0, *tile.inside)])
        cells = [pair[there][tile.core].write(core(new)) for pair, new in zip(pairs, made, strict=False)]
        return [*cells, *([disk.shares[there][i].write(np.asarray(made[-1])[0])] if job.listens else [])]

    return Stage(plan.tiles, read, work, write)


def halving(levels: Sequence[huge.Store], sides: tuple[int, ...], number: int) -> Stage:
    """Level ``number`` of a pyramid, from the one before, in tiles of ``sides`` pixels, as its shards have."""
    here, there = levels[number - 1 : number + 1]
    plan = tiles.plan(there.shape[1:], sides, 0)
    twice = lambda tile: tuple(slice(2 * c.start, 2 * c.stop) for c in tile.core)
    read = lambda tile: [here[(slice(None), *twice(tile))].read()]
    work = lambda tile, readings: [huge.halved(readings[0].result())]
    write = lambda i, made: [there[(slice(None), *plan.tiles[i].core)].write(made[0])]
    return Stage(plan.tiles, read, work, write)


def _fetch(store: huge.Store, plan: tiles.Plan, tile: tiles.Tile) -> Reading:
    return [(into, store[whence].read()) for into, whence in tiles.pieces(tile.origin, plan.window, plan.extent)]


def _window(plan: tiles.Plan, reading: Reading) -> np.ndarray:
    """The window that :func:`_fetch` has asked for, with an axis for the batch."""
    blocks = [(into, future.result()) for into, future in reading]
    if len(blocks) == 1:
        return blocks[0][1][None]
    window = np.empty((1, *plan.window, blocks[0][1].shape[-1]), np.float32)
    for into, block in blocks:
        window[(0, *into)] = block
    return window


def _under(job: Job, low: huge.Store, plan: tiles.Plan, tile: tiles.Tile) -> list[tuple[tiles.Slices, Any, Any]]:
    """The blocks of the smaller picture below a window: where in it, in pixels, which place each shows, the future."""
    assert job.task is not None
    block, blocks = job.codec.block, []
    for into, whence in tiles.pieces(tile.origin, plan.window, plan.extent):
        spans = [(cells.start * block, cells.stop * block, n) for cells, n in zip(whence, low.shape[1:], strict=True)]
        below = [tiles.below(start, stop, job.task.low, n) for start, stop, n in spans]
        reading = low[(slice(None), *(slice(int(b[0]), int(b[-1]) + 1) for b in below))].read()
        pixels = tuple(slice(cells.start * block, cells.stop * block) for cells in into)
        blocks.append((pixels, np.ix_(*(b - b[0] for b in below)), reading))
    return blocks


def _enlarged(job: Job, plan: tiles.Plan, under: list[tuple[tiles.Slices, Any, Any]]) -> np.ndarray:
    """What :func:`_under` has asked for, at the pixels of the window: [1, *T, C]."""
    window = np.empty((1, *(side * job.codec.block for side in plan.window), job.channels), np.float32)
    for into, index, reading in under:
        window[(0, *into)] = np.moveaxis(reading.result(), 0, -1)[index]
    return window


def _noise(job: Job, plan: tiles.Plan, tile: tiles.Tile, key: Key[Array, " 1"]) -> tuple[Array, tuple]:
    """x_T of a window, and its coordinates."""
    at = _at(job, tile.origin, plan.window)
    return samplers.initial_noise(key, plan.window, job.model.reads, at), at


def _ends(tile: tiles.Tile) -> np.ndarray:
    return np.array([(core.start, core.stop) for core in tile.core], np.int32)


def _total(shares: huge.Store, block: int = 1024) -> np.ndarray:
    """The sum of all shares, [1, *K, D], always in the same order."""
    n, total = shares.shape[0], 0.0
    for first in range(0, n, block):
        total += shares[first : min(first + block, n)].read().result().sum(0, dtype=np.float64)
    return np.asarray(total, np.float32)[None]


def _paint(job: Job, level: huge.Store, tile: tiles.Tile, window: np.ndarray) -> Any:
    """Writes the pixels of a tile's core, of which those beyond the size of the picture are left out."""
    k = job.codec.block
    core = [slice(c.start * k, min(c.stop * k, n)) for c, n in zip(tile.core, job.size, strict=True)]
    inside = [slice(i.start * k, i.start * k + c.stop - c.start) for i, c in zip(tile.inside, core, strict=True)]
    pixels = images.from_float(window[tuple(inside)], level.dtype.numpy_dtype)
    return level[(slice(None), *core)].write(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))


# How all of it is done, once.


class Journal:
    """The finished tiles of the newest stage: a line "stage tile" each. What of a line was cut short does not count.

    Each process writes a file of its own, all are read; process ``number`` writes its own, whoever wrote there before.
    """

    def __init__(self, folder: Path, number: int = 0):
        path = folder / (f"journal.{number}" if number else "journal")
        path.touch()
        known = {file: whole_lines(file.read_bytes()) for file in folder.glob("journal*")}
        lines = [tuple(map(int, line.split())) for text in known.values() for line in text.splitlines()]
        self.stage = max((stage for stage, _ in lines), default=0)
        self.done = {tile for stage, tile in lines if stage == self.stage}
        self.file = open(path, "ab")  # noqa: SIM115
        self.file.truncate(len(known[path]))

    def add(self, stage: int, tile: int) -> None:
        """Notes a finished tile, for good."""
        self.file.write(b"%d %d\n" % (stage, tile))
        self.file.flush()
        os.fsync(self.file.fileno())


def whole_lines(text: bytes) -> bytes:
    """``text`` without a last line that was cut short."""
    return text[: text.rfind(b"\n") + 1]


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 2**20)  # M_MMAP_THRESHOLD: it would grow, and large buffers be kept when they are freed
    return libc


def trim() -> None:
    """Gives freed memory back to the system: glibc keeps some for every thread, more and more with the tiles."""
    with suppress(OSError, AttributeError, TypeError):  # other systems have no such calls
        _libc().malloc_trim(0)


def sweep(stage: Stage, todo: list[int], finish: Callable[[int], None]) -> None:
    """Does tiles ``todo``. While one is computed the next is read and the one before is written."""

    def settle(i: int, writing: list[Any]) -> None:
        for future in writing:
            future.result()
        finish(i)

    ahead, behind = [stage.read(stage.tiles[i]) for i in todo[:1]], None
    for number, i in enumerate(todo):
        made = stage.work(stage.tiles[i], ahead.pop())
        ahead += [stage.read(stage.tiles[after]) for after in todo[number + 1 : number + 2]]
        if behind:
            settle(*behind)
        behind = i, stage.write(i, made)
        del made  # before the next is made
        trim()
    if behind:
        settle(*behind)


def run(
    job: Job,
    params: PyTree,
    key: Key[Array, " 1"],
    folder: Path,
    dtype: Any = np.uint8,
    cond: Condition = None,
    bar: screen.Bar = screen.SILENT,
    shared: bool = False,
    low: huge.Store | None = None,
    pyramid: bool = True,
) -> tuple[huge.Store, ...]:
    """Makes the picture of ``key`` and its pyramid in ``folder``, or what is missing of them; returns the levels.

    ``dtype``: of the pixels, uint8, uint16 or float32. A folder belongs to one job, key, params and ``cond``.
    ``shared``: all processes run this together in one ``folder``; each makes its share of the tiles of every stage. A
    shard of an array is written by one of them. ``low``: the smaller picture that it resolves, [C, h, w], of floats.
    ``pyramid``: whether there are more levels than the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deal, meet = (hosts.dealt, hosts.meet) if shared else (list, lambda: None)
    disk, journal = stores(job, folder, dtype, pyramid), Journal(folder, jax.process_index() if shared else 0)
    meet()  # all have read all journals
    pixels = math.prod(job.size) / job.steps
    todo: list[tuple[str, float, Callable[[], Stage]]] = []
    if job.listens:
        todo.append(("summary", 0.0, partial(listening, job, key, disk)))
    for number, times in enumerate(job.passes):
        make = partial(denoising, job, params, key, disk, number, cond, low)
        todo.append((f"pass {number + 1} of {len(job.passes)}", pixels * (len(times) - 1), make))
    passes = len(todo)
    sides = tuple(side * job.codec.block for side in job.sides)
    todo += [(f"level {i}", 0.0, partial(halving, disk.levels, sides, i)) for i in range(1, len(disk.levels))]

    n = len(job.plan(0).tiles)
    already = [worth for _, worth, _ in todo[: journal.stage]] + [todo[journal.stage][1] * len(journal.done) / n]
    bar.begin("", math.prod(job.size), sum(already))

    def begin(number: int) -> Stage:
        bar.what, _, make = todo[number]
        if number == passes and (hosts.first() or not shared):  # a picture may need the room
            shutil.rmtree(folder / CELLS)
        return make()

    # The others are about as far.
    finish = lambda number, share: bar.advance(todo[number][1] / share)
    perform(journal, len(todo), begin, finish, deal, meet)
    return disk.levels


def perform(
    journal: Journal,
    n: int,
    begin: Callable[[int], Stage],
    finish: Callable[[int, int], None] = lambda number, share: None,
    deal: Callable[[Sequence[int]], Sequence[int]] = hosts.dealt,
    meet: Callable[[], None] = hosts.meet,
) -> None:
    """Does the stages 0 .. n - 1, or what ``journal`` does not say is done of them, one after the other.

    ``begin`` makes a stage when its turn comes; ``deal``: which of its tiles this process does; ``finish`` is told of
    each, by stage and by how many there are to do; all processes ``meet`` at the end of a stage.
    """
    with journal.file:
        for number in range(journal.stage, n):
            stage, done = begin(number), journal.done if number == journal.stage else set()
            share = deal(range(len(stage.tiles)))

            def settle(i: int, number: int = number, share: int = max(1, len(share))) -> None:
                journal.add(number, i)
                finish(number, share)

            sweep(stage, [i for i in share if i not in done], settle)
            meet()
