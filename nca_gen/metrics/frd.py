"""Frechet radiomic distance (Konz, Osuala et al. 2026, Medical Image Analysis 110, 103943; arXiv 2412.01496).

Two sets of images as normal distributions of radiomic features (:mod:`nca_gen.metrics.radiomics`): no network, and
every feature has a name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8
from scipy import ndimage

from nca_gen import screen
from nca_gen.errors import UserError, unknown
from nca_gen.io import cache, sets
from nca_gen.io import images as pixels
from nca_gen.metrics import fid, radiomics
from nca_gen.metrics.about import About
from nca_gen.metrics.classification import auc_of
from nca_gen.metrics.notes import check, note

PROTOCOLS = ("paper", "package")
CELL, SMALLEST = 2.0, 4  # sides of a resampled cell in mm, and of an image in these cells
GREY = (0.2125, 0.7154, 0.0721)  # of red, green and blue, as ITK weighs them
ROUNDING = 1e-10  # a feature that varies by less is constant: values are of the order of 100
VERSION = 1  # of what is kept on disk

ABOUT = About(
    kinds=("images", "volumes"),
    rows=True,
    reference="Konz, Osuala et al. 2026, Medical Image Analysis 110, 103943",
    range="any number, smaller for nearer sets; frd_squared from 0",
    least={"generated": 2, "real": 2},
    protocol=(
        "log of the Frechet distance between the normal distributions of radiomic features of generated and real "
        "images: 77 features (first order 18, GLCM 22, GLRLM 16, GLSZM 16, NGTDM 5; bins of 5, shift 300) of the image "
        "in 8 bits of grey, scaled to mean 0 and deviation 100 and resampled by B-splines to 2 mm a pixel, of its "
        "undecimated coif1 wavelets, and of its Laplacians of Gaussians of 2, 3, 4 and 5 mm. The option spacing is the "
        "size of a pixel in mm; it is that of a file of volumes, and 1 where nothing is known, as in the reference "
        "package, so that images are halved. Features are scaled by mean and deviation (ddof 0) of the real ones, "
        "constant columns are left out; covariance ddof 1. protocol=package computes what frd-score 1.0.1 does: of "
        "images no Laplacians, 13 diagnostics as features, log of the squared distance. frd_squared is the squared "
        "distance; frd_ood is 2 |AUC - 1/2| of distances to the real mean, 0 for one domain and 1 for two. Lower is "
        "better. It falls with the number of images: compare at equal numbers only."
    ),
)


def grey(images: Float[np.ndarray, "*S C"]) -> Float64[np.ndarray, "*S"]:
    """An image of 1 or 3 channels in [-1, 1] as grey levels from 0 to 255, as its file would hold them."""
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise UserError(f"frd sees 1 or 3 channels, and the images have {channels}: drop the others")
    levels: UInt8[np.ndarray, "*S C"] = pixels.from_float(images)
    return levels @ np.array(GREY if channels == 3 else (1.0,))


def described(
    image: Float64[np.ndarray, "*S"], protocol: str = "paper", spacing: float | Sequence[float] = 1.0
) -> dict[str, float]:
    """All features of an image or volume of grey levels by name; NaN for one that is flat.

    ``spacing``: mm a cell, of each axis or of all. Raises UserError for too few cells.
    """
    ratios = [CELL / s for s in np.broadcast_to(spacing, image.ndim)]
    size = [math.ceil(n / ratio) for n, ratio in zip(image.shape, ratios, strict=True)]
    if min(size) < SMALLEST:
        least = " x ".join(str(math.ceil(SMALLEST * ratio)) for ratio in ratios)
        raise UserError(f"frd needs images of at least {least} pixels, not {' x '.join(map(str, image.shape))}")
    flat = np.ptp(image) == 0
    normal = image if flat else radiomics.normal(image)
    cells, mask = radiomics.resampled(normal, ratios)
    forms = {"original": cells, **dict(radiomics.wavelets(cells))}
    if protocol == "paper" or image.ndim == 3:
        forms |= dict(radiomics.laplacians(cells, CELL))
    area = CELL**image.ndim
    named = {} if protocol == "paper" else diagnostics(image, cells, mask)
    for form, x in forms.items():
        named |= {f"{form}_{name}": value for name, value in radiomics.features(x, mask, area).items()}
    return dict.fromkeys(named, math.nan) if flat else named


def diagnostics(
    image: Float64[np.ndarray, "*S"], cells: Float64[np.ndarray, "*T"], mask: np.ndarray
) -> dict[str, float]:
    """What PyRadiomics tells beside its features, and the reference package takes for features."""

    def ends(name: str, x: np.ndarray) -> dict[str, float]:
        return {f"{name}_Mean": float(x.mean()), f"{name}_Minimum": float(x.min()), f"{name}_Maximum": float(x.max())}

    zones = ndimage.label(mask, np.ones((3,) * mask.ndim))[1]
    holed = {"Mask-original_VoxelNum": image.size - 1.0, "Mask-original_VolumeNum": 1.0}
    counted = {"Mask-interpolated_VoxelNum": float(mask.sum()), "Mask-interpolated_VolumeNum": float(zones)}
    return (
        ends("Image-original", image)
        | holed
        | ends("Image-interpolated", cells)
        | counted
        | ends("Mask-interpolated", cells[mask])
    )


def statistics(
    images: Any, protocol: str = "paper", spacing: float | Sequence[float] | None = None, name: str = "given"
) -> Float64[np.ndarray, "N D"]:
    """The features of ``images`` or volumes, a row each; NaN in those of a flat one.

    ``spacing`` in mm; None: as the files of volumes say, else 1. It calls the images by ``name``.
    """
    sizes = sets.mpp(images) if spacing is None and sets.kind(images) == "volumes" else ()
    rows = []
    with screen.bar(f"frd: {name} images", len(images), "images") as bar:
        for i in range(len(images)):
            known = [size / 1000 for size in sizes[i]] if sizes and sizes[i] else 1.0
            rows.append([*described(grey(images[i]), protocol, known if spacing is None else spacing).values()])
            bar.advance()
    return np.array(rows, np.float64)


def merge(one: Float64[np.ndarray, "N D"], other: Float64[np.ndarray, "M D"]) -> Float64[np.ndarray, "K D"]:
    """The features of both sets."""
    return np.concatenate([one, other])


def distance(
    real: Float64[np.ndarray, "M D"], generated: Float64[np.ndarray, "N D"], protocol: str = "paper"
) -> dict[str, float]:
    """``frd``, ``frd_squared`` and ``frd_ood`` of two sets of features.

    Flat images are left out, with a note. Raises UserError for fewer than two others in a set.
    """
    left = {"generated": generated, "real": real}
    for name, x in left.items():
        left[name] = x[~np.isnan(x).any(1)]
        if flat := len(x) - len(left[name]):
            note(f"frd: {flat} of {len(x)} {name} images are of one grey, have no texture, and are left out")
    check("frd", 2, **left)
    x, y = scaled(left["real"], left["generated"], protocol)
    if min(len(x), len(y)) <= x.shape[1]:
        note(
            f"{len(y)} generated and {len(x)} real images with {x.shape[1]} features: with no more images than "
            "features the value is mostly bias, and is to be compared at equal numbers only"
        )
    squared = fid.squared_distance(fid.statistics(x), fid.statistics(y))
    far = [((rows - x.mean(0, dtype=np.float64)) ** 2).sum(1) for rows in (x, y)]
    auc = auc_of(np.concatenate(far), np.repeat([False, True], [len(x), len(y)]))
    log = math.log(squared) if squared > 0 else -math.inf
    return {"frd": log if protocol == "package" else log / 2, "frd_squared": squared, "frd_ood": 2 * abs(auc - 0.5)}


def scaled(
    real: Float64[np.ndarray, "M D"], generated: Float64[np.ndarray, "N D"], protocol: str = "paper"
) -> tuple[Float[np.ndarray, "M K"], Float[np.ndarray, "N K"]]:
    """Both sets by the mean and deviation of ``real``, without columns that are constant there or not finite.

    The package rounds features to float32, and keeps what varies by rounding only (the means of the wavelets of images
    with even sides): a note says so, as no two computers agree on them.
    """
    noise = real.std(0) < ROUNDING
    if protocol == "package":
        real, generated = real.astype(np.float32), generated.astype(np.float32)
        if kept := int((noise & (real.std(0) > 0)).sum()):
            note(f"frd: {kept} features are rounding noise, kept as the package does: the last digits are chance")
        noise &= real.std(0) == 0
    mean, std = real.mean(0), real.std(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = ((rows - mean) / std for rows in (real, generated))
    use = ~noise & np.isfinite(x).all(0) & np.isfinite(y).all(0)
    return x[:, use], y[:, use]


def rows(
    images: Any, role: str, protocol: str = "paper", spacing: float | Sequence[float] | None = None
) -> Float64[np.ndarray, "N D"]:
    """:func:`statistics`, and those of images that were not generated are kept on disk.

    Raises UserError for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol of frd", protocol, PROTOCOLS)
    if role == "generated":
        return statistics(images, protocol, spacing, role)
    path = cache.folder("features") / f"frd-{cache.key(VERSION, sets.digest(images), protocol, spacing)}.npz"
    return cache.arrays(path, lambda: {"features": statistics(images, protocol, spacing, role)})["features"]


def score(
    generated: Any,
    real: Any,
    train: object,
    seed: int,
    *,
    protocol: str = "paper",
    spacing: float | Sequence[float] | None = None,
) -> dict[str, float]:
    """Frechet radiomic distance of ``generated`` to ``real`` (see ``ABOUT``), images or their :func:`rows`.

    Raises UserError for an unknown protocol, and images of too few pixels or other channels.
    """
    del train, seed
    sides = {"real": real, "generated": generated}
    seen = {
        role: x if isinstance(x, np.ndarray) and x.ndim == 2 else rows(x, role, protocol, spacing)
        for role, x in sides.items()
    }
    return distance(seen["real"], seen["generated"], protocol)
