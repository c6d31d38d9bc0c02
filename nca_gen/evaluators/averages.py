"""How wide should the average of the parameters be? The same samples by averages of several widths, rebuilt."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from annotated_types import Interval

from nca_gen import build, judge, screen
from nca_gen.contracts import Figure, Page, Part, Pipeline, Table
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.judge import Spec
from nca_gen.tasks import posthoc

TITLE = "Averages of several widths"
SHOWN = 8  # samples of each width
Width = Annotated[float, Interval(ge=0.05, le=0.25)]


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    widths: Sequence[Width] = (0.05, 0.07, 0.10, 0.15, 0.20, 0.25),
    metrics: Sequence[Spec] = (),
) -> Page:
    """A row of a table for each of ``widths``, relative to the steps of training (:mod:`nca_gen.tasks.posthoc`), beside
    the average that generates; from the same noise. ``metrics``: () for those of evals.scores.

    Where only their average is at hand, as in training and in an export, there is nothing to show. Raises UserError
    where training has kept no snapshots.
    """
    part = pipeline.parts["model"]
    if part.averages is None:
        return Page(TITLE)
    if not (snapshots := part.averages()):
        raise UserError("config.evals.averages needs snapshots, and training kept none: set config.task.posthoc=True")
    rows: list[dict[str, Any]] = []
    figures = []
    for width in (None, *widths):
        params = part.params if width is None else posthoc.rebuilt(snapshots, width)
        others = cast("dict[str, Part]", pipeline.parts)  # of which none is opened unasked
        near = ChainMap({"model": replace(part, params=params)}, others)
        drawn = data.samples(build.pipeline(part.config, near))
        facts = judge.judge(
            metrics or data.metrics, np.clip(drawn.images, -1, 1), data.real, data.train, data.seed, data.kind
        )
        name = "as it generates" if width is None else f"{width:g}"
        picture = f"average_{'own' if width is None else name}.png"
        pictures.grid(folder / picture, drawn.images[:SHOWN], SHOWN)
        figures.append(Figure(picture, f"**{name}**", "strip"))
        rows.append({"average": name, "width": width, "picture": picture, "scores": facts["scores"]})
    names = [name for name in facts["protocol"] if name in rows[0]["scores"]]
    cells = [[row["average"], *(row["scores"][name] for name in names)] for row in rows]
    return Page(
        TITLE,
        figures=figures,
        tables=[Table("", ["Relative width", *names], cells)],
        facts={"rows": rows} | {k: facts[k] for k in ("protocol", "counts", "seed")},
        lines=screen.aligned(["width", *names], [[name, *(f"{x:.4g}" for x in scores)] for name, *scores in cells]),
        intro=f"{data.n} samples by each, from the same noise.",
        curves={name: [(row["width"], row["scores"][name]) for row in rows[1:]] for name in names},
    )
