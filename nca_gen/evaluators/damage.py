"""Does a picture grow back? Cells of a grown picture lose their state, and all take steps of their rule again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from nca_gen.ca.damage import box
from nca_gen.ca.rollout import trajectory
from nca_gen.contracts import Figure, Page, Pipeline, Regenerator, Table
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.films import spaced
from nca_gen.evaluators.held import Held
from nca_gen.ranges import Count, OneOf

SHOWN = 8  # pictures, and steps in the strip
ROWS = 4  # of the strip
TITLE = "Damage, and what grows back"
INTRO = (
    "Root mean square difference, within the damaged cells, from the picture before the damage, in units of [-1, 1]; 0 "
    "has grown back to what it was. Beside it that of the same cells where none was damaged, after as many steps."
)
COURSE = "What is left of the damage after regrowth (all of it: 1)"

Region = tuple[tuple[int, ...], tuple[int, ...]]
"""First corner and sides, in cells."""


def middle(size: Sequence[int]) -> Region:
    """The box of half the sides in the middle."""
    return tuple(n // 4 for n in size), tuple(n // 2 for n in size)


def half(size: Sequence[int]) -> Region:
    """The last half of every row."""
    *rest, last = size
    return (*[0] * len(rest), last - last // 2), (*rest, last // 2)


REGIONS: dict[str, Callable[[Sequence[int]], Region]] = {"middle": middle, "half": half}


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    region: Annotated[str, OneOf(REGIONS)] = "middle",
    steps: Count = 32,
) -> Page:
    """A film of pictures that grow back, a strip of some steps, and how far off the damaged cells are at each.

    The pictures are reconstructions of held-out images from the means of their latents. All channels of the cells of
    ``region`` become 0: the "middle", a box of half the sides, or "half", the last half of every row. Then the cells
    take ``steps`` steps. Raises UserError for a model whose cells cannot be damaged.
    """
    part = pipeline.parts["model"]
    model, real = part.task.model, data.patches[:SHOWN]
    if not isinstance(model, Regenerator):
        raise UserError("evals.damage is for models whose cells can be damaged, and these cannot: leave it out")
    corner, sides = REGIONS[region](real.shape[1:-1])
    lost = box(real.shape[1:-1], jnp.asarray([corner]), sides)
    before, hurt, well = map(np.asarray, regrowth(model, steps, part.params, real, lost))
    rms = {"damaged": errors(hurt, before, lost), "undamaged": errors(well, before, lost)}
    whole = lambda frames: np.stack([part.decode(np.clip(frame, -1.0, 1.0)) for frame in frames])
    first, frames, real = whole(before[None])[0], whole(hurt), part.decode(real)
    some = spaced(len(frames), SHOWN)
    strip = [np.concatenate([real[i : i + 1], first[i : i + 1], frames[some, i]]) for i in range(min(ROWS, len(real)))]
    pictures.grid(folder / "damage_strip.png", np.concatenate(strip), len(some) + 2)
    pictures.film(folder / "damage.webp", [first, *frames], fps=8)
    shown = ", ".join(map(str, some))
    caption = (
        f"Left to right: an image of the {data.split} split, the picture that grew for it, and this after the damage, "
        f"{shown} steps later, at step {part.step:,} of training. The film has every step."
    )
    facts = {
        "notes": data.notes(("real",)),
        "counts": {"real": len(real)},
        "seed": data.seed,
        "region": {"name": region, "corner": list(corner), "sides": list(sides)},
        "rms": {name: [float(x) for x in values] for name, values in rms.items()},
        "course": {COURSE: float(rms["damaged"][-1] / max(rms["damaged"][0], 1e-12))},
    }
    rows = [(i, *(float(rms[name][i]) for name in rms)) for i in some.tolist()]
    table = Table("How far off they are", ("steps after the damage", "damaged", "undamaged"), rows, INTRO)
    figure = Figure("damage.webp", caption, "film", "damage_strip.png")
    course = lambda values: [(float(i), float(x)) for i, x in enumerate(values)]
    curves = {"RMS error of damaged cells, by steps": course(rms["damaged"])}
    return Page(TITLE, figures=[figure], tables=[table], facts=facts, curves=curves)


def errors(
    frames: Float[np.ndarray, "n B *T C"], before: Float[np.ndarray, "B *T C"], lost: Bool[Array, "1 *T 1"]
) -> Float[np.ndarray, " n"]:
    """RMS difference of each of ``frames`` from the picture ``before``, over cells that were ``lost``."""
    weight = np.asarray(lost, np.float64)
    squares = (np.square(frames - before, dtype=np.float64) * weight).sum(tuple(range(1, frames.ndim)))
    return np.sqrt(squares / (weight.sum() * len(before) * before.shape[-1]))


@partial(jax.jit, static_argnums=(0, 1))
def regrowth(
    model: Any, steps: int, params: PyTree, image: Float[Array, "B *T C"], lost: Bool[Array, "1 *T 1"]
) -> tuple[Float[Array, "B *T C"], Float[Array, "n B *T C"], Float[Array, "n B *T C"]]:
    """The picture that grows for ``image``; and before the first of ``steps`` steps more and after each, the pictures
    of cells of which some were ``lost``, and of those where none was."""
    cells = model.outputs(params, model.encode(params, image)[0])
    frames = trajectory(model.step(params), steps, model.mean)
    return model.mean(cells), frames(jnp.where(lost, 0.0, cells)), frames(cells)
