"""Two-point correlation of the stain's mask: do glands, lumens and stroma have the sizes and distances that they have?

S2(r) is the probability that two places, r pixels apart, are both stained (Torquato & Stell 1982; of images: Berryman
1985). Independent pixels have S2(0) = p and else p^2; structure keeps it above p^2 as far as it reaches, and where it
repeats itself S2 swings.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from nca_gen.errors import UserError
from nca_gen.io.sets import Images, blocks
from nca_gen.metrics.about import About

DARKEST = 1 / 256  # of the light that passes: what is darker absorbs no more
BINS = 512  # of the histogram in which Otsu's threshold is sought

ABOUT = About(
    alike="channels",
    reference="Torquato & Stell 1982, J. Chem. Phys. 77; of images Berryman 1985, J. Appl. Phys. 57; mask by Otsu 1979",
    range="from 0",
    protocol=(
        "Two-point correlation S2(r) of the stain's mask, for r from 0 to half of the shorter side, over all pairs of "
        "pixels of an image whose distance is nearest to r, and all images. Stained is where the optical density, mean "
        "over channels, is above Otsu's threshold of the real images. The headline is the root mean square over r of "
        "the difference from the real S2, divided by the variance f (1 - f) of the real mask, f its share. "
        "two_point_share is the difference of the shares. Lower is better."
    ),
)


class Stats(NamedTuple):
    """``both``: pairs of pixels that are stained, and ``pairs``, all of them, by their distance in pixels."""

    both: Float64[np.ndarray, " R"]
    pairs: Float64[np.ndarray, " R"]


def density(images: Float[np.ndarray, "*S C"]) -> Float[np.ndarray, "*S"]:
    """Optical density, -log10 of the light that passes, mean over the channels of images in [-1, 1]."""
    return -np.log10(np.maximum((images.astype(np.float64) + 1) / 2, DARKEST)).mean(-1)


def threshold(images: Images) -> float:
    """Otsu's threshold of the optical density of a set."""
    from skimage.filters import threshold_otsu

    counts, ends = np.zeros(BINS), (0.0, -math.log10(DARKEST))
    for block in blocks(images):
        counts += np.histogram(density(block), BINS, ends)[0]
    centres = (np.arange(BINS) + 0.5) * ends[1] / BINS
    some = np.flatnonzero(counts)
    if len(some) < 2:  # of one colour, which is stained where there is any
        return 0.0
    return float(threshold_otsu(hist=(counts, centres))) + ends[1] / BINS / 2  # the end of the bin that it names


def correlation(mask: Bool[np.ndarray, "H W"]) -> Stats:
    """The pairs of one mask, by the distance that is nearest, up to half of its shorter side."""
    height, width = mask.shape
    # With as many zeros beside, no pair is counted around an edge.
    spectrum = np.fft.rfft2(mask, (2 * height, 2 * width))
    both = np.rint(np.fft.irfft2(np.abs(spectrum) ** 2, (2 * height, 2 * width)))
    dy, dx = (np.minimum(np.arange(2 * n), 2 * n - np.arange(2 * n)) for n in (height, width))
    pairs = np.maximum(height - dy, 0)[:, None] * np.maximum(width - dx, 0.0)
    far, most = np.rint(np.hypot(dy[:, None], dx)).astype(int).ravel(), min(height, width) // 2
    near = far <= most
    count = lambda weights: np.bincount(far[near], weights.ravel()[near], most + 1)
    return Stats(count(both), count(pairs))


def statistics(images: Images, least: float) -> Stats:
    """The pairs of all images ``[N, H, W, C]``, stained where the optical density is above ``least``."""
    each = [correlation(density(image) > least) for block in blocks(images) for image in block]
    return Stats(*(np.sum(of, 0) for of in zip(*each, strict=True)))


def merge(one: Stats, other: Stats) -> Stats:
    """The statistics of both sets, of images of one size."""
    return Stats(*(a + b for a, b in zip(one, other, strict=True)))


def distance(real: Stats, generated: Stats) -> dict[str, float]:
    """``two_point`` and ``two_point_share``; infinite where the real images have no structure, and others have."""
    reach = min(len(real.pairs), len(generated.pairs))
    ours, theirs = (of.both[:reach] / of.pairs[:reach] for of in (generated, real))
    error, share = float(np.sqrt(np.mean(np.square(ours - theirs)))), float(theirs[0])
    variance = share * (1 - share)
    return {
        "two_point": error / variance if variance else (math.inf if error else 0.0),
        "two_point_share": float(abs(ours[0] - theirs[0])),
    }


def score(generated: Images, real: Images, train: object, seed: int) -> dict[str, float]:
    """Distance of the two-point correlations (see ``ABOUT``); reads neither ``train`` nor ``seed``.

    Raises UserError where there are no images.
    """
    del train, seed
    if not (len(generated) and len(real)):
        raise UserError(f"two_point needs images, got {len(generated)} generated and {len(real)} real")
    least = threshold(real)
    return distance(statistics(real, least), statistics(generated, least))
