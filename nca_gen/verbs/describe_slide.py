"""What a picture takes that is drawn patch by patch by all networks of a chain: --mode=describe of its page.

FLOP are those of matrix products in the calls of the networks, counted and not measured. Hours are those FLOP at
:data:`nca_gen.verbs.describe_fit.EFFICIENCY` of the rates of the devices, each of which always has a patch to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from nca_gen import build, screen
from nca_gen.config import Stage
from nca_gen.contracts import Counted, Part
from nca_gen.verbs.describe_fit import DEVICES, EFFICIENCY
from nca_gen.verbs.describe_work import call_gflop

FLEETS = (("h100", 1), ("a100", 9))  # nine A100 took 24 hours for a slide of 41344 pixels a side (URCDM)


def work(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """The FLOP and hours of one picture of the last stage's ``config.sample.size``, network by network; None where it
    is not drawn patch by patch. The configs of ``stages`` are whole."""
    parts = {stage.name: Part(stage.config, build.task(stage.config), None) for stage in stages}
    config = stages[-1].config
    pipeline = build.pipeline(config, parts | {"model": parts[stages[-1].name]})
    if not isinstance(pipeline, Counted):
        return None
    rows, seconds, gflop_of = [], [0.0] * len(FLEETS), cache(call_gflop)  # networks of a chain may be alike
    for name, calls in pipeline.calls(tuple(config.sample.size)).items():
        part = parts[name]
        gflop = gflop_of(part.task, calls.shape)
        flop = calls.patches * calls.each * gflop * 1e9
        rows.append({"network": name, **calls._asdict(), "gflop_per_call": gflop, "exaflop": flop / 1e18})
        dtype = part.config.model.get("dtype", "float32")
        rates = [n * DEVICES[kind].rates[dtype] * EFFICIENCY["products"] for kind, n in FLEETS]
        seconds = [before + flop / rate for before, rate in zip(seconds, rates, strict=True)]
    hours = {f"{kind}:{n}": took / 3600 for (kind, n), took in zip(FLEETS, seconds, strict=True)}
    exaflop = sum(row["exaflop"] for row in rows)
    return {"size": list(config.sample.size), "networks": rows, "exaflop": exaflop, "hours": hours}


def show(known: dict[str, Any]) -> None:
    """Prints :func:`work`."""
    size = "x".join(map(str, known["size"]))
    heads = {"patches": "patches", "each": "calls on each", "gflop_per_call": "GFLOP a call", "exaflop": "EFLOP"}
    rows = [(row["network"], *(row[field] for field in heads)) for row in known["networks"]]
    screen.table(("network", *heads.values()), rows, f"a picture of {size} pixels, no glass skipped")
    for (kind, n), hours in zip(FLEETS, known["hours"].values(), strict=True):
        share, took = EFFICIENCY["products"], screen.duration(3600 * hours)
        print(f"on {n} x {DEVICES[kind].name}: {known['exaflop']:.3g} EFLOP, {took} at {share:.0%} of its products")
