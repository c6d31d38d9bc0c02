"""What the rows of --mode=tables cost, where they were drawn by --mode=generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nca_gen.report import files
from nca_gen.verbs.generate import cost_file

FIELDS = ("size", "seconds", "cpu_seconds", "memory_mb")


def cost(path: str | Path) -> dict[str, Any]:
    """What :func:`nca_gen.verbs.generate.cost_file` holds of the folder at ``path``, or of that of a slide; {} of
    others."""
    path = Path(path).expanduser().absolute()
    folder = path.parent if path.is_file() or path.suffix.lower() == ".zarr" else path
    known = files.read_object(cost_file(folder)) if folder.name else {}
    return known if {*FIELDS} <= known.keys() else {}
