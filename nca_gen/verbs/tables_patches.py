"""Patches of slides at several magnifications: squares of one grid, where there is tissue, in number as they are asked.

Real and generated slides are cut by one rule. A patch that reaches beyond its slide, as those of the coarsest
magnification may, is filled up with the colour of empty glass.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from nca_gen import judge, screen
from nca_gen.data.slides import CELLS, stained
from nca_gen.io import sets
from nca_gen.io.slides import Slides, window
from nca_gen.sections import Tables

GLASS = (242, 243, 242)  # of 8 bits, as URCDM has it in training too


class Places(NamedTuple):
    """Where patches lie: the slide that each is of, ascending, and its top and left in pixels of the full size.

    ``possible``: how many places have tissue, of which these were drawn. ``all``: with those that have none.
    """

    owner: Int[np.ndarray, " n"]
    corner: Float[np.ndarray, "n 2"]
    possible: int
    all: int


def scales(plan: Tables) -> list[float]:
    """Pixels of the full size that a pixel of a patch is wide, by magnification: 0 is the coarsest, as in the paper."""
    return [float(plan.factor) ** (plan.magnifications - 1 - i) for i in range(plan.magnifications)]


def starts(side: int, span: float, u: float) -> Float[np.ndarray, " n"]:
    """Where as many spans as fit into a ``side`` begin, one beside the other.

    ``u`` in [0, 1) says how much of what is left over lies before the first. A side that is shorter than a span lies in
    the middle of one, which then begins below 0.
    """
    n = max(1, int(side // span))
    left = side - n * span
    return (int(u * (int(left) + 1)) if left >= 0 else left / 2) + span * np.arange(n)


def places(some: Slides, span: float, n: int, tissue: int | float, seed: int) -> Places:
    """``n`` squares of ``span`` pixels a side, drawn by ``seed`` from all that have so much ``tissue``; else all those.

    Each slide is cut into squares that do not overlap, beginning where ``seed`` says; the share of its part within the
    slide that is stained is seen at :data:`CELLS` places a side.
    """
    owners, corners, every = [], [], 0
    for i, (height, width) in enumerate(screen.track(some.sizes, "looking for tissue")):
        u, v = np.random.default_rng([seed, i]).random(2)
        rows, columns = starts(height, span, u), starts(width, span, v)
        top, left = max(0.0, rows[0]), max(0.0, columns[0])
        box = (top, left, min(height, rows[-1] + span) - top, min(width, columns[-1] + span) - left)
        pixels = window(some.slides[i], box, (len(rows) * CELLS, len(columns) * CELLS), "box")
        share = stained(pixels).reshape(len(rows), CELLS, len(columns), CELLS).mean((1, 3))
        at = np.argwhere(share >= tissue)
        owners += [i] * len(at)
        corners.append(np.stack([rows[at[:, 0]], columns[at[:, 1]]], 1))
        every += share.size
    chosen = np.sort(judge.drawn(len(owners), n, seed))
    return Places(np.array(owners, int)[chosen], np.concatenate(corners)[chosen], len(owners), every)


def square(some: Slides, i: int, top: float, left: float, span: float, patch: int) -> Shaped[np.ndarray, "P P C"]:
    """The square of ``span`` pixels at (``top``, ``left``) of slide ``i``, reduced to ``patch``.

    By an antialiased bicubic; what lies beyond the slide is :data:`GLASS`.
    """
    inside, target = [], []
    for start, side in zip((top, left), some.sizes[i], strict=True):
        low, high = max(0.0, start), min(float(side), start + span)
        inside.append((low, high - low))
        length = min(patch, max(1, round((high - low) * patch / span)))
        target.append((min(patch - length, round((low - start) * patch / span)), length))
    (y, height), (x, width) = target
    pixels = some.window(i, (inside[0][0], inside[1][0], inside[0][1], inside[1][1]), (height, width))
    if (height, width) == (patch, patch):
        return pixels
    colour = np.array(GLASS if some.channels == 3 else GLASS[:1] * some.channels, np.uint32)
    out = np.empty((patch, patch, some.channels), pixels.dtype)
    out[:] = colour * (np.iinfo(pixels.dtype).max // 255)
    out[y : y + height, x : x + width] = pixels
    return out


def patches(some: Slides, at: Places, span: float, patch: int) -> sets.Lazy:
    """The patches at some places, cut when they are asked for."""

    def read(index: Int[np.ndarray, " k"]) -> Shaped[np.ndarray, "k P P C"]:
        return np.stack([square(some, int(at.owner[i]), *at.corner[i], span, patch) for i in index])

    key = hashlib.sha256(f"{some.digest} {span} {patch}".encode() + at.owner.tobytes() + at.corner.tobytes())
    return sets.Lazy(read, (len(at.owner), patch, patch, some.channels), key.hexdigest())


def pictures(some: sets.Lazy, n: int, seed: int) -> sets.Lazy:
    """``n`` images of a set, drawn by ``seed``; all, where there are no more."""
    index = np.sort(judge.drawn(len(some), n, seed))
    digest = hashlib.sha256(some.digest.encode() + index.tobytes()).hexdigest()
    return sets.Lazy(lambda at: some.read(index[at]), (len(index), *some.shape[1:]), digest)
