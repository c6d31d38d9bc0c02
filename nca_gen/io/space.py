"""How large a pixel is: read from what files say, compared, written.

Sizes are in micrometres, one an axis of the image (height, width) or volume (depth, height, width); () is unknown. Only
a microscope's are believed of images: a coarser resolution is that of a printer.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Sizes = tuple[float, ...]
COARSEST = 50.0  # micrometres
CLOSE = 0.05  # sizes that differ by no more than this share are the same
MICRONS = {  # by unit, as OME and ImageJ name it; one that is not here ("pixel") says nothing
    **dict.fromkeys(("\u00b5m", "\u03bcm", "\\u00B5m", "&#181;m", "um", "micron", "microns"), 1.0),
    **{"pm": 1e-6, "\u00c5": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6},
    **{"thou": 25.4, "mil": 25.4, "li": 25400 / 12, "in": 25400.0, "inch": 25400.0},
}
NGFF = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


def of_page(page: Any) -> Sizes:
    """Of a page of tifffile: as Aperio or OME write it, else by its resolution, of ImageJ in the unit that it names."""
    text = page.description or ""
    if said := re.search(r"\bMPP\s*=\s*(\d+[.,]?\d*)", text):
        return _microscopic([float(said[1].replace(",", "."))] * 2)
    sizes = dict(re.findall(r'PhysicalSize([XY])="([\d.eE+-]+)"', text))
    units = dict(re.findall(r'PhysicalSize([XY])Unit="([^"]*)"', text))
    if "X" in sizes:
        axes = [axis if axis in sizes else "X" for axis in "YX"]
        return _microscopic(float(sizes[axis]) * MICRONS.get(units.get(axis, "um"), 0.0) for axis in axes)
    named = re.search(r"^unit=(\S+)", text, re.MULTILINE) if text.startswith("ImageJ") else None
    factor = {2: MICRONS["inch"], 3: MICRONS["cm"]}.get(int(page.tags.valueof(296, 2)))
    factor = MICRONS.get(named[1]) if named else factor
    dots = [page.tags.valueof(code, (0, 1)) for code in (283, 282)]  # along Y, along X
    if not factor or any(0 in some for some in dots):
        return ()
    return _microscopic(factor * under / over for over, under in dots)


def of_picture(image: Any) -> Sizes:
    """Of a PNG or JPEG that pillow has opened."""
    return _microscopic(MICRONS["inch"] / float(dots) if dots else 0.0 for dots in image.info.get("dpi", ())[::-1])


def of_axes(axes: Sequence[Mapping[str, Any]], transformations: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of an OME-Zarr image, by the name of an axis, where its unit is known: of its axes and the transformations of its
    first level and of all levels."""
    scales = [some["scale"] for some in transformations if some["type"] == "scale"]
    units = {i: NGFF[axis["unit"]] for i, axis in enumerate(axes) if axis.get("unit") in NGFF} if scales else {}
    return {axes[i]["name"]: math.prod(scale[i] for scale in scales) * unit for i, unit in units.items()}


def _microscopic(sizes: Iterable[int | float]) -> Sizes:
    sizes = tuple(map(float, sizes))
    return sizes if all(0 < size < COARSEST for size in sizes) else ()


def scaled(sizes: Sequence[int | float], stored: Sequence[int], sides: Sequence[int]) -> Sizes:
    """Sizes after the ``stored`` pixels of each axis have become ``sides``."""
    return tuple(size * n / side for size, n, side in zip(sizes, stored, sides, strict=False))


def alike(one: Sequence[int | float], other: Sequence[int | float]) -> bool:
    """Whether two sizes are the same, as far as they are known."""
    return not (one and other) or all(abs(a / b - 1) <= CLOSE for a, b in zip(one, other, strict=True))


def words(sizes: Sequence[int | float]) -> str:
    """A size for people."""
    return " x ".join(f"{size:.4g}" for size in (sizes[:1] if len(set(sizes)) == 1 else sizes)) + " µm"


def within(names: Sequence[str], sizes: Sequence[Sequence[int | float]]) -> Iterator[str]:
    """What has to be said of a set whose pixels are of several sizes: two of them by name."""
    known = [(name, size) for name, size in zip(names, sizes, strict=True) if size]
    if other := next((item for item in known if not alike(known[0][1], item[1])), None):
        first = known[0]
        yield (
            f"pixels differ in size: {first[0]} has {words(first[1])} a pixel, {other[0]} has {words(other[1])}; "
            "what is learned or scored mixes magnifications: bring them to one"
        )


def between(sets: Mapping[str, Sequence[Sequence[int | float]]]) -> Iterator[str]:
    """What has to be said where the pixels of two sets, sizes by name of the set, are of different sizes."""
    firsts = [(name, size) for name, sizes in sets.items() for size in [s for s in sizes if s][:1]]
    for name, size in firsts[1:]:
        if not alike(firsts[0][1], size):
            yield (
                f"{firsts[0][0]} has {words(firsts[0][1])} a pixel and {name} {words(size)}: pixels are compared, and "
                "not micrometres; bring both to one resolution"
            )


def tiff(sizes: Sequence[int | float]) -> dict[str, Any]:
    """What tifffile is told; nothing where the size is not known."""
    return {"resolution": tuple(1e4 / size for size in sizes[::-1]), "resolutionunit": "CENTIMETER"} if sizes else {}


def png(data: bytes, sizes: Sequence[int | float]) -> bytes:
    """The bytes of a PNG that states the size of its pixels, behind its head."""
    if not sizes:
        return data
    chunk = b"pHYs" + struct.pack(">IIB", *(round(1e6 / size) for size in sizes[::-1]), 1)  # so many a metre
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
