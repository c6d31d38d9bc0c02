"""Errors that a user can act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """One line that says what is wrong and what to do. The command line prints it and exits with 2."""


def unknown(what: str, word: str, choices: Iterable[str]) -> UserError:
    """The error for a ``word`` that is none of ``choices``: it names the nearest one, or all where none is near."""
    choices = sorted(choices)
    # A stem that all have in common would make everything look near.
    stem = word[: word.rfind(".") + 1]
    cut = len(stem) if all(c.startswith(stem) for c in choices) else 0
    near = get_close_matches(word[cut:], [c[cut:] for c in choices], n=1)
    hint = f"did you mean {word[:cut]}{near[0]}?" if near else f"choose one of: {', '.join(choices) or '(none)'}"
    return UserError(f"unknown {what} {word!r}; {hint}")


def accepted(make: Callable, path: str, given: dict[str, Any]) -> dict[str, Any]:
    """``given``, the fields of ``path``. Raises UserError with the nearest for one that ``make`` does not take."""
    takes = signature(make).parameters
    for field in given:
        if field not in takes:
            raise unknown("field", f"{path}.{field}", (f"{path}.{name}" for name in takes))
    return given


def chosen(table: Mapping[str, T], field: str, name: str) -> T:
    """``table[name]``. Raises UserError with the nearest name for a ``name`` that ``field`` cannot have."""
    if name not in table:
        raise unknown(f"value of {field}", name, table)
    return table[name]
