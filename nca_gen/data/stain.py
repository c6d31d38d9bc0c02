"""Where there is tissue: what is stained is colourful, glass is not. One rule for training and for mosaics.

Otsu's threshold on the saturation of a whole slide (N. Otsu, 1979, "A threshold selection method from gray-level
histograms") parts stain of any hue from glass, where a rule on the hue would know one stain.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped

DARK = 0.1  # share of the range below which the greatest colour of a pixel is that of a pen, a fold, or of no scan
BAND = (0.06, 0.15)  # where the threshold lies: glass, even tinted, is below, and pale eosin above


def saturation(pixels: Shaped[np.ndarray, "h w C"]) -> Float[np.ndarray, "h w"]:
    """(greatest - least) / greatest of the first three colours, in [0, 1]; -1 where the pixel is dark, below ``DARK``.

    ``pixels``: uint8 or uint16.
    """
    colours = pixels[..., :3].astype(np.float32)
    high, low = colours.max(-1), colours.min(-1)
    dark = high < DARK * (np.iinfo(pixels.dtype).max + 1)
    return np.where(dark, np.float32(-1), (high - low) / np.where(dark, 1, high))


def stained(pixels: Shaped[np.ndarray, "h w C"]) -> Bool[np.ndarray, "h w"]:
    """Where there is tissue: saturation above Otsu's threshold over all ``pixels``, which are those of a whole slide.

    The threshold is kept in ``BAND``, so that all of a slide without glass is tissue and nothing of one of glass alone;
    dark pixels never are, and have no part in it. Everywhere, where there are fewer than three channels.
    """
    from skimage.filters import threshold_otsu

    if pixels.shape[-1] < 3:
        return np.ones(pixels.shape[:2], bool)
    seen = saturation(pixels)
    bright = seen[seen >= 0]
    return seen > (np.clip(threshold_otsu(bright), *BAND) if bright.size else 0)
