"""What becomes of cells that grow for fewer or more steps than they learned with?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nca_gen import arrays
from nca_gen.contracts import Automaton, Figure, Page, Pipeline
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.pipelines import sampling
from nca_gen.ranges import Count

ROWS = 4  # of noises
TITLE = "Too young, grown up, overgrown"


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /, *, steps: Sequence[Count] = ()) -> Page:
    """A strip of samples by each of ``steps`` of the cells a call, a column each: every row has one noise.

    Raises UserError for a model that is no automaton.
    """
    if not steps:
        return Page(TITLE)
    part = pipeline.parts["model"]
    model = part.task.model
    if not isinstance(model, Automaton):
        raise UserError("steps of growth are for automata, which grow in steps; leave them empty: ()")
    cond, key = sampling.conditions(model, (), ROWS), arrays.keys(data.seed, ROWS)
    settings = sampling.Settings.of(part.config.sample)
    layout = {"batch": part.config.sample.batch, "space": part.config.mesh.space}
    drawn = [sampling.images(part, key, data.patch, settings._replace(growth=(m,)), cond, **layout) for m in steps]
    columns = [part.decode(np.concatenate(list(batches))) for batches in drawn]
    pictures.grid(folder / "growth.png", np.stack(columns, 1).reshape(-1, *columns[0].shape[1:]), len(steps))
    words = ", ".join(map(str, steps))
    caption = (
        f"Left to right, the cells take {words} steps in every call; they learned with {model.steps}. "
        "Every row began as one noise."
    )
    line = f"cells that grew for {words} steps a call: {folder / 'growth.png'}"
    facts = {"growth": list(steps), "own": model.steps}
    return Page(TITLE, figures=[Figure("growth.png", caption, "strip")], facts=facts, lines=[line])
