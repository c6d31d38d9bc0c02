"""The folder of a user: the names of its files, and what an optional ``labels.csv`` says of them.

Its column ``filename`` names the files as they lie in the folder, or by the end of that path where it is unique;
slashes, blanks, case and the form of letters make no difference, and the ending may be left out. ``patient_id`` and
``split`` (train, val, test) are used if there. Of the other columns those that hold numbers are labels, or those that
``config.data.labels`` names. Commas, semicolons or tabs; UTF-8, UTF-16 or Windows' Latin.

Splits, in this order: the ``split`` column; sub folders called train, val, test, at any depth and in any usual
spelling; else a tenth of the patients goes to "val" and a tenth to "test", by a hash of their names. Without patients
every file is its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_gen import screen
from nca_gen.data.source import SPLITS, Source, Splits, assign, completed, people
from nca_gen.errors import UserError, unknown
from nca_gen.io import images, tables, walk

NAMES = {  # columns that are no labels, as they may be written
    **dict.fromkeys(("filename", "file_name"), "filename"),
    **dict.fromkeys(("patient_id", "patientid", "patient", "subject_id", "subjectid", "subject"), "patient_id"),
    "split": "split",
}
WORDS = {  # splits as people call them
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
MAPS = re.compile(
    r"(labels|label.?maps|masks|segmentations|annotations|ground.?truth)[\W_]*(tr|ts|train\w*|val\w*|test\w*)?"
)
"""What folders of label maps are called."""
NOBODY = ("", "nan", "na", "n/a", "#n/a", "none", "null", "unknown", "-", "?")  # instead of a patient's name
LISTED = 3  # examples in a sentence


class Files(NamedTuple):
    """The folder of a user: the ``names`` of its files, and sentences about others."""

    root: Path
    names: list[str]
    notes: list[str]


class Table(NamedTuple):
    """Rows of labels.csv by the name of a file that is there, in natural order; empty rows where there is no table."""

    root: Path
    rows: Mapping[str, Mapping[str, str]]
    patient: Mapping[str, str]
    split: Mapping[str, str]
    lost: Sequence[tuple[str, str]]  # names without a file, and the reason in words
    columns: tuple[str, ...]  # the names of the labels
    lines: Mapping[str, str]  # the table and the line in it, where there is one
    notes: Sequence[str]  # what has to be said

    def cite(self, name: str) -> str:
        """Where what is known of an example stands; a part of a file is called FILE@PLACE."""
        line = self.lines.get(name) or self.lines.get(name.rpartition("@")[0])
        return f"{line} ({name})" if line else name


# Names.


def below(path: str, suffixes: Sequence[str], what: str) -> Files:
    """The folder ``path`` and its files, as :func:`nca_gen.io.walk.walk`; UserError where there are none."""
    put = f"put {what} there{'' if path else ' (config.data.path is empty)'}"
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"no folder {path!r}: {put}, or point --config.data.path at a folder that holds some")
    found = walk.walk(root, suffixes)
    if not found.names:
        raise UserError(f"no image in {root}: {put}{''.join(f' ({sentence})' for sentence in found.said)}")
    apart(root, found.names, suffixes)
    return Files(root, found.names, found.said)


def apart(root: Path, names: Sequence[str], suffixes: Iterable[str]) -> None:
    """Raises UserError where files of ``names`` are the label maps of others: in a folder that is called so, and of the
    name of a file elsewhere. To learn from both as images would go unnoticed."""
    drawn = {name for name in names if any(MAPS.fullmatch(part.casefold()) for part in Path(name).parent.parts)}
    images_of = {_stem(Path(name).name, suffixes): name for name in names if name not in drawn}
    twins = [
        (name, images_of[stem]) for name in sorted(drawn) if (stem := _stem(Path(name).name, suffixes)) in images_of
    ]
    if twins:
        name, image = twins[0]
        whole = Path(os.path.commonpath([root / Path(one).parent for one in names if one not in drawn]))
        folder = next(part for part in Path(name).parents if MAPS.fullmatch(part.name.casefold()))
        way = f"move {folder} out of it" if whole == root else f"name that of the images, --config.data.path={whole}"
        raise UserError(
            f"{len(twins)} of the {len(names)} files in {root} are label maps, such as {name} of {image}, and would be "
            f"taken for images: {way}"
        )


def beside(folder: str, suffixes: Sequence[str]) -> Callable[[str], Path]:
    """Finds the file in ``folder`` that has the name of another, but for its ending.

    Raises UserError for a folder without such files; what it returns raises Unreadable where there is no such name.
    """
    root, names, _ = below(folder, suffixes, f"label maps ({', '.join(suffixes)})")
    by_stem = {_stem(name, suffixes): root / name for name in names}

    def find(name: str) -> Path:
        path = by_stem.get(_stem(name, suffixes)) or by_stem.get(_stem(Path(name).name, suffixes))
        if path is None:
            raise images.Unreadable(name, f"no label map of that name in {root}")
        return path

    return find


def _stem(name: str, suffixes: Iterable[str]) -> str:
    ending = max((s for s in suffixes if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(ending)]


# The table.


def read(
    files: Files, salt: int = 0, labels: Sequence[str] = (), patient: Callable[[str], str] = lambda name: name
) -> Table:
    """What is known of ``files``: rows, patients (by default as ``patient`` reads them from a name) and splits.

    ``salt`` seeds the splits that are made here. ``labels``: the columns that are labels, () for all that hold numbers.
    Patients are one where their names differ in what a spreadsheet changes (:func:`nca_gen.data.source.people`).
    Raises UserError for a table that cannot be used.
    """
    root, names = files.root, files.names
    path = _path(root)
    rows, lines, lost = _rows(path, names) if path else ({name: {} for name in names}, {}, [])
    notes = list(files.notes)
    columns = _labels(path, rows, labels, notes) if path else _none(root, labels, notes)
    named = {name: row.get("patient_id", "") for name, row in rows.items()}
    who = {name: patient(name) if one.casefold() in NOBODY else one for name, one in named.items()}
    known = [name for name in rows if who[name] != name]
    spelled = [who[name] for name in known]
    who |= zip(known, people(spelled), strict=True)
    if twice := dict.fromkeys(
        f"{a!r} = {who[name]!r}" for name, a in zip(known, spelled, strict=True) if a != who[name]
    ):
        notes.append(f"patients in several spellings are one ({len(twice)}): {_some(twice)}")
    if any("patient_id" in row for row in rows.values()) and (bare := [name for name in rows if who[name] == name]):
        notes.append(f"files without a patient_id are each a patient ({len(bare)}): {_some(bare)}")
    given = _given(path, root, rows)
    where = dict(zip(rows, assign([*who.values()], given, salt, few=True), strict=True))
    n, present = len({*who.values()}), {*where.values()}
    if len(present) == 2:
        notes.append(f"{n} patients or images are too few for three splits: what is held out is val and test alike")
    elif present == {"train"}:
        notes.append(
            "1 patient or image is too few to hold one out: a quarter of each image (or up to 64 places of a half), at "
            "the end of its longest side, is not trained on, and is val and test alike"
        )
    if given and (both := _shared(who, where)):
        print(f"note: patients in two splits ({len(both)}): {_some(both)}", file=sys.stderr)
    return Table(root, rows, who, where, lost, columns, lines, notes)


def _path(root: Path) -> Path | None:
    """labels.csv in any case. Raises UserError for two."""
    found = sorted(path for path in root.iterdir() if path.name.lower() == "labels.csv" and path.is_file())
    if len(found) > 1:
        raise UserError(f"{root} has {found[0].name} and {found[1].name}: keep one")
    return found[0] if found else None


def _none(root: Path, labels: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """No labels, as there is no labels.csv; of tables by other names it is said that they are not read."""
    if labels:
        raise UserError(f"config.data.labels={tuple(labels)} names columns, and there is no labels.csv in {root}")
    here = sorted(path.name for path in root.iterdir() if path.name.lower().endswith((".csv", ".tsv", ".xlsx")))
    above = ["../labels.csv"] if (root.absolute().parent / "labels.csv").is_file() else []
    below = sorted(f"{path.parent.name}/{path.name}" for path in root.glob("*/*.csv"))
    if others := here + above + below:
        notes.append(f"there is no labels.csv, and other tables are not read ({len(others)}): {_some(others)}")
    return ()


def _rows(path: Path, names: Sequence[str]) -> tuple[dict[str, dict[str, str]], dict[str, str], list[tuple[str, str]]]:
    """Of the table at ``path``: rows by file in natural order, where each stands, and the rows without a file."""
    table = tables.rows(path, ("filename",), NAMES)
    rows, lines, lost = {}, {}, []
    for (line, row), found in zip(table, tables.matched([row["filename"] for _, row in table], names), strict=True):
        if len(found) != 1:
            why = f"in labels.csv, but {len(found)} files may be meant: {_some(found)}" if found else ""
            lost.append((row["filename"] or f"line {line}", why or "in labels.csv, but no such file"))
        elif found[0] in rows:
            raise UserError(f"{path} has two rows for {found[0]}, the second in line {line}")
        else:
            rows[found[0]], lines[found[0]] = row, f"{path}, line {line}"
    if not rows:
        first = f"the first is {table[0].cells['filename']!r}, and a file {names[0]!r}" if table else "it is empty"
        raise UserError(f"no row of {path} names a file of the folder: {first}")
    return {name: rows[name] for name in sorted(rows, key=images.natural)}, lines, lost


def _labels(
    path: Path, rows: Mapping[str, Mapping[str, str]], labels: Sequence[str], notes: list[str]
) -> tuple[str, ...]:
    """The columns that are labels. Raises UserError for one that is named, and is not there."""
    there = [column for column in next(iter(rows.values())) if column and column not in NAMES.values()]
    if labels:
        for label in map(str, labels):
            if label not in there:
                raise unknown(f"column of {path} in config.data.labels", label, there)
        if twice := [label for label, n in Counter(map(str, labels)).items() if n > 1]:
            raise UserError(f"config.data.labels={tuple(labels)} names the column {twice[0]!r} twice")
        return tuple(map(str, labels))
    words = [c for c in there if not any(np.isfinite(_number(row[c])) for row in rows.values())]
    if words:
        notes.append(f"columns of labels.csv without a number are no labels ({len(words)}): {_some(words)}")
    return tuple(column for column in there if column not in words)


def _number(text: str) -> float:
    """A number, with a point or a comma; NaN for anything else."""
    try:
        return float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text.replace("_", "?"))
    except ValueError:
        return float("nan")


def labels(table: Table, known: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """{"label": numbers of all label columns} by name, or {} without label columns. int32 if all are whole.

    Raises UserError, which names file, line and column, for a label that is no finite number.
    """
    columns = table.columns
    values = np.array([[_number(table.rows[name][column]) for column in columns] for name in known])
    for row, column in np.argwhere(~np.isfinite(values)):
        name, head = known[row], columns[column]
        raise UserError(
            f"{table.cite(name)}: label columns hold numbers only, and {head!r} holds {table.rows[name][head]!r}: "
            "correct it, take the row out, or name the columns that are labels by --config.data.labels"
        )
    whole = np.array_equal(values, np.rint(values)) and np.abs(values).max(initial=0) < 2**31
    values = values.astype(np.int32 if whole else np.float32)
    return {name: {"label": row} if columns else {} for name, row in zip(known, values, strict=True)}


def numbered(root: Path, names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The label columns of a folder's labels.csv and, of the files ``names`` there, the numbers [N, L] in them.

    Of no column where there is no table, or one that does not know them all or cannot be used.
    """
    nothing = (), np.zeros((len(names), 0), np.int32)
    try:
        if not root.is_dir() or not _path(root):
            return nothing
        rows = read(Files(root, [*names], []))
        found = labels(rows, names) if set(names) <= rows.rows.keys() and rows.columns else {}
    except UserError:
        return nothing
    return (rows.columns, np.stack([found[name]["label"] for name in names])) if found else nothing


