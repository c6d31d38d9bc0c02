"""Holes in a picture filled by a trained model: several fillings of one picture, at a cost that follows the hole.

Only the cells of the hole are diffused. A call of a local model computes them in windows that hold the hole and its
halo, whose cells have the coordinates that they have in the whole: what comes out is what the whole image would give.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num
from rich.progress import track

from nca_gen import arrays
from nca_gen.diffusion import guidance, inpaint, samplers
from nca_gen.diffusion.discrete import Diffusion
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import sampling


class Windows(NamedTuple):
    """Windows of one size, and the way between their cells and those of the hole, which are numbered row by row.

    ``at``: coordinates of the hole's cells, one array per axis. ``grids``: those of every window's cells, as open
    meshes. ``index``: which of the hole's cells a window's cell is, any where it is none. ``owner``: which of all the
    windows' cells answers for a cell of the hole.
    """

    at: Int[np.ndarray, "A M"]
    grids: tuple[Int[np.ndarray, "n ..."], ...]
    index: Int[np.ndarray, "n ..."]
    owner: Int[np.ndarray, " M"]


def cover(hole: Bool[np.ndarray, "*S"], side: Sequence[int]) -> list[tuple[int, ...]]:
    """First corners of boxes of ``side`` cells that hold the hole: strip by strip, and within a strip likewise.

    Boxes do not overlap; along one axis they are as few as possible.
    """
    occupied = np.flatnonzero(hole.any(tuple(range(1, hole.ndim))))
    boxes = []
    while occupied.size:
        first, end = int(occupied[0]), int(occupied[0]) + side[0]
        inner = cover(hole[first:end].any(0), side[1:]) if side[1:] else [()]
        boxes += [(first, *rest) for rest in inner]
        occupied = occupied[occupied >= end]
    return boxes


def _sides(longest: int, least: int) -> list[int]:
    """Lengths to try for a box: the longest, then each two thirds of the one before, down to about ``least``."""
    sides = [longest]
    while sides[-1] > max(least, 1):
        sides.append(max(1, sides[-1] * 2 // 3))
    return sides


def windows(hole: Bool[np.ndarray, "*S"], halo: int | None, torus: bool = False) -> Windows:
    """The least work found that computes the cells of ``hole``, at least one, with ``halo`` cells around each.

    Tried are boxes of one size each, from that of the hole's own down to the halo's, grown by the halo on every side.
    Where a window would leave the image it is moved back inside, so that its border is the image's; on a torus it
    goes round the edge. With ``halo`` None there is one window, the whole image.
    """
    extent = hole.shape
    found = np.argwhere(hole)
    if halo is None:
        side, boxes = extent, [(0,) * hole.ndim]
    else:
        whole = lambda side: prod(min(s + 2 * halo, e) for s, e in zip(side, extent, strict=True))  # noqa: E731
        work, side, boxes = np.inf, extent, []
        for size in product(*(_sides(int(n), halo // 2) for n in np.ptp(found, axis=0) + 1)):
            if -(-len(found) // prod(size)) * whole(size) < work:  # or there is no need to count the boxes
                corners = cover(hole, size)
                work, side, boxes = min((work, side, boxes), (len(corners) * whole(size), size, corners))
        inside = (hole[tuple(slice(c, c + s) for c, s in zip(box, side, strict=True))] for box in boxes)
        side = tuple(int(n) for n in np.max([np.argwhere(part).max(0) for part in inside], 0) + 1)
    shape = tuple(min(s + 2 * (halo or 0), e) for s, e in zip(side, extent, strict=True))
    starts, room = np.array(boxes) - (halo or 0), np.subtract(extent, shape)
    starts = starts * (room > 0) if torus else np.clip(starts, 0, room)

    mesh = lambda v, axis: v.reshape(len(boxes), *[-1 if a == axis else 1 for a in range(hole.ndim)])  # noqa: E731
    grids = tuple(mesh((starts[:, a, None] + np.arange(n)) % extent[a], a) for a, n in enumerate(shape))
    number = np.zeros(extent, int)
    number[hole] = np.arange(len(found))
    index, mine = number[grids], hole[grids]
    for a, (grid, size) in enumerate(zip(grids, side, strict=True)):
        first = mesh(np.array(boxes)[:, a, None], a)
        mine = mine & (first <= grid) & (grid < first + size)
    owner = np.empty(len(found), int)
    owner[index[mine]] = np.flatnonzero(mine)
    return Windows(found.T, grids, index, owner)


class Sites(NamedTuple):
    """What is known: ``x0`` and ``hole`` (per channel of a cell) in every window, ``row``: x0 of the hole's cells."""

    windows: Windows
    x0: Float[np.ndarray, "n ... D"]
    hole: Bool[np.ndarray, "n ... D"]
    row: Float[np.ndarray, "... M D"]


