"""Slides of any size by a cascade of cascades, patch by patch on one registered grid (URCDM: Cechnicka et al. 2024).

A slide is drawn at several magnifications, the coarsest first, each as a plane of overlapping patches. A patch goes
through all networks of its magnification: all patches through the first, then all through the second, and so on. A
network is told what the plane of the magnification before shows around the patch, at exactly the same place, and fills
in the patch beside what its neighbours have painted already. Where that plane shows glass at the last magnification,
it is enlarged and nothing is drawn.

On disk every patch of every network is one file, so what is killed anywhere goes on to the same slide. Noise belongs to
the coordinates of the plane, so neither the order of the patches nor the number of devices and hosts changes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Key, UInt8

from nca_gen import arrays, devices, hosts, screen
from nca_gen.contracts import Calls, Condition, Part, Parts, unchanged
from nca_gen.data.stain import stained
from nca_gen.diffusion import guidance, inpaint, samplers
from nca_gen.diffusion import process as forward
from nca_gen.errors import UserError, chosen
from nca_gen.io import huge, images, slides, write
from nca_gen.pipelines import cascade, files, gigapixel, sample, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.ranges import Count, OneOf
from nca_gen.tiling import streaming, tiles
from nca_gen.tiling.mosaic import Grid, Index, Plane

DONE = "networks.json"  # how many networks have painted all that they have to
OVERLAP = 0.125  # of a patch, with each neighbour
TILE = 1024  # pixels a side of what the pyramid is made of
ERODE, DILATE = 5 / 1024, 51 / 1024  # of a patch: specks of tissue are no tissue, and around tissue all is drawn


# Where everything lies.


class Level(NamedTuple):
    """A magnification: its networks, in their order, and what they paint.

    ``sides``: of a patch, one a network. ``grid``: of the plane, in pixels of the first network. ``origin``: the first
    pixel of the plane, counted from that of the slide, in pixels of the last network. ``factor``: how many of these a
    pixel of the magnification before is wide; 0 where there is none. ``pad``: the colour beyond its plane.
    """

    networks: tuple[str, ...]
    sides: tuple[int, ...]
    grid: Grid
    origin: tuple[int, int]
    factor: float
    pad: tuple[int, ...]

    @property
    def patches(self) -> int:
        """How many there are."""
        return math.prod(self.grid.shape)

    @property
    def low(self) -> int:
        """Pixels of the last network in one of the network before."""
        return self.sides[-1] // self.sides[-2] if len(self.sides) > 1 else 1

    def at(self, number: int) -> Grid:
        """The grid in pixels of a network."""
        return self.grid.enlarged(self.sides[number] // self.sides[0])

    def corner(self, index: Index) -> list[int]:
        """The first pixel of a patch, counted from that of the slide, in pixels of the last network."""
        return [at + first for at, first in zip(self.at(-1).corner(index), self.origin, strict=True)]


def level(
    networks: Sequence[str], sides: Sequence[int], factor: float, pad: Sequence[int], size: Sequence[int | float]
) -> Level:
    """The magnification whose plane holds a slide of ``size`` pixels of it, in its middle."""
    ratio = sides[-1] // sides[0]
    least = [max(math.ceil(n / ratio), sides[0]) for n in size]
    grid = Grid.of((least[0], least[1]), sides[0], int((1 - OVERLAP) * sides[0]))
    rows, columns = (-((n * ratio - math.ceil(side)) // 2) for n, side in zip(least, size, strict=True))
    return Level(tuple(networks), tuple(sides), grid, (rows, columns), factor, tuple(pad))


def levels(parts: Parts, place: str, size: tuple[int, int]) -> list[Level]:
    """The magnifications of a slide of ``size`` pixels of the last one, the coarsest first.

    Raises UserError for a network that is not trained, and for one that is none of a cascade.
    """
    found: list[Level] = []
    reach = 1.0  # pixels of the last magnification in one of this
    for names in reversed(cascade.groups(parts, place)):
        networks = [cascade.opened(parts, name, place) for name in names]
        first, data = networks[0], networks[0].config.data
        if first.task.resolves or not all(part.task.resolves for part in networks[1:]):
            raise UserError(f"{names} are no cascade: the first draws from noise, all others resolve a smaller image")
        if any(part.decode is not unchanged or part.task.model.ndim != 2 for part in networks):
            raise UserError("config.generate.name=urcdm is for images of two axes, and a network here learned others")
        if any(part.task.codec.block != 1 for part in networks):
            raise UserError("config.generate.name=urcdm is for networks whose cells are pixels: config.codec.block=1")
        sides = np.cumprod([data.patch[0], *(part.task.low for part in networks[1:])]).tolist()
        told = "context" in first.task.model.conditions
        factor = float(data.context_factor) if told else 0.0
        found.insert(0, level(names, sides, factor, data.get("pad", ()), [n / reach for n in size]))
        if not told:
            break
        reach *= factor
    if found[0].factor:
        raise UserError(f"{found[0].networks[0]} is told a context, and there is no magnification before it")
    return found


class Box(NamedTuple):
    """A place on the plane of the magnification before, in its pixels, which need not be whole."""

    top: float
    left: float
    height: float
    width: float


def beneath(here: Level, before: Level, index: Index) -> Box:
    """What the patch covers of the magnification before."""
    top, left = (at / here.factor - first for at, first in zip(here.corner(index), before.origin, strict=True))
    side = here.sides[-1] / here.factor
    return Box(top, left, side, side)


def around(here: Level, before: Level, index: Index) -> Box:
    """The context of a patch: as many pixels of the magnification before as it has itself, around the same middle."""
    box, side = beneath(here, before, index), here.sides[-1]
    return Box(box.top + (box.height - side) / 2, box.left + (box.width - side) / 2, side, side)


def seen(plane: Plane, pad: Sequence[int], box: Box, side: int, kernel: str) -> UInt8[np.ndarray, "side side C"]:
    """The ``box`` of a plane at ``side`` x ``side`` pixels; beyond it is ``pad``."""
    return slides.resample(partial(plane.padded, colour=pad), None, box, (side, side), kernel)


# What is drawn, and what is glass.


def reduced(plane: Plane, k: int) -> UInt8[np.ndarray, "h w C"]:
    """A plane whose pixels are the means of ``k`` x ``k``; never more of it is in memory than a piece."""
    (height, width), step = (n // k for n in plane.grid.sides), max(1, TILE // k)

    def piece(y: int, x: int) -> np.ndarray:
        return images.reduce(plane.read(y * k, x * k, min(height - y, step) * k, min(width - x, step) * k), k)

    rows = (np.concatenate([piece(y, x) for x in range(0, width, step)], 1) for y in range(0, height, step))
    return np.concatenate([*rows])


def glass(plane: Plane, k: int) -> Bool[np.ndarray, "h w"]:
    """Where a plane shows no tissue and none is near, in places of ``k`` x ``k`` pixels, each the mean of them.

    What is a speck and what is near are parts of a patch: 5 and 51 pixels of 1024, as in URCDM's code.
    """
    from scipy import ndimage

    erode, dilate = (np.ones((max(1, round(n * plane.grid.patch / k)),) * 2, bool) for n in (ERODE, DILATE))
    return ~ndimage.binary_dilation(ndimage.binary_erosion(stained(reduced(plane, k)), erode), dilate)


def skipped(here: Level, before: Level, mask: Bool[np.ndarray, "h w"], k: int) -> set[Index]:
    """The patches that cover nothing but glass."""
    found = set()
    for index in (index for wave in here.grid.waves() for index in wave):
        box = beneath(here, before, index)
        y, x = (max(0, int(at // k)) for at in (box.top, box.left))
        under = mask[y : math.ceil((box.top + box.height) / k), x : math.ceil((box.left + box.width) / k)]
        if under.all():
            found.add(index)
    return found


def fading(grid: Grid, index: Index, glassy: set[Index]) -> Float[np.ndarray, "p p 1"]:
    """How much of a patch is its own where later neighbours are glass: 1, falling to 0 over what it shares with them.

    Towards earlier neighbours nothing fades: there it was drawn in sight of the glass.
    """
    (i, j), p = index, grid.patch
    ramps = []
    for axis, neighbour in ((grid.rows, (i + 1, j)), (grid.columns, (i, j + 1))):
        ramp = np.ones(p, np.float32)
        if neighbour in glassy:
            here = neighbour[0] - 1 if axis is grid.rows else neighbour[1] - 1
            shared = axis[here] + p - axis[here + 1]
            ramp[p - shared :] = 1 - (np.arange(shared) + 0.5) / shared
        ramps.append(ramp)
    return (ramps[0][:, None] * ramps[1])[..., None]


# The work of one network.


class How(NamedTuple):
    """How patches are painted: ``resample`` times ``jump`` steps, see :func:`nca_gen.diffusion.inpaint.path`."""

    settings: Settings
    resample: int
    jump: int
    published: bool


@cache
def program(task: Any, how: How, grid: Mesh) -> Any:
    """The compiled way from noise to patches, as many as ``grid`` has devices or a multiple of that, each by itself.

    (params, known [B, p, p, C], hole [B, p, p, 1], cond, key as words [1, 2], rows [B, p, 1], columns [B, 1, p]) ->
    [B, p, p, C] in [-1, 1] and a little beyond; what is no hole is as it was known.
    """
    model, process, codec, settings = task.model.inference(), task.process, task.codec, how.settings
    step = chosen(samplers.SAMPLERS, "config.sample.sampler", settings.sampler)
    bound = chosen(guidance.CLIPS, "config.sample.clip", settings.clip)
    times = settings.times(process)

    def run(params, known, hole, cond, words, rows, columns):
        at = (rows, columns)
        key = jnp.repeat(jax.random.wrap_key_data(words, impl="threefry2x32"), len(known), 0)
        x0, cond = codec.encode(known), task.augmented(jax.tree.map(codec.encode, cond), key, at=at)
        call = guidance.network(process, model, params)
        denoise = guidance.classifier_free(call, cond or None, settings.guidance)
        noise = samplers.initial_noise(key, x0.shape[1:-1], x0.shape[-1], at)
        if bound:  # what the network is shown, so before known pixels are replaced
            denoise = guidance.constrained(denoise, process, codec, bound)
        # Along the path of an ODE noise stays what it was.
        steady = settings.sampler in samplers.DETERMINISTIC and how.resample == 1
        fixed = lambda t, k: forward.noised(process, x0, noise, t)
        drawn = lambda t, k: inpaint.noised(process, x0, t, k, at)
        denoise = inpaint.replaced(denoise, hole, fixed if steady else drawn)
        carry = samplers.begin(noise)
        given = step, process, denoise, carry, times, key, at
        if how.resample > 1:
            carry = inpaint.resampled(*given, how.resample, how.jump, how.published)
        else:
            carry = samplers.sample(*given)
        return jnp.where(hole, codec.decode(carry.x), known)

    lay = P(devices.AXES)
    lays = (P(), lay, lay, lay, P(), lay, lay)
    return jax.jit(jax.shard_map(run, mesh=grid, in_specs=lays, out_specs=lay, check_vma=False))


class Stage(NamedTuple):
    """What one network has to paint: the patches of ``plane`` that are not ``glassy``, from what lies below.

    ``number``: of the network in its ``level``. ``smaller``: what the network before has painted. ``before``: the
    magnification before. ``published``: its context is that of URCDM's code.
    """

    level: Level
    number: int
    plane: Plane
    smaller: Plane | None
    before: tuple[Level, Plane] | None
    glassy: set[Index]
    published: bool

    @property
    def name(self) -> str:
        """Of the network."""
        return self.level.networks[self.number]

    @property
    def side(self) -> int:
        """Of a patch."""
        return self.level.sides[self.number]

    def enlarged(self, index: Index) -> UInt8[np.ndarray, "p p C"]:
        """What the magnification before shows where the patch lies."""
        assert self.before is not None
        level, plane = self.before
        return seen(plane, level.pad, beneath(self.level, level, index), self.side, "bicubic")

    def context(self, index: Index) -> Float[np.ndarray, "p p C"]:
        """What the network is told of the magnification before."""
        assert self.before is not None
        level, plane = self.before
        box, kernel = around(self.level, level, index), "nearest" if self.published else "area"
        context = images.to_float(seen(plane, level.pad, box, self.side, kernel))
        return (context + 1) / 2 if self.published else context

    def inputs(self, index: Index) -> dict[str, np.ndarray]:
        """All that the program reads for a patch: "known", "hole", "rows", "columns", and its condition."""
        p, (top, left) = self.side, self.plane.grid.corner(index)
        hole = np.zeros((p, p, 1), bool)
        hole[self.plane.grid.own(index)] = True
        rows, columns = (np.arange(first, first + p, dtype=np.int32) for first in (top, left))
        given = {"known": images.to_float(self.plane.read(top, left, p, p)), "hole": hole}
        given |= {"rows": rows[:, None], "columns": columns[None]}
        if self.before is not None:
            given["context"] = self.context(index)
        if self.smaller is not None:
            k = p // self.level.sides[self.number - 1]
            small = images.to_float(self.smaller.read(top // k, left // k, p // k, p // k))
            given["low"] = small.repeat(k, 0).repeat(k, 1)
        return given

    def keep(self, index: Index, painted: Float[np.ndarray, "p p C"]) -> None:
        """Writes a patch, faded into the glass beside it. Raises UserError for colours that are not finite."""
        if not np.isfinite(painted).all():
            raise UserError(f"the network {self.name} paints what is not finite, at patch {index}: train it anew")
        own = fading(self.plane.grid, index, self.glassy)
        if (own < 1).any():
            painted = own * painted + (1 - own) * images.to_float(self.enlarged(index))
        self.plane.write(index, images.from_float(painted, np.uint8))


def batched(rows: Sequence[dict[str, np.ndarray]], words: Array) -> tuple[Any, ...]:
    """The arguments of a :func:`program` behind its parameters, from the inputs of patches."""
    given = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    known, hole, rows_, columns = (given.pop(name) for name in ("known", "hole", "rows", "columns"))
    return known, hole, given, words, rows_, columns


def paint(
    stage: Stage,
    part: Part,
    how: How,
    key: Key[Array, " 1"],
    batch: int,
    tick: Callable[[int], None],
    share: hosts.Share = hosts.ALONE,
) -> None:
    """Paints what is missing of a stage, wave by wave; ``batch`` patches on each device of this host at once.

    Processes that ``share`` it meet after each wave. ``tick`` hears how many patches are done.
    """
    grid = local()
    run, most = program(part.task, how, grid), batch * grid.size
    params, words = jax.device_put(part.params, devices.replicated(grid)), jax.random.key_data(key)
    there = stage.plane.done()
    share.meet()  # all know what is there
    for wave in stage.plane.grid.waves():
        todo = [index for index in share.dealt(wave) if index not in there]
        for index in stage.glassy.intersection(todo):
            stage.plane.write(index, stage.enlarged(index))
        todo = [index for index in todo if index not in stage.glassy]
        for first in range(0, len(todo), most):
            some = todo[first : first + most]
            rows = [stage.inputs(index) for index in some]
            rows += [rows[-1]] * (most - len(some))  # one program for any number
            painted = np.asarray(run(params, *batched(rows, words)))
            for index, pixels in zip(some, painted, strict=False):
                stage.keep(index, pixels)
        tick(len(wave))
        share.meet()


def local() -> Mesh:
    """The devices of this host."""
    return devices.mesh(jax.local_devices(), len(jax.local_devices()))


def glance(plane: Plane, most: int = 1024) -> UInt8[np.ndarray, "h w C"]:
    """A small picture of a plane, of ``most`` pixels a side at the most."""
    return reduced(plane, math.ceil(max(plane.grid.sides) / most))


def pyramid(
    work: Path, plane: Plane, origin: tuple[int, int], size: tuple[int, int], share: hosts.Share
) -> tuple[huge.Store, ...]:
    """The levels [C, H, W] of the slide of ``size`` pixels that lies at -``origin`` of ``plane``, made in ``work``."""
    channels, chunk = plane.store.shape[-1], tiles.chunk(TILE, streaming.PIXELS)
    cut = ((TILE, TILE), (chunk, chunk))
    made = [
        huge.level(work / streaming.PICTURE, i, sides, channels, np.uint8, *cut)
        for i, sides in enumerate(huge.sizes(*size))
    ]
    journal = streaming.Journal(work, share.index)
    share.meet()  # all have read all journals

    def copying() -> streaming.Stage:
        plan = tiles.plan(size, (TILE, TILE), 0)

        def work(tile: tiles.Tile, _: list[Any]) -> list[Any]:
            (top, left), (y, x) = origin, tile.core
            return [plane.read(y.start - top, x.start - left, y.stop - y.start, x.stop - x.start)]

        def put(i: int, pixels: list[Any]) -> list[Any]:
            core = (slice(None), *plan.tiles[i].core)
            return [made[0][core].write(np.ascontiguousarray(np.moveaxis(pixels[0], -1, 0)))]

        return streaming.Stage(plan.tiles, lambda tile: [], work, put)

    begin = lambda number: streaming.halving(made, (TILE, TILE), number) if number else copying()
    streaming.perform(journal, len(made), begin, deal=share.dealt, meet=share.meet)
    return tuple(made)


# The command.


class Needs(NamedTuple):
    """What a slide takes: ``disk`` bytes at the peak, if nothing can be compressed, ``memory`` bytes, and ``seconds``
    of painting, from one timed batch of every network; both at the most, for a slide without glass."""

    disk: int
    memory: int
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Slides by the networks of ``config.parts`` and the part "model", which is at ``place`` ("mag2_stage3") of a
    cascade of magnifications; of one magnification alone this is outpainting. Each network samples by its own
    ``config.sample``; ``sampler`` and ``steps``, one number a network of a magnification, say it for all.

    ``slides`` are drawn, of ``config.sample.size`` pixels. ``batch`` patches are painted on each device at once.
    ``resample``: how many times ``jump`` steps of sampling on end are taken (RePaint: Lugmayr et al. 2022), so that a
    patch agrees better with its neighbours. ``glass``: whether what shows no tissue is enlarged at the last
    magnification, and not drawn. ``published``: noise is added again as in URCDM's code, too little of it, and contexts
    are in [0, 1] and of nearest pixels, for weights that were trained so. ``format``: "tiff" (a pyramid that viewers of
    slides open), "zarr" (OME-Zarr) or "both". ``dry_run``: only says what it would take. ``mpp``: micrometres of a
    pixel; where it is left open, training fills in what its data have.
    """

    parts: Parts
    place: cascade.Place = ""
    slides: Count = 1
    batch: Count = 1
    sampler: Annotated[str, OneOf(("", *samplers.SAMPLERS))] = ""
    steps: tuple[Count, ...] = ()
    resample: Count = 1
    jump: Count = 1
    glass: bool = True
    published: bool = False
    format: Annotated[str, OneOf(gigapixel.FORMATS)] = "tiff"
    dry_run: bool = False
    mpp: files.Microns = ()

    @property
    def kind(self) -> str:
        """Slides."""
        return "slides"

    @property
    def config(self) -> Any:
        """Of the last network."""
        return self.parts["model"].config

    def title(self) -> list[str]:
        """The size of the slide, and the network."""
        return [*sampling.title(self.config), self.place]

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "H W C"]]:
        """A slide of ``size`` for each key, made in a temporary folder; each is in memory when it is yielded.

        Where ``cond`` is given, an image of the last network alone, as evaluation of its training asks for it.
        """
        if cond is not None:
            yield from sample.Pipeline(self.parts).draw(key, size, cond)
            return
        for i in range(len(key)):
            with TemporaryDirectory() as scratch:
                painted = self.painted(Path(scratch), key[i : i + 1], (size[0], size[1]))
                yield images.to_float(np.moveaxis(painted[0].read().result(), 0, -1))

    def how(self, part: Part, number: int) -> How:
        """How the ``number``-th network of a magnification paints. Raises UserError where ``steps`` are too few."""
        settings = Settings.of(part.config.sample)
        if self.steps and number >= len(self.steps):
            raise UserError(f"config.generate.steps={self.steps}: give a number for each network of a magnification")
        steps, sampler = self.steps[number] if self.steps else settings.steps, self.sampler or settings.sampler
        return How(settings._replace(steps=steps, sampler=sampler), self.resample, self.jump, self.published)

    def counts(self, size: tuple[int, ...]) -> dict[str, Calls]:
        """Of every network, where no glass is skipped."""
        found: dict[str, Calls] = {}
        for level in levels(self.parts, self.place, (size[0], size[1])):
            for number, name in enumerate(level.networks):
                part = cascade.opened(self.parts, name, self.place)
                how, side = self.how(part, number), level.sides[number]
                steps, _ = inpaint.path(how.settings.steps, how.resample, how.jump)
                found[name] = Calls(level.patches, len(steps), (side, side, part.task.model.reads))
        return found

    def stages(self, work: Path, floors: Sequence[Level]) -> list[Stage]:
        """What the networks have to paint in the folder ``work``, in their order; no glass is known yet."""
        found: list[Stage] = []
        channels, before = self.parts["model"].task.model.reads, None
        for level in floors:
            planes = [Plane.at(work / name, level.at(i), channels) for i, name in enumerate(level.networks)]
            smaller = [None, *planes[:-1]]
            found += [
                Stage(level, i, plane, smaller[i], before, set(), self.published) for i, plane in enumerate(planes)
            ]
            before = level, planes[-1]
        return found

    def painted(
        self,
        work: Path,
        key: Key[Array, " 1"],
        size: tuple[int, int],
        bar: screen.Bar = screen.SILENT,
        show: Callable[[str, np.ndarray], None] = lambda name, picture: None,
        share: hosts.Share = hosts.ALONE,
    ) -> tuple[huge.Store, ...]:
        """Paints the slide of ``key`` in the folder ``work``, or what is missing of it, and its pyramid; returns the
        levels of that. ``show`` gets a picture of every magnification, and the mask of glass, by name."""
        floors, notes = levels(self.parts, self.place, size), work / DONE
        work.mkdir(parents=True, exist_ok=True)
        stages = self.stages(work, floors)
        done = json.loads(notes.read_text()) if notes.is_file() else 0
        bar.begin("", sum(stage.level.patches for stage in stages), sum(s.level.patches for s in stages[:done]))
        share.meet()  # all have seen what is done
        glassy: set[Index] | None = None
        for turn, stage in enumerate(stages[done:], done):
            if self.glass and stage.before and stage.level is floors[-1]:
                if glassy is None:
                    level, plane = stage.before
                    mask = glass(plane, level.low)
                    glassy = skipped(stage.level, level, mask, level.low)
                    show("glass", np.uint8(255) * mask[..., None])
                stage = stage._replace(glassy=glassy)
            part, bar.what = cascade.opened(self.parts, stage.name, self.place), stage.name
            paint(stage, part, self.how(part, stage.number), arrays.fold(key, turn), self.batch, bar.advance, share)
            if stage.number == len(stage.level.networks) - 1:
                show(stage.name.partition("_")[0], glance(stage.plane))
            if not share.index:
                write.facts(notes, turn + 1)
                if stage.smaller:
                    shutil.rmtree(stage.smaller.folder, ignore_errors=True)
            share.meet()
        bar.what = "pyramid"
        return pyramid(work, stages[-1].plane, floors[-1].origin, size, share)

    def disk(self, floors: Sequence[Level], size: tuple[int, int]) -> int:
        """Bytes on disk at the peak: what is painted, and its pyramid twice, one of them in the file."""
        planes = [math.prod(level.at(-1).sides) for level in floors]
        kept = sum(planes) + planes[-1] // floors[-1].low ** 2 + 2 * (math.prod(size) * 4 // 3)
        return self.parts["model"].task.model.reads * kept

    def rehearsed(self, work: Path, floors: Sequence[Level], size: tuple[int, int]) -> Needs:
        """What a slide takes, from one batch of every network, painted in an empty folder."""
        grid, seconds, arena = local(), 0.0, 0
        for stage in self.stages(work, floors):
            part = cascade.opened(self.parts, stage.name, self.place)
            rows = [stage.inputs((0, 0))] * (self.batch * grid.size)
            given = part.params, *batched(rows, jax.random.key_data(arrays.keys(0, 1)))
            run = program(part.task, self.how(part, stage.number), grid).lower(*given).compile()
            used = run.memory_analysis()
            arena = max(arena, used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes)
            for _ in range(2):  # the first also warms up
                start = time.perf_counter()
                jax.block_until_ready(run(*given))
                took = time.perf_counter() - start
            at_once = self.batch * grid.size * jax.process_count()
            seconds += took * sum(math.ceil(len(wave) / at_once) for wave in stage.level.grid.waves())
        memory = arena + (gigapixel.resident() if jax.default_backend() == "cpu" else 0)
        return Needs(self.disk(floors, size), memory, seconds)

    def write(self, folder: Path) -> list[str]:
        """``slides`` slides of ``config.seed`` in ``config.sample.size``, as ``format``; returns what to say.

        Beside each lie small pictures of its magnifications, and the mask of what was taken for glass. Started again,
        it goes on where it was stopped, on any number of processes. Raises UserError where the disk is too small.
        """
        ends, config = chosen(gigapixel.FORMATS, "config.generate.format", self.format), self.config
        size = tuple(config.sample.size)
        floors = levels(self.parts, self.place, size)
        free, disk = shutil.disk_usage(folder).free, self.disk(floors, size)
        if self.dry_run:
            with TemporaryDirectory(dir=folder) as scratch:
                needs = self.rehearsed(Path(scratch), floors, size)
            return [*said(floors, size), *taken(needs, free)] if hosts.first() else []
        mpp, lines = files.sides(self.mpp, 2), said(floors, size)
        for number in range(self.slides):
            stem = f"{size[0]}x{size[1]}_{self.identity(floors, size, number)}"
            targets, work = [folder / f"{stem}{suffix}" for suffix in ends], folder / f"{stem}.part"
            if all(target.exists() for target in targets):
                shutil.rmtree(work, ignore_errors=True)
                lines += [f"{target} is there already" for target in targets]
                continue
            there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.is_dir() else 0
            if disk > free + there:
                raise UserError(
                    f"{size[0]} x {size[1]} pixels need {disk / 1e9:.2f} GB of disk on the way, and "
                    f"{(free + there) / 1e9:.2f} GB are free at {folder}; make room, or choose a smaller "
                    "config.sample.size"
                )
            hosts.meet()  # all have looked
            start = time.perf_counter()

            def show(name: str, picture: np.ndarray, stem: str = stem) -> None:
                if hosts.first():
                    files.image(folder / f"{stem}_{name}.png", picture)

            with screen.bar(unit="patches", quiet=not hosts.first()) as bar, huge.refusals(work):
                made = self.painted(work, arrays.keys(config.seed, 1, number), size, bar, show, hosts.shared())
                if hosts.first():
                    gigapixel.finish(made, work, targets, bar, mpp)
            took = screen.duration(time.perf_counter() - start)
            lines += [f"{target}, {took} since it was last started" for target in targets]
        return lines if hosts.first() else []

    def identity(self, floors: Sequence[Level], size: tuple[int, int], number: int) -> str:
        """Names all that the pixels of slide ``number`` depend on, in 10 hexadecimal digits."""
        digest = hashlib.sha256(f"{size} {self.config.seed} {number} {self.glass}".encode())
        for level in floors:
            for i, name in enumerate(level.networks):
                part = cascade.opened(self.parts, name, self.place)
                digest.update(f"{level.factor} {level.pad} {part.task} {self.how(part, i)}".encode())
                for path, leaf in jax.tree.leaves_with_path(part.params):
                    digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
        return digest.hexdigest()[:10]


def said(floors: Sequence[Level], size: tuple[int, int]) -> list[str]:
    """What is going to be painted."""
    planes = [f"{level.patches:,} of {level.sides[-1]} pixels" for level in floors]
    networks = sum(len(level.networks) for level in floors)
    return [
        f"{size[0]} x {size[1]} = {screen.count(math.prod(size))} pixels by {networks} networks, patches of the "
        f"magnifications: {', '.join(planes)}"
    ]


def taken(needs: Needs, free: int) -> list[str]:
    """What it takes."""
    disk = f"disk {needs.disk / 1e9:.2f} GB of {free / 1e9:.1f} GB that are free"
    return [
        f"memory {needs.memory / 1e9:.2f} GB, {disk}, at the most",
        f"time {screen.duration(needs.seconds)}, at the most, from a timed batch of each network; then the pyramid",
    ]
