"""Which files of a folder belong to a set: one walk for training and for scoring, which tells what it passed over."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nca_gen.io.images import SUFFIXES, natural

IMAGES = (*SUFFIXES, ".bmp", ".webp", ".jfif", ".ppm", ".pgm")  # what is read, and not always written
STORE = ".zarr"  # a folder that is one file
SILENT = (  # no pictures by any name: tables and words about a set, and what file managers leave
    *(".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".txt", ".md", ".html", ".pdf", ".log"),
    *(".py", ".ipynb", ".sh", ".ini", "thumbs.db", "license", "readme"),
)
SYSTEM = ("@eadir", "__macosx", "$recycle.bin", "lost+found", "system volume information")  # folders of nobody
LISTED = 3  # names given of each kind that is passed over
LARGE, PARTS, PART = 2**26, 64, 2**16  # of a file with more bytes so many parts of so many name the content


class Walk(NamedTuple):
    """``names`` of files, relative to the folder and in natural order; (name, reason) of what was ``passed`` over."""

    names: list[str]
    passed: list[tuple[str, str]]

    @property
    def said(self) -> list[str]:
        """What has to be said of what was passed over: a sentence, or nothing."""
        kinds = defaultdict(list)
        for name, reason in self.passed:
            kinds[reason].append(name)
        words = [f"{len(some)} {reason} ({_some(some)})" for reason, some in kinds.items()]
        return [f"passed over: {'; '.join(words)}"] if words else []


def walk(root: str | Path, suffixes: Sequence[str]) -> Walk:
    """The files in the folder ``root`` and its sub folders that end in ``suffixes``, upper case as lower case.

    Links are followed, and no folder is walked twice. A folder that ends in .zarr is one file. Hidden files and folders
    are left out. Passed over, with a reason, is what might be meant: files with other endings (but for tables and
    words), hidden ones with these endings, folders that cannot be read.
    """
    root, wanted = Path(root), tuple(suffixes)
    names, passed, seen = [], [], set()
    folders, links = [""], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)  # a link last: the folder itself has the better name
        try:
            at = os.stat(root / folder)
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            passed.append((folder or str(root), (error.strerror or str(error)).lower()))
            continue
        if (at.st_dev, at.st_ino) in seen:
            passed.append((folder, "linked to a folder that is there"))
            continue
        seen.add((at.st_dev, at.st_ino))
        for entry in entries:
            name, low = f"{folder}/{entry.name}".lstrip("/"), entry.name.lower()
            is_folder, belongs = entry.is_dir() and not low.endswith(STORE), low.endswith(wanted)
            if low.startswith("."):
                passed += [(name, "hidden")] if belongs and not is_folder else []
            elif is_folder and low in SYSTEM:
                passed.append((name, "of the operating system"))
            elif is_folder:
                (links if entry.is_symlink() else folders).append(name)
            elif belongs and not (entry.is_file() or entry.is_dir() or entry.is_symlink()):
                passed.append((name, "no file, but a pipe or a device"))
            elif belongs:
                names.append(name)
            elif not low.endswith(SILENT):
                passed.append((name, f"of *{Path(low).suffix}" if Path(low).suffix else "without a suffix"))
    return Walk(sorted(names, key=natural), sorted(passed, key=lambda item: natural(item[0])))


def below(root: str | Path, suffixes: Sequence[str]) -> list[str]:
    """The names of :func:`walk`."""
    return walk(root, suffixes).names


def content(path: Path) -> bytes:
    """SHA-256 of a file, or of the files in a folder: equal for equal bytes, wherever they lie.

    Of a file of more than ``LARGE`` bytes its size is taken, and ``PARTS`` parts that are spread evenly over it.
    Raises OSError.
    """
    if path.is_dir():
        inner = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
        return hashlib.sha256(b"".join(content(Path(name)) for name in sorted(inner, key=natural))).digest()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= LARGE:
            return hashlib.file_digest(file, "sha256").digest()
        key = hashlib.sha256(str(size).encode())
        for i in range(PARTS):
            file.seek(i * (size - PART) // (PARTS - 1))
            key.update(file.read(PART))
        return key.digest()


def glance(root: Path) -> str:
    """What names the files below ``root`` without reading them: names, sizes, and the two ends of ``PARTS`` of them.

    "" where there are none.
    """
    key, files = hashlib.sha256(), []
    for folder, inner, _ in os.walk(root):
        inner.sort()
        files += sorted((entry.path, entry.stat().st_size) for entry in os.scandir(folder) if entry.is_file())
    for path, size in files:
        key.update(f"{os.path.relpath(path, root)} {size}\n".encode())
    for path, size in files[:: -(-len(files) // PARTS) or 1]:
        with open(path, "rb") as file:
            key.update(file.read(PART))
            file.seek(max(0, size - PART))
            key.update(file.read(PART))
    return key.hexdigest() if files else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
