"""The folder of a user: the names of its files, and what an optional ``labels.csv`` says of them.

Its column ``filename`` (relative to the folder, or a bare name where that is unique) is needed; ``patient_id`` and
``split`` (train, val, test) are used if there; every other column is a numeric label.

Splits, in this order: the ``split`` column; sub folders called train, val, test; else a tenth of the patients goes
to "val" and a tenth to "test", by a hash of their names. Without patients every file is its own.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_gen import screen
from nca_gen.data.source import SPLITS, Source, Splits, assign
from nca_gen.errors import UserError
from nca_gen.io import images

BESIDE = ("filename", "patient_id", "split")  # columns of labels.csv that are no labels


class Table(NamedTuple):
    """Rows of labels.csv by the name of a file that is there, in natural order; empty rows where there is no table."""

    root: Path
    rows: Mapping[str, Mapping[str, str]]
    patient: Mapping[str, str]
    split: Mapping[str, str]
    lost: Sequence[tuple[str, str]]  # names without a file, and the reason in words

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(column for column in next(iter(self.rows.values())) if column and column not in BESIDE)


def below(path: str, suffixes: Sequence[str], what: str) -> tuple[Path, list[str]]:
    """The folder ``path`` and its files, as :func:`nca_gen.io.images.below`; UserError where there are none."""
    put = f"put {what} there{'' if path else ' (config.data.path is empty)'}"
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"no folder {path!r}: {put}, or point --config.data.path at a folder that holds some")
    names = images.below(root, suffixes)
    if not names:
        raise UserError(f"no image in {root}: {put}")
    return root, names


def read(root: Path, names: Sequence[str], salt: int = 0, patient: Callable[[str], str] = lambda name: name) -> Table:
    """What is known of ``names``: rows, patients (by default as ``patient`` reads them from a name) and splits.

    ``salt`` seeds the splits that are made here. Raises UserError for a table that cannot be used.
    """
    table = _rows(root, names)
    rows = {name: table[name] for name in names if name in table}
    who = {name: row.get("patient_id") or patient(name) for name, row in rows.items()}
    where = assign([*who.values()], _given(root, rows), salt)
    lost = [(name, "in labels.csv, but no such file") for name in table if name not in rows]
    return Table(root, rows, who, dict(zip(rows, where, strict=True)), lost)


def probe(
    table: Table, names: Sequence[str], look: Callable[[str], Any], what: str = "reading images", threads: int = 4
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What ``look`` sees of each file that can be used, by name; (name, reason) of what cannot."""

    def attempt(name: str) -> Any:
        if name not in table.rows:
            return images.Unreadable(name, "no row in labels.csv")
        try:
            return look(name)
        except images.Unreadable as error:
            return error

    with ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
        seen = dict(zip(names, screen.track(pool.map(attempt, names), what, len(names)), strict=True))
    lost = [(name, error.reason) for name, error in seen.items() if isinstance(error, images.Unreadable)]
    return {name: x for name, x in seen.items() if not isinstance(x, images.Unreadable)}, [*lost, *table.lost]


def uniform(root: Path, kinds: Mapping[str, str]) -> None:
    """Raises UserError unless there are files and all are of one kind, said in words."""
    if not kinds:
        raise UserError(f"not one image in {root} can be used")
    (first, words), *others = kinds.items()
    for name, kind in others:
        if kind != words:
            raise UserError(f"{root} mixes images: {first} has {words}, {name} has {kind}; keep one kind a folder")


def splits(
    table: Table, known: Sequence[str], lost: Sequence[tuple[str, str]], source: Callable[[list[str], list], Source]
) -> Splits:
    """The splits of the files ``known``; ``source`` makes one of some names and of the files that are lost to it.

    Raises UserError for a split without a file that can be used.
    """

    def one(split: str) -> Source:
        names = [name for name in known if table.split[name] == split]
        if not names:
            raise UserError(f"no readable image for the split {split!r} in {table.root}")
        return source(names, [(name, why) for name, why in lost if table.split.get(name, "train") == split])

    return Splits({split: one(split) for split in SPLITS}, table.columns)


def labels(table: Table, known: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """{"label": numbers of all label columns} by name, or {} without label columns. int32 if all are whole."""
    columns = table.columns
    try:
        values = np.array([[float(table.rows[name][column]) for column in columns] for name in known])
    except (TypeError, ValueError) as error:
        raise UserError(f"label columns {list(columns)} of labels.csv must hold numbers only: {error}") from None
    values = values.astype(np.int32 if np.array_equal(values, np.rint(values)) else np.float32)
    return {name: {"label": row} if columns else {} for name, row in zip(known, values, strict=True)}


def beside(folder: str, suffixes: Sequence[str]) -> Callable[[str], Path]:
    """Finds the file in ``folder`` that has the name of another, but for its ending.

    Raises UserError for a folder without such files; what it returns raises Unreadable where there is no such name.
    """
    root, names = below(folder, suffixes, f"label maps ({', '.join(suffixes)})")
    by_stem = {_stem(name, suffixes): root / name for name in names}

    def find(name: str) -> Path:
        path = by_stem.get(_stem(name, suffixes)) or by_stem.get(_stem(Path(name).name, suffixes))
        if path is None:
            raise images.Unreadable(name, f"no label map of that name in {root}")
        return path

    return find


def classes(stored: np.ndarray, shape: Sequence[int], path: Path) -> np.ndarray:
    """A label map as it is stored as int32 ``[*T, 1]``; Unreadable unless it is on the grid ``shape``, one channel."""
    if stored.shape != (*shape, 1):
        sides = " x ".join(map(str, stored.shape))
        raise images.Unreadable(path, f"a label map of {sides} for an image of {' x '.join(map(str, shape))}")
    return stored.astype(np.int32)


def _stem(name: str, suffixes: Sequence[str]) -> str:
    ending = max((s for s in suffixes if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(ending)]


def _rows(root: Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Rows of labels.csv by name, in natural order; an empty row for every name where there is no such file."""
    table = root / "labels.csv"
    if not table.is_file():
        return {name: {} for name in names}
    with open(table, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        if "filename" not in (reader.fieldnames or ()):
            raise UserError(f"{table} needs a column 'filename', it has {reader.fieldnames}")
        rows = list(reader)
    uses = Counter(Path(name).name for name in names)
    unique = {Path(name).name: name for name in names if uses[Path(name).name] == 1}
    known = unique | {name: name for name in names}
    keys = [known.get(row["filename"], row["filename"]) for row in rows]
    if twice := [key for key, n in Counter(keys).items() if n > 1]:
        raise UserError(f"{table} has two rows for {twice[0]}")
    return dict(sorted(zip(keys, rows, strict=True), key=lambda item: images.natural(item[0])))


def _given(root: Path, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The split of every row by its column or sub folder; nothing if neither says anything."""
    column = any(row.get("split") for row in rows.values())
    given = {name: row.get("split") if column else Path(name).parts[0] for name, row in rows.items()}
    if not column and not set(given.values()) & set(SPLITS):
        return []
    for name, split in given.items():
        if split not in SPLITS:
            why = "has no split train, val or test in labels.csv" if column else "lies outside train/, val/ and test/"
            raise UserError(f"{root}: {name} {why}, others do: give all a split or none")
    return list(given.values())