@cache
def _segment(
    model: Any, diffusion: Diffusion, sampler: str, clip: str, known: str, blend: float, extent: tuple[int, ...]
) -> Any:
    """One compiled way from noise to the hole's cells, [B, 1, .., M, D]: to a sampler they are an image of one row."""
    model = sampling.painting(model)
    step = sampling.choose(sampling.SAMPLERS, "config.sample.sampler", sampler)
    bound = sampling.choose(sampling.CLIPS, "config.sample.clip", clip)
    shown = sampling.choose(inpaint.KNOWN, "config.generate.known", known)

    @jax.jit
    def run(
        params: dict, sites: Sites, times: Int[Array, " n"], noise: Float[Array, ""], key: Key[Array, " B"]
    ) -> Float[Array, "B *one M D"]:
        (at, grids, index, owner), B, n = sites.windows, len(key), len(sites.x0)
        at = tuple(axis.reshape(sites.row.shape[:-1]) for axis in at)
        repeated = lambda v: jnp.tile(v, (B, *[1] * (v.ndim - 1)))  # noqa: E731
        x0, hole = repeated(sites.x0), repeated(sites.hole)
        # One mesh where one serves all: a model that knows its position takes no other.
        grids = tuple(repeated(grid) if n > 1 else grid[0] for grid in grids)

        def network(x, t, memory, k):
            return model.apply(params, x, t, None, memory, k, grids, extent)

        network = inpaint.replaced(network, hole, lambda t, k: shown(diffusion, x0, t, k, grids))

        def denoise(row, t, memory, k):
            x = row.reshape(B, -1, row.shape[-1])[:, index].reshape(x0.shape)
            each = jnp.broadcast_to(k[:, None], (B, n)).reshape(-1)
            said, memory = network(x, t[:1], memory, each)
            return said.reshape(B, -1, row.shape[-1])[:, owner].reshape(row.shape), memory

        bounded = guidance.constrained(denoise, diffusion, bound) if bound else denoise
        blended = inpaint.blended(step, sites.row, blend) if blend else step
        x = samplers.initial_noise(key, sites.row.shape[:-1], sites.row.shape[-1], at)
        x = jnp.where(noise < 1, diffusion.noised(jnp.broadcast_to(sites.row, x.shape), x, times[:1]), x)
        return samplers.sample(blended, diffusion, bounded, samplers.begin(x), times, key, at).x

    return run


def sites(
    model: Any,
    diffusion: Diffusion,
    image: Float[np.ndarray, "*T C"],
    hole: Bool[np.ndarray, "*T"],
    whole: bool = False,
) -> Sites:
    """The work to be done in ``hole``: in windows where the model is local, else, or if ``whole``, in all of the image.

    A cell is of the hole if any of its pixels is. Sides that a block does not divide are continued by their last pixel;
    on a torus they are refused with a UserError.
    """
    k, torus = diffusion.block, model.border == "wrap"
    if torus and any(n % k for n in hole.shape):
        size = " x ".join(map(str, hole.shape))
        raise UserError(f"a torus of {size} pixels has a seam: config.diffusion.block={k} does not divide its sides")
    pixels = hole[..., None].repeat(image.shape[-1], -1).astype(np.float32)
    grown = lambda v: jnp.pad(v, [(0, -n % k) for n in hole.shape] + [(0, 0)], "edge")[None]  # noqa: E731
    x0 = np.asarray(diffusion.encode(grown(image)))[0]
    pixels = np.asarray(arrays.blocked(grown(pixels), k))[0] > 0
    here = windows(pixels.any(-1), None if whole else model.halo, torus)
    row = x0[tuple(here.at)].reshape(*[1] * (hole.ndim - 1), -1, x0.shape[-1])
    return Sites(here, x0[here.grids], pixels[here.grids], row)


