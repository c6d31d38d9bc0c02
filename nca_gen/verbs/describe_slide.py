"""What a picture takes that is drawn patch by patch by all networks of a chain, or a volume: --mode=describe of its
page.

FLOP are those of matrix products in the calls of the networks, counted and not measured. Hours are those FLOP at
:data:`nca_gen.verbs.describe_fit.EFFICIENCY` of the rates of the devices, each of which always has a patch to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nca_gen import build, screen
from nca_gen.config import Stage
from nca_gen.contracts import Counted, Part
from nca_gen.verbs.describe_fit import DEVICES, EFFICIENCY
from nca_gen.verbs.describe_work import asked_gflop, call_gflop

FLEETS = (("h100", 1), ("a100", 9))  # nine A100 took 24 hours for a slide of 41344 pixels a side (URCDM)


def work(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """The FLOP and hours of a picture, or volume, of the last stage's ``config.sample.size``, network by network; None
    where it is not drawn patch by patch. The configs of ``stages`` are whole."""
    parts = {stage.name: Part(stage.config, build.task(stage.config), None) for stage in stages}
    config = stages[-1].config
    parts["model"] = parts[stages[-1].name]
    pipeline = build.pipeline(config, parts)
    if not isinstance(pipeline, Counted):
        return None
    rows, seconds = [], [0.0] * len(FLEETS)
    for name, calls in pipeline.calls(tuple(config.sample.size)).items():
        part, (patches, each, shape, ask) = parts[name], calls
        gflop = asked_gflop(part.task.model, shape, ask) if ask else call_gflop(part.task, shape)
        flop = patches * each * gflop * 1e9
        how = {"patches": patches, "each": each, "shape": shape, "gflop_per_call": gflop, "exaflop": flop / 1e18}
        rows.append({"network": name} | how)
        dtype = part.config.get("sample", {}).get("dtype", "") or part.config.model.get("dtype", "float32")
        rates = [n * DEVICES[kind].rates[dtype] * EFFICIENCY["products"] for kind, n in FLEETS]
        seconds = [before + flop / rate for before, rate in zip(seconds, rates, strict=True)]
    hours = {f"{kind}:{n}": took / 3600 for (kind, n), took in zip(FLEETS, seconds, strict=True)}
    exaflop = sum(row["exaflop"] for row in rows)
    return {"size": list(config.sample.size), "networks": rows, "exaflop": exaflop, "hours": hours}


def show(known: dict[str, Any]) -> None:
    """Prints :func:`work`."""
    size = "x".join(map(str, known["size"]))
    unit, times = ("EFLOP", 1) if known["exaflop"] >= 0.1 else ("PFLOP", 1000)
    heads = {"patches": "patches", "each": "calls on each", "gflop_per_call": "GFLOP a call"}
    rows = [(row["network"], *(row[field] for field in heads), times * row["exaflop"]) for row in known["networks"]]
    what = "a picture" if len(known["size"]) == 2 else "a volume"
    title = f"{what} of {size} pixels, no glass skipped" if len(known["size"]) == 2 else f"{what} of {size} voxels"
    screen.table(("network", *heads.values(), unit), rows, title)
    for (kind, n), hours in zip(FLEETS, known["hours"].values(), strict=True):
        share, took = EFFICIENCY["products"], screen.duration(3600 * hours)
        flop = f"{times * known['exaflop']:.3g} {unit}"
        print(f"on {n} x {DEVICES[kind].name}: {flop}, {took} at {share:.0%} of its products")
