"""What the rows of --mode=tables cost, where they were drawn by runs that are still there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nca_gen.report import files
from nca_gen.verbs import describe_slide
from nca_gen.verbs.generate import cost_file


def cost(path: str | Path) -> dict[str, Any]:
    """Of what lies at ``path``, a folder that --mode=generate has filled without interruption, or its one file; {} of
    others.

    "pixels" of the picture, "seconds", "cpu_seconds" and "memory_mb" as :func:`nca_gen.verbs.generate.cost_file` says;
    of what is drawn patch by patch "parameters" of all networks and "flop", of matrix products in their calls.
    """
    path = Path(path).expanduser()
    folder = path.parent if path.is_file() or path.name.endswith(".ome.zarr") else path
    took = files.read_object(cost_file(folder))
    size = took.get("sample", {}).get("size", ())
    if not size:
        return {}
    asked = {name: took[name] for name in ("sample", "generate") if name in took}
    work = describe_slide.of_run(folder.absolute().parents[1], asked)
    known = {"parameters": work["parameters"], "flop": work["exaflop"] * 1e18} if work else {}
    return {"size": size, **known, **{name: took[name] for name in ("seconds", "cpu_seconds", "memory_mb")}}
