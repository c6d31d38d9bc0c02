"""Pictures inside of a page, byte by byte: one file can be passed on."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from PIL import Image

MIME = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".jpg": "image/jpeg"}
LARGEST = 24 * 2**20  # bytes of one picture; with more the page would not open on a phone


class Picture(NamedTuple):
    """A picture as a page holds it, and its size on the page in pixels; ``big``: it is enlarged."""

    data: Markup
    name: str
    width: int
    height: int
    big: bool


def embedded(path: Path, target: int) -> Picture | None:
    """The picture at ``path``, enlarged by the whole factor that comes nearest to ``target`` pixels from below.

    None where it cannot be embedded: damaged, or larger than ``LARGEST``.
    """
    if not readable(path):
        return None
    with Image.open(path) as image:
        width, height = image.size
    factor = max(1, target // width)
    data = Markup(f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}")
    return Picture(data, path.stem, width * factor, height * factor, factor > 1)


def readable(path: Path) -> bool:
    """Whether ``path`` is a picture that can be embedded: whole, and not too large."""
    try:
        if path.suffix not in MIME or path.stat().st_size > LARGEST:
            return False
        with Image.open(path) as image:
            image.load()
        return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return False
