"""Tiles of pictures as a browser shows them: 8 bits of RGB, halved level by level, as PNG or JPEG."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8

from nca_gen.io import images

TILE = 256  # side, pixels
RGB = UInt8[np.ndarray, "_ _ 3"]


def halved(pixels: RGB) -> RGB:
    """The mean of every 2 x 2 pixels, halves up; a last odd row or column counts twice."""
    even = np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)], "edge")
    height, width = even.shape[0] // 2, even.shape[1] // 2
    return ((even.reshape(height, 2, width, 2, 3).sum((1, 3), np.uint16) + 2) // 4).astype(np.uint8)


def encoded(pixels: RGB, quality: int) -> bytes:
    """Pixels as PNG, or with a ``quality`` above 0 as JPEG, and nothing beside them."""
    from PIL import Image

    file, picture = io.BytesIO(), Image.fromarray(pixels)
    if quality:
        picture.save(file, "JPEG", quality=quality, subsampling=0)
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def rgb(pixels: images.Image) -> RGB:
    """Pixels of any depth, in colours of 8 bits."""
    eight = images.picture(pixels)
    return np.ascontiguousarray(np.broadcast_to(eight, (*eight.shape[:2], 3)))
