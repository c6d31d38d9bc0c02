"""What stored samples mean: one table from what a file says about colour to grey, RGB or channels, or to a refusal.

Images, slides and volumes read their colours here. Kept as they are: grey whose zero is black, RGB, and any number of
channels of which nothing is said. Converted: grey whose zero is white, palettes, CMYK (by its inks alone, without a
profile), luma and chroma (Y, Cb, Cr) where the codec has not done so. Samples of few bits are stretched to all of their
type. Alpha is dropped and nothing is blended with it; colours that were multiplied by it are divided. All else (L*a*b*,
raw sensors, ...) is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

Samples = Shaped[np.ndarray, "*S N"]
Pixels = Shaped[np.ndarray, "*S C"]
Convert = Callable[[Samples], Pixels]
JPEG2000 = (33003, 33004, 33005, 34712)  # compressions; 33003 is Aperio's of luma and chroma, whatever the page says
CONVERTING = (6, 7, 22610, 34892, 34933, 34934, 33005, 33007, 50001, 50002, 52546)  # codecs that give RGB anyway
REC601 = (0.299, 0.587, 0.114)  # parts of red, green and blue in luma
REFUSED = {
    8: "CIELAB (L*a*b*)",
    9: "ICCLAB (L*a*b*)",
    10: "ITULAB (L*a*b*)",
    32803: "raw values of a sensor behind colour filters",
    32844: "logarithms of luminance",
    32845: "logarithms of luminance, and chroma",
    34892: "linear raw values of a sensor",
    51177: "distances",
}


class Meaning(NamedTuple):
    """How many ``channels`` of which ``dtype`` a pixel has, and how samples ``[..., N]`` become them."""

    channels: int
    dtype: np.dtype
    convert: Convert


def of(page: Any) -> Meaning:
    """The meaning of the samples of a page of tifffile. Raises ValueError, which names the colours, for a refusal."""
    said = int(page.photometric) if 262 in page.tags or page.compression == 6 else 1
    luma = page.compression == 33003 or (said == 6 and page.compression not in CONVERTING)
    alpha = int(next(iter(page.extrasamples[-1:]), 0))
    n = page.samplesperpixel - (alpha in ALPHA)
    if said in REFUSED or (said not in CONVERSIONS and not luma):
        raise ValueError(f"its colours are {REFUSED.get(said, f'of an unknown kind, {said}')}; save it as RGB")
    channels, make = (3, _luma) if luma else CONVERSIONS[said]
    convert = partial(ALPHA[alpha], make(page)) if alpha in ALPHA else make(page)
    dtype = np.uint8 if said == 3 or page.dtype == bool else page.dtype
    return Meaning(channels or n, np.dtype(dtype), convert)


def full(samples: Samples, bits: int) -> Samples:
    """Unsigned samples of fewer ``bits`` than their type, stretched to all of it; bool is uint8 of 0 and 255."""
    if samples.dtype == bool:
        return samples * np.uint8(255)
    if samples.dtype.kind != "u" or bits >= 8 * samples.dtype.itemsize:
        return samples
    top, most = np.iinfo(samples.dtype).max, 2**bits - 1
    return ((samples.astype(np.uint64) * top + most // 2) // most).astype(samples.dtype)


def rgb(luma: Samples, parts: Sequence[int | float] = REC601, reference: Sequence[int | float] = ()) -> Pixels:
    """Red, green and blue of luma and chroma ``[..., 3]`` (ITU-R BT.601 by default), unsigned, in their own type.

    ``parts``: of red, green and blue in luma. ``reference``: codes of black and white, zero and most, zero and most.
    """
    top = int(np.iinfo(luma.dtype).max)
    middle = (top + 1) // 2
    black, white, *chroma = reference or (0, top, middle, top, middle, top)
    y = (luma[..., 0].astype(np.float32) - black) * (top / (white - black))
    b, r = (
        (luma[..., i].astype(np.float32) - chroma[2 * i - 2])
        * ((top - middle) / (chroma[2 * i - 1] - chroma[2 * i - 2]))
        for i in (1, 2)
    )
    red, blue = y + 2 * (1 - parts[0]) * r, y + 2 * (1 - parts[2]) * b
    green = (y - parts[0] * red - parts[2] * blue) / parts[1]
    return np.clip(np.rint(np.stack([red, green, blue], -1)), 0, top).astype(luma.dtype)


def of_inks(inks: Samples) -> Pixels:
    """Red, green and blue of cyan, magenta, yellow and black ``[..., 4]``: (top - ink) (top - black) / top, rounded."""
    top = int(np.iinfo(inks.dtype).max)
    light = top - inks.astype(np.uint64)
    return ((light[..., :3] * light[..., 3:] + top // 2) // top).astype(inks.dtype)


def of_fields(samples: Shaped[np.ndarray, "*S"]) -> Pixels:
    """Red, green and blue of samples that are records of them, as NIfTI has colours; their alpha is dropped."""
    return np.stack([samples[name] for name in "RGB"], -1)


def _unsigned(page: Any, what: str) -> None:
    if page.dtype is None or np.dtype(page.dtype).kind not in "ub":
        raise ValueError(f"it holds {what} as {page.dtype}; save it as RGB or grey of 8 or 16 bits")


def _plain(page: Any) -> Convert:
    return partial(full, bits=page.bitspersample)


def _white_is_zero(page: Any) -> Convert:
    _unsigned(page, "grey whose zero is white")
    return lambda samples: ~full(samples, page.bitspersample)


def _palette(page: Any) -> Convert:
    colours = page.colormap if page.colormap.max() < 256 else page.colormap >> 8  # 16 bits, but some write 8
    return lambda samples: colours.astype(np.uint8).T[samples[..., 0]]


def _inks(page: Any) -> Convert:
    _unsigned(page, "inks")
    n = page.samplesperpixel - (int(next(iter(page.extrasamples[-1:]), 0)) in ALPHA)
    if n != 4 or page.tags.valueof(332, 1) != 1:
        raise ValueError(f"its colours are {n} inks, and not CMYK; save it as RGB")
    return lambda samples: of_inks(full(samples, page.bitspersample))


def _luma(page: Any) -> Convert:
    _unsigned(page, "luma and chroma")
    if page.compression in JPEG2000 and _decoder_converts(page):
        return _plain(page)
    stated = page.tags.valueof(529, ())  # of rational numbers
    parts = [a / b for a, b in zip(stated[::2], stated[1::2], strict=True)] or REC601
    stated = page.tags.valueof(532, ())
    ends = [a / b for a, b in zip(stated[::2], stated[1::2], strict=True)]
    return lambda samples: rgb(full(samples, page.bitspersample), parts, ends if samples.dtype == np.uint8 else ())


def _decoder_converts(page: Any) -> bool:
    """Whether the decoder of JPEG 2000 gives RGB: of chroma that is coarser than luma, and of a file that says sYCC."""
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    file, (offset, size) = page.parent.filehandle, next((segment for segment in segments if segment[1]), (0, 0))
    file.seek(offset)
    data = file.read(min(size, 4096))
    head = data.find(b"\xff\x4f\xff\x51")  # of the codestream: its start and its sizes
    coarse = head >= 0 and data[head + 46 : head + 48] not in (b"", b"\1\1")  # of the second component
    return coarse or b"colr\1\0\0\0\0\0\x12" in data[:head]


def _beside_alpha(convert: Convert, samples: Samples) -> Pixels:
    return convert(samples[..., :-1])


def _divided(convert: Convert, samples: Samples) -> Pixels:
    """Colours that were multiplied by their alpha; where that is 0 nothing is known, and they are 0."""
    if samples.dtype.kind != "u":
        return convert(samples[..., :-1])
    alpha, top = samples[..., -1:].astype(np.uint64), np.iinfo(samples.dtype).max
    colours = (samples[..., :-1].astype(np.uint64) * top + alpha // 2) // np.maximum(alpha, 1)
    return convert(np.minimum(colours, top).astype(samples.dtype))


ALPHA: dict[int, Callable[[Convert, Samples], Pixels]] = {1: _divided, 2: _beside_alpha}
"""By the last extra sample of TIFF: associated alpha, and alpha beside the colours."""


CONVERSIONS: dict[int, tuple[int, Callable[[Any], Convert]]] = {
    0: (0, _white_is_zero),
    1: (0, _plain),
    2: (0, _plain),
    3: (3, _palette),
    4: (0, _plain),  # what is inside a mask is white
    5: (3, _inks),
    6: (3, _plain),  # by the codec
}
"""By the photometric interpretation of TIFF: channels of a pixel (0: as many as samples), and what converts them."""
