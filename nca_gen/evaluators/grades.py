"""What does the model make of each class? A row of samples for each, a column of one noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nca_gen import arrays
from nca_gen.contracts import Figure, Page, Pipeline
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.pipelines import sampling

SHOWN = 8  # columns, at the most
CAPTION = "A row of samples for each class. A column began as one and the same noise."


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /) -> Page:
    """A page without content for a model that knows no classes."""
    part = pipeline.parts["model"]
    classes = part.task.model.conditions.get("label", 0)
    if not classes:
        return Page("Every class")
    columns = min(SHOWN, max(1, part.config.sample.n // classes))
    key = arrays.keys(data.seed, columns)
    rows = [pipeline.draw(key, data.patch, sampling.conditions(part.task.model, (k,), columns)) for k in range(classes)]
    pictures.grid(folder / "grades.png", np.stack([image for row in rows for image in row]), columns)
    return Page("Every class", figures=[Figure("grades.png", CAPTION, "strip")])
