"""Sliced Wasserstein distance between patches of Laplacian pyramids (Karras et al. 2018, arXiv 1710.10196, section 5).

Coarse levels compare large structure, fine levels texture, each through thousands of 7x7 patches. Ours differs from the
paper where small medical sets ask for it: any size from 16 pixels up, any number of channels, and the same number of
patches from every set, however many images it has (the distance of finite sets is biased upwards by their size).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from jaxtyping import Float

from nca_gen.errors import UserError
from nca_gen.io.sets import Images, blocks
from nca_gen.metrics.about import About
from nca_gen.ranges import Count

PATCH, SMALLEST = 7, 16
PATCHES = 2**14  # of every level and set: 128 an image, as in the paper, for 128 images
REPEATS, DIRECTIONS = 4, 128
TAPS = np.array([1, 4, 6, 4, 1]) / 16

ABOUT = About(
    alike="shape",
    reference="Karras et al. 2018, ICLR, arXiv 1710.10196, section 5, but for the number of patches",
    range="from 0",
    protocol=(
        f"Sliced Wasserstein distance x 1000 (Karras et al. 2018) between {PATCH}x{PATCH} patches of each level of a "
        f"Laplacian pyramid (levels of at least {SMALLEST} pixels a side, named by it), {PATCHES} random patches a set "
        "and level unless the options say otherwise, scaled to mean 0 and standard deviation 1 per channel in each "
        f"set, {REPEATS} x {DIRECTIONS} random directions; the headline is the mean over levels. Lower is better. The "
        "scaling hides a shift of colour, which drift shows."
    ),
)

Stats = dict[int, Float[np.ndarray, "_ _"]]  # patches of every level, keyed by its shorter side


def _blur(x: np.ndarray) -> np.ndarray:
    from scipy.ndimage import convolve1d  # a tenth of a second, and every run reads the names of this file

    return convolve1d(convolve1d(x, TAPS, 1, mode="mirror"), TAPS, 2, mode="mirror")


def down(x: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N h w C"]:
    """Half the size (rounded up): binomial blur, then every other pixel."""
    return _blur(x)[:, ::2, ::2]


def up(x: Float[np.ndarray, "N h w C"], height: int, width: int) -> Float[np.ndarray, "N H W C"]:
    """Back to ``height`` x ``width``: zeros in between, then the blur with four times its weight."""
    spread = np.zeros((len(x), height, width, x.shape[-1]), x.dtype)
    spread[:, ::2, ::2] = 4 * x
    return _blur(spread)


def pyramid(images: Float[np.ndarray, "N H W C"]) -> list[Float[np.ndarray, "N h w C"]]:
    """Laplacian pyramid, finest first: each level less its smaller version enlarged; the last level is kept whole."""
    levels = [images]
    while (min(levels[-1].shape[1:3]) + 1) // 2 >= SMALLEST:
        small = down(levels[-1])
        levels[-1] = levels[-1] - up(small, *levels[-1].shape[1:3])
        levels.append(small)
    return levels


def statistics(images: Images, seed: int, patches: int = PATCHES) -> Stats:
    """So many random patches of every pyramid level, flattened, each channel scaled to mean 0 and deviation 1.

    ``images`` are ``[N, H, W, C]``, read twice in blocks. The draw does not depend on their order, and the same images
    give the same draw. Raises UserError for images of less than 16 pixels a side.
    """
    height, width = images.shape[1:3]
    if min(height, width) < SMALLEST:
        raise UserError(
            f"swd needs images of at least {SMALLEST} pixels a side, not {height} x {width}: raise config.data.patch, "
            "or leave swd out of the metrics"
        )
    hashes = [hashlib.sha256(image.tobytes()).digest() for block in blocks(images) for image in block]
    order = sorted(range(len(images)), key=hashes.__getitem__)
    owner = np.arange(patches) * len(images) // patches  # an equal share each, in ascending order
    rng = np.random.default_rng([seed, 0])
    corner = rng.random((2, patches))  # of the patch, as a fraction of the places that a level has
    levels: dict[int, list[np.ndarray]] = {}
    block = max(1, 2**22 // math.prod(images.shape[1:]))
    for first in range(0, len(images), block):
        share = slice(*np.searchsorted(owner, (first, first + block)))
        for level in pyramid(images[order[first : first + block]].astype(np.float32)):
            views = np.lib.stride_tricks.sliding_window_view(level, (PATCH, PATCH), (1, 2))
            y, x = ((c[share] * n).astype(int) for c, n in zip(corner, views.shape[1:3], strict=True))
            levels.setdefault(min(level.shape[1:3]), []).append(views[owner[share] - first, y, x])
    return {size: _scaled(np.concatenate(parts)) for size, parts in levels.items()}


def _scaled(patches: Float[np.ndarray, "P C h w"]) -> Float[np.ndarray, "P D"]:
    """Mean 0 and deviation 1 per channel. A flat channel (rounding, less than 1e-6 deep) is only centred."""
    mean = patches.mean((0, 2, 3), dtype=np.float64, keepdims=True)
    std = patches.std((0, 2, 3), dtype=np.float64, keepdims=True)
    return ((patches - mean) / np.where(std > 1e-6, std, 1.0)).astype(np.float32).reshape(len(patches), -1)


def sliced(a: Float[np.ndarray, "P D"], b: Float[np.ndarray, "P D"], directions: Float[np.ndarray, "K D"]) -> float:
    """Wasserstein-1 distance of the projections of two equally large sets, mean over ``directions``."""
    a, b = (np.sort(directions.astype(x.dtype) @ x.T, axis=1) for x in (a, b))
    return float(np.mean(np.abs(a - b), dtype=np.float64))


def distance(real: Stats, generated: Stats, seed: int) -> dict[str, float]:
    """``swd`` (mean over levels) and ``swd_<side>`` for every level, times 1000.

    Raises ValueError where the two sets differ in levels or channels.
    """
    shapes, others = ({size: patches.shape for size, patches in stats.items()} for stats in (generated, real))
    if shapes != others:
        raise ValueError(f"swd compares images of one size, got levels {shapes} against {others}")
    rng = np.random.default_rng([seed, 1])
    levels = {}
    for size, patches in real.items():
        directions = rng.standard_normal((REPEATS, DIRECTIONS, patches.shape[1]))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        levels[f"swd_{size}"] = 1000 * float(np.mean([sliced(patches, generated[size], d) for d in directions]))
    return {"swd": float(np.mean(list(levels.values())))} | levels


def score(generated: Images, real: Images, train: object, seed: int, patches: Count = PATCHES) -> dict[str, float]:
    """Sliced Wasserstein distance of ``generated`` to ``real`` (see ``ABOUT``); ``train`` is not read.

    Sets of the same images of which other patches are drawn are a distance apart, which more ``patches`` make small.
    """
    del train
    return distance(*(statistics(images, seed, patches) for images in (real, generated)), seed)
