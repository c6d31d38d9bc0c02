"""How a page says things: numbers, values of JSON, captions, commands; and nothing of where somebody's files lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup, escape

from nca_gen import screen
from nca_gen.report.files import finite


def number(value: Any) -> str:
    """Four digits, thousands separated, or a word for what is no finite number."""
    vast = isinstance(value, (int, float)) and not isinstance(value, bool) and not finite(value)
    return "not finite" if vast else screen.number(value)


def cell(value: Any) -> str:
    """What stands in a cell of a table."""
    return value if isinstance(value, str) else number(value)


def plain(value: Any) -> str:
    """A JSON value as a line of prose."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list) else str(value)


def size(patch: Any) -> str:
    """Sides of a patch."""
    return " \N{MULTIPLICATION SIGN} ".join(map(plain, patch)) if isinstance(patch, list) else plain(patch)


def private(value: Any) -> Any:
    """A JSON value with the end only of each absolute path: pages are passed on, folders name people and machines."""
    if isinstance(value, dict):
        return {private(k): private(v) for k, v in value.items()}
    if isinstance(value, list):
        return [private(v) for v in value]
    if not isinstance(value, str):
        return value
    root = r"(?:file://|[A-Za-z]:)?[\\/]"
    if re.fullmatch(root + r"[^\\/]+[\\/].+", value):  # nothing but a path: it may hold spaces
        return "…/" + re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    inside = rf"(?<![\w.:/\\~-]){root}[\w.@+~-]+(?:[\\/][\w.@+~-]*)+"
    return re.sub(inside, lambda path: private(path[0]), value)


def shown(value: Any) -> Any:
    """What a template prints of a value, before it is escaped: markup as it is, of all else no private parts."""
    return value if isinstance(value, Markup) else private(str(value))


def caption(words: str) -> Markup:
    """A caption in HTML: bold between ** and **."""
    parts = re.split(r"\*\*(.+?)\*\*", private(words))
    bold = Markup("<b>{}</b>")
    return Markup("").join(bold.format(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def command(typed: str) -> Markup:
    """A command as it was typed, to break between words: browsers would break behind the dashes of a flag."""
    word = Markup("<span>{}</span>")
    parts: Iterable[str] = re.split(r"(\s+)", typed) if typed else ()
    return Markup("").join(escape(part) if part.isspace() else word.format(part) for part in parts)
