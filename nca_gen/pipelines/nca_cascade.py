"""Pictures of any size by a cascade of automata: the first paints the layout, each other resolves what the last drew.

A network reads the picture before only where it lies below its own window, and the noise in it belongs to coordinates,
so that a picture in tiles is that made whole, through all networks. :meth:`Pipeline.draw` makes pictures in memory;
:meth:`Pipeline.write` as files, network after network, each in passes over tiles (:mod:`nca_gen.tiling.streaming`),
between which the smaller picture lies on disk, in floats. What is killed anywhere goes on to the same picture.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from annotated_types import Gt
from jaxtyping import Array, Float, Key

from nca_gen import arrays, hosts, screen
from nca_gen.contracts import Calls, Condition, Part, Parts, Resolving, unchanged
from nca_gen.errors import UserError, chosen
from nca_gen.io import huge, write
from nca_gen.pipelines import cascade, files, gigapixel, sample, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.ranges import Natural, OneOf
from nca_gen.tiling import streaming, tiles

DONE = "networks.json"  # how many networks have painted all of their pictures


class Network(NamedTuple):
    """A network of the cascade: its name, itself, the ``size`` of its picture in pixels, and how that is made."""

    name: str
    part: Part
    size: tuple[int, ...]
    job: streaming.Job


@dataclass(frozen=True)
class Pipeline:
    """Pictures by the networks of ``config.parts``, in the order of their names, and last the part "model"; each with
    its own ``config.sample``. The first draws from noise, all others resolve the picture before.

    ``tile``: pixels a side, at the most, 0 for 1024; it is halved until a pass takes ``memory_gb`` or less. ``calls``:
    denoising steps a pass; 0 takes as many as are cheap. ``format``: "tiff" (a pyramid that viewers of slides open),
    "zarr" (OME-Zarr) or "both". ``dry_run``: only says what it would take. ``dtype``: of the pixels; floats are written
    as uint16, which slides hold. ``mpp``: micrometres of a pixel, for both axes or for each. Where these are left open,
    training fills in what its data have.
    """

    parts: Parts
    tile: Natural = 0
    calls: Natural = 0
    dry_run: bool = False
    format: Annotated[str, OneOf(gigapixel.FORMATS)] = "tiff"
    memory_gb: Annotated[int | float, Gt(0)] = 1.5
    dtype: files.Depth = ""
    mpp: files.Microns = ()

    @cached_property
    def networks(self) -> list[tuple[str, Part]]:
        """All networks by name, in their order. Raises UserError for one that is not trained, and for what is none of a
        cascade of local automata."""
        found = [(name, self.opened(name)) for name in [*sorted({*self.parts} - {"model"}), "model"]]
        for number, (name, part) in enumerate(found):
            resolves = isinstance(part.task, Resolving) and part.task.resolves
            if resolves != (number > 0):
                raise UserError(f"{name} is none of a cascade: the first network draws from noise, all others resolve")
            if part.decode is not unchanged or part.task.model.ndim != 2:
                raise UserError(
                    f"{name} learned no images of two axes, and config.generate.name=nca_cascade is for them"
                )
            if "context" in part.task.model.conditions:
                raise UserError(f"{name} is told a context, and here is none: set config.model.context_channels to 0")
        return found

    def opened(self, name: str) -> Part:
        """The network ``name``, where it samples. Raises UserError for one that is not trained."""
        try:
            part = sampling.denoiser(self.parts[name])
        except UserError as e:
            raise UserError(f"the network {name} is missing ({e}); --mode=chain trains all of them in order") from e
        return replace(part, params=jax.device_put(part.params, jax.local_devices()[0]))

    @property
    def kind(self) -> str:
        """Slides."""
        return "slides"

    @property
    def config(self) -> Any:
        """Of the last network."""
        return self.parts["model"].config

    @property
    def pixels(self) -> np.dtype:
        """The type of the pixels."""
        return np.dtype(np.uint8 if self.dtype in ("", "uint8") else np.uint16)

    def title(self) -> list[str]:
        """The size of the picture."""
        return sampling.title(self.config)

    def sizes(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """Of the picture of each network, where that of the last has ``size`` pixels."""
        found = [tuple(size)]
        for _, part in reversed(self.networks[1:]):
            found.insert(0, tiles.smaller(found[0], part.task.low))
        return found

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "H W C"]]:
        """A picture of ``size`` for each key, in memory, spread over the devices of this host.

        Where ``cond`` is given, an image of the last network alone, as evaluation of its training asks for it.
        """
        if cond is not None:
            yield from sample.Pipeline(self.parts).draw(key, size, cond)
            return
        sizes, batch, space = self.sizes(size), self.config.sample.batch, self.config.mesh.space
        for start in range(0, len(key), batch):
            images: Any = None
            for number, (_, part) in enumerate(self.networks):
                low = None if images is None else cascade.resolving(part, images, sizes[number])
                some, how = arrays.fold(key[start : start + batch], number), Settings.of(part.config.sample)
                [images] = sampling.images(part, some, sizes[number], how, low, batch=batch, space=space)
            yield from images

    def counts(self, size: tuple[int, ...]) -> dict[str, Calls]:
        """Of every network, in tiles of :attr:`tile` pixels, each with the halo of the longest pass."""
        found = {}
        for (name, part), sides in zip(self.networks, self.sizes(size), strict=True):
            job = gigapixel.maker(part, sides, self.calls)(tile=min(self.tile or gigapixel.TILE, max(sides)))
            found[name] = gigapixel.counts(job)
        return found

    def planned(self, size: tuple[int, ...], work: Path) -> list[Network]:
        """The networks and their work, in the tiles that were chosen in ``work``, or such as fit the memory."""
        found = []
        for (name, part), sides in zip(self.networks, self.sizes(size), strict=True):
            make, plan = gigapixel.maker(part, sides, self.calls), room(work, name) / "tiles.json"
            if plan.is_file():
                job = gigapixel.planned(make(tile=max(sides)), plan)
            else:
                job = gigapixel.fitted(make, min(self.tile or gigapixel.TILE, max(sides)), self.memory_gb * 1e9)
            found.append(Network(name, part, sides, job))
        return found

    def painted(
        self,
        work: Path,
        key: Key[Array, " 1"],
        networks: Sequence[Network],
        dtype: Any = np.uint8,
        bar: screen.Bar = screen.SILENT,
        shared: bool = False,
    ) -> tuple[huge.Store, ...]:
        """Paints the picture of ``key`` in the folder ``work``, or what is missing of it; returns its levels, of pixels
        of ``dtype``. ``shared``: by all processes together."""
        notes, low = work / DONE, None
        done = json.loads(notes.read_text()) if notes.is_file() else 0
        if done:
            name, _, _, job = networks[done - 1]
            low = streaming.stores(job, room(work, name), np.float32, pyramid=False).levels[0]
        levels: tuple[huge.Store, ...] = ()
        for number, (name, part, _, job) in [*enumerate(networks)][done:]:
            here, last, some = room(work, name), name == "model", arrays.fold(key, number)
            pixels = dtype if last else np.float32
            levels = streaming.run(job, part.params, some, here, pixels, None, bar, shared, low, pyramid=last)
            low = levels[0]
            if not last and (hosts.first() or not shared):
                write.facts(notes, number + 1)
                shutil.rmtree(here / streaming.CELLS, ignore_errors=True)
                if number:  # read by nobody any more
                    shutil.rmtree(room(work, networks[number - 1].name), ignore_errors=True)
            if shared:
                hosts.meet()
        return levels

    def identity(self, networks: Sequence[Network]) -> str:
        """Names all that the pixels depend on, in 10 hexadecimal digits. Tiles are not among it."""
        digest = hashlib.sha256()
        for _, part, _, job in networks:
            known = gigapixel.identity(job, part.params, self.config.seed)
            digest.update(f"{known} {part.task}".encode())
        return digest.hexdigest()[:10]

    def disk(self, networks: Sequence[Network]) -> int:
        """Bytes on disk at the peak: the work of a network beside the picture before, if nothing can be compressed."""
        peak = before = 0
        for name, _, size, job in networks:
            dtype: Any = self.pixels if name == "model" else np.float32
            peak = max(peak, before + gigapixel.disk(job, dtype))
            before = math.prod(size) * job.channels * 4
        return peak

    def write(self, folder: Path) -> list[str]:
        """Picture 0 of ``config.seed`` in ``config.sample.size``, as ``format``; returns what to say.

        Started again, it goes on where it was stopped, with the tiles that it had chosen, on any number of processes.
        Raises UserError where the disk is too small.
        """
        ends = chosen(gigapixel.FORMATS, "config.generate.format", self.format)
        key, size = arrays.keys(self.config.seed, 1), tuple(self.config.sample.size)
        mpp, depth = files.sides(self.mpp, 2), "" if self.pixels == np.uint8 else f"_{self.pixels}"
        whole = [
            Network(name, part, sides, gigapixel.maker(part, sides, self.calls)(tile=max(sides)))
            for (name, part), sides in zip(self.networks, self.sizes(size), strict=True)
        ]
        stem = f"{size[0]}x{size[1]}_{self.identity(whole)}{depth}"
        targets, work = [folder / f"{stem}{end}" for end in ends], folder / f"{stem}.part"
        if all(target.exists() for target in targets):
            shutil.rmtree(work, ignore_errors=True)
            return [f"{target} is there already" for target in targets]
        networks = self.planned(size, work)
        there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.is_dir() else 0
        folder.mkdir(parents=True, exist_ok=True)
        free, disk = shutil.disk_usage(folder).free + there, self.disk(networks)
        if disk > free:
            raise UserError(
                f"{size[0]} x {size[1]} pixels need {disk / 1e9:.2f} GB of disk on the way, and {free / 1e9:.2f} GB "
                f"are free at {folder}; make room, or choose a smaller config.sample.size"
            )
        if self.dry_run:
            return said(networks, disk, free, self.seconds(networks, key, folder)) if hosts.first() else []
        hosts.meet()  # all have looked
        if hosts.first():
            keep(networks, work)
        hosts.meet()
        networks, start = self.planned(size, work), time.perf_counter()
        with screen.bar(unit="pixels", quiet=not hosts.first()) as bar:
            levels = self.painted(work, key, networks, self.pixels, bar, shared=True)
            if not hosts.first():
                return []
            gigapixel.finish(levels, work, targets, bar, mpp)
        took = screen.duration(time.perf_counter() - start)
        return [*said(networks, disk, free), f"took {took} since it was last started", *map(str, targets)]

    def seconds(self, networks: Sequence[Network], key: Key[Array, " 1"], work: Path) -> list[float]:
        """Of the denoising by each network, from a timed tile of it."""
        return [gigapixel.seconds(job, part.params, key, work) for _, part, _, job in networks]


def room(work: Path, name: str) -> Path:
    """Where a network paints: the last one in ``work`` itself, of which the file is made."""
    return work if name == "model" else work / name


def keep(networks: Sequence[Network], work: Path) -> None:
    """Notes which tiles were chosen."""
    for name, _, _, job in networks:
        room(work, name).mkdir(parents=True, exist_ok=True)
        write.facts(room(work, name) / "tiles.json", {"sides": job.sides, "calls": job.calls})


def said(networks: Sequence[Network], disk: int, free: int, seconds: Sequence[float] = ()) -> list[str]:
    """What is going to be done and what it takes."""
    text = []
    for i, (name, _, _, job) in enumerate(networks):
        needs = gigapixel.Needs(disk, gigapixel.memory(job), seconds[i] if seconds else None)
        text += [f"{name}: {line}" for line in gigapixel.lines(job, needs, free)]
    return text