def fill(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    key: Key[Array, " B"],
    image: Float[np.ndarray, "*T C"],
    hole: Bool[np.ndarray, "*T"],
    *,
    known: str = "noised",
    sampler: str = "ddpm",
    steps: int = 300,
    clip: str = "none",
    noise: float = 1.0,
    blend: float = 0.0,
    whole: bool = False,
) -> Float[np.ndarray, "B *T C"]:
    """``image`` (in [-1, 1]) with its ``hole`` painted anew, once for every key; known pixels are returned bit for bit.

    ``known``: how the denoiser is shown the other pixels, "noised" to the level of the hole or "clean". ``noise``: the
    hole starts from noise (1), or from ``image`` with this part of the diffusion's noise. ``blend``: the part of
    ``image`` that enters the hole at every step. ``whole``: the model sees the whole image at every step, as it does
    anyway unless it is local; the answer is the same, to the rounding of float32. ``clip`` "dynamic" measures the
    hole's cells alone.
    """
    if not hole.any():
        return np.repeat(image[None], len(key), 0)
    todo, times = sites(model, diffusion, image, hole, whole), levels(diffusion, steps, noise)
    extent = tuple(-(-n // diffusion.block) for n in hole.shape)
    run = _segment(model, diffusion, sampler, clip, known, blend, extent)
    row = np.asarray(run(params, todo, times, jnp.float32(noise), key))
    cells = np.zeros((len(key), *extent, row.shape[-1]), np.float32)
    cells[(slice(None), *todo.windows.at)] = row.reshape(len(key), -1, row.shape[-1])
    painted = np.asarray(diffusion.decode(jnp.asarray(cells)))[(slice(None), *map(slice, hole.shape))]
    return np.where(hole[..., None], painted, image)


def levels(diffusion: Diffusion, steps: int, noise: float) -> Int[np.ndarray, " n"]:
    """Of ``diffusion.respaced(steps)`` the part that begins at ``noise`` (in 0 .. 1) of the timesteps; never empty."""
    times = diffusion.respaced(steps)
    return times[min(int((times >= noise * diffusion.timesteps).sum()), steps - 1) :]


def fillings(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    seed: int,
    n: int,
    image: Float[np.ndarray, "*T C"],
    hole: Bool[np.ndarray, "*T"],
    batch: int = 64,
    **how: Any,
) -> Float[np.ndarray, "n *T C"]:
    """``n`` fillings under a progress bar. Filling i depends on ``seed`` and i, not on how it is batched."""
    done = []
    title = f"painting {n} of {' x '.join(map(str, hole.shape))}"
    for first in track(range(0, n, batch), title, transient=True, disable=not sys.stdout.isatty()):
        key, here, _ = sampling.spread(arrays.keys(seed, min(batch, n - first), first), params)
        done.append(fill(model, diffusion, here, key, image, hole, **how))
    return np.concatenate(done)


def curve(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    image: Float[np.ndarray, "*T C"],
    sides: Sequence[int],
    flop: Callable[[Any], int],
    *,
    steps: int = 10,
    rounds: int = 3,
    whole: bool = False,
    **how: Any,
) -> list[dict[str, float | int]]:
    """What square holes of ``sides`` pixels in the middle of ``image`` cost: one row each.

    ``pixels``: of the hole. ``cells``: computed by a call. ``gflop``: counted in the jaxpr of ``steps`` steps by
    ``flop``. ``seconds``: of these steps, the least of ``rounds`` after the first. ``whole``: as in :func:`fill`.
    """
    rows = []
    extent = tuple(-(-n // diffusion.block) for n in image.shape[:-1])
    named = {"sampler": "ddpm", "clip": "none", "known": "noised", "blend": 0.0} | how
    run = _segment(model, diffusion, extent=extent, **named)
    for side in sides:
        hole = np.zeros(image.shape[:-1], bool)
        hole[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in hole.shape)] = True
        todo = sites(model, diffusion, image, hole, whole)
        given = params, todo, diffusion.respaced(steps), jnp.float32(1), arrays.keys(0, 1)
        seconds = []
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            run(*given).block_until_ready()
            seconds.append(time.perf_counter() - begun)
        work = flop(jax.make_jaxpr(run)(*given).jaxpr) / 1e9
        cells = todo.windows.index.size
        rows.append({"pixels": int(hole.sum()), "cells": cells, "gflop": work, "seconds": min(seconds[1:])})
    return rows


def given(task: Any, path: str) -> Num[np.ndarray, "H W C"]:
    """The image to work on, as it is stored. Raises UserError where there is none, or of other channels."""
    if not path:
        raise UserError("which image? Give --config.generate.image=FILE (PNG, JPEG or TIFF)")
    image = images.read(path)
    channels = task.model.image_channels // task.diffusion.block ** (image.ndim - 1)
    if image.shape[-1] != channels:
        raise UserError(f"{path} has {image.shape[-1]} channels; this model paints {channels}")
    return image


def holes(mask: str, box: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Pixels to paint: the bright ones of the image ``mask``, and those of ``box`` = (top, left, height, width).

    Raises UserError where there is neither, a mask of another size, or a box that is not within the image.
    """
    if not mask and not any(box):
        raise UserError(
            "which pixels? Give --config.generate.mask=FILE (white is painted) or .box=(top,left,height,width)"
        )
    hole = np.zeros(size, bool)
    if mask:
        bright = images.to_float(images.read(mask)).mean(-1) >= 0
        if bright.shape != size:
            told = [" x ".join(map(str, shape)) for shape in (bright.shape, size)]
            raise UserError(f"the mask {mask} is {told[0]} pixels, the image {told[1]}; save it at the image's size")
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


def write(folder: Path, name: str, image: Float[np.ndarray, "H W C"], dtype: Any) -> Path:
    """``image`` in [-1, 1] as ``folder/name`` in pixels of ``dtype``: PNG, or TIFF where PNG cannot hold it."""
    suffix = ".png" if dtype != np.float32 and image.shape[-1] in (1, 3) else ".tif"
    path = folder / f"{name}{suffix}"
    images.write(path, images.from_float(image, dtype))
    return path


def title(config: Any) -> list[str]:
    """What two fillings may differ in."""
    asked = config.generate
    mask = [Path(asked.mask).stem] if asked.mask else []
    box = ["-".join(map(str, asked.box))] if any(asked.box) else []
    return [Path(asked.image).stem, *mask, *box, asked.known]


def paint(task: Any, params: dict, config: Any, folder: Path) -> list[str]:
    """``config.generate.samples`` fillings of the hole in ``config.generate.image``, as files in ``folder``.

    Beside them the input, the input without its hole (grey), and all of these in one picture, comparison.png.
    """
    asked = config.generate
    stored = given(task, asked.image)
    image, hole = images.to_float(stored), holes(asked.mask, asked.box, stored.shape[:2])
    how = sampling.how(config) | {"known": asked.known}
    begun = time.perf_counter()
    model, diffusion = task.model, task.diffusion
    made = fillings(model, diffusion, params, config.seed, asked.samples, image, hole, config.sample.batch, **how)
    seconds = time.perf_counter() - begun
    masked = np.where(hole[..., None], np.float32(0), image)
    shown = {"input": image, "masked": masked} | {f"{i:05d}": filled for i, filled in enumerate(made)}
    for name, picture in shown.items():
        write(folder, name, picture, stored.dtype)
    images.write(folder / "comparison.png", images.strip(np.stack(list(shown.values()))))
    cells = sites(model, diffusion, image, hole).windows.index.size if hole.any() else 0
    share = cells * diffusion.block**2 / hole.size
    return [
        f"{len(made)} fillings of {hole.sum():,} of {hole.size:,} pixels are in {folder}, {seconds:.1f} s; "
        f"a call computed {share:.0%} of the image",
        f"side by side with the input: {folder / 'comparison.png'}",
    ]
