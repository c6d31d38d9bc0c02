"""Holes in a picture filled by a trained model: several fillings of one picture, at a cost that follows the hole.

Only the cells of the hole are diffused. A call of a local model computes them in windows that hold the hole and its
halo, whose cells have the coordinates that they have in the whole: what comes out is what the whole image would give.
Of any other model, and of cells that inherit, the window is the whole image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Len
from jaxtyping import Array, Bool, Float, Key, Num

from nca_gen import arrays, hosts
from nca_gen.contracts import Condition, Listener, Local, Part, Parts, Place, Process, unchanged
from nca_gen.diffusion import guidance, heredity, inpaint, samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import noised
from nca_gen.errors import UserError, chosen
from nca_gen.io import images, space
from nca_gen.pipelines import files, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.ranges import Count, Natural, OneOf
from nca_gen.tiling.windows import Windows, windows


class Sites(NamedTuple):
    """What is known: ``x0`` and ``hole`` (per channel of a cell) in every window, ``row``: x0 of the hole's cells."""

    windows: Windows
    x0: Float[np.ndarray, "n ... D"]
    hole: Bool[np.ndarray, "n ... D"]
    row: Float[np.ndarray, "... M D"]


def reach(model: Any) -> int | None:
    """How far the cells of ``model`` hear in a call; None where they hear the whole image."""
    return model.halo if isinstance(model, Local) and not isinstance(model, Listener) else None


def sites(
    model: Any, codec: Codec, image: Float[np.ndarray, "*T C"], hole: Bool[np.ndarray, "*T"], whole: bool = False
) -> Sites:
    """The work to be done in ``hole``: in windows where the model is local, else, or if ``whole``, in all of the image.

    A cell is of the hole if any of its pixels is. Sides that a block does not divide are continued by their last pixel;
    on a torus they are refused with a UserError.
    """
    k, torus = codec.block, isinstance(model, Local) and model.border == "wrap"
    if torus and any(n % k for n in hole.shape):
        size = " x ".join(map(str, hole.shape))
        raise UserError(f"a torus of {size} pixels has a seam: config.codec.block={k} does not divide its sides")
    pixels = hole[..., None].repeat(image.shape[-1], -1)
    pad = [(0, 0), *((0, -n % k) for n in hole.shape), (0, 0)]
    grown = lambda v: jnp.asarray(np.pad(v[None], pad, "edge"), jnp.float32)
    x0 = np.asarray(codec.encode(grown(image)))[0]
    pixels = np.asarray(arrays.blocked(grown(pixels), k))[0] > 0
    here = windows(pixels.any(-1), None if whole else reach(model), torus)
    row = x0[tuple(here.at)].reshape(*[1] * (hole.ndim - 1), -1, x0.shape[-1])
    return Sites(here, x0[here.grids], pixels[here.grids], row)


