"""Tables that people bring: text of cells with a head, as spreadsheets of any country write it, and names of files."""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from xml.etree import ElementTree

from nca_gen.errors import UserError

DELIMITERS = ",;\t|"
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


class Row(NamedTuple):
    """The ``cells`` of a row by column, without blanks around them, and its ``line`` in the file."""

    line: int
    cells: dict[str, str]


def text(path: Path) -> str:
    """A text in UTF-8, UTF-16 or, where it is neither, Windows' Latin."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:2]:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def column(head: str, known: Mapping[str, str]) -> str:
    """The name of a column: that of ``known``, whose keys are in lower case with "_" for blanks, or as it is."""
    name = unicodedata.normalize("NFKC", head.strip()).casefold()
    return known.get(re.sub(r"[\s-]+", "_", name), head.strip())


def rows(path: Path, needs: Sequence[str], known: Mapping[str, str] = MappingProxyType({})) -> list[Row]:
    """All rows that are not empty of a table with commas, semicolons, tabs or bars, whose columns are :func:`column`.

    Raises UserError, which names the line, for a table without the columns that it ``needs``, for two columns of one
    name and for a row with more cells than the head.
    """
    lines = text(path).splitlines(keepends=True)
    said = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE) if lines else None  # as Excel writes it
    start = next((i for i, line in enumerate(lines) if line.strip() and not (said and i == 0)), 0)

    def head(delimiter: str) -> list[str]:
        cells = next(csv.reader(lines[start:], delimiter=delimiter, skipinitialspace=True), [])
        return [column(cell, known) for cell in cells]

    delimiter = said[1] if said else next((d for d in DELIMITERS if needs[0] in head(d)), ",")
    names = head(delimiter)
    if missing := [name for name in needs if name not in names]:
        wanted = ", ".join(map(repr, needs))
        raise UserError(f"{path} has no column {missing[0]!r}: it needs a column {wanted}, and has {names or 'none'}")
    if twice := [name for name, n in Counter(names).items() if name and n > 1]:
        raise UserError(f"{path} has two columns that name {twice[0]!r}: keep one")
    reader, found = csv.reader(lines[start:], delimiter=delimiter, skipinitialspace=True), []
    try:
        next(reader)
        for cells in reader:
            line, values = start + reader.line_num, [cell.strip() for cell in cells]
            if any(values[len(names) :]):
                raise UserError(f"{path}, line {line}, has {len(values)} cells, and the head has {len(names)}")
            if any(values):
                values += [""] * (len(names) - len(values))
                found.append(Row(line, {name: v for name, v in zip(names, values, strict=False) if name}))
    except csv.Error as error:
        raise UserError(f"{path}, line {start + reader.line_num}: {error}") from None
    return found


def sheet(path: Path) -> list[dict[str, str]]:
    """The rows of the first sheet of an .xlsx file by the names in its first row: a zip of XML, all cells as text.

    Raises UserError for a file that is none.
    """

    def words(node: ElementTree.Element) -> str:
        return "".join(part.text or "" for part in node.iter(f"{SHEET}t"))

    try:
        with zipfile.ZipFile(path) as file:
            pages = {name: ElementTree.fromstring(file.read(name)) for name in file.namelist() if name.endswith(".xml")}
    except (zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch it again") from None
    shared = [words(item) for item in pages.get("xl/sharedStrings.xml", ())]

    def value(cell: ElementTree.Element) -> str:
        if cell.get("t") == "inlineStr":
            return words(cell)
        value = cell.findtext(f"{SHEET}v") or ""
        return shared[int(value)] if cell.get("t") == "s" else value.removesuffix(".0")

    if (first := pages.get("xl/worksheets/sheet1.xml")) is None:
        raise UserError(f"cannot read {path}: it has no sheet; fetch it again")
    grid = [
        {(cell.get("r") or "").rstrip("0123456789"): value(cell) for cell in row.iter(f"{SHEET}c")}
        for row in first.iter(f"{SHEET}row")
    ]
    head, *rest = [row for row in grid if any(row.values())] or [{}]
    return [{name: row.get(column, "") for column, name in head.items()} for row in rest]


def matched(given: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """Which of the files ``names`` each of the names ``given`` may mean: one, none or several.

    Tried in turn, until there is one: as it is written; with slashes of one kind and no blanks around; with letters
    composed and in one case; without the ending. Each time also as the end of a file's path, or ending in a whole one
    behind what stands before all such names.
    """
    endings = {_ending(name.lower()) for name in names}

    def bare(name: str) -> str:
        return _folded(name).removesuffix(max((e for e in endings if _folded(name).endswith(e)), key=len, default=""))

    found: list[list[str]] = [[] for _ in given]
    for form in (str, slashes, _folded, bare):
        if all(found):
            break
        whole, by_end = {}, defaultdict(list)
        for name in names:
            parts = form(name).split("/")
            whole.setdefault(form(name), []).append(name)
            for start in range(1, len(parts)):
                by_end["/".join(parts[start:])].append(name)
        longer = {}  # by index: what stands before the whole path of a file, and the file
        for i, name in enumerate(map(form, given)):
            if not found[i] and name:
                found[i] = whole.get(name) or by_end.get(name, [])
                if not found[i] and (end := _end(name, whole)):
                    longer[i] = name.removesuffix(end), whole[end]
        if len({before for before, _ in longer.values()}) == 1:  # of several the folders may be others
            for i, (_, files) in longer.items():
                found[i] = files
    return found


def _end(name: str, whole: Mapping[str, list[str]]) -> str:
    """The longest end of a path that is the whole path of a file; "" if none is."""
    parts = name.split("/")
    ends = ("/".join(parts[start:]) for start in range(1, len(parts)))
    return next((end for end in ends if end in whole), "")


def slashes(name: str) -> str:
    """A path as it is written on this machine, relative, without blanks around it."""
    return re.sub(r"^(\./+)+|/+$", "", name.strip().replace("\\", "/"))


def _folded(name: str) -> str:
    """What does not depend on how letters are composed, nor on their case, nor on marks that nobody sees."""
    seen = re.sub("[\u00ad\u200b-\u200f\u2060\ufeff]", "", name)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", slashes(seen)).casefold())


def _ending(name: str) -> str:
    """The ending of a name; that of a.nii.gz has two dots."""
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
