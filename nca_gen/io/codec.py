"""How a file holds its pixels: codec and quality. A network tells JPEG from PNG, and FID moves with the quality.

(Parmar et al. 2022, arXiv 2104.11222, section 5.)
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

# Annex K of ITU-T T.81: the quantisation of luminance at quality 50, in the order of a file.
ANNEX_K = np.array(
    [
        [16, 11, 12, 14, 12, 10, 16, 14],
        [13, 14, 18, 17, 16, 19, 24, 40],
        [26, 24, 22, 22, 24, 49, 35, 37],
        [29, 40, 58, 51, 61, 60, 57, 51],
        [56, 55, 64, 72, 92, 78, 64, 68],
        [87, 69, 55, 56, 80, 109, 81, 87],
        [95, 98, 103, 104, 103, 62, 77, 113],
        [121, 112, 100, 120, 92, 101, 103, 99],
    ]
).ravel()
CHROMA = {(1, 1): "4:4:4", (2, 1): "4:2:2", (1, 2): "4:4:0", (2, 2): "4:2:0", (4, 1): "4:1:1"}  # first of three
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))


def _tables() -> np.ndarray:
    """Those of the Independent JPEG Group's qualities from 1 to 100."""
    q = np.arange(1, 101)
    scale = np.where(q < 50, 5000 // q, 200 - 2 * q)
    return ((ANNEX_K * scale[:, None] + 50) // 100).clip(1, 255)


def jpeg(data: bytes) -> str:
    """Quality and chroma of a JPEG, or of tables and a strip of a TIFF: "JPEG quality 75, 4:2:0".

    The quality is the Independent JPEG Group's, with "about" where the table is of another encoder.
    """
    quality, chroma, at = "", "", 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        part = data[at + 4 : at + 2 + length]
        if marker == 0xDB and not quality and len(part) >= 65 and part[0] == 0:  # the first table, of 8 bits
            apart = np.abs(_tables() - np.frombuffer(part[1:65], np.uint8)).sum(1)
            best = int(apart.argmin())
            quality = f" quality {'about ' if apart[best] else ''}{best + 1}"
        elif marker in FRAMES and len(part) >= 15 and part[5] == 3:
            chroma = f", {CHROMA.get(divmod(part[7], 16), 'chroma of its own')}"
        if marker == 0xDA:
            break
        at += 2 + length
    return f"JPEG{quality}{chroma}"


def of(data: bytes) -> str:
    """The codec of an image file, by its first bytes; "" for one that is not known here."""
    if data.startswith(b"\xff\xd8"):
        return jpeg(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(io.BytesIO(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP, lossless" if b"VP8L" in data[12:64] else "WebP, lossy"
    starts = {b"\x89PNG": "PNG", b"BM": "BMP", b"GIF8": "GIF", b"\0\0\0\x0cjP": "JPEG 2000"}
    return next((name for start, name in starts.items() if data.startswith(start)), "")


def of_file(path: str | Path) -> str:
    """The codec of a slide, of which the first page tells; "" for one that is no TIFF."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(0)
            return _tiff(file) if start in (b"II", b"MM") else ""
    except OSError:
        return ""


def _tiff(file: Any) -> str:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            page: Any = tiff.pages[0]
            name = page.compression.name.replace("ADOBE_", "").replace("_", " ")
            if name != "JPEG":
                return f"TIFF, {name.lower()}" if name != "NONE" else "TIFF"
            if page.jpegtables:
                return f"TIFF, {jpeg(page.jpegtables)}"
            file.seek(page.dataoffsets[0])
            return f"TIFF, {jpeg(file.read(page.databytecounts[0]))}"
    except Exception:  # tifffile raises what it likes on damaged bytes
        return "TIFF"


def summary(codecs: Iterable[str]) -> str:
    """What many files are, the most frequent first: "PNG", "PNG (3 of 5), JPEG quality 75, 4:2:0 (2 of 5)"."""
    counts = Counter(filter(None, codecs))
    if len(counts) == 1:
        return next(iter(counts))
    words = [f"{name} ({n} of {counts.total()})" for name, n in counts.most_common(3)]
    return ", ".join(words) + (f" and {len(counts) - 3} more" if len(counts) > 3 else "")


def lossy(codec: str) -> bool:
    """Whether a codec changes pixels."""
    return "JPEG" in codec or "lossy" in codec
