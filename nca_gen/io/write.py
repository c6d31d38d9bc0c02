"""Files that are there whole or not at all, wherever a run is stopped."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from nca_gen.errors import UserError


@contextmanager
def refusals(path: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Turns what the operating system refuses while ``path`` is written into a UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}; free space, or choose another --workdir") from e


@contextmanager
def whole(path: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """Yields a path beside ``path`` to write to, which takes its place at the end of the block.

    If the block raises, ``path`` is as it was and nothing is left beside it. The path to write to has the same suffix
    and a name of this process, so that several may write the same file. Raises UserError for what the operating system
    refuses.
    """
    path = Path(path)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    with refusals(path):
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def folder(path: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """Yields an empty folder beside ``path``, which takes its place at the end of the block, as in :func:`whole`."""
    path = Path(path)
    draft, old = (path.with_name(f".{os.getpid()}.{word}{path.name}") for word in ("", "old."))
    with refusals(path):
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            yield draft
            if path.exists():
                path.replace(old)
            draft.replace(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def text(path: str | os.PathLike[str], content: str) -> None:
    """Writes ``content`` as UTF-8, whole or not at all; what is no Unicode (an argument need not be) is a "?"."""
    data(path, content.encode(errors="replace"))


def data(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes the bytes ``content`` to ``path``, whole or not at all."""
    with whole(path) as draft:
        draft.write_bytes(content)


def facts(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` to ``path`` as :func:`notation`, whole or not at all."""
    text(path, notation(value, indent=2) + "\n")


def notation(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """``value`` as JSON that every reader takes: it has no word for what is not finite, which is null."""
    return json.dumps(_plain(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def _plain(value: Any) -> Any:
    """``value`` in types of JSON; numbers of numpy become Python's."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if math.isfinite(value) else None
