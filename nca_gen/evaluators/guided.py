"""Does a sample follow its label map? Each map, the sample that was drawn from it, and the real image that it is of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from nca_gen.contracts import Figure, Page, Pipeline
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held

SHOWN = 8  # samples
COLOURS = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0))
COLOURS += ((204, 121, 167),)  # of Okabe & Ito 2008


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /) -> Page:
    """Rows of three. Raises UserError where real images have no label maps."""
    if "label_map" not in data.pixels:
        raise UserError("config.evals.guided shows label maps, and these images have none: take it out of config.evals")
    samples = data.samples(pipeline).images[:SHOWN]
    maps, real = (np.resize(x, (len(samples), *x.shape[1:])) for x in (data.pixels["label_map"], data.real))
    grey = lambda x: np.broadcast_to(x, (*x.shape[:-1], 3)) if x.shape[-1] == 1 else x
    pictures.grid(folder / "guided.png", np.concatenate([coloured(maps), grey(samples), grey(real)]), len(samples))
    step = pipeline.parts["model"].step
    caption = (
        f"Above, label maps of the {data.split} split; below each **the sample** that was drawn from it at step "
        f"{step:,}, and the real image that it is of."
    )
    return Page("Label maps", figures=[Figure("guided.png", caption, "strip")])


def coloured(label_map: Int[np.ndarray, "N *T 1"]) -> Float32[np.ndarray, "N *T 3"]:
    """A colour for each class, in [-1, 1]; class 0 is black, and from the ninth on they come again."""
    return (np.array(COLOURS, np.float32) / 127.5 - 1)[label_map[..., 0] % len(COLOURS)]
