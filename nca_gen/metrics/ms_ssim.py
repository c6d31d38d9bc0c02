"""Diversity as the multi-scale structural similarity of random pairs (Wang et al. 2003; Odena et al. 2017, section 4).

Images of one set that are all alike have a similarity near 1. What a diverse set has depends on the subject, so the
same is measured of real images.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

from nca_gen.errors import UserError
from nca_gen.io.sets import Images
from nca_gen.metrics import bootstrap
from nca_gen.metrics.about import About
from nca_gen.metrics.notes import note
from nca_gen.ranges import Count

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first: Wang et al. 2003
WINDOW, SIGMA, K1, K2, RANGE = 11, 1.5, 0.01, 0.03, 255.0
TAPS = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
TAPS /= TAPS.sum()
PAIRS = 1000

ABOUT = About(
    reference="Wang et al. 2003, Asilomar; of pairs by Odena et al. 2017, ICML, arXiv 1610.09585",
    range="0 to 1",
    least={"generated": 2, "real": 2},
    protocol=(
        "Multi-scale structural similarity (Wang et al. 2003: weights .0448 .2856 .3001 .2363 .1333, Gaussian window "
        "of 11 x 11 with sigma 1.5, borders as in torchmetrics, K .01 and .03, 2 x 2 means between scales, negative "
        "terms as 0) of random pairs of generated images, pixels in [0, 255] and data range 255, mean over pixels, "
        "channels and pairs; below 176 pixels a side fewer scales, with the weights of the first ones scaled to the "
        "sum of all. Lower is better, down to ms_ssim_real, the same of real images: below that is more than their "
        "diversity. The interval is over pairs."
    ),
)


def scales(height: int, width: int) -> int:
    """How many of the five scales have room for the window. Raises UserError where not one has."""
    if min(height, width) < WINDOW:
        raise UserError(f"ms_ssim needs images of {WINDOW} pixels a side or more, not {height} x {width}: leave it out")
    return min(len(WEIGHTS), (min(height, width) // WINDOW).bit_length())


def _window(x: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N H W C"]:
    """The Gaussian mean around every pixel; beyond its border an image is mirrored."""
    return correlate1d(correlate1d(x, TAPS, 1, mode="mirror"), TAPS, 2, mode="mirror")


def _halved(x: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N h w C"]:
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def similarity(a: Float[np.ndarray, "N H W C"], b: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, " N"]:
    """MS-SSIM of images with images of equal index, pixels in [0, 255]; in float64. 1 for equal images.

    Borders are those of torchmetrics: contrast and structure where the window lies inside the image, their product with
    luminance, on the coarsest scale, on all of it.
    """
    n = scales(*a.shape[1:3])
    weights = np.array(WEIGHTS[:n]) * (sum(WEIGHTS) / sum(WEIGHTS[:n]))
    inner = slice(WINDOW // 2, -(WINDOW // 2))
    a, b = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    terms = []
    for last in (i == n - 1 for i in range(n)):
        ma, mb = _window(a), _window(b)
        va, vb, vab = (_window(x * y) - mx * my for x, y, mx, my in ((a, a, ma, ma), (b, b, mb, mb), (a, b, ma, mb)))
        term = (2 * vab + c2) / (va + vb + c2)  # of contrast and structure
        luminance = (2 * ma * mb + c1) / (ma * ma + mb * mb + c1)
        terms.append((term * luminance if last else term[:, inner, inner]).mean((1, 2, 3)))
        a, b = _halved(a), _halved(b)
    return np.prod(np.maximum(terms, 0) ** weights[:, None], 0)


def statistics(images: Images, seed: int, pairs: int = PAIRS) -> Float[np.ndarray, " P"]:
    """MS-SSIM of ``pairs`` random pairs of different images of a set; of every pair once where there are no more.

    Raises UserError for fewer than two images, and for images of less than 11 pixels a side.
    """
    n, block = len(images), max(1, 2**18 // math.prod(images.shape[1:]))
    if n < 2:
        raise UserError(f"ms_ssim compares pairs of images, and the set has {n}: give at least 2")
    if n * (n - 1) // 2 <= pairs:
        first, second = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng(seed)
        first = rng.integers(n, size=pairs)
        second = (first + rng.integers(1, n, size=pairs)) % n

    def grey(at: np.ndarray) -> np.ndarray:
        return (images[at] + np.float32(1)) * np.float32(128)

    def part(i: int) -> np.ndarray:
        return similarity(grey(first[i : i + block]), grey(second[i : i + block]))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return np.concatenate([*pool.map(part, range(0, len(first), block))])


def distance(real: Float[np.ndarray, " Q"], generated: Float[np.ndarray, " P"], seed: int) -> dict[str, float]:
    """``ms_ssim`` with its interval, and ``ms_ssim_real``."""
    low, high = bootstrap.interval(generated, seed)
    mean = float(generated.mean())
    return {"ms_ssim": mean, "ms_ssim_low": low, "ms_ssim_high": high, "ms_ssim_real": float(real.mean())}


def score(generated: Images, real: Images, train: object, seed: int, *, pairs: Count = PAIRS) -> dict[str, float]:
    """Similarity of random pairs of ``generated``, and of ``real`` (see ``ABOUT``); ``train`` is not read."""
    del train
    n = scales(*generated.shape[1:3])
    if n < len(WEIGHTS):
        size = "{} x {}".format(*generated.shape[1:3])
        note(f"ms_ssim of images of {size} pixels has {n} of {len(WEIGHTS)} scales: compare at equal sizes only")
    return distance(statistics(real, seed, pairs), statistics(generated, seed, pairs), seed)
