"""Where files are kept that can be made or fetched anew."""

from __future__ import annotations

import os
from pathlib import Path


def folder(*names: str) -> Path:
    """A folder below ``$XDG_CACHE_HOME/nca_gen``, by default ``~/.cache/nca_gen``; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "nca_gen", *names)
