"""Are the samples copies? Those that are nearest to training images, each with that image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from nca_gen.contracts import Figure, Page, Pipeline
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.io.sets import Images
from nca_gen.metrics import neighbours

SHOWN = 8  # samples in a row
PAIRS = 3  # of rows


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /) -> Page:
    """A page of rows in pairs."""
    return page(folder, data.samples(pipeline).images, data.train, f" at step {pipeline.parts['model'].step:,}")


def page(folder: Path, samples: Images, train: Images, when: str = "") -> Page:
    """The page of ``samples`` and ``train``, images of one shape."""
    rows, columns = pairs(np.clip(samples[:], -1.0, 1.0), train)
    pictures.grid(folder / "neighbours.png", rows, columns)
    caption = (
        f"Rows in pairs: samples{when}, and below each the training image nearest to it, pixel by pixel. "
        "The nearest of all come first."
    )
    intro = "Alike in colour is as it should be; the same arrangement would be a copy."
    return Page("Nearest training images", figures=[Figure("neighbours.png", caption, "strip")], intro=intro)


def pairs(samples: Images, train: Images) -> tuple[Float[np.ndarray, "N *T C"], int]:
    """The most suspicious samples first, ``SHOWN`` to a row, below each the training image nearest to it; columns."""
    distance, index = neighbours.nearest(samples, train)
    order = np.argsort(distance, kind="stable")[: PAIRS * SHOWN]
    rows = [order[i : i + SHOWN] for i in range(0, len(order), SHOWN)]
    whole = [row for row in rows if len(row) == SHOWN] or rows
    return np.concatenate([x for row in whole for x in (samples[row], train[index[row]])]), len(whole[0])