# Splits.


def _word(folder: str) -> str:
    """The split that a folder is called after, or nothing."""
    return WORDS.get(folder.casefold(), "")


def _within(folder: str) -> str:
    """The one split whose word is part of a folder's name, as in train2017, test_images or imagesTr, or nothing."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", folder)
    found = {WORDS.get(word.casefold()) or {"Tr": "train", "Ts": "test"}.get(word, "") for word in words} - {""}
    return next(iter(found)) if len(found) == 1 else ""


def _given(path: Path | None, root: Path, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The split of every row by its column, or by the outermost sub folder that has the name of one; else nothing.

    Folders that have only part of such a name are splits where one is "train" and another is not. What is not called
    as it is here, is said. Raises UserError for files with and files without a split.
    """
    if any(row.get("split") for row in rows.values()):
        column = {name: _word(row["split"]) for name, row in rows.items()}
        folders = {name: next(filter(None, map(_word, Path(name).parts[:-1])), column[name]) for name in rows}
        if apart := [f"{name} is {column[name]}" for name in rows if folders[name] != column[name]]:
            print(f"note: the column split overrules sub folders ({len(apart)} files): {_some(apart)}", file=sys.stderr)
        return _all(f"{path}", column, "has no split train, val or test in its column")
    for reading, least in ((_word, set()), (_within, {"train"})):
        folders = {name: next(((f, s) for f in Path(name).parts[:-1] if (s := reading(f))), ("", "")) for name in rows}
        if {split for _, split in folders.values() if split} > least:
            spelled = Counter(f"{f} is {s}" for name, (f, s) in folders.items() if s and Path(name).parts[0] != s)
            if spelled:
                words = ", ".join(f"{pair} ({n} files)" for pair, n in spelled.items())
                print(f"note: sub folders of {root} are splits: {words}", file=sys.stderr)
            return _all(f"{root}", {name: s for name, (_, s) in folders.items()}, "lies outside train/, val/ and test/")
    return []


