"""Slides: tiled TIFF (SVS, NDPI, BigTIFF, ...), OME-Zarr and what OpenSlide knows: pyramids of which windows are read.

A level of a TIFF is any tiled page (also of page 0's SubIFDs) with the proportions of the first, so pyramids in pages
and in SubIFDs are both seen. Missing tiles are white. Colours become grey or RGB by the table of
:mod:`nca_gen.io.colour`, and a slide whose tag says that it lies otherwise is turned upright. OME-Zarr (0.4 and 0.5) is
a folder ``.zarr``, read by tensorstore. What tifffile cannot read, ``.mrxs`` and others, needs the package
openslide-python.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from nca_gen.errors import UserError
from nca_gen.io import colour, huge, images, space, walk

SUFFIXES = (".svs", ".ndpi", ".scn", ".bif")  # and tiled .tif, .tiff
ZARR, OPENSLIDE = ".zarr", (".mrxs", ".vms", ".vmu", ".svslide")
EVERY = (*SUFFIXES, ".tif", ".tiff", ZARR, *OPENSLIDE)
LEAST = 256  # side of a tile where a library does not say
LIMIT = 2**26  # pixels of a window that is resized in one piece
STEP = 4  # a side, from a level to the next of a pyramid that is made here
SUPPORT = {"nearest": 0.5, "area": 0.5, "box": 0.5, "bicubic": 2.0, "lanczos": 3.0}  # half a kernel, in output pixels
Pixels = Shaped[np.ndarray, "h w C"]
Number = int | float
Box = tuple[Number, Number, Number, Number]  # top, left, height, width in pixels of the full size


class Level(NamedTuple):
    """One size of a slide: where its tiles lie in the file, and how to decode them."""

    height: int
    width: int
    tile: tuple[int, int]
    offsets: Sequence[int]
    counts: Sequence[int]
    decode: Callable[[bytes, int], np.ndarray | None]


class Plane(NamedTuple):
    """One size of a slide that is read by another library; ``read(top, left, height, width)``."""

    height: int
    width: int
    tile: tuple[int, int]
    read: Callable[[int, int, int, int], Pixels]


class Slide(NamedTuple):
    """A slide: where it is, its sizes, and what its pixels are."""

    path: str
    levels: tuple[Level | Plane, ...]  # the full size first, then smaller and smaller
    channels: int
    dtype: np.dtype
    mpp: float | None = None  # microns a pixel at the full size, where the file says so

    def read(self, level: Level | Plane, top: int, left: int, height: int, width: int) -> Pixels:
        """A window of a level, in its own pixels, as they are stored."""
        return _read(self, level, top, left, height, width)


@dataclass(frozen=True)
class Slides:
    """Slides of any sizes, read window by window. ``notes`` must stand beside every number that is made of them."""

    slides: tuple[Slide, ...]
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of slides."""
        return len(self.slides)

    @property
    def names(self) -> tuple[str, ...]:
        """Their paths."""
        return tuple(slide.path for slide in self.slides)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every slide at its full size."""
        return tuple((s.levels[0].height, s.levels[0].width) for s in self.slides)

    @property
    def channels(self) -> int:
        """Of every slide."""
        return self.slides[0].channels

    def window(self, i: int, box: Box, size: tuple[int, int], kernel: str = "bicubic", inside: bool = True) -> Pixels:
        """The ``box`` of slide ``i`` as :func:`window` reads it."""
        return window(self.slides[i], box, size, kernel, inside)


def window(
    slide: Slide,
    box: Box,
    size: tuple[int, int],
    kernel: str = "bicubic",
    inside: bool = True,
    fill: tuple[int, ...] = (),
) -> Pixels:
    """The ``box`` of a slide brought to ``size`` = (height, width), from the smallest level that has as much.

    ``kernel`` and ``inside`` as in :func:`resample`. ``fill``: the colour of what lies beyond the slide; without one,
    the box must lie within it. A window of more than ``LIMIT`` pixels of that level, such as a slide without a pyramid
    has, is first reduced by the area mean of a whole number of pixels, in bands.
    """
    full = slide.levels[0]
    shrink = min(box[2] / size[0], box[3] / size[1])
    level = next(x for x in reversed(slide.levels) if full.height / x.height <= shrink * 1.001 or x is full)
    scale = (level.height / full.height, level.width / full.width)
    box = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
    shrink = min(box[2] / size[0], box[3] / size[1])
    k = max(1, min(int(shrink), math.ceil(math.sqrt(box[2] * box[3] / LIMIT))))
    extent, box = (level.height // k, level.width // k), tuple(x / k for x in box)
    read = partial(_read if k == 1 else partial(_reduced, k), slide, level)
    if fill:
        return resample(partial(filled, read, extent, fill, slide.dtype), None, box, size, kernel, inside)
    return resample(read, extent, box, size, kernel, inside)


def filled(
    read: Callable[[int, int, int, int], Pixels],
    extent: tuple[int, int],
    fill: tuple[int, ...],
    dtype: np.dtype,
    top: int,
    left: int,
    height: int,
    width: int,
) -> Pixels:
    """A window of an image of ``extent`` = (height, width), which ``read`` gives, on a ground of one colour."""
    out = np.empty((height, width, len(fill)), dtype)
    out[:] = fill
    rows, columns = range(max(0, top), min(extent[0], top + height)), range(max(0, left), min(extent[1], left + width))
    if rows and columns:
        into = out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        into[:] = read(rows.start, columns.start, len(rows), len(columns))
    return out


def deepened(slide: Slide, shrink: int | float, room: int | float) -> Slide:
    """``slide`` with levels in memory below its last one, down to those that are ``shrink`` times smaller a side.

    They are area means, each ``STEP`` times smaller than the one before, or more where they would not fit into ``room``
    bytes. For a slide without a pyramid, of which windows that are much reduced would be decoded at the full size each
    time. Where the slide has such levels it is as it was, and nothing is read.
    """
    k = STEP
    while slide.levels[0].height / (last := slide.levels[-1]).height * k <= shrink * 1.001:
        size = -(-last.height // k) * -(-last.width // k) * slide.channels * slide.dtype.itemsize
        if size <= room:
            slide, room, k = slide._replace(levels=(*slide.levels, _smaller(slide, k))), room - size, STEP
        else:
            k *= 2
    return slide


def _smaller(slide: Slide, k: int) -> Plane:
    """The last level reduced by ``k``, in memory; read in bands of two rows of tiles or more."""
    full, last = slide.levels[0], slide.levels[-1]
    height, width = -(-last.height // k), -(-last.width // k)
    rows, step = max(2 * last.tile[0] // k, LIMIT // 16 // (k * k * width), 1), full.height / height
    bands = [(y, min(rows, height - y)) for y in range(0, height, rows)]
    parts = [window(slide, (y * step, 0, n * step, full.width), (n, width), "area") for y, n in bands]
    pixels = np.concatenate(parts)
    return Plane(height, width, (LEAST, LEAST), lambda y, x, h, w: pixels[y : y + h, x : x + w])


def resample(
    read: Callable[[int, int, int, int], Pixels],
    extent: tuple[int, int] | None,
    box: Box,
    size: tuple[int, int],
    kernel: str = "bicubic",
    inside: bool = True,
) -> Pixels:
    """The ``box`` of an image of ``extent`` = (height, width) brought to ``size``, antialiased as Pillow does it.

    ``read(top, left, height, width)`` gives pixels of the image, and is asked for no more than is needed; beyond its
    edges too where ``extent`` is None. ``kernel``: one of ``SUPPORT``; "area" is the mean over exactly what an output
    pixel covers (:func:`nca_gen.io.images.area`), where Pillow's "box" takes whole pixels. ``inside`` crops, then
    resizes: nothing outside the box is seen (but for parts of a pixel). Otherwise the result is that of resizing the
    whole image by that much and cutting the box out: at its edges the kernel reaches beyond it.
    """
    import PIL.Image

    pad = [0 if inside else SUPPORT[kernel] * max(1.0, box[2 + a] / size[a]) + 1 for a in (0, 1)]
    low = [math.floor(box[a] - pad[a]) for a in (0, 1)]
    high = [math.ceil(box[a] + box[2 + a] + pad[a]) for a in (0, 1)]
    if extent:
        low, high = [max(0, x) for x in low], [min(*x) for x in zip(high, extent, strict=True)]
    pixels = read(low[0], low[1], high[0] - low[0], high[1] - low[1])
    top, left = max(0.0, box[0] - low[0]), max(0.0, box[1] - low[1])
    corners = (left, top, min(left + box[3], pixels.shape[1]), min(top + box[2], pixels.shape[0]))
    if kernel == "area":
        return images.area(pixels, (top, left, corners[3] - top, corners[2] - left), size)
    work = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    how = PIL.Image.Resampling[kernel.upper()]
    planes = [np.asarray(PIL.Image.fromarray(p).resize(size[::-1], how, corners)) for p in np.moveaxis(work, -1, 0)]
    out = np.stack(planes, -1)
    if pixels.dtype.kind == "u" and pixels.dtype != np.uint8:
        out = np.clip(np.rint(out), 0, np.iinfo(pixels.dtype).max)
    return out.astype(pixels.dtype)


def open_slide(path: str | Path) -> Slide:
    """The levels of a slide. Raises :class:`~nca_gen.io.images.Unreadable` where there is no tiled image in it."""
    if str(path).lower().endswith(ZARR):
        return _zarr(Path(path))
    if str(path).lower().endswith(OPENSLIDE):
        return _openslide(path)
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            first: Any = tiff.pages[0]
            end = Path(path).stat().st_size
            pages: list[Any] = [p for p in (*tiff.pages, *(first.pages or ())) if p.is_tiled and _fits(p, first)]
            if not pages or not first.is_tiled:
                raise ValueError("its first page is not tiled, so windows of it cannot be read")
            meaning = colour.of(first)
            if meaning.dtype not in (np.uint8, np.uint16) or first.planarconfig != 1:
                raise ValueError(f"pixels are {first.dtype}, or planar; save them as 8 or 16 bit RGB")
            if any(max(map(sum, zip(p.dataoffsets, p.databytecounts, strict=True)), default=0) > end for p in pages):
                raise ValueError("the file is truncated")
            levels = {p.shape[:2]: _level(p) for p in reversed(pages)}  # of one size the first
            sizes = tuple(levels[s] for s in sorted(levels, reverse=True))
            mpp = space.of_page(first)
            slide = Slide(str(path), sizes, meaning.channels, meaning.dtype, mpp[-1] if mpp else None)
            return _upright(slide, first.tags.valueof(274, 1))
    except OSError as error:
        raise images.Unreadable(path, (error.strerror or str(error)).lower()) from None
    except Exception as error:  # tifffile raises what it likes on damaged bytes
        raise images.Unreadable(path, str(error).lower() or type(error).__name__) from None


def is_slide(path: str | Path) -> bool:
    """Whether a file is a slide: by its suffix, or a TIFF that is tiled."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return Path(path).suffix.lower() in EVERY
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[0].is_tiled
    except Exception:  # whatever is wrong with it is said by who reads it
        return False


