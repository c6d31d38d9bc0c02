"""Files that are there whole or not at all, wherever a run is stopped."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

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


def text(path: str | os.PathLike[str], content: str) -> None:
    """Writes ``content`` as UTF-8, whole or not at all; what is no Unicode (an argument need not be) is a "?"."""
    data(path, content.encode(errors="replace"))


def data(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes the bytes ``content`` to ``path``, whole or not at all."""
    with whole(path) as draft:
        draft.write_bytes(content)
