"""Where files are kept that can be made or fetched anew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nca_gen.io import write

Arrays = dict[str, Any]
"""Arrays of numpy by name."""


def folder(*names: str) -> Path:
    """A folder below ``$XDG_CACHE_HOME/nca_gen``, by default ``~/.cache/nca_gen``; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "nca_gen", *names)


def key(*facts: Any) -> str:
    """16 digits that stand for ``facts`` of JSON."""
    return hashlib.sha256(write.notation(facts).encode()).hexdigest()[:16]


def arrays(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """What ``make`` returns, kept in the npz ``path``; one that is missing, cut short or damaged is made anew."""
    import numpy as np  # for which --help need not wait

    try:
        with path.open("rb") as file, np.load(file) as stored:
            return dict(stored)
    except Exception:  # numpy and zip each raise what they like
        made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with write.whole(path) as draft, draft.open("wb") as file:
        np.savez(file, **made)
    return made
