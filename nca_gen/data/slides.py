"""A folder of slides, of which patches are read where there is tissue; no slide is ever decoded whole.

A slide (tiled TIFF, OME-Zarr, what OpenSlide reads; see :mod:`nca_gen.io.slides`) is cut into square regions, from its
top left; each that is tissue is an example, called ``slide@top,left`` in pixels of the size that is read. Labels,
patients and splits come from an optional ``labels.csv``, see :mod:`nca_gen.data.table`; without it the patient of a
name of TCGA is its first twelve characters, and every other slide is its own.

A magnification of URCDM's reads ``mpp`` reduced by 39.0625, 6.25 or 1, so that squares of 1024 pixels are 40000, 6400
and 1024 of the slide wide, each with a context 6.25 times as wide; half-patch shifts are those of regions larger than
the patch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Interval, MaxLen
from jaxtyping import Shaped

from nca_gen.data import table
from nca_gen.data.source import Example, Source, Span, Splits, clipped, complain
from nca_gen.data.stain import stained
from nca_gen.errors import UserError
from nca_gen.io import images, slides, space
from nca_gen.ranges import Count, Gigabytes, Natural

CELLS = 16  # places a side at which a region is looked at, to tell how much of it is tissue
CLOSE = 0.05  # a level whose pixels are as large as asked, up to this share, is taken as it is


@dataclass(frozen=True)
class View:
    """A slide at one size: pixel (i, j) of it covers ``scale`` times as many of the full size.

    ``level``: the one that has just this size, if any; then its pixels come as they are stored; else ``kernel`` makes
    them (:func:`nca_gen.io.slides.resample`). ``window``: values that become the least and the greatest that the type
    holds. ``pad``: the colour of what lies beyond the slide, as it would be stored; () repeats the nearest pixel.
    ``taken``: how large a pixel is, the config says, as the slide does not.
    """

    slide: slides.Slide
    scale: int | float
    level: slides.Level | slides.Plane | None
    window: tuple[int | float, ...] = ()
    pad: tuple[int, ...] = ()
    kernel: str = "bicubic"
    taken: bool = False

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
        place = (y.start, x.start, y.stop - y.start, x.stop - x.start)
        if self.level is None:
            return self._resampled(place, place[2:], self.kernel)
        read, extent = partial(self.slide.read, self.level), self.level[:2]
        return self.shown(slides.filled(read, extent, self.pad, self.slide.dtype, *place) if self.pad else read(*place))

    def reduced(self, box: Span, k: int | float) -> Shaped[np.ndarray, "h w C"]:
        """The ``box``, whose ends need not be whole, reduced by ``k`` to the area mean, beyond the slide too.

        It is made of the smallest level that has as many pixels. Beyond the slide, where there is no ``pad``, the
        nearest pixel is one of this size, all of which are then read.
        """
        (top, bottom), (left, right) = box
        place, size = (top, left, bottom - top, right - left), (round((bottom - top) / k), round((right - left) / k))
        within = all(a >= 0 and b <= side for (a, b), side in zip(box, self.shape, strict=False))
        if self.pad or (within and k > 1):
            return self._resampled(place, size, "area") if k > 1 else self[slice(top, bottom), slice(left, right)]
        if k == 1:
            return clipped(self, box)
        return slides.resample(lambda y, x, h, w: clipped(self, ((y, y + h), (x, x + w))), None, place, size, "area")

    def _resampled(self, place: slides.Box, size: tuple[int, int], kernel: str) -> Shaped[np.ndarray, "h w C"]:
        """What is at ``place``, in pixels of this size, brought to another."""
        top, left, height, width = (v * self.scale for v in place)
        return self.shown(slides.window(self.slide, (top, left, height, width), size, kernel, fill=self.pad))

    def shown(self, pixels: Shaped[np.ndarray, "h w C"]) -> Shaped[np.ndarray, "h w C"]:
        """Stored values in the window."""
        return images.windowed(pixels, *self.window) if self.window else pixels


def splits(
    path: str = "",
    level: Natural = 0,
    mpp: Annotated[int | float, Ge(0)] = 0.0,
    reduce: Annotated[int | float, Ge(1)] = 1,
    region: Count = 512,
    tissue: Annotated[int | float, Interval(ge=0, le=1)] = 0.5,
    window: Annotated[tuple[int | float, ...], MaxLen(2)] = (),
    pad: tuple[Natural, ...] = (),
    context_factor: Annotated[int | float, Ge(1)] = 1,
    square: Natural = 0,
    labels: tuple[str, ...] = (),
    split_seed: int = 0,
    strict: bool = False,
    memory_gb: Gigabytes = 1.0,
) -> Splits:
    """The three splits of the slides in the folder ``path``, by patient; pixels as stored, uint8 or uint16.

    Read at ``level`` of the pyramid (0 is the full size), or where ``mpp`` is given at so many microns a pixel; a slide
    that does not say its microns is then taken to have so many at its full size. Of these, ``reduce`` pixels a side
    become one (area mean), 6.25 for example.
    ``region``: side of a region, in pixels of what is read: patches lie within. ``tissue``: least share of it that is
    stained (:func:`nca_gen.data.stain.stained`, by the whole slide); slides of one channel have no stain, and all their
    regions are taken. ``context_factor`` (6.25 for example) and ``square``: see
    :meth:`nca_gen.data.source.Source.read`; the context of a patch goes beyond its region, up to the slide's edge.
    ``pad``: the colour of what lies beyond the slide, (242, 243, 242) for example, in the units of its pixels. Regions
    are then as many as hold the slide, in their middle, and the share of tissue is that of what is slide; a slide
    smaller than a region is one. Without, regions lie within, and beyond the edge contexts repeat the nearest pixel.
    ``window`` = (low, high): these two values become the least and the greatest that the type of the pixels holds, and
    what lies beyond is cut off. ``labels``: the columns of labels.csv that are labels, () for all that hold numbers.
    What is much reduced is made of the levels of the pyramid; where a slide lacks them, they are made once and stay in
    memory, of all slides up to ``memory_gb``.
    Slides that cannot be used are named and left out (``strict``: UserError). Raises UserError for a missing or empty
    folder, a wrong labels.csv, slides of different channels or depth, and a colour of others.
    """
    if not 0 <= tissue <= 1:
        raise UserError(f"config.data.tissue={tissue} is a share, from 0 to 1")
    if region < CELLS:
        raise UserError(f"config.data.region={region} is less than {CELLS} pixels")
    if window and not (len(window) == 2 and window[0] < window[1]):
        raise UserError(f"config.data.window={window} must be two numbers, the lower first")
    files = table.below(path, slides.EVERY, f"slides ({', '.join(slides.EVERY)})")
    root, rows = files.root, table.read(files, split_seed, labels, patient)
    room = memory_gb * 2**30 / len(files.names)
    look = partial(_look, root, level, mpp, reduce, region, tissue, window, pad, context_factor, room)
    looks, lost = table.probe(rows, files.names, look, "reading slides")
    complain(lost, strict)
    views = {name: look.view for name, look in looks.items()}
    table.uniform(root, {name: f"{v.slide.channels} channels of {v.slide.dtype}" for name, v in views.items()}, lost)
    said = [*_sizes(views, mpp, reduce > 1 or context_factor > 1)]
    dark = images.doubts(next(iter(views.values())).slide.dtype, 0, max(look.high for look in looks.values()))
    rows = rows._replace(notes=[*rows.notes, *said, *dark])
    numbers = table.labels(rows, [*looks])

    def source(names: list[str], lost: list[tuple[str, str]]) -> Source:
        places = np.concatenate([np.insert(looks[name].corners, 0, i, 1) for i, name in enumerate(names)])
        shape = (region, region, views[names[0]].slide.channels)

        def about(i: int) -> Example:
            slide, top, left = places[i].tolist()
            name = names[slide]
            size = {"mpp": view.mpp} if (view := views[name]).mpp else {}
            return {"name": f"{name}@{top},{left}", "patient": rows.patient[name]} | numbers[name] | size

        def read(i: int, field: str, box: Span, k: int | float) -> np.ndarray:
            slide, *corner = places[i].tolist()
            return views[names[slide]].reduced([(at + a, at + b) for at, (a, b) in zip(corner, box, strict=True)], k)

        def load(i: int) -> Example:
            return about(i) | {"image": read(i, "image", ((0, region), (0, region)), 1)}

        factor = float(context_factor)  # at any place, whole or not
        return Source(load, [shape] * len(places), False, lost, (), factor, read, about, square=square)

    return table.sources(rows, [*looks], lost, source)


def patient(name: str) -> str:
    """Who a slide is of, by its name: the first twelve characters of a TCGA barcode, else the name itself."""
    barcode = re.match(r"TCGA-\w\w-\w{4}(?=-|\.|$)", Path(name).name, re.IGNORECASE)
    return barcode[0] if barcode else name


def _sizes(views: Mapping[str, View], mpp: int | float, scaled: bool) -> Iterator[str]:
    """What has to be said of how large pixels are; ``scaled``: whether what is read depends on it."""
    yield from space.within([*views], [view.mpp for view in views.values()])
    taken = [name for name, view in views.items() if view.taken]
    if taken:
        some = ", ".join(taken[: table.LISTED]) + (f" and {n} more" if (n := len(taken) - table.LISTED) > 0 else "")
        yield f"{some} does not say how many microns a pixel is: taken as config.data.mpp={mpp:g}"
    if scaled and not any(view.mpp for view in views.values()):
        yield "no slide says how many microns a pixel is, so none are compared: give them by --config.data.mpp="


class Look(NamedTuple):
    """A slide at the size that is read, the corners of its regions ``[n, 2]``, and its greatest value, about."""

    view: View
    corners: np.ndarray
    high: int


def _look(
    root: Path,
    level: int,
    mpp: int | float,
    reduce: int | float,
    region: int,
    tissue: int | float,
    window: tuple[int | float, ...],
    pad: tuple[int, ...],
    factor: int | float,
    room: int | float,
    name: str,
) -> Look:
    """What is to be known of a slide. Raises Unreadable if it has no regions of tissue."""
    path = root / name
    view = replace(_view(slides.open_slide(path), level, mpp, reduce), window=window, pad=pad)
    _check_colour(pad, view.slide)
    sides = view.shape[:2]
    grid = [-(-side // region) if pad else side // region for side in sides]
    if not math.prod(grid):
        fits = f", or config.data.region={min(sides)} for such patches" if min(sides) >= CELLS else ""
        raise images.Unreadable(
            path,
            f"{sides[0]} x {sides[1]} pixels have no region of {region}; config.data.pad, a colour, makes it one{fits}",
        )
    view = replace(view, slide=slides.deepened(view.slide, view.scale * factor, room))
    first = [(side - n * region) // 2 if pad else 0 for side, n in zip(sides, grid, strict=True)]
    # What is slide of all regions is looked at in one go.
    extent = sides if pad else [n * region for n in grid]
    cells = [max(CELLS, side * CELLS // region) for side in extent]
    height, width = (min(v * view.scale, n) for v, n in zip(extent, view.slide.levels[0][:2], strict=True))
    pixels = view.shown(slides.window(view.slide, (0, 0, height, width), (cells[0], cells[1]), "box"))
    seen, high = stained(pixels), int(pixels.max())
    each = [n / side for n, side in zip(cells, extent, strict=True)]  # of a pixel
    box = [v * s for v, s in zip((*first, *(n * region for n in grid)), each * 2, strict=True)]
    share, slide = np.moveaxis(images.area(np.stack([seen, np.ones_like(seen)], -1).astype(float), box, grid), -1, 0)
    corners = np.argwhere(share >= tissue * slide - 1e-9) * region + first
    if not len(corners):
        dark = "".join(f" ({doubt})" for doubt in images.doubts(pixels.dtype, 0, high))
        raise images.Unreadable(path, f"no region of it has {tissue:.0%} tissue{dark}")
    return Look(view, corners, high)


def _check_colour(pad: tuple[int, ...], slide: slides.Slide) -> None:
    """Raises UserError for a colour that the slide cannot have."""
    most = np.iinfo(slide.dtype).max
    if pad and (len(pad) != slide.channels or max(pad) > most):
        raise UserError(
            f"config.data.pad={tuple(pad)} is no colour of {slide.path}: give {slide.channels} numbers from 0 to {most}"
        )


def _view(slide: slides.Slide, level: int, mpp: int | float, reduce: int | float) -> View:
    """The size that is read. Raises Unreadable where the slide does not have it."""
    full = slide.levels[0]
    scales = [full.height / x.height for x in slide.levels]
    if not mpp:
        if not 0 <= level < len(slide.levels):
            raise images.Unreadable(slide.path, f"it has {len(slide.levels)} levels, and no level {level}")
        return _reduced(View(slide, scales[level], slide.levels[level]), reduce)
    taken, side = not slide.mpp, slide.mpp or float(mpp)
    slide, scale = slide._replace(mpp=side), mpp / side
    for known, there in zip(scales, slide.levels, strict=True):
        if abs(known / scale - 1) <= CLOSE:
            return _reduced(View(slide, known, there, taken=taken), reduce)
    if scale * reduce < 1:
        raise images.Unreadable(slide.path, f"its pixels are of {side:g} microns, coarser than mpp={mpp * reduce:g}")
    return _reduced(View(slide, scale, None), reduce)


def _reduced(view: View, k: int | float) -> View:
    """The same slide, of whose pixels ``k`` a side are one."""
    return replace(view, scale=view.scale * k, level=None, kernel="area") if k > 1 else view
