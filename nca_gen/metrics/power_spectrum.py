"""Radially averaged power spectrum, octave by octave: at which scales do images have more or less than real ones?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from nca_gen.errors import UserError
from nca_gen.io.sets import Images, blocks
from nca_gen.metrics.about import About

SMALLEST = 8  # pixels a side: two octaves
FAINT = 1e-12  # power below which there is none: rounding

ABOUT = About(
    alike="shape",
    reference="the log-spectral distance of Gray & Markel 1976, IEEE Trans. ASSP 24, over octaves; Welch's window",
    range="from 0",
    protocol=(
        "Log-spectral distance in decibels: root mean square over octaves of 10 log10 of the ratio of the powers of "
        "generated and real images. Power is that of each channel less its mean over the image, under a Hann window, "
        "mean over all frequencies of an octave, channels and images; the first octave begins at one wave per shorter "
        "side. power_spectrum_<n>, with its sign, is that of the octave whose longest waves are n pixels long. "
        "Lower is better."
    ),
)


class Stats(NamedTuple):
    """``power`` of every octave, summed over ``n`` images of shorter ``side`` pixels."""

    power: Float64[np.ndarray, " K"]
    n: int
    side: int


def octaves(image: Float[np.ndarray, "H W C"]) -> Float64[np.ndarray, " K"]:
    """Mean power of the frequencies of each octave, the longest waves first: of f times the shorter side in [1, 2),
    [2, 4), .., up to half a wave a pixel along one axis."""
    height, width = image.shape[:2]
    window = np.hanning(height)[:, None] * np.hanning(width)
    waves = (image.astype(np.float64) - image.mean((0, 1), dtype=np.float64)) * window[..., None]
    power = np.square(np.abs(np.fft.fft2(waves, axes=(0, 1)))).mean(-1) / np.square(window).sum()
    side = min(height, width)
    radius = side * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    ends = 2.0 ** np.arange(int(np.log2(side)))
    bands = [power[(radius >= start) & (radius < min(2 * start, side / 2 + 0.5))] for start in ends]
    return np.array([band.mean() for band in bands if band.size])


def statistics(images: Images) -> Stats:
    """Powers of images ``[N, H, W, C]``. Raises UserError for images of less than 8 pixels a side."""
    side = min(images.shape[1:3])
    if side < SMALLEST:
        raise UserError(f"power_spectrum needs images of at least {SMALLEST} pixels a side, not {side}")
    each = [octaves(image) for block in blocks(images) for image in block]
    return Stats(np.sum(each, 0), len(each), side)


def merge(one: Stats, other: Stats) -> Stats:
    """The statistics of both sets, of images of one size."""
    return Stats(one.power + other.power, one.n + other.n, one.side)


def distance(real: Stats, generated: Stats) -> dict[str, float]:
    """``power_spectrum`` and ``power_spectrum_<longest wave>`` for every octave, in decibels."""
    ours, theirs = (np.maximum(of.power / of.n, FAINT) for of in (generated, real))
    decibels = 10 * np.log10(ours / theirs)
    parts = {f"power_spectrum_{real.side // 2**i}": float(value) for i, value in enumerate(decibels)}
    return {"power_spectrum": float(np.sqrt(np.mean(np.square(decibels))))} | parts


def score(generated: Images, real: Images, train: object, seed: int) -> dict[str, float]:
    """Log-spectral distance of ``generated`` to ``real`` (see ``ABOUT``); reads neither ``train`` nor ``seed``.

    Raises UserError where there are no images, and for images that are too small.
    """
    del train, seed
    if not (len(generated) and len(real)):
        raise UserError(f"power_spectrum needs images, got {len(generated)} generated and {len(real)} real")
    return distance(statistics(real), statistics(generated))
