"""Any rectangle of a plane without an end, from a local denoiser: of what is asked for, and no more.

A cell's randomness belongs to its coordinates, so the plane is there before anything of it is grown. A rectangle is the
same to the byte whatever is grown beside it, before it, or in which process. As XLA may round otherwise in programs of
other shapes, one program makes all of it, of one call on one shape, on a lattice of tiles that is the same for all: a
tile after a call is made from that tile and its neighbours before it. So a rectangle needs a little more of the plane
at every earlier call, all the cone of what it hears. Where that ends within a tile, the rest of the tile is made for
nothing, and nobody is given it.

Coordinates are those of pixels, and may be negative. Their cells are hashed as two's complement of 32 bits: the plane
repeats after 2^32 cells.

A model that resolves a smaller picture reads it from the plane ``below``, of which that grows what lies under its
windows: so a cascade of local automata has a plane too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree, Shaped

from nca_gen.contracts import Condition, Process, Resolving
from nca_gen.diffusion import grids, guidance, samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.tiling import streaming
from nca_gen.tiling.streaming import Job

EDGE = 2**31  # coordinates of pixels lie from -EDGE to EDGE - 1
SIGHT = 1024  # pixels a side of what is looked at at once
STEP, LEAST = 8, 32  # cells: sides of tiles are multiples of the one, and no less than the other

Index = tuple[int, ...]  # of a tile of the lattice
Box = tuple[tuple[int, int], ...]  # first and end along each axis


def job(
    model: Any,
    process: Process,
    codec: Codec,
    *,
    sampler: str = "ddpm",
    steps: int = 300,
    clip: str = "none",
    scale: int | float = 1.0,
    cond: Condition = None,
    tile: int = 0,
    grid: str = "uniform",
    task: Resolving | None = None,
    growth: guidance.Growth | None = None,
    sight: int = SIGHT,
) -> Job:
    """How a plane is made in tiles of about ``tile`` pixels a side; 0 takes the :func:`side` that costs least, where
    ``sight`` pixels a side are looked at. ``task``: where the model resolves a smaller picture.

    Raises UserError for what couples the whole image, or knows where in it a cell lies.
    """
    streaming.tileable(model, sampler, clip)
    grids.times(process, steps, grid)
    cells = max(1, tile // codec.block) if tile else side(model.halo, steps, sight // codec.block)
    fields = streaming.columns(cond)
    how = (sampler, steps, clip, float(scale), fields, (cells,) * 2, 1, grid)
    one = Job(model, process, codec, (), *how, task=task, growth=growth)
    if one.listens:
        raise UserError(
            "this model hears a summary of the whole picture, and a plane without an end has none; choose "
            "config.generate.name=gigapixel, or a model that hears its surroundings alone"
        )
    return one


def side(halo: int, steps: int, sight: int) -> int:
    """The side of a tile, in cells, with which a square of ``sight`` cells a side costs least.

    At a call it needs w cells a side, of ``sight`` to ``sight + 2 halo steps``. Tiles of L cover that with w + L on the
    average, and each sees L + 2 halo: (w + L) (1 + 2 halo / L) cells a side, least for L = sqrt(2 halo w). All calls on
    one window would see L + 2 halo steps at every call, and nothing of that would serve a neighbour.
    """
    best = math.sqrt(2 * halo * (sight + halo * steps))
    return max(LEAST, round(best / STEP) * STEP)


# What a rectangle needs.


def bounds(box: Sequence[int]) -> Box:
    """Y, X, H, W as first and end along each axis."""
    corner, sides = box[:2], box[2:]
    return tuple((a, a + n) for a, n in zip(corner, sides, strict=True))


def size(box: Box) -> int:
    """How many places lie in ``box``."""
    return math.prod(b - a for a, b in box)


def window(job: Job) -> tuple[int, ...]:
    """The shape of what a tile is made from, in cells."""
    return tuple(n + 2 * job.halo for n in job.sides)


def area(job: Job, index: Index) -> Box:
    """The cells of a tile."""
    return tuple((i * n, (i + 1) * n) for i, n in zip(index, job.sides, strict=True))


def over(job: Job, box: Box) -> Iterator[Index]:
    """The tiles in which cells of ``box`` lie."""
    return product(*(range(a // n, -(-b // n)) for (a, b), n in zip(box, job.sides, strict=True)))


def tiles(job: Job, box: Box) -> int:
    """How many tiles :func:`over` a box there are."""
    return math.prod(-(-b // n) - a // n for (a, b), n in zip(box, job.sides, strict=True))


def grown(box: Box, by: int) -> Box:
    """``box`` and ``by`` cells on every side."""
    return tuple((a - by, b + by) for a, b in box)


def shared(one: Box, other: Box) -> Box:
    """What lies in both, which may be nothing."""
    return tuple((max(a, c), max(a, c, min(b, d))) for (a, b), (c, d) in zip(one, other, strict=True))


def hull(one: Box, other: Box) -> Box:
    """The least box around both."""
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def scaled(box: Box, k: int) -> Box:
    """``box`` in units ``k`` times as small."""
    return tuple((a * k, b * k) for a, b in box)


def of_pixels(job: Job, box: Box) -> Box:
    """The cells in which pixels of ``box`` lie."""
    k = job.codec.block
    return tuple((a // k, -(-b // k)) for a, b in box)


def needs(job: Job, cells: Box, known: Callable[[int, Index], Box | None]) -> list[dict[Index, Box]]:
    """What has to be made of each tile at each call, from the first to the last, for ``cells`` after the last.

    ``known`` (number, index): what is there of a tile after a call.
    """
    calls: list[dict[Index, Box]] = []
    wanted = {index: shared(area(job, index), cells) for index in over(job, cells)}
    for number in reversed(range(job.steps)):
        todo: dict[Index, Box] = {}
        for index, part in wanted.items():
            old = known(number, index)
            both = part if old is None else hull(part, old)
            if both != old:
                todo[index] = both
        calls.append(todo)
        wanted = {}
        for part in todo.values():
            seen = grown(part, job.halo)
            for near in over(job, seen):
                there = shared(area(job, near), seen)
                wanted[near] = hull(wanted[near], there) if near in wanted else there
    return calls[::-1]


def cost(job: Job, box: Box) -> int:
    """Cells of all calls that ``box``, of pixels, takes where nothing is there yet."""
    cells = of_pixels(job, box)
    made = sum(tiles(job, grown(cells, number * job.halo)) for number in range(job.steps))
    return made * math.prod(window(job))


def allowance(job: Job, box: Box) -> int:
    """Cells of all calls if each were made on ``box``, of pixels, with the halo of all of them around it."""
    reach = job.steps * job.halo
    return job.steps * size(grown(of_pixels(job, box), reach))


def room(job: Job, box: Box) -> int:
    """Bytes of the cells before and after the first call, which are the most, for a ``box`` of pixels."""
    cells = of_pixels(job, box)
    calls = range(max(0, job.steps - 2), job.steps)
    made = sum(tiles(job, grown(cells, number * job.halo)) for number in calls)
    return made * 4 * math.prod(job.sides) * job.model.reads * (2 if job.multistep else 1)


def parts(job: Job, box: Box, most: int | float) -> list[Box]:
    """``box``, of pixels, in pieces that each need ``most`` bytes of :func:`room`, or less.

    Raises UserError where a tile needs more.
    """
    if room(job, box) <= most:
        return [box]
    sides = [n * job.codec.block for n in job.sides]
    spans = [-(-b // n) - a // n for (a, b), n in zip(box, sides, strict=True)]  # tiles along each axis
    axis = spans.index(max(spans))
    if spans[axis] == 1:
        raise UserError(
            f"what a tile of {sides[0]} pixels is grown from takes {room(job, box) / 1e9:.2f} GB; set "
            "config.generate.cache_gb to more, or take fewer config.sample.steps"
        )
    a, b = box[axis]
    cut = (a // sides[axis] + spans[axis] // 2) * sides[axis]
    halves = [(*box[:axis], half, *box[axis + 1 :]) for half in ((a, cut), (cut, b))]
    return [part for half in halves for part in parts(job, half, most)]


# What is grown.


class Cache:
    """What was made or asked for last, ``most`` bytes of it, or less."""

    def __init__(self, most: int | float):
        self.most, self.bytes = most, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """What was put under ``key``, if it is still there; else None."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keeps ``value``, of ``size`` bytes, in place of what was there, and lets go of what is oldest."""
        self.bytes += size - self._kept.pop(key, (None, 0))[1]
        self._kept[key] = value, size
        while self.bytes > self.most:
            self.bytes -= self._kept.popitem(last=False)[1][1]