def of(slides: Sequence[Slide], notes: Sequence[str]) -> Slides:
    """The set of some slides. Raises UserError where they differ in channels or depth."""
    kinds = [f"{s.channels} channels of {s.dtype}" for s in slides]
    for slide, kind in zip(slides, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(f"slides of different kinds: {slides[0].path} has {kinds[0]}, {slide.path} has {kind}")
    flat = sum(len(s.levels) == 1 for s in slides)
    if flat:
        notes = [*notes, f"{flat} of {len(slides)} slides have no pyramid: large windows are read at the full size"]
    notes = [*notes, *space.within([s.path for s in slides], [(s.mpp,) if s.mpp else () for s in slides])]
    if slides[0].dtype != np.uint8:
        notes = [*notes, *images.doubts(slides[0].dtype, 0, max(_high(slide) for slide in slides))]
        notes = [*notes, "16-bit pixels are rounded to 8 bits for feature networks"]
    key = hashlib.sha256()
    for slide in slides:
        key.update(_content(Path(slide.path)))
    return Slides(tuple(slides), key.hexdigest(), tuple(notes))


def _content(path: Path) -> bytes:
    """SHA-256 of the file of a slide, or of the files in its folder."""
    if path.is_dir():
        return walk.content(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _high(slide: Slide) -> int:
    """The greatest value in the middle of the smallest level."""
    last = slide.levels[-1]
    height, width = min(last.height, 4 * LEAST), min(last.width, 4 * LEAST)
    top, left = (last.height - height) // 2, (last.width - width) // 2
    return int(slide.read(last, top, left, height, width).max())


def _fits(page: Any, first: Any) -> bool:
    """Whether a page shows the whole of what the first page shows, up to the rounding of its sides."""
    (height, width), (h, w) = first.shape[:2], page.shape[:2]
    alike = page.samplesperpixel == first.samplesperpixel and page.dtype == first.dtype
    return alike and h <= height and abs(h * width - w * height) <= max(height, width)


def _zarr(path: Path) -> Slide:
    """An OME-Zarr image of one place in time and depth."""
    try:
        axes, stores, sizes, _ = huge.multiscale(path)
        if others := [a for a, n in zip(axes, stores[0].shape, strict=True) if a not in "cyx" and n > 1]:
            raise ValueError(f"it has the axis {others[0]}, and a slide is one image")
        dtype = stores[0].dtype.numpy_dtype
        if dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels are {dtype}; save them as 8 or 16 bit")
        channels = stores[0].shape[axes.index("c")] if "c" in axes else 1
        levels = tuple(_plane(store, axes) for store in stores)
        return Slide(str(path), levels, channels, np.dtype(dtype), sizes.get("x") if "y" in sizes else None)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise images.Unreadable(path, f"no OME-Zarr image ({str(error).lower() or type(error).__name__})") from None


def _plane(store: Any, axes: Sequence[str]) -> Plane:
    """A level of an OME-Zarr image whose ``axes`` are named."""
    y, x = axes.index("y"), axes.index("x")

    def read(top: int, left: int, height: int, width: int) -> Pixels:
        at = {"y": slice(top, top + height), "x": slice(left, left + width), "c": slice(None)}
        pixels = store[tuple(at.get(axis, 0) for axis in axes)].read().result()
        order = [axis for axis in axes if axis in at]
        pixels = pixels.transpose([order.index(axis) for axis in "yxc" if axis in order])
        return pixels if "c" in order else pixels[..., None]

    chunk = store.chunk_layout.read_chunk.shape
    return Plane(store.shape[y], store.shape[x], (chunk[y], chunk[x]), read)


def _openslide(path: str | Path) -> Slide:
    """A slide by OpenSlide, if it is there: RGB, white where nothing was scanned."""
    try:
        import openslide
    except ImportError:
        raise images.Unreadable(path, "it needs openslide: pip install openslide-python openslide-bin") from None
    try:
        slide = openslide.OpenSlide(str(path))
    except openslide.OpenSlideError as error:
        raise images.Unreadable(path, str(error).lower() or type(error).__name__) from None

    def plane(number: int) -> Plane:
        (width, height), down = slide.level_dimensions[number], slide.level_downsamples[number]

        def read(top: int, left: int, height: int, width: int) -> Pixels:
            pixels = np.asarray(slide.read_region((round(left * down), round(top * down)), number, (width, height)))
            seen = pixels[..., 3:].astype(np.uint16)
            return ((pixels[..., :3] * seen + 255 * (255 - seen) + 127) // 255).astype(np.uint8)

        return Plane(height, width, (LEAST, LEAST), read)

    said = slide.properties.get("openslide.mpp-x")
    levels = tuple(plane(number) for number in range(slide.level_count))
    return Slide(str(path), levels, 3, np.dtype(np.uint8), float(said) if said else None)


def _level(page: Any) -> Level:
    decode, tables, convert = page.decode, page.jpegtables, colour.of(page).convert

    def pixels(data: bytes, index: int) -> np.ndarray | None:
        tile = decode(data, index, jpegtables=tables)[0] if data else None
        return None if tile is None else convert(tile[0])

    return Level(*page.shape[:2], (page.tilelength, page.tilewidth), page.dataoffsets, page.databytecounts, pixels)


def _upright(slide: Slide, orientation: int) -> Slide:
    """``slide`` as it is seen, whose tiles are stored in an EXIF ``orientation``."""
    if orientation not in range(2, 9):
        return slide

    def turned(height: int, width: int) -> tuple[int, int]:
        return (width, height) if orientation > 4 else (height, width)

    def plane(level: Level | Plane) -> Plane:
        height, width = turned(level.height, level.width)

        def read(top: int, left: int, rows: int, columns: int) -> Pixels:
            top = height - top - rows if orientation in (3, 4, 7, 8) else top
            left = width - left - columns if orientation in (2, 3, 6, 7) else left
            return images.upright(_read(slide, level, *turned(top, left), *turned(rows, columns)), orientation)

        return Plane(height, width, turned(*level.tile), read)

    return slide._replace(levels=tuple(plane(level) for level in slide.levels))


def _read(slide: Slide, level: Level | Plane, top: int, left: int, height: int, width: int) -> Pixels:
    """A window of a level, of which only the tiles that it touches are decoded, side by side."""
    if isinstance(level, Plane):
        return level.read(top, left, height, width)
    out = np.full((height, width, slide.channels), np.iinfo(slide.dtype).max, slide.dtype)
    (th, tw), across = level.tile, -(-level.width // level.tile[1])
    rows, columns = range(top // th, -(-(top + height) // th)), range(left // tw, -(-(left + width) // tw))

    def paste(item: tuple[tuple[int, int], bytes]) -> None:
        (r, c), data = item
        tile = level.decode(data, r * across + c)
        if tile is None:
            return
        y, x = r * th - top, c * tw - left
        into = out[max(0, y) : y + len(tile), max(0, x) : x + tile.shape[1]]
        into[:] = tile[max(0, -y) :, max(0, -x) :][: into.shape[0], : into.shape[1]]

    with open(slide.path, "rb") as file, ThreadPoolExecutor(4) as pool:

        def data(r: int, c: int) -> bytes:
            file.seek(level.offsets[r * across + c])
            return file.read(level.counts[r * across + c])

        tiles = [((r, c), data(r, c)) for r in rows for c in columns]
        for _ in (map if len(tiles) == 1 else pool.map)(paste, tiles):  # a thread takes longer to start than a tile
            pass
    return out


def _reduced(k: int, slide: Slide, level: Level | Plane, top: int, left: int, height: int, width: int) -> Pixels:
    """A window of a level after its reduction by ``k``, in whose pixels it is given."""
    rows = max(-(-level.tile[0] // k), LIMIT // 8 // (k * k * width))  # less than a tile would be decoded twice
    bands = (slice(y, min(y + rows, height)) for y in range(0, height, rows))
    return np.concatenate(
        [
            images.reduce(_read(slide, level, (top + b.start) * k, left * k, (b.stop - b.start) * k, width * k), k)
            for b in bands
        ]
    )
