"""What do fewer denoising steps, other samplers, fewer steps of cells, coarser products cost, and what do they save?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nca_gen.contracts import Page, Pipeline, Process
from nca_gen.diffusion.samplers import SAMPLERS
from nca_gen.errors import UserError, chosen
from nca_gen.evaluators.held import Held
from nca_gen.evaluators.sweep import Row, label, sweep

SPEC = re.compile(r"\w+:(?P<steps>\d+)(:(?P<growth>[1-9]\d*(-[1-9]\d*)*))?(:(?P<dtype>float32|bfloat16))?")
TITLE = "Fewer steps"


def evaluate(
    pipeline: Pipeline, data: Held, folder: Path, /, *, rows: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Page:
    """A row of a table for each of ``rows``, see :func:`settings`. ``metrics``: () for those of evals.scores."""
    table = settings(rows, pipeline.parts["model"].task.process)
    return sweep(pipeline, data, folder, TITLE, table, caption, metrics) if table else Page(TITLE)


def settings(specs: Sequence[str], process: Process) -> list[Row]:
    """Samplers, their numbers of steps, and perhaps the growth of automata and a dtype, of ``name:steps:M-M:dtype``.

    Raises UserError for a sampler that there is not, and for more steps than ``process`` allows.
    """
    table = []
    for spec in specs:
        name = spec.partition(":")[0]
        chosen(SAMPLERS, "evals.samplers.rows", name)
        parts = SPEC.fullmatch(spec)
        if not parts:
            raise UserError(
                f"evals.samplers.rows has {spec!r}; give steps, like {name}:20, and perhaps steps of the cells, from "
                f"noise on, and the dtype of products, like {name}:20:4-8:bfloat16"
            )
        try:
            process.times(int(parts["steps"]))
        except UserError as e:
            raise UserError(f"evals.samplers.rows has {spec!r}; {e}") from e
        row: Row = {"sampler": name, "steps": int(parts["steps"])}
        row |= {"growth": tuple(map(int, parts["growth"].split("-")))} if parts["growth"] else {}
        table.append(row | ({"dtype": parts["dtype"]} if parts["dtype"] else {}))
    return table


def caption(row: Row) -> str:
    """The caption of a row."""
    return f"{label(row)}, {row['steps']} steps"
