"""A folder of slides, of which patches are read where there is tissue; no slide is ever decoded whole.

A slide (tiled TIFF, OME-Zarr, what OpenSlide reads; see :mod:`nca_gen.io.slides`) is cut into square regions, from its
top left; each that is tissue is an example, called ``slide@top,left`` in pixels of the level that is read. Labels,
patients and splits come from an optional ``labels.csv``, see :mod:`nca_gen.data.table`; without it the patient of a
name of TCGA is its first twelve characters, and every other slide is its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Interval, MaxLen
from jaxtyping import Bool, Shaped

from nca_gen.data import table
from nca_gen.data.source import Box, Example, Source, Splits, clipped, complain
from nca_gen.errors import UserError
from nca_gen.io import images, slides, space
from nca_gen.ranges import Count, Natural

CELLS = 16  # places a side at which a region is looked at, to tell how much of it is tissue
CHROMA = 16 / 256  # difference of the colours of a pixel, of their range, from which it is stained
CLOSE = 0.05  # a level whose pixels are as large as asked, up to this share, is taken as it is


@dataclass(frozen=True)
class View:
    """A slide at one size: pixel (i, j) of it covers ``scale`` times as many of the full size.

    ``level``: the one that has just this size, if any; then its pixels come as they are stored. ``window``: values that
    become the least and the greatest that the type holds.
    """

    slide: slides.Slide
    scale: int | float
    level: slides.Level | slides.Plane | None
    window: tuple[int | float, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        full = self.level or self.slide.levels[0]
        scale = 1.0 if self.level else self.scale
        return int(full.height / scale), int(full.width / scale), self.slide.channels

    @property
    def mpp(self) -> space.Sizes:
        """How large a pixel is, () where the slide does not say."""
        return (self.slide.mpp * self.scale,) * 2 if self.slide.mpp else ()

    def __getitem__(self, box: tuple[slice, slice]) -> Shaped[np.ndarray, "h w C"]:
        """The part in two slices."""
        y, x = box
        if self.level is None:
            return self.reduced(((y.start, y.stop), (x.start, x.stop)), 1, "bicubic")
        return self.shown(self.slide.read(self.level, y.start, x.start, y.stop - y.start, x.stop - x.start))

    def reduced(self, box: Box, k: int, kernel: str = "box") -> Shaped[np.ndarray, "h w C"]:
        """The ``box``, which lies within, reduced by ``k``, from the smallest level that has as many pixels."""
        (top, bottom), (left, right) = box
        size = (bottom - top) // k, (right - left) // k
        full = tuple(v * self.scale for v in (top, left, bottom - top, right - left))
        return self.shown(slides.window(self.slide, full, size, kernel))

    def shown(self, pixels: Shaped[np.ndarray, "h w C"]) -> Shaped[np.ndarray, "h w C"]:
        """Stored values in the window."""
        return images.windowed(pixels, *self.window) if self.window else pixels


def splits(
    path: str = "",
    level: Natural = 0,
    mpp: Annotated[int | float, Ge(0)] = 0.0,
    region: Count = 512,
    tissue: Annotated[int | float, Interval(ge=0, le=1)] = 0.5,
    window: Annotated[tuple[int | float, ...], MaxLen(2)] = (),
    context_factor: Count = 1,
    labels: tuple[str, ...] = (),
    split_seed: int = 0,
    strict: bool = False,
) -> Splits:
    """The three splits of the slides in the folder ``path``, by patient; pixels as stored, uint8 or uint16.

    Read at ``level`` of the pyramid (0 is the full size), or where ``mpp`` is given at so many microns a pixel.
    ``region``: side of a region, in pixels of what is read: patches lie within. ``tissue``: least share of it that is
    stained; slides of one channel have no stain, and all their regions are taken. ``context_factor``: see
    :meth:`nca_gen.data.source.Source.read`; the context of a patch goes beyond its region, up to the slide's edge.
    ``window`` = (low, high): these two values become the least and the greatest that the type of the pixels holds, and
    what lies beyond is cut off. ``labels``: the columns of labels.csv that are labels, () for all that hold numbers.
    Slides that cannot be used are named and left out (``strict``: UserError). Raises UserError for a missing or empty
    folder, a wrong labels.csv, and slides of different channels or depth.
    """
    if not 0 <= tissue <= 1:
        raise UserError(f"config.data.tissue={tissue} is a share, from 0 to 1")
    if region < CELLS:
        raise UserError(f"config.data.region={region} is less than {CELLS} pixels")
    if window and not (len(window) == 2 and window[0] < window[1]):
        raise UserError(f"config.data.window={window} must be two numbers, the lower first")
    files = table.below(path, slides.EVERY, f"slides ({', '.join(slides.EVERY)})")
    root, rows = files.root, table.read(files, split_seed, labels, patient)
    look = partial(_look, root, level, mpp, region, tissue, window)
    looks, lost = table.probe(rows, files.names, look, "reading slides")
    complain(lost, strict)
    views = {name: look.view for name, look in looks.items()}
    table.uniform(root, {name: f"{v.slide.channels} channels of {v.slide.dtype}" for name, v in views.items()}, lost)
    apart = space.within([*views], [view.mpp for view in views.values()])
    dark = images.doubts(next(iter(views.values())).slide.dtype, 0, max(look.high for look in looks.values()))
    rows = rows._replace(notes=[*rows.notes, *apart, *dark])
    numbers = table.labels(rows, [*looks])

    def source(names: list[str], lost: list[tuple[str, str]]) -> Source:
        places = np.concatenate([np.insert(looks[name].corners, 0, i, 1) for i, name in enumerate(names)])
        shape = (region, region, views[names[0]].slide.channels)

        def about(i: int) -> Example:
            slide, top, left = places[i].tolist()
            name = names[slide]
            size = {"mpp": view.mpp} if (view := views[name]).mpp else {}
            return {"name": f"{name}@{top},{left}", "patient": rows.patient[name]} | numbers[name] | size

        def read(i: int, field: str, box: Box, k: int) -> np.ndarray:
            slide, *corner = places[i].tolist()
            view, where = views[names[slide]], [(at + a, at + b) for at, (a, b) in zip(corner, box, strict=True)]
            inside = all(a >= 0 and b <= side for (a, b), side in zip(where, view.shape, strict=False))
            if k > 1 and inside:
                return view.reduced(where, k)
            return images.reduce(clipped(view, where), k)

        def load(i: int) -> Example:
            return about(i) | {"image": read(i, "image", ((0, region), (0, region)), 1)}

        return Source(load, [shape] * len(places), False, lost, (), context_factor, read, about)

    return table.sources(rows, [*looks], lost, source)


def patient(name: str) -> str:
    """Who a slide is of, by its name: the first twelve characters of a TCGA barcode, else the name itself."""
    barcode = re.match(r"TCGA-\w\w-\w{4}(?=-|\.|$)", Path(name).name, re.IGNORECASE)
    return barcode[0] if barcode else name


def stained(pixels: Shaped[np.ndarray, "h w C"]) -> Bool[np.ndarray, "h w"]:
    """Where there is tissue: where colours differ, which they do not on glass, nor where there is no scan.

    Everywhere, where there are fewer than three channels.
    """
    if pixels.shape[-1] < 3:
        return np.ones(pixels.shape[:2], bool)
    colours = pixels[..., :3].astype(np.int32)
    return colours.max(-1) - colours.min(-1) >= CHROMA * (np.iinfo(pixels.dtype).max + 1)


class Look(NamedTuple):
    """A slide at the size that is read, the corners of its regions ``[n, 2]``, and its greatest value, about."""

    view: View
    corners: np.ndarray
    high: int


def _look(
    root: Path,
    level: int,
    mpp: int | float,
    region: int,
    tissue: int | float,
    window: tuple[int | float, ...],
    name: str,
) -> Look:
    """What is to be known of a slide. Raises Unreadable if it has no regions of tissue."""
    path = root / name
    view = replace(_view(slides.open_slide(path), level, mpp), window=window)
    rows, columns = (side // region for side in view.shape[:2])
    if not rows * columns:
        raise images.Unreadable(path, f"{view.shape[0]} x {view.shape[1]} pixels have no region of {region}")
    glance = (0, 0, rows * region * view.scale, columns * region * view.scale)
    pixels = view.shown(slides.window(view.slide, glance, (rows * CELLS, columns * CELLS), "box"))
    seen, high = stained(pixels), int(pixels.max())
    share = seen.reshape(rows, CELLS, columns, CELLS).mean((1, 3))
    corners = np.argwhere(share >= tissue) * region
    if not len(corners):
        dark = "".join(f" ({doubt})" for doubt in images.doubts(pixels.dtype, 0, high))
        raise images.Unreadable(path, f"no region of it has {tissue:.0%} tissue{dark}")
    return Look(view, corners, high)


def _view(slide: slides.Slide, level: int, mpp: int | float) -> View:
    """The size that is read. Raises Unreadable where the slide does not have it, or does not know it."""
    full = slide.levels[0]
    scales = [full.height / x.height for x in slide.levels]
    if not mpp:
        if not 0 <= level < len(slide.levels):
            raise images.Unreadable(slide.path, f"it has {len(slide.levels)} levels, and no level {level}")
        return View(slide, scales[level], slide.levels[level])
    if not slide.mpp:
        raise images.Unreadable(slide.path, "it does not say how many microns a pixel is; give a level instead of mpp")
    scale = mpp / slide.mpp
    for known, there in zip(scales, slide.levels, strict=True):
        if abs(known / scale - 1) <= CLOSE:
            return View(slide, known, there)
    if scale < 1:
        raise images.Unreadable(slide.path, f"its pixels are of {slide.mpp:g} microns, coarser than mpp={mpp:g}")
    return View(slide, scale, None)
