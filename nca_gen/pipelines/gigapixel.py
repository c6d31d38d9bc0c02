"""A gigapixel picture as a file: what it will take, and the work (:mod:`nca_gen.tiling.streaming`)."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from annotated_types import Gt
from jaxtyping import Array, Float, Key, PyTree

from nca_gen import arrays, hosts, screen
from nca_gen.contracts import Calls, Condition, Part, Parts, Resolving
from nca_gen.errors import UserError, chosen
from nca_gen.io import huge, images, write
from nca_gen.pipelines import files, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.ranges import Natural, OneOf
from nca_gen.tiling import tiles
from nca_gen.tiling.streaming import PICTURE, Job, denoising, job, program, run, stores, sweep

TILE = 1024  # pixels a side
FORMATS = {"tiff": (".tiff",), "zarr": (".ome.zarr",), "both": (".tiff", ".ome.zarr")}


# What it will take.


class Needs(NamedTuple):
    """What a picture takes."""

    disk: int  # bytes at the most, of which some may be there already
    memory: int  # bytes of the process, or of the accelerator
    seconds: float | None = None  # without the pyramid and the file


def disk(job: Job, dtype: Any = np.uint8) -> int:
    """Bytes that the work takes at its peak, of pixels of ``dtype``, if nothing can be compressed."""
    between = min(len(job.passes) - 1, 2)  # the first pass draws its noise, and the last one paints
    cells = 4 * math.prod(job.extent) * job.model.reads * between * (2 if job.multistep else 1)
    picture = math.prod(job.size) * job.channels * np.dtype(dtype).itemsize
    return max(cells + picture, math.ceil(picture * 4 / 3 * 1.01) * 2)


def memory(job: Job) -> int:
    """Bytes at the peak of a pass: what the process holds now, its program, and the windows on their way."""
    steps = max(map(len, job.passes)) - 1
    window = job.plan(steps).window
    used = program(job, window, steps).memory_analysis()
    arena = used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes
    if jax.default_backend() != "cpu":
        return arena
    windows = 4 * math.prod(window) * job.model.reads * (8 if job.multistep else 4)
    return resident() + windows + int(1.15 * arena)  # the allocator keeps some of what is given back


def resident() -> int:
    """Bytes of memory that this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def seconds(job: Job, params: PyTree, key: Key[Array, " 1"], folder: Path, cond: Condition = None) -> float:
    """Of the denoising, from one tile that is read, computed and written in a folder beside the work."""
    folder.mkdir(parents=True, exist_ok=True)
    number = min(1, len(job.passes) - 1)
    with TemporaryDirectory(dir=folder) as scratch:
        low = blank(Path(scratch, "low"), tiles.smaller(job.size, job.task.low), job.channels) if job.task else None
        stage = denoising(job, params, key, stores(job, Path(scratch)), number, cond, low)
        for _ in range(2):  # the first also warms up
            start = time.perf_counter()
            sweep(stage, [len(stage.tiles) // 2], lambda i: None)
            took = time.perf_counter() - start
    return took * len(stage.tiles) * job.steps / (len(job.passes[number]) - 1)


def counts(job: Job) -> Calls:
    """How often the network is asked, for as many cells as the windows of the longest pass have."""
    plan = job.plan(job.calls)
    pixels = tuple(side * job.codec.block for side in plan.window)
    return Calls(len(plan.tiles), job.steps, (*pixels, job.channels))


def blank(path: Path, size: Sequence[int], channels: int) -> huge.Store:
    """A picture of floats of which nothing is written: zeros."""
    return huge.level(path, 0, size, channels, np.float32, (tiles.CHUNK,) * 2, (tiles.CHUNK,) * 2)


def fitted(make: Callable[..., Job], tile: int, budget: int | float) -> Job:
    """``make(tile=...)`` with ``tile`` halved until its memory is within ``budget`` bytes.

    Halves, so that pictures of most sizes are cut alike. Raises UserError where 32 pixels are too many.
    """
    while (need := memory(smaller := make(tile=tile))) > budget:
        tile //= 2
        if tile < 32:
            raise UserError(
                f"a tile of {2 * tile} pixels takes {need / 1e9:.2f} GB; set config.generate.memory_gb to more"
            )
    return smaller


# The command.


def maker(part: Part, size: tuple[int, ...], calls: int, cond: Condition = None) -> Callable[..., Job]:
    """(tile) -> the work for a picture of ``size`` by ``part``, ``calls`` denoising steps a pass. Raises UserError for
    what cannot be tiled."""
    task, settings = part.task, Settings.of(part.config.sample)
    model = settings.stage(task.model)
    return partial(
        job,
        *(model, task.process, task.codec, size),
        sampler=settings.sampler,
        grid=settings.grid,
        growth=settings.young(model),
        steps=settings.steps,
        clip=settings.clip,
        scale=settings.guidance if cond else 1.0,
        cond=cond,
        calls=calls,
        task=task if isinstance(task, Resolving) and task.resolves else None,
    )


def lines(job: Job, needs: Needs, free: int) -> list[str]:
    """What is going to be done and what it takes."""
    k, plan, count = job.codec.block, job.plan(job.calls), screen.count
    sides, halo = " x ".join(str(side * k) for side in job.sides), job.calls * job.halo * k
    height, width = job.size
    text = [
        f"{height} x {width} = {count(height * width)} pixels in {len(plan.tiles)} tiles of {sides}, "
        f"{job.steps} steps of {job.sampler} in {len(job.passes)} passes",
        f"halo {halo} pixels: {100 * plan.overhead:.1f} % more cells",
        f"memory {needs.memory / 1e9:.2f} GB, disk {needs.disk / 1e9:.2f} GB of {free / 1e9:.1f} GB that are free",
    ]
    if needs.seconds is not None:
        rate = count(height * width / needs.seconds)
        text.append(f"time {screen.duration(needs.seconds)} ({rate} pixels/s, from a timed tile), then the pyramid")
    return text


def identity(job: Job, params: PyTree, seed: int, cond: Condition = None) -> str:
    """Names all that the pixels depend on, in 10 hexadecimal digits. Tiles are not among it."""
    growth = f" {job.growth}" if job.growth else ""
    return files.identity(f"{replace(job, sides=(), calls=1)} {seed}{growth}", params, cond)


@dataclass(frozen=True)
class Pipeline:
    """Pictures larger than memory by the part "model", a local denoiser, in tiles.

    ``tile``: pixels a side, at the most, 0 for 1024; it is halved until a pass takes ``memory_gb`` or less.
    ``calls``: denoising steps a pass; 0 takes as many as are cheap. ``format``: "tiff" (a pyramid that viewers of
    slides open), "zarr" (OME-Zarr) or "both". ``dry_run``: only says what it would take. ``torus``: the picture has
    no edge. ``dtype``: of its pixels; floats are written as uint16, which slides hold. ``mpp``: micrometres of a
    pixel, for both axes or for each. Where these are left open, training fills in what its data have.
    """

    parts: Parts
    tile: Natural = 0
    calls: Natural = 0
    dry_run: bool = False
    format: Annotated[str, OneOf(FORMATS)] = "tiff"
    memory_gb: Annotated[int | float, Gt(0)] = 1.5
    torus: bool = False
    dtype: files.Depth = ""
    mpp: files.Microns = ()

    @property
    def pixels(self) -> np.dtype:
        """The type of the pixels."""
        return np.dtype(np.uint8 if self.dtype in ("", "uint8") else np.uint16)

    @cached_property
    def part(self) -> Part:
        """The denoiser, on a torus where one is wanted. Raises UserError for one that cannot be tiled."""
        return sampling.tiling(sampling.denoiser(self.parts["model"], self.torus), "gigapixel")

    @property
    def kind(self) -> str:
        """Slides."""
        return "slides"

    def title(self) -> list[str]:
        """The size of the picture."""
        return sampling.title(self.part.config)

    def maker(self, size: tuple[int, ...], cond: Condition) -> Callable[..., Job]:
        """(tile) -> the work for a picture of ``size``. Raises UserError for what cannot be tiled."""
        if self.torus:
            sampling.seamless(size, self.part.task.codec.block)
        return maker(self.part, size, self.calls, cond)

    def fitting(self, size: tuple[int, ...], cond: Condition) -> Job:
        """The work for a picture of ``size``, in tiles that fit the memory."""
        return fitted(self.maker(size, cond), min(self.tile or TILE, max(size)), self.memory_gb * 1e9)

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "H W C"]]:
        """A picture of ``size`` for each key, of pixels that were as deep as in a file, made in a temporary folder.

        Each is in memory when it is yielded; for one that is larger there is :meth:`write`. Raises UserError for a
        model that draws nothing :func:`sampling.alone`.
        """
        sampling.alone(self.part.task.model)
        for i in range(len(key)):
            some = slice(i, i + 1)
            row = sampling.rows(cond, some)
            with TemporaryDirectory() as scratch:
                todo = self.fitting(size, row)
                levels = run(todo, self.part.params, key[some], Path(scratch), self.pixels, row)
                yield images.to_float(np.moveaxis(levels[0].read().result(), 0, -1))

    def write(self, folder: Path) -> list[str]:
        """Picture 0 of ``config.seed`` in ``config.sample.size``, as ``format``; returns what to say.

        Of a model of classes it is of the first of ``config.sample.labels``. Started again, it goes on where it was
        stopped, with the tiles that it had chosen, on any number of processes: they share the tiles, and the first
        chooses them and writes the file. Raises UserError where the disk is too small.
        """
        ends = chosen(FORMATS, "config.generate.format", self.format)
        config, params, folder = self.part.config, self.part.params, Path(folder)
        key, size = arrays.keys(config.seed, 1), tuple(config.sample.size)
        cond = sampling.conditions(self.part.task.model, config.sample.labels, 1)

        whole = self.maker(size, cond)(tile=max(size))
        mpp, depth = files.sides(self.mpp, 2), "" if self.pixels == np.uint8 else f"_{self.pixels}"
        name = f"{size[0]}x{size[1]}_{identity(whole, params, config.seed, cond)}{depth}"
        ends, work = [folder / f"{name}{suffix}" for suffix in ends], folder / f"{name}.part"
        if all(end.exists() for end in ends):
            shutil.rmtree(work, ignore_errors=True)
            return [f"{end} is there already" for end in ends]

        plan = work / "tiles.json"
        todo = planned(whole, plan) if plan.is_file() else self.fitting(size, cond)
        there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.is_dir() else 0
        folder.mkdir(parents=True, exist_ok=True)
        free, needs = shutil.disk_usage(folder).free + there, Needs(disk(todo, self.pixels), memory(todo))
        if needs.disk > free:
            raise UserError(
                f"{size[0]} x {size[1]} pixels need {needs.disk / 1e9:.2f} GB of disk on the way, and "
                f"{free / 1e9:.2f} GB are free at {folder}; make room, or choose a smaller config.sample.size"
            )
        if self.dry_run:
            known = hosts.first() and needs._replace(seconds=seconds(todo, params, key, folder, cond))
            return lines(todo, known, free) if known else []
        hosts.meet()  # all have looked
        work.mkdir(exist_ok=True)
        if hosts.first() and not plan.is_file():
            write.facts(plan, {"sides": todo.sides, "calls": todo.calls})
        hosts.meet()
        todo, start = planned(whole, plan), time.perf_counter()
        with screen.bar(unit="pixels", quiet=not hosts.first()) as bar:
            levels = run(todo, params, key, work, self.pixels, cond, bar, shared=True)
            if not hosts.first():
                return []
            finish(levels, work, ends, bar, mpp)
        took = screen.duration(time.perf_counter() - start)
        sizes = [f"{end}: {end.stat().st_size / 1e9:.2f} GB" if end.is_file() else str(end) for end in ends]
        unseen = todo.channels not in (1, 3) and any(end.suffix == ".tiff" for end in ends)
        more = (
            [f"viewers of slides show 1 or 3 channels of a TIFF; for {todo.channels} take format=zarr"]
            if unseen
            else []
        )
        return [*lines(todo, needs, free), *more, f"took {took} since it was last started", *sizes]


