"""Rectangles of a plane without an end, at any coordinates (:mod:`nca_gen.tiling.plane`)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Interval, Len, Predicate
from jaxtyping import Array, Float, Key

from nca_gen import arrays, hosts, screen
from nca_gen.contracts import Condition, Part, Parts, Resolving
from nca_gen.errors import UserError
from nca_gen.pipelines import files, nca_cascade, sample, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.ranges import Natural
from nca_gen.tiling import plane
from nca_gen.tiling.plane import EDGE, Box, Cache, Plane, bounds
from nca_gen.tiling.streaming import Job

LARGEST = 2**30  # pixels of a rectangle, which is in memory as a whole


def on_plane(box: Sequence[int]) -> bool:
    """Whether Y, X, H, W is a rectangle of the plane. Raises UserError for any other four numbers."""
    (y, x), (h, w) = box[:2], box[2:]
    if min(h, w) < 1 or max(y + h, x + w) > EDGE:
        raise UserError(
            f"config.generate.box={','.join(map(str, box))}: give Y,X,H,W, sides of 1 pixel or more, that end at "
            f"{EDGE} or before"
        )
    if h * w > LARGEST:
        raise UserError(
            f"config.generate.box of {h} x {w} pixels is too large for one picture: take several, which fit together, "
            "or config.generate.name=gigapixel"
        )
    return True


Coordinate = Annotated[int, Interval(ge=-EDGE, lt=EDGE)]
Rectangle = Annotated[tuple[Coordinate, ...], Len(4, 4), Predicate(on_plane)]


@dataclass(frozen=True)
class Pipeline:
    """The rectangle ``box`` (Y, X, H, W, in pixels; Y and X may be negative) of the plane that the part "model", a
    local denoiser whose cells are alike everywhere, grows from a seed. Any rectangle is the same to the byte as that
    part of any larger one. Where it resolves a smaller picture, all networks of its cascade have planes, one over the
    other (:mod:`nca_gen.pipelines.nca_cascade`).

    ``tile``: pixels a side of what is grown at once, on which last bits depend; 0 for what costs least. ``cache_gb``:
    how much of what was grown may stay in memory, and as much again while it grows. ``dtype``: of the pixels in files;
    ``mpp``: micrometres of a pixel, for both axes or for each. Where these are left open, training fills in what its
    data have.
    """

    parts: Parts
    box: Rectangle = (0, 0, 1024, 1024)
    tile: Natural = 0
    cache_gb: Annotated[int | float, Gt(0)] = 1.0
    dtype: files.Depth = ""
    mpp: files.Microns = ()

    @cached_property
    def networks(self) -> list[Part]:
        """The denoiser, or all of its cascade in their order. Raises UserError for what is none, for one that is not
        trained, and for what their steps hand on."""
        model = sampling.denoiser(self.parts["model"])
        resolves = isinstance(model.task, Resolving) and model.task.resolves
        found = [part for _, part in nca_cascade.Pipeline(self.parts).networks] if resolves else [model]
        return [sampling.tiling(part, "window") for part in found]

    @property
    def part(self) -> Part:
        """The last network."""
        return self.networks[-1]

    @property
    def kind(self) -> str:
        """Images."""
        return "images"

    def title(self) -> list[str]:
        """Where, and how large."""
        y, x, h, w = self.box
        return [f"{y}_{x}", f"{h}x{w}"]

    @cached_property
    def cache(self) -> Cache:
        """Of all planes of this pipeline."""
        return Cache(self.cache_gb * 1e9)

    def job(self, part: Part, cond: Condition = None, scale: int = 1) -> Job:
        """How the plane of ``part`` is made, of which a pixel is ``scale`` of those of the last. Raises UserError for
        what couples a whole picture."""
        task, settings = part.task, Settings.of(part.config.sample)
        model = settings.stage(task.model)
        return plane.job(
            *(model, task.process, task.codec),
            sampler=settings.sampler,
            grid=settings.grid,
            task=task if len(self.networks) > 1 and part is not self.networks[0] else None,
            growth=settings.young(model),
            steps=settings.steps,
            clip=settings.clip,
            scale=settings.guidance if cond else 1.0,
            cond=cond,
            tile=-(-self.tile // scale),
            sight=-(-plane.SIGHT // scale),
        )

    def of(self, key: Key[Array, " 1"], cond: Condition = None) -> Plane:
        """The plane of ``key`` under one row ``cond``; of a cascade each network has a key of its own, folded."""
        if len(self.networks) == 1:
            return Plane(self.job(self.part, cond), self.part.params, key, cond, self.cache)
        scales = [1]
        for part in self.networks[:0:-1]:
            scales.insert(0, scales[0] * part.task.low)
        here = None
        for number, (part, scale) in enumerate(zip(self.networks, scales, strict=True)):
            job = self.job(part, None, scale)
            here = Plane(job, part.params, arrays.fold(key, number), None, self.cache, below=here)
        assert here is not None
        return here

    def seeded(self, seed: int) -> Plane:
        """The plane of ``seed``; of a model of classes, of the first of ``config.sample.labels``."""
        if len(self.networks) > 1:
            return self.of(arrays.keys(seed, 1))
        cond = sampling.conditions(self.part.task.model, self.part.config.sample.labels, 1)
        return self.of(arrays.keys(seed, 1), cond)

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "H W C"]]:
        """The rectangle of ``size`` at the corner of ``box``, for each key, under its row of ``cond``; of a cascade
        that is given some, an image of the last network alone, as evaluation of its training asks for it."""
        if cond is not None and len(self.networks) > 1:
            yield from sample.Pipeline(self.parts).draw(key, size, cond)
            return
        y, x, _, _ = self.box
        for i in range(len(key)):
            some = slice(i, i + 1)
            yield self.of(key[some], sampling.rows(cond, some)).grow(bounds((y, x, *size)))

    def write(self, folder: Path) -> list[str]:
        """``box`` of the plane of ``config.seed`` as a file in ``folder``; one that is there already is kept. Returns
        what to say. Of several processes the first does it."""
        if not hosts.first():
            return []
        here, box = self.seeded(self.part.config.seed), bounds(self.box)
        job, dtype = here.job, np.dtype(self.dtype or np.uint8)
        depth = "" if dtype == np.uint8 else f"_{dtype}"
        name = "_".join([*self.title(), self.identity(here)])
        path = folder / f"{name}{depth}{files.suffix(dtype, job.channels)}"
        if path.exists():
            return [f"{path} is there already"]
        begun = time.perf_counter()
        with screen.bar("growing", plane.size(box), "pixels") as bar:
            pixels = here.grow(box, dtype, bar.advance)
        files.image(path, pixels, files.sides(self.mpp, 2))
        return [*lines(here, box), f"took {screen.duration(time.perf_counter() - begun)}: {path}"]

    def identity(self, here: Plane) -> str:
        """Names all that the pixels depend on, of all networks."""
        seed = self.part.config.seed
        if len(here.all) == 1:
            return files.identity(f"{here.job} {seed}", here.params, here.cond)
        tasks = [part.task for part in self.networks]
        return files.identity(f"{[one.job for one in here.all]} {tasks} {seed}", [one.params for one in here.all])


def lines(here: Plane, box: Box) -> list[str]:
    """What ``box`` took of a plane of which nothing was there, network by network."""
    said, seen = [], box
    for one in here.all[::-1]:
        job, k = one.job, one.job.codec.block
        cells = one.calls * math.prod(plane.window(job))
        share, alone = cells / plane.allowance(job, seen), cells / (job.steps * plane.size(plane.of_pixels(job, seen)))
        said += [
            f"{one.calls} calls on tiles of {job.sides[0] * k} pixels, {job.steps} steps of {job.sampler}; halo "
            f"{job.halo * k} pixels a step, {job.steps * job.halo * k} in all",
            f"{screen.count(cells)} cells: {share:.2f} times (area + halo) x steps, {alone:.3g} times the area alone",
        ]
        if job.task:
            reach = plane.grown(plane.of_pixels(job, seen), job.steps * job.halo)
            seen = tuple((a // job.task.low, -(-b // job.task.low)) for a, b in plane.scaled(reach, k))
    return said