class Piece(NamedTuple):
    """A tile after a call: the cells ``known`` of it are right. ``fields``: x, and x0 of a sampler that reads the last
    one, [*S, C]; after the last call the pixels."""

    known: Box
    fields: tuple[np.ndarray, ...]


class Under(NamedTuple):
    """Pixels of the plane below, [H, W, C]: those of ``box``."""

    box: Box
    pixels: np.ndarray


@dataclass
class Plane:
    """The plane of ``key`` under ``cond``. ``cache`` may be shared by planes of one job, and by all of a cascade;
    ``calls`` counts those of the network, each on a :func:`window`. ``below``: the smaller picture that ``job.task``
    resolves."""

    job: Job
    params: PyTree
    key: Key[Array, " 1"]
    cond: Condition
    cache: Cache
    calls: int = 0
    below: Plane | None = None

    @property
    def all(self) -> list[Plane]:
        """This plane and those below, the lowest first."""
        return [*(self.below.all if self.below else []), self]

    @cached_property
    def name(self) -> bytes:
        """Tells its tiles from those of other keys and conditions."""
        numbers = jax.tree.leaves((jax.random.key_data(self.key), self.cond))
        return b"".join(np.asarray(leaf).tobytes() for leaf in numbers)

    @cached_property
    def run(self) -> Any:
        """The one program: a call on a window."""
        return streaming.program(self.job, window(self.job), 1)

    @cached_property
    def clock(self) -> list[tuple[Any, np.ndarray]]:
        """Of each call the times from which and to which it goes, and the gap before it."""
        passes = self.job.passes
        return [(jnp.asarray(times), streaming.gap_before(self.job, number)) for number, times in enumerate(passes)]

    def grow(
        self, box: Box, dtype: Any = np.float32, tick: Callable[[float], None] = lambda pixels: None
    ) -> Shaped[np.ndarray, "H W C"]:
        """The pixels of ``box``, stored as ``dtype``: uint8, uint16 or float32.

        ``tick`` hears of the pixels, by and by while they are grown. Raises UserError for a tile that takes more room
        than the cache has.
        """
        out = np.empty((*(b - a for a, b in box), self.job.channels), dtype)
        for part in parts(self.job, box, self.cache.most):
            for index, piece in self._grown(of_pixels(self.job, part), partial(_worth, part, tick)).items():
                at = scaled(area(self.job, index), self.job.codec.block)
                both = shared(at, part)
                out[_within(both, box)] = images.from_float(piece.fields[0][_within(both, at)], dtype)
        return out

    def _grown(self, cells: Box, tick: Callable[[float], None]) -> dict[Index, Piece]:
        """The tiles over ``cells`` after the last call. ``tick`` hears of shares of the work."""
        there: dict[tuple[int, Index], Piece] = {}  # what is needed of the cache, which may let go of it meanwhile

        def known(number: int, index: Index) -> Box | None:
            piece = self.cache.get((self.name, number, index))
            if piece is not None:
                there[number, index] = piece
            return piece and piece.known

        calls = needs(self.job, cells, known)
        share = 1 / max(1, sum(map(len, calls)))
        under = self._under([index for todo in calls for index in todo], lambda _: tick(0.0))
        before: dict[Index, Piece] = {}
        for number, todo in enumerate(calls):
            after = {index: piece for (n, index), piece in there.items() if n == number}
            for index, part in todo.items():
                piece = after[index] = Piece(part, self._called(number, index, before, under))
                self.cache.put((self.name, number, index), piece, sum(one.nbytes for one in piece.fields))
                self.calls += 1
                tick(share)
            before = after
        if not any(calls):
            tick(1.0)
        return {index: before[index] for index in over(self.job, cells)}

    def _under(self, indices: Sequence[Index], tick: Callable[[float], None]) -> Under | None:
        """What lies below all that is seen by the tiles ``indices``; None where nothing does, or there are none."""
        if self.below is None or self.job.task is None or not indices:
            return None
        seen = reduce(hull, (grown(area(self.job, index), self.job.halo) for index in indices))
        box = tuple((a // self.job.task.low, -(-b // self.job.task.low)) for a, b in self.pixels(seen))
        return Under(box, self.below.grow(box, np.float32, tick))

    def pixels(self, cells: Box) -> Box:
        """Those of ``cells``."""
        return scaled(cells, self.job.codec.block)

    def told(self, seen: Box, under: Under | None) -> Condition:
        """The condition of the window ``seen``, in cells: where a smaller picture is resolved, that, enlarged."""
        if under is None or self.job.task is None:
            return self.cond
        spans = zip(self.pixels(seen), under.box, strict=True)
        rows = (np.arange(*span) // self.job.task.low - first for span, (first, _) in spans)
        return (self.cond or {}) | {"low": jnp.asarray(under.pixels[np.ix_(*rows)][None])}

    def _called(
        self, number: int, index: Index, before: dict[Index, Piece], under: Under | None
    ) -> tuple[np.ndarray, ...]:
        """The fields of a tile after call ``number``, from the tiles ``before`` it and what lies ``under`` it."""
        job, shape, seen = self.job, window(self.job), grown(area(self.job, index), self.job.halo)
        fields = [np.zeros((1, *shape, job.model.reads), np.float32) for _ in range(2 if job.multistep else 1)]
        at, (times, gap) = coords(seen), self.clock[number]
        if number == 0:
            fields[0] = np.asarray(samplers.initial_noise(self.key, shape, job.model.reads, at))
        for near in over(job, seen) if number else ():
            if near in before:
                both = shared(before[near].known, seen)
                for into, cells in zip(fields, before[near].fields, strict=True):
                    into[(0, *_within(both, seen))] = cells[_within(both, area(job, near))]
        x, *x0 = fields
        made = self.run(self.params, x, x0[0] if x0 else None, gap, None, at, times, self.key, self.told(seen, under))
        if number == job.steps - 1:
            pixels, k = streaming.decoder(job.codec)(made[0]), job.codec.block  # also decoded in one shape alone
            return (_core(pixels, job.halo * k, [n * k for n in job.sides]),)
        return tuple(_core(one, job.halo, job.sides) for one in made[: len(fields)])


def coords(cells: Box) -> tuple[np.ndarray, ...]:
    """Coordinates of cells, an open mesh of int32: what has more than 32 bits goes round."""
    return np.ix_(*(np.arange(a, b).astype(np.uint32).view(np.int32) for a, b in cells))


def _worth(part: Box, tick: Callable[[float], None], share: float) -> None:
    """``tick`` of a share of the pixels of ``part``."""
    tick(share * size(part))


def _within(part: Box, whole: Box) -> tuple[slice, ...]:
    """Where ``part`` lies in an array of ``whole``."""
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(part, whole, strict=True))


def _core(made: Array, halo: int, sides: Sequence[int]) -> np.ndarray:
    """The inside of a window [1, *S, C], as an array of its own."""
    return np.ascontiguousarray(np.asarray(made)[(0, *(slice(halo, halo + n) for n in sides))])
