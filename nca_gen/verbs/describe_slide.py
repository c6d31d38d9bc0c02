"""What a picture takes that is drawn patch by patch by all networks of a chain, or a volume: --mode=describe of its
page.

FLOP are those of matrix products in the calls of the networks, counted and not measured. Hours are those FLOP at
:data:`nca_gen.verbs.describe_fit.EFFICIENCY` of the rates of the devices, each of which always has a patch to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nca_gen import build, screen
from nca_gen.config import Stage
from nca_gen.contracts import Counted, Part
from nca_gen.verbs.describe_fit import DEVICES, EFFICIENCY
from nca_gen.verbs.describe_work import asked_gflop, call_gflop

FLEETS = (("h100", 1), ("a100", 9))  # nine A100 took 24 hours for a slide of 41344 pixels a side (URCDM)
UNITS = (("EFLOP", 1), ("PFLOP", 1e3), ("TFLOP", 1e6))  # of which a picture takes a tenth or more, or the last


def work(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """:func:`counted` for the last stage, whose parts are stages before it. The configs of ``stages`` are whole."""
    last = stages[-1].config
    names = {name: Path(path).name for name, path in last.get("parts", {}).items()}
    known = {stage.name: stage.config for stage in stages}
    parts = {name: bare(known[stage]) for name, stage in names.items() if stage in known}
    return counted(last, parts | {"model": bare(last)}, stages[-1].name)


def bare(config: Any) -> Part:
    """The part that ``config`` builds, without its parameters."""
    return Part(config, build.task(config), None)


def counted(config: Any, parts: Mapping[str, Part], name: str = "model") -> dict[str, Any] | None:
    """The FLOP and hours of a picture, or volume, of ``config.sample.size``, network by network, the "model" by its
    ``name``, as if no glass were skipped; None where it is not drawn patch by patch."""
    pipeline = build.pipeline(config, parts)
    if not isinstance(pipeline, Counted):
        return None
    rows, seconds = [], [0.0] * len(FLEETS)
    for network, calls in pipeline.counts(tuple(config.sample.size)).items():
        part, (patches, each, shape, ask) = parts.get(network, parts["model"]), calls
        gflop = asked_gflop(part.task.model, shape, ask) if ask else call_gflop(part.task, shape)
        flop = patches * each * gflop * 1e9
        how = {"patches": patches, "each": each, "shape": shape, "gflop_per_call": gflop, "exaflop": flop / 1e18}
        rows.append({"network": name if network == "model" else network} | how)
        dtype = part.config.get("sample", {}).get("dtype", "") or part.config.model.get("dtype", "float32")
        rates = [n * DEVICES[kind].rates[dtype] * EFFICIENCY["products"] for kind, n in FLEETS]
        seconds = [before + flop / rate for before, rate in zip(seconds, rates, strict=True)]
    hours = {f"{kind}:{n}": took / 3600 for (kind, n), took in zip(FLEETS, seconds, strict=True)}
    exaflop = sum(row["exaflop"] for row in rows)
    return {"size": list(config.sample.size), "networks": rows, "exaflop": exaflop, "hours": hours}


def show(known: dict[str, Any]) -> None:
    """Prints :func:`work`."""
    size = "x".join(map(str, known["size"]))
    unit, times = next((some for some in UNITS if known["exaflop"] * some[1] >= 0.1), UNITS[-1])
    heads = {"patches": "patches", "each": "calls on each", "gflop_per_call": "GFLOP a call"}
    rows = [(row["network"], *(row[field] for field in heads), times * row["exaflop"]) for row in known["networks"]]
    what = "a picture" if len(known["size"]) == 2 else "a volume"
    title = f"{what} of {size} pixels, no glass skipped" if len(known["size"]) == 2 else f"{what} of {size} voxels"
    screen.table(("network", *heads.values(), unit), rows, title)
    for (kind, n), hours in zip(FLEETS, known["hours"].values(), strict=True):
        share, took = EFFICIENCY["products"], screen.duration(3600 * hours)
        flop = f"{times * known['exaflop']:.3g} {unit}"
        print(f"on {n} x {DEVICES[kind].name}: {flop}, {took} at {share:.0%} of its products")
