"""FID of the slices of volumes, within the imaging plane and across it: CA-LDM, MICCAI 2024, table 1."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import numpy as np

from nca_gen.errors import UserError
from nca_gen.io import sets
from nca_gen.metrics import features, fid
from nca_gen.metrics.about import About
from nca_gen.metrics.notes import note

AXES = {"intra": 0, "inter_h": 1, "inter_w": 2}  # the axis of [D, H, W] along which slices are taken
Stats = dict[str, fid.Stats]  # of all slices, by the names of AXES

ABOUT = About(
    extracts="inception:2048",
    kinds=("volumes",),
    elsewhere="slice_frechet",
    protocol=(
        "FID (torch-fidelity's features unless the option extractor says another, ddof 1) between all slices of "
        "generated and of real volumes [D, H, W]: slice_fid_intra of the H x W slices, one for every D (the published "
        "Intra-FID); slice_fid_inter_h of the D x W planes, one for every H, and slice_fid_inter_w of the D x H "
        "planes, one for every W: the two that contain D, whose mean is slice_fid_inter. Each slice in 8 bits, 0 to "
        "255. slice_fid is the mean of intra and inter. Lower is better. Slices of a volume are alike: their number is "
        "not one of independent images."
    ),
)


def slices(volumes: Any, axis: int) -> sets.Lazy:
    """All slices of ``volumes`` across ``axis`` of (D, H, W), volume by volume, of which one is in memory at a time.

    Raises UserError for volumes of different sizes.
    """
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


def statistics(volumes: Any, *, layer: str = "2048", **options: Any) -> Stats:
    """FID statistics of the slices of ``volumes`` across each of ``AXES``.

    ``options``: ``name`` of an extractor and what else :func:`features.extract` takes.
    """
    take = partial(features.extract, **{"name": "inception"} | options, layers=(layer,))
    return {name: fid.statistics(take(images=slices(volumes, axis))[layer]) for name, axis in AXES.items()}


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

    Raises UserError for volumes of different sizes within a set; between the sets a note says so.
    """
    del train, seed
    if not (len(generated) and len(real)):
        raise UserError(f"slice_fid needs volumes, got {len(generated)} generated and {len(real)} real")
    size, other = (" x ".join(map(str, x.shape[1:4])) for x in (generated, real))
    if size != other:
        note(f"generated volumes are {size} and real ones {other}: their slices are resized by different amounts")
    take = partial(statistics, name=extractor, layer=layer, weights=weights, batch=batch)
    return distance(take(real), take(generated))
