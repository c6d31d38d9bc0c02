"""FID of the central slices of volumes in three planes: FID-2.5D, as NVIDIA's script for MAISI has it (Guo et al. 2024,
arXiv 2409.11169)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from jaxtyping import Float, Float32

from nca_gen.errors import UserError
from nca_gen.io import sets
from nca_gen.io.volumes import Volumes
from nca_gen.metrics import features, fid
from nca_gen.metrics.about import About
from nca_gen.metrics.notes import note
from nca_gen.ranges import Count, Fraction, Positive

PLANES = {"xy": 2, "yz": 0, "zx": 1}  # the axis of [X, Y, Z] across which slices are taken
BLACK = -1.0  # of what is padded
SMALL = 32  # voxels a side, below which a network of 5 halvings sees next to nothing
Sides = tuple[int, int, int]
Stats = dict[str, fid.Stats]  # of all slices, by the names of PLANES

ABOUT = About(
    extracts="radimagenet-resnet50:pool",
    kinds=("volumes",),
    elsewhere="frechet_25d",
    reference="NVIDIA's script compute_fid_2-5d_ct for MAISI (Guo et al. 2024, arXiv 2409.11169)",
    range="from 0",
    protocol=(
        "Volumes are brought to voxels of 1 mm (option mm; linear, the first voxel stays where it is; volumes that "
        "tell no size are taken as they are), then padded with black or cropped around the middle to a common shape "
        "(option shape, D, H and W; unless given, the largest sides of the real volumes). Of each plane the central "
        "40 % of slices (option central) are taken, stretched from the least to the greatest value of this stack to "
        "[0, 1] in float32, one channel three times, blue first, less (0.406, 0.456, 0.485) without a division; "
        "features are the spatial mean of RadImageNet's ResNet-50 (unless the option extractor says another network). "
        "fid_25d_xy, fid_25d_yz and fid_25d_zx are Frechet distances (ddof 1) of the slices across D, W and H of "
        "volumes [D, H, W], fid_25d is their mean. The script pads with -1000 and clips to [-1000, 1000], of CT, to "
        "512 x 512 x 512. Lower is better. Slices of a volume are alike: their number is not one of independent images."
    ),
)


def resampled(
    volume: Float[np.ndarray, "D H W C"], mpp: Sequence[int | float], mm: int | float = 1.0
) -> Float32[np.ndarray, "d h w C"]:
    """``volume``, whose voxels have sides of ``mpp`` micrometres, in voxels of ``mm``; as it is where () is known.

    Linear along each axis, between the middles of voxels: the first ones coincide, as in MONAI's Spacing.
    """
    out = volume.astype(np.float32)
    for axis, size in enumerate(mpp):
        rate = mm * 1000 / size
        if rate == 1:
            continue
        last = out.shape[axis] - 1
        at = np.minimum(np.arange(side(last + 1, size, mm)) * rate, last)
        low = at.astype(int)
        part = (at - low).astype(np.float32).reshape(-1, *[1] * (out.ndim - 1 - axis))
        first, then = out.take(low, axis), out.take(np.minimum(low + 1, last), axis)
        out = first + (then - first) * part
    return out


def side(n: int, size: int | float, mm: int | float = 1.0) -> int:
    """How many voxels of ``mm`` become of ``n`` of ``size`` micrometres."""
    return int(np.round((n - 1) * size / (1000 * mm))) + 1


def fitted(volume: Float[np.ndarray, "D H W C"], shape: Sequence[int]) -> Float[np.ndarray, "d h w C"]:
    """``volume`` padded with black, or cropped, around its middle to the sides ``shape``."""
    for axis, (n, new) in enumerate(zip(volume.shape, shape, strict=False)):
        before = max(new - n, 0) // 2
        width = [(0, 0)] * axis + [(before, max(new - n, 0) - before)] + [(0, 0)] * (volume.ndim - 1 - axis)
        start = max(n // 2 - new // 2, 0)
        volume = np.pad(volume, width, constant_values=BLACK).take(np.arange(new) + start, axis)
    return volume


def window(n: int, central: float = 0.4) -> tuple[int, int]:
    """The first of the ``central`` share of ``n`` slices and the one after the last."""
    return int((1 - central) / 2 * n), int((1 + central) / 2 * n)


def stack(volume: Float[np.ndarray, "D H W C"], plane: str, central: float = 0.4) -> Float32[np.ndarray, "n h w C"]:
    """The central slices of a ``plane`` of PLANES, from 0, the least value of all of them, to 1."""
    axis = PLANES[plane]
    turned = np.moveaxis(volume.transpose(2, 1, 0, 3), axis, 0)  # [X, Y, Z, C], of the body: right, front, head
    first, end = window(len(turned), central)
    some = turned[first:end].astype(np.float32)
    low, high = some.min(), some.max()
    return (some - low) / (high - low + np.float32(1e-10))


def stacks(volumes: Any, plane: str, shape: Sides, mm: int | float = 1.0, central: float = 0.4) -> sets.Lazy:
    """The stacks of all ``volumes``, resampled and fitted to ``shape``, one after the other; in [0, 1].

    One volume at a time is read. Raises UserError where no slice is left, and for more channels than a network sees.
    """
    if (channels := _channels(volumes)) not in (1, 3):
        raise UserError(f"feature networks see 1 or 3 channels, and the volumes have {channels}: drop the others")
    sides = [*shape[::-1]]
    first, end = window(sides.pop(PLANES[plane]), central)
    if end <= first:
        raise UserError(f"fid_25d: {shape} leaves no slice across {plane}: choose another shape, or a larger central")
    newest: dict[int, np.ndarray] = {}

    def slices(i: int) -> np.ndarray:
        if i not in newest:
            newest.clear()
            newest[i] = stack(fitted(resampled(volumes[i], _mpp(volumes, i), mm), shape), plane, central)
        return newest[i]

    def read(at: np.ndarray) -> np.ndarray:
        return np.stack([slices(int(i // (end - first)))[i % (end - first)] for i in at])

    name = hashlib.sha256(f"{sets.digest(volumes)} {plane} {shape} {mm} {central}".encode()).hexdigest()
    return sets.Lazy(read, (len(volumes) * (end - first), *sides, channels), name)


def coloured(x: Float[np.ndarray, "n H W C"]) -> Float32[np.ndarray, "n H W 3"]:
    """Slices in [0, 1] as extractors take pixels: in [0, 255], one channel three times."""
    return np.broadcast_to(x * np.float32(255), (*x.shape[:-1], 3))


def of_plane(
    volumes: Any, plane: str, shape: Sides, mm: int | float, central: float, *, name: str, layer: str, **how: Any
) -> fid.Stats:
    """FID statistics of :func:`stacks`; ``how`` as :func:`features.watched` has it."""
    what, some = how.pop("what", f"slices {plane}"), stacks(volumes, plane, shape, mm, central)
    return fid.statistics(features.watched(what, name, some, layers=(layer,), pixels=coloured, **how)[layer])


def largest(volumes: Any, mm: int | float = 1.0) -> Sides:
    """The largest sides of ``volumes`` in voxels of ``mm``."""
    shapes = volumes.shapes if isinstance(volumes, Volumes) else [volumes.shape[1:]] * len(volumes)
    sizes = [_mpp(volumes, i) for i in range(len(volumes))]
    each = [
        [side(n, size, mm) for n, size in zip(shape, mpp, strict=False)] if mpp else shape[:3]
        for shape, mpp in zip(shapes, sizes, strict=True)
    ]
    d, h, w = np.max(each, 0).tolist()
    return d, h, w


def statistics(
    volumes: Any,
    shape: Sides | None = None,
    mm: int | float = 1.0,
    central: float = 0.4,
    *,
    name: str = "radimagenet-resnet50",
    layer: str = "pool",
    **how: Any,
) -> Stats:
    """FID statistics of the slices of ``volumes`` in each of PLANES. ``shape`` None: their largest sides.

    ``name`` of an extractor, ``how`` as :func:`features.watched` has it.
    """
    shape = shape or largest(volumes, mm)
    return {plane: of_plane(volumes, plane, shape, mm, central, name=name, layer=layer, **how) for plane in PLANES}


def merge(one: Stats, other: Stats) -> Stats:
    """The statistics of both sets, which were brought to one shape."""
    return {plane: fid.merge(one[plane], other[plane]) for plane in PLANES}


def distance(real: Stats, generated: Stats) -> dict[str, float]:
    """``fid_25d`` and its planes."""
    scores = {f"fid_25d_{plane}": fid.distance(real[plane], generated[plane])["fid"] for plane in PLANES}
    return {"fid_25d": sum(scores.values()) / len(scores), **scores}


def score(
    generated: Any,
    real: Any,
    train: object,
    seed: int,
    *,
    mm: Positive = 1.0,
    shape: Annotated[tuple[Count, ...], Len(3, 3)] | None = None,
    central: Fraction = 0.4,
    extractor: str = "radimagenet-resnet50",
    layer: str = "pool",
    weights: str | None = None,
    batch: int = 32,
) -> dict[str, float]:
    """FID-2.5D of ``generated`` against ``real`` volumes (see ``ABOUT``); reads nothing else.

    What is known of the slices of real volumes is kept on disk. Notes say where sizes of voxels are not known, and
    where volumes are small at ``mm``.
    """
    del train, seed
    if not (len(generated) and len(real)):
        raise UserError(f"fid_25d needs volumes, got {len(generated)} generated and {len(real)} real")
    d, h, w = shape or largest(real, mm)
    sides = d, h, w
    for role, some in (("generated", generated), ("real", real)):
        unknown = sum(not _mpp(some, i) for i in range(len(some)))
        if unknown:
            note(f"{unknown} of {len(some)} {role} volumes tell no size of voxels: they are taken to be {mm:g} mm")
    if min(sides) < SMALL:
        words = " x ".join(map(str, sides))
        note(
            f"in voxels of {mm:g} mm volumes are {words}, too small for the network: take smaller ones (fid_25d:mm=..)"
        )
    how = {"name": extractor, "layer": layer, "weights": weights, "batch": batch}
    facts = (features.protocol(extractor, weights), layer, sets.digest(real), sides, float(mm), float(central))
    of_real = {
        plane: fid.kept(
            ("fid_25d", *facts, plane),
            partial(of_plane, real, plane, sides, mm, central, what=f"slices {plane} of real volumes", **how),
        )
        for plane in PLANES
    }
    return distance(of_real, statistics(generated, sides, mm, central, what="slices of generated volumes", **how))


def _channels(volumes: Any) -> int:
    return (volumes.shapes[0] if isinstance(volumes, Volumes) else volumes.shape)[-1]


def _mpp(volumes: Any, i: int) -> tuple[float, ...]:
    """Sides of the voxels of volume ``i`` in micrometres, () where they are not known."""
    return volumes.mpp[i] if isinstance(volumes, Volumes) and volumes.mpp else ()
