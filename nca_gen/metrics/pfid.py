"""Patch FID: FID between patches of large images, at random places and magnifications, the same in both sets.

Two papers publish it, and mean different things. Chai et al. 2022 (any-resolution training, arXiv 2204.07156, section
4) resize a whole image and crop it; URCDM (MICCAI 2024), for slides that nobody resizes as a whole, crops and resizes.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from nca_gen.errors import UserError, unknown
from nca_gen.io import images as pixels
from nca_gen.io import sets
from nca_gen.io.slides import Box, Slides, resample
from nca_gen.metrics import features, fid
from nca_gen.metrics.about import About
from nca_gen.ranges import Count

PATCHES = 50_000

ABOUT = About(
    extracts="inception:2048",
    kinds=("slides", "images"),
    elsewhere="patch_frechet",
    reference="of urcdm Cechnicka et al. 2024, MICCAI; of anyres Chai et al. 2022, ECCV, arXiv 2204.07156",
    range="from 0",
    protocol=(
        "FID (torch-fidelity's features unless the option extractor says another) between patches of generated and of "
        "real slides or large images, in 8 bits. Patch i of both sets has the same random size, and the same place as "
        "a fraction of the room that the slide leaves; every slide gives an equal share, in the order of the set. "
        "protocol=urcdm (the default; ddof 1): a square whose side is log-uniform from the patch size to the shorter "
        "side of the smallest slide of both sets (or to the option largest), cropped, then resized to the patch size "
        "(1024 unless the option patch says another) by an antialiased bicubic. protocol=anyres (ddof 0): the shorter "
        "side of the whole image is resized by Lanczos to a size uniform from the patch size (256) to that same "
        "largest side, then a patch is cropped. Windows of a slide come from the smallest level with enough pixels. "
        "Lower is better. It falls with the number of patches n (50,000 as published), and depends on the patch size: "
        "compare at equal ones only."
    ),
)


class Published(NamedTuple):
    """What the protocols differ in, beside how they crop."""

    patch: int
    ddof: int
    kernel: str
    inside: bool  # crop first, then resize


PROTOCOLS = {
    "urcdm": Published(patch=1024, ddof=1, kernel="bicubic", inside=True),
    "anyres": Published(patch=256, ddof=0, kernel="lanczos", inside=False),
}
Draws = Float[np.ndarray, "n 3"]  # size, top, left, in [0, 1)


def sizes(images: sets.Images | Slides) -> tuple[tuple[int, int], ...]:
    """Height and width of every slide or image of a set."""
    return images.sizes if isinstance(images, Slides) else ((images.shape[1], images.shape[2]),) * len(images)


def draws(n: int, seed: int) -> Draws:
    """The randomness of ``n`` patches: the same for every set."""
    return np.random.default_rng([seed, 0]).random((n, 3))


def owners(n: int, images: int) -> Int[np.ndarray, " n"]:
    """Which of ``images`` each of ``n`` patches is of: equal shares, ascending, so that each image is opened once."""
    return np.arange(n) * images // n


def urcdm(draw: Float[np.ndarray, " 3"], size: tuple[int, int], patch: int, largest: int) -> Box:
    """A square of whole pixels anywhere in an image of ``size``, its side log-uniform in [``patch``, ``largest``]."""
    side = round(patch * (largest / patch) ** float(draw[0]))
    top, left = (int(u * (s - side + 1)) for u, s in zip(draw[1:], size, strict=True))
    return (top, left, side, side)


def anyres(draw: Float[np.ndarray, " 3"], size: tuple[int, int], patch: int, largest: int) -> Box:
    """The part of an image that is one ``patch`` once its shorter side is uniform in [``patch``, ``largest``].

    In pixels of the image, so in general no whole ones.
    """
    new = round(patch + (largest - patch) * float(draw[0]))
    resized = [round(s * new / min(size)) for s in size]
    y, x = (int(u * (s - patch + 1)) for u, s in zip(draw[1:], resized, strict=True))
    sy, sx = (s / r for s, r in zip(size, resized, strict=True))
    return (y * sy, x * sx, patch * sy, patch * sx)


CROPS = {"urcdm": urcdm, "anyres": anyres}


def patches(images: sets.Images | Slides, *, n: int, patch: int, largest: int, protocol: str, seed: int) -> sets.Lazy:
    """``n`` patches ``[patch, patch, C]`` of uint8 pixels, cut when they are asked for.

    One image of an ``Images``, or one window of a slide, is in memory at a time. ``largest`` is the greatest side in
    the sense of ``protocol``; no side of an image may be shorter.
    """
    crop, how = CROPS[protocol], PROTOCOLS[protocol]
    every, owner, all_sizes = draws(n, seed), owners(n, len(images)), sizes(images)
    open_now: dict[int, UInt8[np.ndarray, "H W C"]] = {}

    def window(i: int, box: Box) -> np.ndarray:
        if isinstance(images, Slides):
            return _in_8_bits(images.window(i, box, (patch, patch), how.kernel, how.inside))
        if i not in open_now:
            open_now.clear()
            # A gigapixel as floats would be four times what the file holds.
            stored = images.read(np.array([i])) if isinstance(images, sets.Lazy) else images[i : i + 1]
            open_now[i] = _in_8_bits(stored[0])
        whole = open_now[i]

        def cut(top: int, left: int, h: int, w: int) -> np.ndarray:
            return whole[top : top + h, left : left + w]

        return resample(cut, whole.shape[:2], box, (patch, patch), how.kernel, how.inside)

    def read(at: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w C"]:
        return np.stack([window(int(owner[i]), crop(every[i], all_sizes[owner[i]], patch, largest)) for i in at])

    channels = images.channels if isinstance(images, Slides) else images.shape[-1]
    name = f"{sets.digest(images)} {protocol} {n} {patch} {largest} {seed}"
    return sets.Lazy(read, (n, patch, patch, channels), hashlib.sha256(name.encode()).hexdigest())


def _in_8_bits(image: Shaped[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    return image if image.dtype == np.uint8 else pixels.from_float(pixels.to_float(image))


def statistics(some: sets.Lazy, *, name: str, layer: str, what: str = "patches", **how: Any) -> fid.Stats:
    """FID statistics of :func:`patches`, with the extractor ``name``; ``how`` as :func:`features.extract` has it.

    A progress bar says ``what`` they are.
    """
    return fid.statistics(features.watched(what, name, some, layers=(layer,), **how)[layer])


def distance(real: fid.Stats, generated: fid.Stats, ddof: int) -> dict[str, float]:
    """``pfid`` of two sets of patches."""
    return {"pfid": fid.distance(real, generated, ddof)["fid"]}


def score(
    generated: sets.Images | Slides,
    real: sets.Images | Slides,
    train: object,
    seed: int,
    *,
    protocol: str = "urcdm",
    n: Count = PATCHES,
    patch: Count | None = None,
    largest: Count | None = None,
    extractor: str = "inception",
    layer: str = "2048",
    weights: str | None = None,
    batch: int = 32,
) -> dict[str, float]:
    """Patch FID of ``generated`` against ``real`` slides or images (see ``ABOUT``); ``train`` is not read.

    What is known of the real patches is kept on disk.

    ``patch`` is the side of a patch as features see it (None: as published), ``largest`` the greatest side in the sense
    of ``protocol`` (None: the shorter side of the smallest slide), one for all that is to be compared. Raises UserError
    for an unknown protocol, no slides, and slides that are smaller than a patch or than ``largest``.
    """
    del train
    if protocol not in PROTOCOLS:
        raise unknown("protocol of pfid", protocol, PROTOCOLS)
    if not (len(generated) and len(real)):
        raise UserError(f"pfid needs slides or images, got {len(generated)} generated and {len(real)} real")
    how = PROTOCOLS[protocol]
    patch = patch or how.patch
    least = min(min(size) for images in (generated, real) for size in sizes(images))
    if least < patch:
        raise UserError(
            f"pfid takes patches of {patch} pixels, and the smallest slide has a side of {least}: "
            f"choose smaller ones (pfid:patch={least // 2})"
        )
    if largest and not patch <= largest <= least:
        raise UserError(
            f"pfid:largest={largest} lies between the side of a patch, {patch}, and that of the smallest slide, {least}"
        )
    largest = largest or least
    cut = partial(patches, n=n, patch=patch, largest=largest, protocol=protocol, seed=seed)
    read = partial(statistics, name=extractor, layer=layer, weights=weights, batch=batch)
    some = cut(real)
    facts = (features.protocol(extractor, weights), layer, some.digest)
    of_real = fid.kept(facts, lambda: read(some, what="patches of real slides"))
    return distance(of_real, read(cut(generated), what="patches of generated slides"), how.ddof)
