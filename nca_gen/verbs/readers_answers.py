"""The record of a reader study in one file of SQLite: which picture is real, who saw which pairs, and what was said.

Every change is one transaction, on disk before it is acknowledged. Chance is that of the operating system, and not of a
seed: a seed that a reader may guess would say which picture is real.
"""

from __future__ import annotations

import random
import secrets
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from nca_gen.errors import UserError

FILE = "study.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (
    id INTEGER PRIMARY KEY, real INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS readers (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, name TEXT NOT NULL, began TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS trials (
    reader INTEGER NOT NULL REFERENCES readers, number INTEGER NOT NULL,
    first INTEGER NOT NULL REFERENCES pictures, second INTEGER NOT NULL REFERENCES pictures,
    PRIMARY KEY (reader, number)
);
CREATE TABLE IF NOT EXISTS answers (
    reader INTEGER NOT NULL, number INTEGER NOT NULL, choice INTEGER NOT NULL CHECK (choice IN (1, 2)),
    milliseconds INTEGER NOT NULL CHECK (milliseconds >= 0), given TEXT NOT NULL,
    PRIMARY KEY (reader, number), FOREIGN KEY (reader, number) REFERENCES trials
);
"""
NAME = 60  # characters of a reader's name
CHANCE = random.SystemRandom()


class Picture(NamedTuple):
    """A picture before it has a number. ``digest`` names its content."""

    real: bool
    name: str
    digest: str


class Progress(NamedTuple):
    """How far a reader is: ``done`` of ``pairs``. ``stands``: the answer that came last is the one that is stored."""

    pairs: int
    done: int
    stands: bool = True


class Answer(NamedTuple):
    """An answer and the truth: ``real_at`` and ``choice`` are the places 1 and 2."""

    reader: int
    name: str
    pair: int
    real: str
    synthetic: str
    real_at: int
    choice: int
    milliseconds: int
    given: str

    @property
    def right(self) -> bool:
        """Whether the real picture was chosen."""
        return self.choice == self.real_at


@contextmanager
def reading(folder: Path) -> Generator[sqlite3.Connection, None, None]:
    """Yields a connection to a study that is there."""
    place = f"{(folder / FILE).absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(place, timeout=30, isolation_level=None, uri=True)) as study:
        yield study


@contextmanager
def transaction(folder: Path) -> Generator[sqlite3.Connection, None, None]:
    """Yields a connection whose changes are all on disk at the end of the block, or where it raises, none of them."""
    with reading(folder) as study, study:
        study.execute("PRAGMA foreign_keys = ON")
        study.execute("PRAGMA synchronous = EXTRA")  # also where the power fails
        study.execute("BEGIN IMMEDIATE")
        yield study


def begin(folder: Path, pictures: Sequence[Picture]) -> list[tuple[int, Picture]]:
    """Gives every picture a number, by chance; those of a study that is there keep theirs.

    Raises UserError where it was begun with other pictures.
    """
    with closing(sqlite3.connect(folder / FILE)) as study:
        study.executescript(SCHEMA)
    with transaction(folder) as study:
        numbers = [(i, Picture(bool(real), *rest)) for i, real, *rest in study.execute("SELECT * FROM pictures")]
        if not numbers:
            numbers = [*enumerate(CHANCE.sample(pictures, len(pictures)), 1)]
            study.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?)", [(i, *picture) for i, picture in numbers])
    if sorted(picture for _, picture in numbers) != sorted(pictures):
        raise UserError(f"{folder} holds a study of other pictures; choose another --workdir")
    return numbers


def enrol(folder: Path, name: str, pairs: int) -> str:
    """Draws the trials of a new reader and returns the token by which only that reader is known.

    No picture comes twice. Those come that were shown least to the readers before, in an order of this reader's own,
    and the real one is at each of the two places equally often (of an odd number of pairs, once more at one of them).
    """
    token = secrets.token_urlsafe(16)
    with transaction(folder) as study:
        values = (token, clean(name), now())
        reader = study.execute("INSERT INTO readers (token, name, began) VALUES (?, ?, ?)", values).lastrowid
        sides = [_least_shown(study, kind, pairs) for kind in (1, 0)]
        for number, (real, synthetic, turned) in enumerate(zip(*sides, _halves(pairs), strict=True), 1):
            pair = (synthetic, real) if turned else (real, synthetic)
            study.execute("INSERT INTO trials VALUES (?, ?, ?, ?)", (reader, number, *pair))
    return token


def _halves(n: int) -> list[int]:
    """``n`` zeros and ones, as many of each as can be, by chance in every other way."""
    first = CHANCE.getrandbits(1)
    return CHANCE.sample([(first + i) % 2 for i in range(n)], n)


def _least_shown(study: sqlite3.Connection, kind: int, n: int) -> list[int]:
    """``n`` numbers of pictures that are real, or synthetic, in an order by chance."""
    query = "SELECT id, (SELECT count(*) FROM trials WHERE id IN (first, second)) FROM pictures WHERE real = ?"
    rows = sorted(study.execute(query, (kind,)), key=lambda row: (row[1], CHANCE.random()))
    return CHANCE.sample([picture for picture, _ in rows[:n]], n)


def clean(name: str) -> str:
    """A name as it can stand in a table: printable, in one line, not long."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:NAME]


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def progress(folder: Path, token: str) -> Progress | None:
    """How far the reader of ``token`` is; None where nobody has it."""
    with reading(folder) as study:
        reader = _reader(study, token)
        return _progress(study, reader) if reader else None


def picture(folder: Path, token: str, number: int, place: int) -> int | None:
    """Which picture the reader of ``token`` sees at ``place`` (1 or 2) of pair ``number``.

    None where there is none, and for pairs that come later than the next.
    """
    with reading(folder) as study:
        reader = _reader(study, token)
        if not reader or number > _progress(study, reader).done + 2:
            return None
        query = f"SELECT {('first', 'second')[place - 1]} FROM trials WHERE reader = ? AND number = ?"
        found = study.execute(query, (reader, number)).fetchone()
        return found[0] if found else None


def answer(folder: Path, token: str, number: int, choice: int, milliseconds: int) -> Progress | None:
    """Stores that ``choice`` (1 or 2) is the real one of pair ``number``, and says how far the reader is now.

    The first answer to a pair stands, whatever comes after it: a click twice, another tab, what is sent again because
    the server was gone. None for an unknown token, and for a pair whose turn it is not yet.
    """
    with transaction(folder) as study:
        reader = _reader(study, token)
        if not reader:
            return None
        before = _progress(study, reader)
        if not 1 <= number <= min(before.done + 1, before.pairs):
            return None
        values = (reader, number, choice, milliseconds, now())
        study.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", values)
        query = "SELECT choice FROM answers WHERE reader = ? AND number = ?"
        stands = study.execute(query, (reader, number)).fetchone()[0] == choice
        return _progress(study, reader)._replace(stands=stands)


def _reader(study: sqlite3.Connection, token: str) -> int | None:
    found = study.execute("SELECT id FROM readers WHERE token = ?", (token,)).fetchone()
    return found[0] if found else None


def _progress(study: sqlite3.Connection, reader: int) -> Progress:
    query = "SELECT (SELECT count(*) FROM trials WHERE reader = ?), (SELECT count(*) FROM answers WHERE reader = ?)"
    return Progress(*study.execute(query, (reader, reader)).fetchone())


def people(folder: Path) -> list[tuple[int, str, int]]:
    """Number, name and pairs of every reader."""
    query = "SELECT id, name, (SELECT count(*) FROM trials WHERE reader = id) FROM readers ORDER BY id"
    with reading(folder) as study:
        return study.execute(query).fetchall()


def tokens(folder: Path) -> list[tuple[str, str]]:
    """Name and token of every reader, in the order in which they came."""
    with reading(folder) as study:
        return study.execute("SELECT name, token FROM readers ORDER BY id").fetchall()


def answers(folder: Path) -> list[Answer]:
    """All answers and the truth, in the order of readers and pairs."""
    query = """
        SELECT reader, readers.name, number, a.name, b.name, 2 - a.real, choice, milliseconds, given, a.real
        FROM answers JOIN trials USING (reader, number) JOIN readers ON readers.id = reader
        JOIN pictures a ON a.id = first JOIN pictures b ON b.id = second ORDER BY reader, number
    """
    with reading(folder) as study:
        rows: list[Any] = study.execute(query).fetchall()
    return [Answer(*row[:3], *(row[3:5] if row[-1] else row[4:2:-1]), *row[5:-1]) for row in rows]
