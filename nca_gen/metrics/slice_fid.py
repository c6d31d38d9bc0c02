"""FID of the slices of volumes, within the imaging plane and across it: CA-LDM, MICCAI 2024, table 1."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from nca_gen.errors import UserError
from nca_gen.io import sets
from nca_gen.metrics import features, fid
from nca_gen.metrics.notes import note

KINDS = ("volumes",)
FEATURES = None
EXTRACTS = "inception:2048"
ELSEWHERE = "slice_frechet"
READS = frozenset({"real"})
AXES = {"intra": 0, "inter_h": 1, "inter_w": 2}  # the axis of [D, H, W] along which slices are taken

PROTOCOL = (
    "FID (torch-fidelity's features unless the option extractor says another, ddof 1) between all slices of generated "
    "and of real volumes [D, H, W]: slice_fid_intra of the H x W slices, one for every D (the published Intra-FID); "
    "slice_fid_inter_h of the D x W planes, one for every H, and slice_fid_inter_w of the D x H planes, one for every "
    "W: the two that contain D, whose mean is slice_fid_inter. Each slice in 8 bits, 0 to 255. slice_fid is the mean "
    "of intra and inter. Lower is better. Slices of a volume are alike: their number is not one of independent images."
)


def slices(volumes: Any, axis: int) -> sets.Lazy:
    """All slices of ``volumes`` across ``axis`` of (D, H, W), volume by volume, of which one is in memory at a time.

    Raises UserError for volumes of different sizes.
    """
    n, *space, channels = volumes.shape
    count = space.pop(axis)
    kept: dict[int, np.ndarray] = {}

    def volume(i: int) -> np.ndarray:
        if i not in kept:
            kept.clear()
            kept[i] = volumes[i]
        return kept[i]

    def read(at: np.ndarray) -> np.ndarray:
        return np.stack([volume(int(i // count)).take(i % count, axis) for i in at])

    name = hashlib.sha256(f"{sets.digest(volumes)} {axis}".encode()).hexdigest()
    return sets.Lazy(read, (n * count, *space, channels), name)


def statistics(volumes: Any, axis: int, **how: Any) -> fid.Stats:
    """FID statistics of the slices of ``volumes`` across ``axis``; ``how`` as :func:`features.extract` has it."""
    layer = how.pop("layer")
    return fid.statistics(features.extract(images=slices(volumes, axis), layers=(layer,), **how)[layer])


def distance(real: dict[str, fid.Stats], generated: dict[str, fid.Stats]) -> dict[str, float]:
    """``slice_fid`` and its parts, from the statistics of both sets by the names of ``AXES``."""
    found = {f"slice_fid_{name}": fid.distance(real[name], generated[name])["fid"] for name in AXES}
    inter = (found["slice_fid_inter_h"] + found["slice_fid_inter_w"]) / 2
    return {"slice_fid": (found["slice_fid_intra"] + inter) / 2, **found, "slice_fid_inter": inter}


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
    """Intra- and inter-slice FID of ``generated`` against ``real`` volumes (see ``PROTOCOL``); reads nothing else.

    Raises UserError for volumes of different sizes within a set; between the sets a note says so.
    """
    del train, seed
    if not (len(generated) and len(real)):
        raise UserError(f"slice_fid needs volumes, got {len(generated)} generated and {len(real)} real")
    mine, theirs = (" x ".join(map(str, x.shape[1:4])) for x in (generated, real))
    if mine != theirs:
        note(f"generated volumes are {mine} and real ones {theirs}: their slices are resized by different amounts")
    how = {"name": extractor, "layer": layer, "weights": weights, "batch": batch}
    both = ({name: statistics(x, axis, **how) for name, axis in AXES.items()} for x in (real, generated))
    return distance(*both)