@cache
def _segment(
    model: Any,
    process: Any,
    codec: Codec,
    settings: Settings,
    known: str,
    blend: int | float,
    extent: tuple[int, ...],
    resample: int,
    jump: int,
) -> Any:
    """One compiled way from noise to the hole's cells, [B, 1, .., M, D]: to a sampler they are an image of one row."""
    model, local = model.inference(), isinstance(model, Local)
    step = chosen(samplers.SAMPLERS, "config.sample.sampler", settings.sampler)
    bound = chosen(guidance.CLIPS, "config.sample.clip", settings.clip)
    shown = chosen(inpaint.KNOWN, "config.generate.known", known)

    @jax.jit
    def run(
        params: Any,
        sites: Sites,
        times: Num[Array, " n"],
        noise: Float[Array, ""],
        key: Key[Array, " B"],
        cond: Condition = None,
        memory: Any = (),
    ) -> Float[Array, "B *one M D"]:
        (at, grids, index, owner), B, n = sites.windows, len(key), len(sites.x0)
        at = tuple(axis.reshape(sites.row.shape[:-1]) for axis in at)
        repeated = lambda v: jnp.tile(v, (B, *[1] * (v.ndim - 1)))
        x0, hole = repeated(sites.x0), repeated(sites.hole)
        # One mesh where one serves all: a model that knows its position takes no other.
        grids = tuple(repeated(grid) if n > 1 else grid[0] for grid in grids)

        network = guidance.network(process, model, params, settings.young(model))

        def call(x, t, cond, memory, k):
            # Guidance asks for two rows of every window.
            around = tuple(jnp.repeat(grid, len(x) // (B * n), 0) for grid in grids) if n > 1 else grids
            place = Place(around, extent) if local else None
            return network(x, t, cond, memory, k, place)

        each = jax.tree.map(lambda field: jnp.repeat(field, n, 0), cond)
        guided = guidance.classifier_free(call, each, settings.guidance)
        guided = heredity.inherited(guided, heredity.KEPT[settings.heredity])
        guided = inpaint.replaced(guided, hole, lambda t, k: shown(process, x0, t, k, grids))

        def denoise(row, t, memory, k):
            x = row.reshape(B, -1, row.shape[-1])[:, index].reshape(x0.shape)
            each = jnp.broadcast_to(k[:, None], (B, n)).reshape(-1)
            output, memory = guided(x, t[:1], memory, each)
            return output.reshape(B, -1, output.shape[-1])[:, owner].reshape(*row.shape[:-1], -1), memory

        bounded = guidance.constrained(denoise, process, codec, bound) if bound else denoise
        blended = inpaint.blended(step, jnp.asarray(sites.row), blend) if blend else step
        x = samplers.initial_noise(key, sites.row.shape[:-1], sites.row.shape[-1], at)
        x = jnp.where(noise < 1, noised(process, jnp.broadcast_to(sites.row, x.shape), x, times[:1]), x)
        given = blended, process, bounded, samplers.begin(x, memory), times, key, at
        return (inpaint.resampled(*given, resample, jump) if resample > 1 else samplers.sample(*given)).x

    return run


def fill(
    part: Part,
    key: Key[Array, " B"],
    image: Float[np.ndarray, "*T C"],
    hole: Bool[np.ndarray, "*T"],
    settings: Settings,
    cond: Condition = None,
    *,
    known: str = "noised",
    noise: int | float = 1.0,
    blend: int | float = 0.0,
    whole: bool = False,
    resample: int = 1,
    jump: int = 1,
) -> Float[np.ndarray, "B *T C"]:
    """``image`` (in [-1, 1]) with its ``hole`` painted anew, once for every key; known pixels are returned bit for bit.

    ``known``: how the denoiser is shown the other pixels, "noised" to the level of the hole or "clean". ``noise``: the
    hole starts from noise (1), or from ``image`` with this part of the noise. ``blend``: the part of ``image`` that
    enters the hole at every step. ``whole``: the model sees the whole image at every step, as it does anyway unless it
    is local and inherits nothing; the answer is the same, to the rounding of float32. A clip that is "dynamic" measures
    the hole's cells alone. ``resample``, ``jump``: so many times are so many steps taken on end
    (:func:`nca_gen.diffusion.inpaint.path`). ``cond``: a row a key. Raises UserError for what this model cannot
    do.
    """
    if not hole.any():
        return np.repeat(image[None], len(key), 0)
    task, model = part.task, settings.stage(part.task.model)
    codec, process = task.codec, task.process
    # What a cell beyond its halo would have handed on is not known in a window.
    todo = sites(model, codec, image, hole, whole or settings.heredity != "none")
    times, extent = levels(process, settings.times(process), noise), codec.cells(hole.shape)
    cond = sampling.augmented(task, jax.tree.map(jnp.asarray, cond), key)
    first = arrays.fold(key, process.tag(jnp.asarray(times[0])))
    cell = todo.row if settings.heredity == "none" else todo.x0[0]
    like = jnp.asarray(np.broadcast_to(cell, (len(key), *cell.shape)), jnp.float32)
    memory = sampling.newborn(model, settings.heredity, settings.guided(cond), like, first)
    run = _segment(model, process, codec, settings, known, blend, extent, resample, jump)
    row = np.asarray(run(part.params, todo, times, jnp.float32(noise), key, cond, memory))
    cells = np.zeros((len(key), *extent, row.shape[-1]), np.float32)
    cells[(slice(None), *todo.windows.at)] = row.reshape(len(key), -1, row.shape[-1])
    painted = np.asarray(codec.decode(jnp.asarray(cells)))[(slice(None), *map(slice, hole.shape))]
    return np.where(hole[..., None], painted, image)


def levels(process: Process, times: Num[np.ndarray, " m"], noise: int | float) -> Num[np.ndarray, " n"]:
    """Of ``times``, clean end included, the part that begins at ``noise`` (in 0 .. 1) of the span; never empty."""
    above = np.asarray(process.told(jnp.asarray(times[:-1]))) >= noise * process.span
    return times[min(int(above.sum()), len(times) - 2) :]


def fillings(
    part: Part,
    key: Key[Array, " n"],
    image: Float[np.ndarray, "*T C"],
    hole: Bool[np.ndarray, "*T"],
    settings: Settings,
    cond: Condition = None,
    *,
    batch: int = 64,
    **how: Any,
) -> Iterator[Float[np.ndarray, "b *T C"]]:
    """Fillings in batches, each :func:`sampling.spread`. Filling i depends on ``key[i]``, not on how it is batched."""
    for start in range(0, len(key), batch):
        some = slice(start, start + batch)
        here, near, _ = sampling.spread(key[some], part)
        yield fill(near, here, image, hole, settings, sampling.rows(cond, some), **how)


def curve(
    part: Part,
    image: Float[np.ndarray, "*T C"],
    sides: Sequence[int],
    flop: Callable[[Any], int],
    settings: Settings,
    *,
    rounds: int = 3,
    whole: bool = False,
) -> list[dict[str, int | float]]:
    """What square holes of ``sides`` pixels in the middle of ``image`` cost: one row each.

    ``pixels``: of the hole. ``cells``: computed by a call. ``gflop``: counted in the jaxpr of ``settings.steps`` steps
    by ``flop``. ``seconds``: of these steps, the least of ``rounds`` after the first. ``whole``: as in :func:`fill`.
    """
    table = []
    model, process, codec = settings.stage(part.task.model), part.task.process, part.task.codec
    run = _segment(model, process, codec, settings, "noised", 0.0, codec.cells(image.shape[:-1]), 1, 1)
    for side in sides:
        hole = np.zeros(image.shape[:-1], bool)
        hole[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in hole.shape)] = True
        todo = sites(model, codec, image, hole, whole)
        given = part.params, todo, settings.times(process), jnp.float32(1), arrays.keys(0, 1)
        seconds = []
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            run(*given).block_until_ready()
            seconds.append(time.perf_counter() - begun)
        work = flop(jax.make_jaxpr(run)(*given).jaxpr) / 1e9
        cells = todo.windows.index.size
        table.append({"pixels": int(hole.sum()), "cells": cells, "gflop": work, "seconds": min(seconds[1:])})
    return table


# The command.


def of_pixels(part: Part, name: str) -> Part:
    """``part``, a denoiser of images. Raises UserError for one of latents, which cannot hold given pixels exactly."""
    if part.decode is not unchanged or part.task.model.ndim != 2:
        raise UserError(f"config.generate.name={name} keeps pixels of images, and this model paints none: use sample")
    return part


def stored(part: Part, path: str) -> tuple[Num[np.ndarray, "H W C"], space.Sizes]:
    """The image to work on, as it is in its file, and how large a pixel of it is.

    Raises UserError where there is none, or of other channels, or of values that are no pixels.
    """
    if not path:
        raise UserError("which image? Give --config.generate.image=FILE (PNG, JPEG or TIFF)")
    image, mpp = images.sized(path)
    images.checked(image, path)
    channels = part.task.codec.colours(part.task.model.reads, image.ndim - 1)
    if image.shape[-1] != channels:
        raise UserError(f"{path} has {image.shape[-1]} channels; this model paints {channels}")
    return image, mpp


def holes(mask: str, box: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Pixels to paint: the white ones of the image ``mask``, and those of ``box`` = (top, left, height, width).

    Raises UserError where there is neither, a mask of another size or of other values, or none of them is white, and
    for a box that is not within the image.
    """
    if not mask and not any(box):
        raise UserError(
            "which pixels? Give --config.generate.mask=FILE (white is painted) or .box=(top,left,height,width)"
        )
    hole = np.zeros(size, bool)
    if mask:
        bright = white(images.read(mask), mask)
        if bright.shape != size:
            sides = [" x ".join(map(str, shape)) for shape in (bright.shape, size)]
            raise UserError(f"the mask {mask} is {sides[0]} pixels, the image {sides[1]}; save it at the image's size")
        if not bright.any():
            raise UserError(f"the mask {mask} has no white pixel, so nothing would be painted")
        hole |= bright
    if any(box):
        top, left, height, width = box
        if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
            raise UserError(
                f"config.generate.box={tuple(box)} (top, left, height, width) is not within the image, "
                f"{size[0]} x {size[1]} pixels"
            )
        hole[top : top + height, left : left + width] = True
    return hole


def white(mask: Num[np.ndarray, "H W C"], path: str) -> Bool[np.ndarray, "H W"]:
    """The pixels of ``mask`` that are nearer to white than to black. White is the most that its type holds, or 1.

    Raises UserError for values between these, such as those of label maps, and for such as no picture has.
    """
    images.checked(mask, path, bounded=False)
    low, high = float(mask.min()), float(mask.max())
    black, top = (-1 if low < 0 else 0, 1) if mask.dtype.kind == "f" else (0, int(np.iinfo(mask.dtype).max))
    if low < black or high > top or 1 < high < top / 2:
        most = f"{top} or 1" if mask.dtype.kind != "f" else "1"
        raise UserError(f"the mask {path} has values from {low:g} to {high:g}: give 0 for what is kept, and {most}")
    return mask.mean(-1) >= (black + (top if high > 1 else 1)) / 2


def compared(folder: Path, pictures: Sequence[Float[np.ndarray, "H W C"]]) -> Path:
    """Writes ``pictures`` of one size side by side into ``folder``; returns the file."""
    return files.image(folder / "comparison.png", images.strip(np.stack(pictures)))


@dataclass(frozen=True)
class Pipeline:
    """``samples`` fillings of the hole in ``image`` by the part "model".

    The hole: the white pixels of the image ``mask`` (255, or 1), and the ``box`` (top, left, height, width). ``known``:
    how the network is shown the other pixels, "noised" to the level of the hole or "clean". ``torus``: the picture has
    no edge. ``resample``: how many times ``jump`` steps of sampling on end are taken, with noise added again in between
    (RePaint: Lugmayr et al. 2022; 10 and 10 there): the hole then agrees better with what is around it, at ``resample``
    times the cost. 1 is to sample once.
    """

    parts: Parts
    image: str = ""
    mask: str = ""
    box: Annotated[tuple[Natural, ...], Len(4, 4)] = (0, 0, 0, 0)
    samples: Count = 4
    known: Annotated[str, OneOf(inpaint.KNOWN)] = "noised"
    torus: bool = False
    resample: Count = 1
    jump: Count = 1

    @cached_property
    def part(self) -> Part:
        """The denoiser, on a torus where one is wanted."""
        return of_pixels(sampling.denoiser(self.parts["model"], self.torus), "inpaint")

    @property
    def kind(self) -> str:
        """Images."""
        return "images"

    def title(self) -> list[str]:
        """What two folders of fillings may differ in."""
        mask = [Path(self.mask).stem] if self.mask else []
        box = ["-".join(map(str, self.box))] if any(self.box) else []
        again = [f"{self.resample}-times-{self.jump}"] if self.resample > 1 else []
        return [Path(self.image).stem, *mask, *box, self.known, *again]

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...] = (), cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "H W C"]]:
        """A filling for each key. ``size`` is that of the image. Raises UserError for what :func:`fill` refuses."""
        image, _ = stored(self.part, self.image)
        hole = holes(self.mask, self.box, image.shape[:2])
        settings, batch = Settings.of(self.part.config.sample), self.part.config.sample.batch
        how = {"known": self.known, "resample": self.resample, "jump": self.jump}
        todo = fillings(self.part, key, images.to_float(image), hole, settings, cond, batch=batch, **how)
        for batch in todo:
            yield from batch

    def write(self, folder: Path) -> list[str]:
        """``samples`` fillings as files in ``folder``; of a model of classes under ``config.sample.labels`` in turn.

        Beside them the input, the input without its hole (grey), and all of these in one picture, comparison.png.
        """
        config, task = self.part.config, self.part.task
        image, mpp = stored(self.part, self.image)
        pixels, hole = images.to_float(image), holes(self.mask, self.box, image.shape[:2])
        cond = sampling.conditions(task.model, config.sample.labels, self.samples)
        begun = time.perf_counter()
        what = f"painting {self.samples} of {' x '.join(map(str, hole.shape))}"
        filled = files.drawn(self, config.seed, self.samples, hole.shape, cond, what)
        seconds = time.perf_counter() - begun
        if not hosts.first():
            return []
        shown = {"input": pixels, "masked": np.where(hole[..., None], np.float32(0), pixels)}
        shown |= {f"{i:05d}": picture for i, picture in enumerate(filled)}
        for name, picture in shown.items():
            files.write(folder / name, picture, image.dtype, mpp)
        comparison = compared(folder, list(shown.values()))
        whole = Settings.of(config.sample).heredity != "none"
        cells = sites(task.model, task.codec, pixels, hole, whole).windows.index.size if hole.any() else 0
        share = cells * task.codec.block**2 / hole.size
        return [
            f"{self.samples} fillings of {hole.sum():,} of {hole.size:,} pixels are in {folder}, {seconds:.1f} s; "
            f"a call computed {share:.0%} of the image",
            f"side by side with the input: {comparison}",
        ]
