"""Volumes of a retina that never was, drawn by code: for tests, smoke runs and notebooks.

No eye was imaged, and nothing was measured on one: thicknesses, calibres and grey levels are of the order that
textbooks give, vessels are wider and the arcades nearer than they are, so that a volume of 64^3 shows them. A score on
these volumes says whether a program works, and nothing of patients.

A volume ``[D, H, W, 1]`` is of 4 x 0.7 x 4 mm, whatever its size: B-scans, depth, and along a B-scan. In it are six
surfaces (:mod:`nca_gen.data.layers`) and the layers between them, a fovea, two arteries and two veins that arch around
it and branch, with bright walls and the shadow below them, capillaries, the zone around the fovea that has none (FAZ),
choroidal vessels, tilt, the eye's drift from scan to scan, and speckle: intensities times a gamma variate of four
looks, shown by their logarithm, as an OCT device shows them.

Everything follows from (seed, index, size), on every machine (:mod:`nca_gen.data.retina_anatomy`, bits of PCG64, and a
table of 256 numbers): of another size it is the same eye in its large features.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval, Len
from jaxtyping import Int16, UInt8

from nca_gen.data import layers
from nca_gen.data.retina_anatomy import DEPTH, FIELD, Anatomy, anatomy
from nca_gen.data.source import SPLITS, Box, Example, Origin, Source, Splits, assign, clipped, digest, fits, remember
from nca_gen.data.volumes import View
from nca_gen.io import images
from nca_gen.ranges import Gigabytes, Seed

VERSION = 1  # of what is drawn
AT_ONCE = 2**18  # voxels that are drawn at once: they stay in the cache of a core
LATEST = 4  # anatomies that are kept, where volumes are not
BLUR = 3.0  # micrometres along an A-scan
LOOKS = 4  # of the speckle
DECADES = 4.0  # of intensity, which 255 grey levels show
NOTE = "these volumes are drawn by code: no eye was imaged, and scores on them say nothing of patients"
Side = Annotated[int, Interval(ge=8, le=2048)]


def splits(
    n: Annotated[int, Ge(3)] = 24,
    size: Annotated[tuple[Side, ...], Len(3, 3)] = (64, 64, 64),
    labels: layers.Labels = "none",
    seed: Seed = 0,
    strict: bool = True,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """``n`` volumes of ``size`` (depth, height, width), uint8 ``[D, H, W, 1]``, each of an eye of its own.

    A tenth of them each is "val" and "test". ``labels``: what the field ``label_map`` holds, int32 ``[D, H, W, 1]``:
    "layers" 0 to 6, "vessels" 0 to 4 (:mod:`nca_gen.data.layers`); of "none" there is no such field. Surfaces that lie
    between two rows are those of :func:`anatomy`, with the index that the name of a volume ends with.

    A volume is drawn when it is read, and stays if all fit into ``memory_gb``; else of each patch its B-scans are drawn
    anew. ``strict`` changes nothing: there are no files.
    """
    size = tuple(size)
    names = [f"phantom_{i:04d}" for i in range(n)]
    where = assign(names)
    fields = () if labels == "none" else ("label_map",)
    shape = (*size, 1)
    resident = fits([shape] * n, 1 + 4 * len(fields), memory_gb)
    truth = lru_cache(LATEST)(lambda i: anatomy(size, seed, i))

    def about(i: int) -> Example:
        mpp = (FIELD / size[0], DEPTH / size[1], FIELD / size[2])
        return {"name": names[i], "patient": names[i], "mpp": mpp}

    def part(i: int, field: str, box: tuple[slice, ...]) -> np.ndarray:
        depth, height, width = box
        if field == "image":
            return scans(truth(i), size[1], seed, i, depth.start, depth.stop)[:, height, width]
        if labels == "layers":
            return layers.layer_map(truth(i).surfaces[:, depth, width], np.arange(size[1])[height])
        return layers.en_face(truth(i).vessels, size[1])[box]

    def load(i: int) -> Example:
        whole = tuple(slice(0, side) for side in size)
        return about(i) | {field: part(i, field, whole) for field in ("image", *fields)}

    def window(i: int, field: str, box: Box, k: int) -> np.ndarray:
        return images.reduce(clipped(View(shape, lambda inside: part(i, field, inside)), box), k)

    def source(split: str) -> Source:
        mine = [i for i in range(n) if where[i] == split]
        read = None if resident else lambda j, field, box, k: window(mine[j], field, box, k)
        return Source(
            lambda j: get(mine[j]),
            [shape] * len(mine),
            resident,
            fields=fields,
            window=read,
            about=lambda j: about(mine[j]),
            digest=lambda: digest(f"retina_phantom {VERSION} {seed} {size} {labels} {mine}"),
        )

    get = remember(load, memory_gb)
    return Splits({split: source(split) for split in SPLITS}, notes=(NOTE,))


def origin(path: str = "") -> Origin:
    """The volumes are drawn by this module, and have its licence."""
    return Origin("retinal volumes drawn by nca_gen/data/retina_phantom.py, of no real eye", "apache-2.0", "")


# What is seen of it.


def scans(truth: Anatomy, height: int, seed: int, index: int, start: int, stop: int) -> UInt8[np.ndarray, "d H W 1"]:
    """The B-scans from ``start`` to ``stop``, whole; the noise of each is its own."""
    width = truth.base.shape[1]
    out = np.empty((stop - start, height, width), np.uint8)
    share = max(1, AT_ONCE // (height * width))
    for first in range(start, stop, share):
        some = slice(first, min(first + share, stop))
        shown = _levels(truth, height, some)
        shown += _speckle((height, width), seed, index, some)
        out[some.start - start : some.stop - start] = np.clip(shown, 0, 255, out=shown)
    return out[..., None]


def _levels(truth: Anatomy, height: int, some: slice) -> Int16[np.ndarray, "d H W"]:
    """Grey levels without noise: the sum of all steps from the front; one between two rows is shared by both."""
    at, steps = truth.at[:, some], truth.steps[:, some]
    row = np.floor(at)
    later = np.rint(steps * (at - row)).astype(np.int16)
    n, width = at.shape[1:]
    below = np.clip(row, -1, height).astype(int) + 1  # a row before the first, and two beyond the last
    column = (np.arange(n)[:, None] * (height + 3)) * width + np.arange(width)
    sums = np.zeros((n, height + 3, width), np.int16)
    flat = sums.reshape(-1)
    np.add.at(flat, (column + below * width).ravel(), (steps - later).ravel())
    np.add.at(flat, (column + (below + 1) * width).ravel(), later.ravel())
    levels = np.cumsum(sums, 1, dtype=np.int16)
    for _ in range(round(BLUR * height / DEPTH)):
        levels[:, 1:-1] = (levels[:, :-2] + 2 * levels[:, 1:-1] + levels[:, 2:]) >> 2
    return (levels[:, 1 : height + 1] >> 4) + truth.base[some, None]


def _speckle(plane: tuple[int, int], seed: int, index: int, some: slice) -> Int16[np.ndarray, "d H W"]:
    """What speckle adds to grey levels, alike in neighbours along D and W."""
    height, width = plane
    drawn = [_bytes(height * (width + 1), seed, index, d) for d in range(some.start, some.stop + 1)]
    bits = np.stack(drawn).reshape(-1, height, width + 1).astype(np.uint16)
    pairs = bits[..., 1:] + bits[..., :-1]
    quarters = ((pairs[1:] + pairs[:-1]) >> 2).astype(np.uint8)
    gains = np.frombuffer(quarters.tobytes().translate(_gains()), np.uint8).reshape(quarters.shape)
    return gains.astype(np.int16) - 128


def _bytes(n: int, seed: int, index: int, scan: int) -> UInt8[np.ndarray, " n"]:
    """Random bytes of a B-scan: raw ones, which no release of numpy changes."""
    raw = np.random.PCG64([seed, index, 1 + scan]).random_raw(-(-n // 8))
    return raw.astype("<u8").view(np.uint8)[:n]


@cache
def _gains() -> bytes:
    """For a quarter of the sum of four random bytes the grey levels, plus 128, of the intensity as likely as it."""
    from scipy.special import gammaincinv

    counts = np.ones(1, np.int64)
    for _ in range(4):
        counts = np.convolve(counts, np.ones(256, np.int64))
    share = np.append(counts, [0, 0, 0]).reshape(256, 4).sum(1) / 256**4
    intensity = gammaincinv(LOOKS, np.cumsum(share) - share / 2) / LOOKS
    levels = np.rint(255 / DECADES * np.log10(intensity)) + 128
    return np.clip(levels, 0, 255).astype(np.uint8).tobytes()
