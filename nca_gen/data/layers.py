"""What is labelled in a volume of the retina ``[D, H, W, 1]``: layers between six surfaces, and vessels from the front.

D counts the B-scans, H goes into the depth of the eye, W along a B-scan. A surface is a row for each A-scan, float32
``[6, D, W]`` for all six: row ``h`` reaches from ``h`` to ``h + 1``, and lies below a surface where its middle does.
Surfaces, classes and their names are those of OCTA-500 (Li et al. 2024).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import Int32, Integer, Num

from nca_gen.ranges import OneOf

SURFACES = ("ILM", "IPL", "OPL", "IS/OS", "RPE", "BM")  # from the front to the back; IPL and OPL: their lower ends
LAYERS = ("vitreous", "ILM-IPL", "IPL-OPL", "OPL-IS/OS", "IS/OS-RPE", "RPE-BM", "choroid")
VESSELS = ("background", "capillary", "artery", "vein", "FAZ")
CLASSES = {"none": (), "layers": LAYERS, "vessels": VESSELS}
Labels = Annotated[str, OneOf(CLASSES)]
"""Which map is the field ``label_map`` of a volume: none, its layers, or its vessels, the same in every row."""


def layer_map(surfaces: Num[np.ndarray, "6 D W"], rows: Integer[np.ndarray, " H"]) -> Int32[np.ndarray, "D H W 1"]:
    """The layer of each voxel of the ``rows``: how many of the surfaces it lies below, 0 to 6."""
    middle = (np.asarray(rows, np.float32) + np.float32(0.5))[:, None]
    out = np.empty((surfaces.shape[1], len(middle), surfaces.shape[2]), np.int32)
    for scan, lines in zip(out, surfaces.swapaxes(0, 1), strict=True):
        scan[...] = sum((middle >= surface).view(np.uint8) for surface in lines)
    return out[..., None]


def en_face(classes: Integer[np.ndarray, "D W"], height: int) -> Int32[np.ndarray, "D H W 1"]:
    """A map seen from the front, the same in every row of a volume. It takes no more memory, and is read-only."""
    flat = classes.astype(np.int32)[:, None, :, None]
    return np.broadcast_to(flat, (len(flat), height, *flat.shape[2:]))
