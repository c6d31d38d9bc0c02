"""What does a segmenter tell? Its figures on images or volumes that it has not seen, and its maps beside the true."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from nca_gen.contracts import Figure, Page, Part, Pipeline, Table
from nca_gen.data.labels import MAP
from nca_gen.evaluators import pictures
from nca_gen.evaluators.guided import COLOURS
from nca_gen.evaluators.held import Held
from nca_gen.io import images
from nca_gen.metrics import segmentation
from nca_gen.metrics.notes import collecting
from nca_gen.sections import Outline
from nca_gen.tiling.segments import predictions, segmented

SHOWN = 6  # patches in a row


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /, *, metrics: Sequence[Outline] = ("dice", "iou")) -> Page:
    """The figures ``metrics`` (:func:`nca_gen.metrics.segmentation.figure`) of all of ``config.held.split``, means over
    its images or volumes, and of every class; patches, their true maps and what is said of them.

    Raises UserError for an unknown figure.
    """
    part = pipeline.parts["model"]
    task, start, batch = part.task, time.perf_counter(), part.config.train.batch
    for spec in metrics:
        segmentation.figure(spec, task.model.classes)
    said = predictions(task.model, part.params, data.source, data.patch, batch)
    rows = [segmentation.measured(truth, classes, task.model.classes) for _, truth, classes in said]
    with collecting() as caveats:
        scores = {spec: float(segmentation.mean(segmentation.values(rows, spec))) for spec in metrics}
    scores = {name: value for name, value in scores.items() if np.isfinite(value)}
    rules = {spec: segmentation.FIGURES[spec.partition(":")[0]] for spec in metrics}
    facts = {
        "protocol": {
            spec: f"{segmentation.heading(spec, task.classes)}: {rules[spec]} {segmentation.EACH}" for spec in scores
        },
        "networks": {},
        "notes": {"segmentation": caveats} if caveats else {},
        "counts": {"real": len(rows)},
        "seed": data.seed,
        "seconds": time.perf_counter() - start,
    }
    shown(part, data, folder / "segmentation.png")
    caption = (
        f"Patches of the {data.split} split, below each its **true** classes and those that are **said** at step "
        f"{part.step:,}."
    )
    return Page(
        "Segmentation", scores, [Figure("segmentation.png", caption, "strip")], [by_class(rows, task.classes)], facts
    )


def by_class(rows: Sequence[dict], classes: Sequence[str]) -> Table:
    """Dice and IoU of every class, means over the images or volumes that have it."""
    counts = np.array([row["counts"] for row in rows], np.int64)
    each = [segmentation.mean(figure(counts).T) for figure in (segmentation.dice, segmentation.iou)]
    cells = [[f"{v:.4f}" if np.isfinite(v) else "n/a" for v in one] for one in each]
    return Table("Class by class", ["class", "Dice", "IoU"], [*map(list, zip(classes, *cells, strict=True))])


def shown(part: Part, data: Held, path: Path) -> None:
    """Writes a few patches, and below them with both maps in colours."""
    image, truth = data.patches[:SHOWN], data.learned[MAP][:SHOWN, ..., 0]
    one = lambda x: segmented(part.task.model, part.params, x, data.patch, part.config.train.batch)
    said = np.stack([one(x) for x in image])
    grey = np.broadcast_to(images.picture(image)[..., :3], (*image.shape[:-1], 3))
    pictures.grid(path, np.concatenate([grey, coloured(grey, truth), coloured(grey, said)]), len(image))


def coloured(grey: UInt8[np.ndarray, "N *T 3"], classes: Int[np.ndarray, " N *T"]) -> UInt8[np.ndarray, "N *T 3"]:
    """Pictures half as bright, half in the colours of their ``classes``; class 0, and what is not known, is grey."""
    colour = np.array(COLOURS, np.float32)[np.maximum(classes, 0) % len(COLOURS)]
    mixed = (grey.astype(np.float32) + colour) / 2
    return np.where((classes > 0)[..., None], mixed.round(), grey).astype(np.uint8)
