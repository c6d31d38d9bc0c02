"""Drawn eyes: a bright disc with as many dark spots as its grade says. Labelled images where there are no files yet."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge

from nca_gen.data.source import SPLITS, Example, Origin, Splits, assign, of
from nca_gen.io import images
from nca_gen.ranges import Count, Seed


def splits(
    size: Count = 32, patients: Annotated[int, Ge(3)] = 40, grades: Count = 5, seed: Seed = 0, strict: bool = True
) -> Splits:
    """Two eyes each of ``patients``, uint8 RGB ``[size, size, 3]``; label: grade 0 .. ``grades`` - 1, int32 ``[1]``.

    Grades go round among the patients, and both eyes of one have the same; a tenth of the patients each is "val" and
    "test". The same arguments give the same pixels. ``strict`` changes nothing: there are no files.
    """
    examples = [
        eye(np.random.default_rng([seed, patient, side]), size, patient % grades)
        | {"name": f"{patient:03d}_{name}", "patient": f"{patient:03d}"}
        for patient in range(patients)
        for side, name in enumerate(("left", "right"))
    ]
    where = assign([example["patient"] for example in examples])
    shares = {s: [e for e, split in zip(examples, where, strict=True) if split == s] for s in SPLITS}
    return Splits({s: of(share) for s, share in shares.items()}, ("grade",))


def eye(rng: np.random.Generator, size: int, grade: int) -> Example:
    """An image and its label: a disc of four tenths of ``size``, ``grade`` spots of a tenth of that, and some noise."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    shade = np.where(np.hypot(y, x) < 0.4, 0.7, 0.05)
    for distance, angle in zip(rng.uniform(0.05, 0.3, grade), rng.uniform(0, 2 * np.pi, grade), strict=True):
        shade -= 0.5 * (np.hypot(y - distance * np.sin(angle), x - distance * np.cos(angle)) < 0.04)
    colours = shade[..., None] * np.array([1.0, 0.6, 0.3]) + rng.normal(0, 0.02, (size, size, 3))
    image = images.from_float(np.float32(2 * np.clip(colours, 0, 1) - 1))
    return {"image": image, "label": np.array([grade], np.int32), "name": "", "patient": ""}


def origin(path: str = "") -> Origin:
    """The images are drawn by this module, and have its licence."""
    return Origin("eyes drawn by nca_gen/data/spots.py, of no real person", "apache-2.0", "")