def planned(job: Job, plan: Path) -> Job:
    """``job`` in the tiles that the file ``plan`` says."""
    chosen = json.loads(plan.read_text())
    return replace(job, sides=tuple(chosen["sides"]), calls=chosen["calls"])


def finish(
    levels: tuple[huge.Store, ...],
    work: Path,
    ends: list[Path],
    bar: screen.Bar = screen.SILENT,
    mpp: Sequence[int | float] = (),
) -> None:
    """Puts the pyramid that ``work`` holds into the files ``ends``, a picture to look at beside them, and tidies up."""
    last = next((level for level in levels if max(level.shape) <= 1024), levels[-1])
    glance = np.moveaxis(last.read().result(), 0, -1)
    files.image(ends[0].with_name(f"{work.stem}.png"), images.picture(glance))
    for end in (end for end in ends if not end.exists()):
        if end.suffix == ".tiff":
            bar.begin("tiff", sum(math.prod(level.shape[1:]) for level in levels))
            drafts = work / "file"  # of gigabytes: what a kill leaves goes with the rest of the work
            shutil.rmtree(drafts, ignore_errors=True)
            drafts.mkdir()
            huge.tiff(drafts / end.name, levels, bar.advance, mpp)
            (drafts / end.name).replace(end)
        else:
            dtype = levels[0].dtype.numpy_dtype
            huge.describe(work / PICTURE, len(levels), levels[0].shape[0], work.stem, dtype, mpp)
            (work / PICTURE).rename(end)
    shutil.rmtree(work)
