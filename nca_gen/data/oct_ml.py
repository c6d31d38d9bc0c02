"""The contract of OCT-ML (the data of GeCA, 2024): retinal OCT scans with eleven labels each, folds given by tables.

The data set itself is private. Whatever is laid out like it can be read: ``{train|val}_{fold}.csv`` with a column
``filename``, one column of 0 and 1 for each of ``LABELS``, and a column that names the patient. Only ever run on files
that tests make; so all of that is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from nca_gen.data import records
from nca_gen.data.source import Splits, people
from nca_gen.errors import UserError
from nca_gen.io import images, tables
from nca_gen.ranges import Count, Gigabytes, Natural

LABELS = ("NOR", "AMD", "WAMD", "DR", "CSC", "PED", "MEM", "FLD", "EXU", "CNV", "RVO")
Row = tuple[str, str, list[int]]  # filename, patient, labels


def splits(
    path: str = "",
    fold: Natural = 0,
    size: Count = 256,
    patient: str = "patient_name",
    cache: str = "",
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """uint8 RGB ``[size, size, 3]`` (whole scans, bicubic; grey ones as RGB); label: int32 ``[11]`` of 0 and 1.

    "train" is ``train_{fold}.csv``; "val" and "test" are both ``val_{fold}.csv``: there is no third set, so nothing may
    be chosen on "val" that is then reported on "test". ``filename`` is relative to ``path``; ``patient`` is the column
    that names the patient. ``cache``, ``strict`` and ``memory_gb``: see :func:`nca_gen.data.records.stored`.
    Raises UserError where a patient or an image is in both tables.
    """
    return records.stored(OctMl, (fold, size, patient), path, cache, strict, memory_gb, LABELS)


class OctMl(records.Builder):
    """Multi-label OCT scans from manually placed tables and files."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"put train_0.csv, val_0.csv and the images there: columns filename, {', '.join(LABELS)}, patient_name"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        _, side, _ = self.variant
        return records.info(self, (side, side, 3), labels=len(LABELS))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        fold, _, column = self.variant
        root = Path(dl_manager.manual_dir)
        train, val = (table(root / f"{name}_{fold}.csv", column) for name in ("train", "val"))
        who = people([patient for _, patient, _ in (*train, *val)])
        train, val = (
            [(name, person, labels) for (name, _, labels), person in zip(rows, some, strict=True)]
            for rows, some in ((train, who[: len(train)]), (val, who[len(train) :]))
        )
        for i, what in enumerate(("image", "patient")):
            if both := {row[i] for row in train} & {row[i] for row in val}:
                raise UserError(f"the {what} {min(both)} is in train_{fold}.csv and in val_{fold}.csv; keep it in one")
        return {
            s: self._generate_examples(root, s, rows) for s, rows in (("train", train), ("val", val), ("test", val))
        }

    def _generate_examples(self, root: Path, split: str, rows: list[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        _, side, _ = self.variant

        def image(name: str) -> images.Image:
            scan = images.resize(images.read(root / name), (side, side))
            return np.repeat(scan, 3, -1) if scan.shape[-1] == 1 else scan

        items = [(name, patient, lambda name=name: image(name)) for name, patient, _ in rows]
        yield from self.examples(split, items, np.array([labels for *_, labels in rows], np.int32))


def table(path: Path, patient: str = "patient_name") -> list[Row]:
    """(filename, patient, labels) of every row.

    Raises UserError for a missing column, a label that is not 0 or 1, and two rows for one file.
    """
    if not path.is_file():
        raise UserError(f"no {path}: {OctMl.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    known: dict[str, Row] = {}
    for line, row in tables.rows(path, ("filename", *LABELS, patient)):
        name, given = tables.slashes(row["filename"]), [row[label] for label in LABELS]
        if not row[patient] or any(value not in ("0", "1", "0.0", "1.0") for value in given):
            where = f"{path}, line {line}: {name}"
            raise UserError(f"{where} needs a {patient} and 0 or 1 for each label, it has {given}")
        if name in known:
            raise UserError(f"{path} has two rows for {name}")
        known[name] = (name, row[patient], [int(float(value)) for value in given])
    return [*known.values()]
