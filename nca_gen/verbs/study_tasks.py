"""What a generator does that it was not trained for: other sizes, holes, enlargement.

Kalkhof et al. 2024 (arXiv 2401.06291), sections 4.6 to 4.8, for every rival that can do it at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from nca_gen import arrays
from nca_gen.contracts import Denoiser, Part, Pipeline
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.metrics import drift
from nca_gen.pipelines import inpaint, upscale
from nca_gen.pipelines.sampling import Settings

SHOWN = 4  # pictures of each task


class Done(NamedTuple):
    """Pictures [n, *T, C] in [-1, 1], in rows of :data:`SHOWN`, and one number of theirs: lower is better."""

    pictures: Float[np.ndarray, "n *T C"]
    number: float


def row(
    words: Sequence[str], part: Part, pipeline: Pipeline, data: Held, workdir: Path, name: str
) -> dict[str, dict[str, Any]]:
    """Of each task of ``words`` the picture, a file of ``workdir``, and the number; or why this run cannot do it."""
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        try:
            done = perform(word, part, pipeline, data)
        except UserError as why:
            found[word] = {"why": str(why)}
            continue
        file = f"{name}_{word}.png"
        pictures.grid(workdir / file, np.clip(done.pictures, -1, 1), SHOWN)
        found[word] = {"picture": file, "number": done.number}
    return found


def perform(word: str, part: Part, pipeline: Pipeline, data: Held) -> Done:
    """One task: "hole", the middle of held-out images painted anew, with the mean absolute error of its pixels; "x2",
    these images enlarged, or "96x96", samples of that size, with their drift from the real ones.

    Raises UserError for what this model cannot do.
    """
    keys, settings = arrays.keys(data.seed, SHOWN), Settings.of(part.config.sample)
    if word[0].isdigit():
        size = tuple(map(int, word.split("x")))
        some = np.stack([*islice(pipeline.draw(keys, size, data.cond), SHOWN)])
        return Done(some, drifted(some, data))
    if not isinstance(part.task.model, Denoiser):
        raise UserError("holes are filled, and pictures enlarged, by denoisers alone")
    real, cond = data.real[:SHOWN], lambda i: jax.tree.map(lambda leaf: leaf[i : i + 1], data.cond)
    if word == "hole":
        hole = np.zeros(real.shape[1:-1], bool)
        hole[tuple(slice(n // 4, n - n // 4) for n in hole.shape)] = True
        each = [inpaint.fill(part, keys[i : i + 1], x, hole, settings, cond(i))[0] for i, x in enumerate(real)]
        shown = np.where(hole[..., None], 0.0, real)
        painted = np.clip(np.stack(each), -1, 1)
        return Done(np.concatenate([shown, painted]), float(np.abs(painted - real)[:, hole].mean()))
    factor = int(word.removeprefix("x"))
    each = [upscale.enlarge(part, keys[i : i + 1], x, factor, settings, cond(i)) for i, x in enumerate(real)]
    return Done(np.stack(each), drifted(np.stack(each), data))


def drifted(some: Float[np.ndarray, "n *T C"], data: Held) -> float:
    """The drift of images from the real ones (:mod:`nca_gen.metrics.drift`)."""
    return drift.score(np.clip(some, -1, 1), data.real, None, data.seed)["drift"]


def heading(word: str) -> str:
    """What stands above the numbers of a task."""
    return f"{word}, {'error in the hole' if word == 'hole' else 'drift'}"
