"""Are the samples copies? Those that are nearest to training images, each with that image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from nca_gen.contracts import Figure, Page, Pipeline
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.io.sets import Images
from nca_gen.metrics import neighbours

SHOWN = 8  # samples in a row
PAIRS = 3  # of rows
COURSE = ("Distance to the nearest training image (held-out images: 1)", "The same of the nearest sample (copy: 0)")


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /) -> Page:
    """A page of rows in pairs, and how near samples are over the steps of training."""
    samples, when = data.samples(pipeline).images, f" at step {pipeline.parts['model'].step:,}"
    return page(folder, np.clip(samples, -1.0, 1.0), data.train, when, data.real)


def page(folder: Path, samples: Images, train: Images, when: str = "", real: Images | None = None) -> Page:
    """The page of ``samples`` and ``train``, images of one shape in [-1, 1]; ``real``: held-out ones, the yardstick.

    Of sets on disk only what is shown is in memory.
    """
    distance, index = neighbours.nearest(samples, train)
    rows, columns = pairs(samples, train, distance, index)
    pictures.grid(folder / "neighbours.png", rows, columns)
    caption = (
        f"Rows in pairs: samples{when}, and below each the training image nearest to it, pixel by pixel. "
        "The nearest of all come first."
    )
    intro = "Alike in colour is as it should be; the same arrangement would be a copy."
    facts = {} if real is None else {"course": course(distance, neighbours.statistics(real, train))}
    return Page(
        "Nearest training images", figures=[Figure("neighbours.png", caption, "strip")], facts=facts, intro=intro
    )


def course(distance: Float[np.ndarray, " N"], real: Float[np.ndarray, " M"]) -> dict[str, float]:
    """How near samples are to training images, over the median of held-out images: what the report draws over steps."""
    scores = neighbours.distance(real, distance)
    return dict(zip(COURSE, (scores["neighbours"], scores["neighbours_min"]), strict=True))


def pairs(
    samples: Images, train: Images, distance: Float[np.ndarray, " N"], index: Int[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "K *T C"], int]:
    """The most suspicious samples first, ``SHOWN`` to a row, below each the training image nearest to it; columns."""
    order = np.argsort(distance, kind="stable")[: PAIRS * SHOWN]
    rows = [order[i : i + SHOWN] for i in range(0, len(order), SHOWN)]
    whole = [row for row in rows if len(row) == SHOWN] or rows
    return np.concatenate([x for row in whole for x in (samples[row], train[index[row]])]), len(whole[0])
