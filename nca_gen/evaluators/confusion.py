"""What does a classifier tell apart? Its figures on images that it has not seen, and which classes it confuses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float

from nca_gen.contracts import Page, Pipeline, Table
from nca_gen.errors import chosen
from nca_gen.evaluators.held import Held
from nca_gen.metrics import classification
from nca_gen.metrics.notes import collecting
from nca_gen.ranges import OneOf
from nca_gen.tasks.classify import predicted

FIGURES = {
    "sensitivity": "share of those who have a class that is found",
    "specificity": "share of those who have it not that is left in peace",
    "auc": "area under the ROC curve",
    "f1": "harmonic mean of sensitivity and precision",
    "f1_sen_spe": "harmonic mean of sensitivity and specificity",
    "map": "average precision, not interpolated",
}
PROTOCOL = {
    name: f"{words}; one class against the rest, averaged over the classes; an image each; higher is better"
    for name, words in FIGURES.items()
}


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    metrics: Sequence[Annotated[str, OneOf(PROTOCOL)]] = classification.FIGURES,
) -> Page:
    """The figures ``metrics`` on all images of ``config.held.split``: macro averages over the classes.

    One that no class defines is left out. Raises UserError for an unknown figure.
    """
    part = pipeline.parts["model"]
    protocol = {name: chosen(PROTOCOL, "evals.confusion.metrics", name) for name in metrics}
    start = time.perf_counter()
    several = part.task.labels == "multi"
    with collecting() as caveats:
        batch = part.config.train.batch
        height, width = data.patch
        probability, truth = predicted(part.task, part.params, data.source, (height, width), batch)
        values = classification.macro(classification.figures(probability, truth, several))
    scores = {name: values[name] for name in metrics if np.isfinite(values[name])}
    facts = {
        "protocol": protocol,
        "networks": {},
        "notes": {"confusion": caveats} if caveats else {},
        "counts": {"real": len(truth)},
        "seed": data.seed,
        "seconds": time.perf_counter() - start,
    }
    names = data.splits.labels if len(data.splits.labels) == truth.shape[1] else [*map(str, range(truth.shape[1]))]
    return Page("Classes", scores, tables=[(hits if several else matrix)(probability, truth, names)], facts=facts)


def matrix(probability: Float[np.ndarray, "N K"], truth: Float[np.ndarray, "N K"], names: Sequence[str]) -> Table:
    """Images by the class that they have (rows) and by the most probable one (columns)."""
    k = len(names)
    counts = np.bincount(truth.argmax(1) * k + probability.argmax(1), minlength=k * k).reshape(k, k)
    rows = [[f"has {name}", *row.tolist()] for name, row in zip(names, counts, strict=True)]
    return Table("Which classes are confused", ["", *(f"told {name}" for name in names)], rows)


def hits(probability: Float[np.ndarray, "N K"], truth: Float[np.ndarray, "N K"], names: Sequence[str]) -> Table:
    """For every class how many have it and are told so or not, and the same of those who have it not."""
    has, told = truth > 0, classification.decided(probability, True)
    counts = [(has & told).sum(0), (has & ~told).sum(0), (~has & told).sum(0), (~has & ~told).sum(0)]
    rows = [[name, *values] for name, *values in zip(names, *(c.tolist() for c in counts), strict=True)]
    return Table("Which classes are missed", ["Class", "found", "missed", "false alarms", "left in peace"], rows)
