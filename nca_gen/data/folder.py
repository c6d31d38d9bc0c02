"""A plain folder of PNG, JPEG or TIFF images: 8 or 16 bit or float32, any number of channels, sub folders included.

``labels.csv`` in the folder is optional. Its column ``filename`` (relative to the folder, or a bare name where that
is unique) is needed; ``patient_id`` and ``split`` (train, val, test) are used if there; every other column is a
numeric label.

Splits, in this order: the ``split`` column; sub folders called train, val, test; else a tenth of the patients goes
to "val" and a tenth to "test", by a hash of their names. Without patients every image is its own.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nca_gen.data.source import SPLITS, Example, Source, assign, complain, fits, progress, remember
from nca_gen.errors import UserError
from nca_gen.io import images

Kind = tuple[tuple[int, ...], np.dtype]  # shape and depth


def splits(
    path: str,
    reduce: int = 1,
    resize: tuple[int, int] | None = None,
    split_seed: int = 0,
    strict: bool = False,
    memory_gb: int | float = 2.0,
) -> dict[str, Source]:
    """The three splits of the folder ``path``.

    Each image is reduced by ``reduce`` (area mean), then brought to ``resize`` = (height, width) (bicubic) if given.
    Every file is decoded once here, so that a damaged one is known before the first step: it is named and skipped
    (``strict``: UserError). Decoded images stay in memory up to ``memory_gb``; the others are decoded on access.
    Raises UserError for a missing or empty folder, a wrong labels.csv, and images of different depth or channels.
    """
    root, names = Path(path).expanduser(), _files(path)
    table = _table(root, names)
    rows = {name: table[name] for name in names if name in table}
    patient = {name: row.get("patient_id") or name for name, row in rows.items()}

    def load(name: str) -> Example:
        image = images.reduce(images.read(root / name), reduce)
        image = images.resize(image, tuple(resize)) if resize else image
        return {"image": image, "name": name, "patient": patient[name]}

    held = remember(load, memory_gb)
    known, unreadable = _probe(held, names, rows)
    unreadable += [(name, "in labels.csv, but no such file") for name in table if name not in rows]
    complain(unreadable, strict)
    _uniform(root, known)

    labels = _labels({name: rows[name] for name in known})
    where = dict(zip(rows, assign([*patient.values()], _given(root, rows), split_seed), strict=True))
    resident = fits((shape for shape, _ in known.values()), next(iter(known.values()))[1].itemsize, memory_gb)

    def source(split: str) -> Source:
        mine = [name for name in known if where[name] == split]
        lost = [(name, reason) for name, reason in unreadable if where.get(name, "train") == split]
        if not mine:
            raise UserError(f"no readable image for the split {split!r} in {root}")
        shapes = [known[name][0] for name in mine]
        return Source(lambda i: held(mine[i]) | labels.get(mine[i], {}), shapes, resident, lost)

    return {split: source(split) for split in SPLITS}


def _files(path: str) -> list[str]:
    """Images below ``path`` in natural order, as relative names; hidden files and folders are left out."""
    put = f"put PNG, JPEG or TIFF images there{'' if path else ' (config.data.path is empty)'}"
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"no folder {path!r}: {put}, or point --config.data.path at a folder that holds some")
    found = (p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in images.SUFFIXES and p.is_file())
    names = [p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts)]
    if not names:
        raise UserError(f"no image in {root}: {put}")
    return sorted(names, key=images.natural)


def _table(root: Path, names: list[str]) -> dict[str, dict[str, str]]:
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


def _probe(
    held: Callable[[str], Example], names: list[str], rows: dict[str, dict[str, str]]
) -> tuple[dict[str, Kind], list[tuple[str, str]]]:
    """Shape and depth by name of what can be used; (name, reason) of what cannot."""

    def look(name: str) -> Kind | str:
        try:
            image = held(name)["image"] if name in rows else None
            return "no row in labels.csv" if image is None else (image.shape, image.dtype)
        except images.Unreadable as error:
            return error.reason

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        looks = progress(pool.map(look, names), "reading images", len(names))
        found = dict(zip(names, looks, strict=True))
    known = {name: kind for name, kind in found.items() if not isinstance(kind, str)}
    return known, [(name, reason) for name, reason in found.items() if isinstance(reason, str)]


def _uniform(root: Path, known: dict[str, Kind]) -> None:
    """Raises UserError unless all images have one depth and one number of channels."""
    if not known:
        raise UserError(f"not one image in {root} can be used")
    first, *others = [(name, f"{shape[-1]} channels of {dtype}") for name, (shape, dtype) in known.items()]
    for name, kind in others:
        if kind != first[1]:
            raise UserError(
                f"{root} mixes images: {first[0]} has {first[1]}, {name} has {kind}; keep one kind a folder"
            )


def _given(root: Path, rows: dict[str, dict[str, str]]) -> list[str]:
    """The split of every row by its column or sub folder; nothing if neither says anything."""
    column = any(row.get("split") for row in rows.values())
    given = {name: row.get("split") if column else Path(name).parts[0] for name, row in rows.items()}
    if not column and not set(given.values()) & set(SPLITS):
        return []
    for name, split in given.items():
        if split not in SPLITS:
            source = (
                "has no split train, val or test in labels.csv" if column else "lies outside train/, val/ and test/"
            )
            raise UserError(f"{root}: {name} {source}, others do: give all a split or none")
    return list(given.values())


def _labels(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, np.ndarray]]:
    """{"label": numbers of all label columns} by name; empty without label columns. int32 if all are whole."""
    columns = [c for c in next(iter(rows.values())) if c and c not in ("filename", "patient_id", "split")]
    if not columns:
        return {}
    try:
        values = [[float(row[column]) for column in columns] for row in rows.values()]
    except (TypeError, ValueError) as error:
        raise UserError(f"label columns {columns} of labels.csv must hold numbers only: {error}") from None
    table = np.array(values)
    table = table.astype(np.int32 if np.array_equal(table, np.rint(table)) else np.float32)
    return {name: {"label": row} for name, row in zip(rows, table, strict=True)}
