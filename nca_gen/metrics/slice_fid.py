"""FID of the slices of volumes, within the imaging plane and across it: CA-LDM, MICCAI 2024, table 1."""

from __future__ import annotations

import hashlib
from functools import partial, reduce
from typing import Any

import numpy as np

from nca_gen.errors import UserError
from nca_gen.io import sets
from nca_gen.io.volumes import Volumes
from nca_gen.metrics import features, fid
from nca_gen.metrics.about import About
from nca_gen.metrics.notes import note

AXES = {"intra": 0, "inter_h": 1, "inter_w": 2}  # the axis of [D, H, W] along which slices are taken
Stats = dict[str, fid.Stats]  # of all slices, by the names of AXES

ABOUT = About(
    extracts="inception:2048",
    kinds=("volumes",),
    elsewhere="slice_frechet",
    reference="Huang et al. 2024, MICCAI (CA-LDM), table 1",
    range="from 0",
    protocol=(
        "FID (torch-fidelity's features unless the option extractor says another, ddof 1) between all slices of "
        "generated and of real volumes [D, H, W]: slice_fid_intra of the H x W slices, one for every D (the published "
        "Intra-FID); slice_fid_inter_h of the D x W planes, one for every H, and slice_fid_inter_w of the D x H "
        "planes, one for every W: the two that contain D, whose mean is slice_fid_inter. Each slice in 8 bits, 0 to "
        "255. slice_fid is the mean of intra and inter. Volumes may be of several sizes. Lower is better. Slices of a "
        "volume are alike: their number is not one of independent images."
    ),
)


def slices(volumes: Any, axis: int) -> sets.Lazy:
    """All slices of ``volumes`` of one size across ``axis`` of (D, H, W), in order; one volume at a time is read."""
    n, *space, channels = volumes.shape
    count = space.pop(axis)
    newest: dict[int, np.ndarray] = {}

    def volume(i: int) -> np.ndarray:
        if i not in newest:
            newest.clear()
            newest[i] = volumes[i]
        return newest[i]

    def read(at: np.ndarray) -> np.ndarray:
        return np.stack([volume(int(i // count)).take(i % count, axis) for i in at])

    name = hashlib.sha256(f"{sets.digest(volumes)} {axis}".encode()).hexdigest()
    return sets.Lazy(read, (n * count, *space, channels), name)


def groups(volumes: Any) -> list[Any]:
    """The volumes of each size by themselves."""
    if not isinstance(volumes, Volumes) or len(set(volumes.shapes)) == 1:
        return [volumes]
    same: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(volumes.shapes):
        same.setdefault(shape, []).append(i)
    return [volumes.some(at) for at in same.values()]


def plane(volumes: Any, axis: int, *, name: str, layer: str, what: str = "slices", **how: Any) -> fid.Stats:
    """FID statistics of the slices of ``volumes``, of one size or several, across ``axis``; arguments as in
    :func:`statistics`."""
    take = partial(features.watched, what, name, layers=(layer,), **how)
    return reduce(fid.merge, (fid.statistics(take(slices(some, axis))[layer]) for some in groups(volumes)))


def statistics(volumes: Any, *, name: str = "inception", layer: str = "2048", **how: Any) -> Stats:
    """FID statistics of the slices of ``volumes``, of one size or several, across each of ``AXES``.

    ``name`` of an extractor, ``how`` as :func:`features.extract` has it; a progress bar says ``what`` they are.
    """
    return {part: plane(volumes, axis, name=name, layer=layer, **how) for part, axis in AXES.items()}


def merge(one: Stats, other: Stats) -> Stats:
    """The statistics of both sets."""
    return {name: fid.merge(one[name], other[name]) for name in AXES}


def distance(real: Stats, generated: Stats) -> dict[str, float]:
    """``slice_fid`` and its parts."""
    scores = {f"slice_fid_{name}": fid.distance(real[name], generated[name])["fid"] for name in AXES}
    inter = (scores["slice_fid_inter_h"] + scores["slice_fid_inter_w"]) / 2
    return {"slice_fid": (scores["slice_fid_intra"] + inter) / 2, **scores, "slice_fid_inter": inter}


def score(
    generated: Any,
    real: Any,
    train: object,
    seed: int,
    *,
    extractor: str = "inception",
    layer: str = "2048",
    weights: str | None = None,
    batch: int = 32,
) -> dict[str, float]:
    """Intra- and inter-slice FID of ``generated`` against ``real`` volumes (see ``ABOUT``); reads nothing else.

    What is known of the slices of real volumes is kept on disk. A note says where slices are of several sizes.
    """
    del train, seed
    if not (len(generated) and len(real)):
        raise UserError(f"slice_fid needs volumes, got {len(generated)} generated and {len(real)} real")
    size, other = (_sizes(x) for x in (generated, real))
    if size != other or len(size) > 1:
        words = [", ".join(" x ".join(map(str, s)) for s in sorted(of)[:3]) for of in (size, other)]
        note(f"generated volumes are {words[0]} and real ones {words[1]}: slices are resized by different amounts")
    how = {"name": extractor, "layer": layer, "weights": weights, "batch": batch}
    facts = (features.protocol(extractor, weights), layer, sets.digest(real))
    of_real = {
        name: fid.kept((*facts, axis), partial(plane, real, axis, what=f"slices of real volumes, {name}", **how))
        for name, axis in AXES.items()
    }
    return distance(of_real, statistics(generated, what="slices of generated volumes", **how))


def _sizes(volumes: Any) -> set[tuple[int, ...]]:
    return {shape[:3] for shape in volumes.shapes} if isinstance(volumes, Volumes) else {volumes.shape[1:4]}