def _all(where: str, given: Mapping[str, str], why: str) -> list[str]:
    """The splits of all rows. Raises UserError for one that has none."""
    for name, split in given.items():
        if not split:
            raise UserError(f"{where}: {name} {why}, others do: give all a split or none")
    return [*given.values()]


def _shared(patient: Mapping[str, str], split: Mapping[str, str]) -> list[str]:
    """Patients that are in two splits."""
    where = defaultdict(set)
    for name, who in patient.items():
        where[who].add(split[name])
    return sorted((who for who, splits in where.items() if len(splits) > 1), key=images.natural)


def _some(items: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    items = [*items]
    return ", ".join(items[:LISTED]) + (f" and {len(items) - LISTED} more" if len(items) > LISTED else "")


# Sources.


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


def uniform(root: Path, kinds: Mapping[str, str], lost: Sequence[tuple[str, str]]) -> None:
    """Raises UserError unless there are files and all are of one kind, in words; ``lost`` says why there is none."""
    if not kinds:
        raise UserError(f"not one image in {root} can be used{''.join(f'; {name}: {why}' for name, why in lost[:1])}")
    (first, words), *others = kinds.items()
    for name, kind in others:
        if kind != words:
            raise UserError(f"{root} mixes images: {first} has {words}, {name} has {kind}; keep one kind a folder")


def sources(
    table: Table,
    known: Sequence[str],
    lost: Sequence[tuple[str, str]],
    source: Callable[[list[str], list], Source],
    map_of: Callable[[str], Path] | None = None,
) -> Splits:
    """The splits of the files ``known``; ``source`` makes one of some names and of the files that are lost to it.

    ``map_of`` finds the label map of a file, if there are some. Says what has to be said of the folder.
    Raises UserError for a split without a file that can be used.
    """
    for note in table.notes:
        print(f"note: {note}", file=sys.stderr)
    numbers = labels(table, known)

    def content(names: Sequence[str]) -> str:
        """What names the files, their label maps and labels."""
        paths = [path for name in names for path in (table.root / name, *([map_of(name)] if map_of else ()))]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            keys = [*pool.map(walk.content, paths), *(numbers[name].get("label", b"") for name in names)]
        return hashlib.sha256(b"".join(map(bytes, keys))).hexdigest()

    def one(split: str) -> Source:
        names = [name for name in known if table.split[name] == split]
        if not names:
            raise UserError(f"no readable image for the split {split!r} in {table.root}")
        some = source(names, [(name, why) for name, why in lost if table.split.get(name, "train") == split])
        return replace(some, digest=cache(lambda: content(names)))

    there = {split: one(split) for split in SPLITS if split == "train" or split in table.split.values()}
    return Splits(completed(there), table.columns, notes=tuple(table.notes), cite=table.cite)


def classes(stored: np.ndarray, shape: Sequence[int], path: Path) -> np.ndarray:
    """A label map as it is stored as int32 ``[*T, 1]``; Unreadable unless it is on the grid ``shape``, one channel."""
    if stored.shape != (*shape, 1):
        sides = " x ".join(map(str, stored.shape))
        raise images.Unreadable(path, f"a label map of {sides} for an image of {' x '.join(map(str, shape))}")
    return stored.astype(np.int32)
