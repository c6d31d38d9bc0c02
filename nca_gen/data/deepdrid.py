"""DeepDRiD (Liu et al. 2022): fundus photographs of both eyes with a retinopathy grade, in the authors' folders.

Written from the repository's own tables and documentation; it has been run on files that tests make, never on the
photographs. So everything that is relied on is checked: columns, grades, and that every image has exactly one grade.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from nca_gen.data import records
from nca_gen.data.source import SPLITS, Splits, assign
from nca_gen.errors import UserError, unknown
from nca_gen.io import images, tables
from nca_gen.ranges import Count, Gigabytes, OneOf

TRAINING, VALIDATION, EVALUATION = (
    "regular-fundus-training",
    "regular-fundus-validation",
    "Online-Challenge1&2-Evaluation",
)
ARRANGED = {
    "paper": {TRAINING: "train", VALIDATION: "test"},
    "official": {TRAINING: "train", VALIDATION: "val", EVALUATION: "test"},
}
EYES = ("left_eye_DR_Level", "right_eye_DR_Level")


def splits(
    path: str = "",
    size: Count = 256,
    arrangement: Annotated[str, OneOf(ARRANGED)] = "paper",
    cache: str = "",
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """uint8 RGB: the central square of each photograph, brought to ``size`` a side; label: grade 0..4, int32 ``[1]``.

    ``arrangement``: "paper" as in RetinaMNIST and in GeCA, 1080, 120 and 400 images: the validation patients are
    "test", and "val" is a tenth of the training patients (by a hash of their numbers; MedMNIST's own tenth is not
    published). "official" takes the three folders as train (1200), val (400) and test (400).
    ``path`` holds ``regular_fundus_images``. ``cache``, ``strict`` and ``memory_gb``: see
    :func:`nca_gen.data.records.stored`.
    """
    if arrangement not in ARRANGED:
        raise unknown("value of config.data.arrangement", arrangement, ARRANGED)
    return records.stored(Deepdrid, (size, arrangement), path, cache, strict, memory_gb, ("grade",))


class Deepdrid(records.Builder):
    """DeepDRiD's regular fundus images from a manually placed copy of the repository."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put regular_fundus_images/regular-fundus-training/... there, from github.com/deepdrdoc/DeepDRiD"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        side, _ = self.variant
        return records.info(self, (side, side, 3), labels=1, homepage="https://github.com/deepdrdoc/DeepDRiD")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir) / "regular_fundus_images"
        rows = [
            (root / folder / "Images" / patient / f"{name}.jpg", patient, grade, split)
            for folder, split in ARRANGED[self.variant[1]].items()
            for name, patient, grade in graded(root / folder)
        ]
        where = assign([patient for _, patient, _, _ in rows], [split for *_, split in rows])
        return {
            split: self._generate_examples(split, [row for row, s in zip(rows, where, strict=True) if s == split])
            for split in SPLITS
        }

    def _generate_examples(
        self, split: str, rows: list[tuple[Path, str, int, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        side, _ = self.variant
        items = [(f.name, p, lambda f=f: images.resize(square(images.read(f)), (side, side))) for f, p, *_ in rows]
        yield from self.examples(split, items, np.array([[grade] for _, _, grade, _ in rows], np.int32))


def graded(folder: Path) -> list[tuple[str, str, int]]:
    """(image_id, patient, grade) of every row of a folder's table, in its order.

    Training and validation: the grade is in whichever of the columns of the two eyes is filled. (The letter in the
    image's name does not tell: 56_r3 has the grade of a left eye.) Evaluation: Challenge1_labels.xlsx, as published.
    Raises UserError for a table that is missing or is another, and for a grade that is not 0 to 4.
    """
    if folder.name == EVALUATION:
        table = folder / "Challenge1_labels.xlsx"
        rows, needs = _rows(table, tables.sheet), ("image_id", "DR_Levels")
    else:
        table = folder / f"{folder.name}.csv"
        rows, needs = _rows(table, _csv), ("image_id", "patient_id", *EYES)
    if missing := [column for column in needs if column not in (rows[0] if rows else ())]:
        raise UserError(f"{table} has no column {missing[0]!r}; it needs {', '.join(needs)}")
    grades = []
    for row in rows:
        name, given = row["image_id"], [row[c] for c in needs if "DR_Level" in c and row[c] not in ("", None)]
        if len(given) != 1 or given[0] not in ("0", "1", "2", "3", "4"):
            raise UserError(f"{table}: {name} has the grades {given}, expected one of 0 to 4")
        grades.append((name, row.get("patient_id") or name.partition("_")[0], int(given[0])))
    return grades


def square(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "S S C"]:
    """The central square, as wide as the shorter side."""
    side = min(image.shape[:2])
    y, x = ((n - side) // 2 for n in image.shape[:2])
    return image[y : y + side, x : x + side]


def _rows(table: Path, read: Callable[[Path], list[dict[str, str]]]) -> list[dict[str, str]]:
    if not table.is_file():
        raise UserError(f"no {table}: {Deepdrid.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    return read(table)


def _csv(table: Path) -> list[dict[str, str]]:
    with open(table, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))
