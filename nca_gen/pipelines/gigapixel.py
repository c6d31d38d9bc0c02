"""A gigapixel picture as a file: what it will take, the work (:mod:`nca_gen.tiling.streaming`), and its progress."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from nca_gen import arrays
from nca_gen.errors import UserError, unknown
from nca_gen.io import huge, images
from nca_gen.pipelines import sampling
from nca_gen.tiling.streaming import PICTURE, SILENT, Job, denoising, job, program, run, stores, sweep

FORMATS = {"tiff": (".tiff",), "zarr": (".ome.zarr",), "both": (".tiff", ".ome.zarr")}


# What it will take.


class Needs(NamedTuple):
    disk: int  # bytes at the most, of which some may be there already
    memory: int  # bytes of the process, or of the accelerator
    seconds: float | None = None  # without the pyramid and the file


def disk(job: Job, formats: int = 1) -> int:
    """Bytes that the work takes at its peak if nothing can be compressed; ``formats`` of the picture are kept."""
    cells = 4 * math.prod(job.extent) * job.model.image_channels * (4 if job.multistep else 2)
    picture = math.prod(job.size) * job.channels
    return max(cells + picture, math.ceil(picture * 4 / 3 * 1.01) * 2)


def memory(job: Job) -> int:
    """Bytes at the peak of a pass: what the process holds now, its program, and the windows on their way."""
    steps = max(map(len, job.passes)) - 1
    window = job.plan(steps).window
    used = program(job, window, steps).memory_analysis()
    mine = used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes
    if jax.default_backend() != "cpu":
        return mine
    windows = 4 * math.prod(window) * job.model.image_channels * (8 if job.multistep else 4)
    return resident() + windows + int(1.15 * mine)  # the allocator keeps some of what is given back


def resident() -> int:
    """Bytes of memory that this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def seconds(job: Job, params: dict, key: Key[Array, " 1"], folder: Path) -> float:
    """Of the denoising, from one tile that is read, computed and written in a folder beside the work."""
    folder.mkdir(parents=True, exist_ok=True)
    number = min(1, len(job.passes) - 1)
    with TemporaryDirectory(dir=folder) as scratch:
        stage = denoising(job, params, key, stores(job, Path(scratch)), number)
        for _ in range(2):  # the first also warms up
            start = time.perf_counter()
            sweep(stage, [len(stage.tiles) // 2], lambda i: None)
            took = time.perf_counter() - start
    return took * len(stage.tiles) * job.steps / (len(job.passes[number]) - 1)


def fitted(make: Callable[..., Job], tile: int, budget: int | float) -> Job:
    """``make(tile=...)`` with ``tile`` halved until its memory is within ``budget`` bytes.

    Halves, so that pictures of most sizes are cut alike. Raises UserError where 32 pixels are too many.
    """
    while (need := memory(found := make(tile=tile))) > budget:
        tile //= 2
        if tile < 32:
            raise UserError(
                f"a tile of {2 * tile} pixels takes {need / 1e9:.2f} GB; set config.generate.memory_gb to more"
            )
    return found


# The command.


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{count(task.speed or 0)} pixels/s")


def count(n: int | float) -> str:
    """Three digits and a letter: 93.2 k, 1.07 G."""
    for unit in ("", " k", " M", " G", " T"):
        if n < 1000 or unit == " T":
            return f"{n:.3g}{unit}"
        n /= 1000
    return ""


def duration(seconds: int | float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def progress() -> Progress:
    """A bar with the time left and the pixels per second; silent where the output is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), _Rate()
    return Progress(*columns, transient=True, disable=not sys.stdout.isatty())


def lines(job: Job, needs: Needs, free: int) -> list[str]:
    """What is going to be done and what it takes."""
    k, plan = job.diffusion.block, job.plan(job.calls)
    sides, halo = " x ".join(str(side * k) for side in job.sides), job.calls * job.model.steps * k
    height, width = job.size
    said = [
        f"{height} x {width} = {count(height * width)} pixels in {len(plan.tiles)} tiles of {sides}, "
        f"{job.steps} steps of {job.sampler} in {len(job.passes)} passes",
        f"halo {halo} pixels: {100 * plan.overhead:.1f} % more cells",
        f"memory {needs.memory / 1e9:.2f} GB, disk {needs.disk / 1e9:.2f} GB of {free / 1e9:.1f} GB that are free",
    ]
    if needs.seconds is not None:
        rate = count(height * width / needs.seconds)
        said.append(f"time {duration(needs.seconds)} ({rate} pixels/s, from a timed tile), then the pyramid")
    return said


def identity(job: Job, params: dict, seed: int) -> str:
    """Names all that the pixels depend on, in 10 hexadecimal digits. Tiles are not among it."""
    digest = hashlib.sha256()
    what = replace(job, sides=(), calls=1)
    digest.update(f"{what} {seed}".encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:10]


title = sampling.title


def paint(task: Any, params: dict, config: Any, folder: Path) -> list[str]:
    """Picture 0 of ``config.seed`` in ``config.sample.size``, as ``config.generate.format``; returns what to say.

    Started again, it goes on where it was stopped, with the tiles that it had chosen. Raises UserError where the model
    cannot be tiled or the disk is too small.
    """
    how, sample, folder = config.generate, config.sample, Path(folder)
    if how.format not in FORMATS:
        raise unknown("value of config.generate.format", how.format, FORMATS)
    settings = {"sampler": sample.sampler, "steps": sample.steps, "clip": sample.clip}
    make = partial(job, task.model, task.diffusion, tuple(sample.size), calls=how.calls, **settings)
    params, key = jax.device_put(params, jax.local_devices()[0]), arrays.keys(config.seed, 1)

    whole = make(tile=max(sample.size))
    name = f"{whole.size[0]}x{whole.size[1]}_{identity(whole, params, config.seed)}"
    ends, work = [folder / f"{name}{suffix}" for suffix in FORMATS[how.format]], folder / f"{name}.part"
    if all(end.exists() for end in ends):
        shutil.rmtree(work, ignore_errors=True)
        return [f"{end} is there already" for end in ends]

    chosen = work / "tiles.json"
    if chosen.is_file():
        known = json.loads(chosen.read_text())
        mine = replace(whole, sides=tuple(known["sides"]), calls=known["calls"])
    else:
        mine = fitted(make, min(how.tile, max(sample.size)), how.memory_gb * 1e9)
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.is_dir() else 0
    folder.mkdir(parents=True, exist_ok=True)
    free, needs = shutil.disk_usage(folder).free + there, Needs(disk(mine), memory(mine))
    if needs.disk > free:
        raise UserError(
            f"{whole.size[0]} x {whole.size[1]} pixels need {needs.disk / 1e9:.2f} GB of disk on the way, and "
            f"{free / 1e9:.2f} GB are free at {folder}; make room, or choose a smaller config.sample.size"
        )
    if how.dry_run:
        return lines(mine, needs._replace(seconds=seconds(mine, params, key, folder)), free)
    work.mkdir(exist_ok=True)
    if not chosen.is_file():
        part = work / "tiles.part"
        part.write_text(json.dumps({"sides": mine.sides, "calls": mine.calls}))
        part.replace(chosen)
    start = time.perf_counter()
    with progress() as bar:
        levels = run(mine, params, key, work, bar=bar)
        finish(mine, levels, work, ends, bar)
    took = time.perf_counter() - start
    said = [f"{end}: {end.stat().st_size / 1e9:.2f} GB" if end.is_file() else str(end) for end in ends]
    return [*lines(mine, needs, free), f"took {duration(took)} since it was last started", *said]


def finish(job: Job, levels: tuple[huge.Store, ...], work: Path, ends: list[Path], bar: Progress = SILENT) -> None:
    """Puts the pyramid that ``work`` holds into the files ``ends``, a picture to look at beside them, and tidies up."""
    last = next((level for level in levels if max(level.shape) <= 1024), levels[-1])
    glance = np.moveaxis(last.read().result(), 0, -1)
    images.write(ends[0].with_name(f"{work.stem}.png"), images.picture(glance))
    for end in (end for end in ends if not end.exists()):
        if end.suffix == ".tiff":
            line = bar.add_task("tiff", total=sum(math.prod(level.shape[1:]) for level in levels))
            huge.tiff(end, levels, lambda pixels, line=line: bar.update(line, advance=pixels))
        else:
            huge.describe(work / PICTURE, len(levels), job.channels, work.stem)
            (work / PICTURE).rename(end)
    shutil.rmtree(work)
