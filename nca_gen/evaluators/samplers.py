"""What do fewer denoising steps, other samplers, fewer steps of cells, coarser products cost, and what do they save?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Predicate

from nca_gen.contracts import Page, Pipeline, Process
from nca_gen.diffusion import grids
from nca_gen.diffusion.grids import GRIDS, STATED
from nca_gen.diffusion.samplers import SAMPLERS
from nca_gen.errors import UserError, chosen
from nca_gen.evaluators.held import Held
from nca_gen.evaluators.sweep import Row, label, sweep
from nca_gen.judge import Spec

SPEC = re.compile(
    rf"\w+:(?P<steps>\d+)(:(?P<grid>{'|'.join(GRIDS)}|{STATED}))?"
    r"(:(?P<growth>[1-9]\d*(-[1-9]\d*)*))?(:(?P<dtype>float32|bfloat16))?(:w(?P<w>\d+(\.\d+)?))?"
)
TITLE = "Fewer steps"


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    rows: Sequence[Annotated[str, Predicate(row)]] = (),
    metrics: Sequence[Spec] = (),
) -> Page:
    """A row of a table for each of ``rows``, see :func:`row`. ``metrics``: () for those of evals.scores."""
    table = settings(rows, pipeline.parts["model"].task.process)
    return sweep(pipeline, data, folder, TITLE, table, caption, metrics) if table else Page(TITLE)


def settings(specs: Sequence[str], process: Process) -> list[Row]:
    """The settings of each :func:`row`. Raises UserError for more steps than ``process`` allows."""
    table = [row(spec) for spec in specs]
    for spec, some in zip(specs, table, strict=True):
        try:
            grids.times(process, some["steps"], some.get("grid", "uniform"))
        except UserError as e:
            raise UserError(f"evals.samplers.rows has {spec!r}; {e}") from e
    return table


def row(spec: str) -> Row:
    """A sampler, its number of steps, and perhaps a grid of times, the growth of automata, a dtype and w, the growth
    guidance, of ``name:steps:grid:M-M:dtype:w1.5``.

    Raises UserError for a sampler that there is not.
    """
    name = spec.partition(":")[0]
    chosen(SAMPLERS, "evals.samplers.rows", name)
    parts = SPEC.fullmatch(spec)
    if not parts:
        raise UserError(
            f"evals.samplers.rows has {spec!r}; give steps, like {name}:20, and perhaps a grid ({', '.join(GRIDS)}), "
            "steps of the cells, from noise on, the dtype of products, and the growth guidance, "
            f"like {name}:20:karras:4-8:bfloat16:w1"
        )
    some: Row = {"sampler": name, "steps": int(parts["steps"])}
    some |= {"grid": parts["grid"]} if parts["grid"] else {}
    some |= {"growth": tuple(map(int, parts["growth"].split("-")))} if parts["growth"] else {}
    some |= {"dtype": parts["dtype"]} if parts["dtype"] else {}
    return some | ({"growth_guidance": float(parts["w"])} if parts["w"] else {})


def caption(row: Row) -> str:
    """The caption of a row."""
    return f"{label(row)}, {row['steps']} steps"
