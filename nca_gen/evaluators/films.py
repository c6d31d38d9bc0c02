"""How does an image come to be? Films of the diffusion steps, and of the steps of an automaton within one of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nca_gen import arrays
from nca_gen.contracts import Automaton, Figure, Page, Part, Pipeline, Time
from nca_gen.diffusion.process import noised
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.pipelines import sampling

FRAMES = 24  # pictures of a growing image
SHOWN = 8  # images in a film, pictures in a strip
ROWS = 3  # images in a strip of an automaton

DIFFUSION = (
    "**The diffusion steps**, left to right: above, an image on its way out of pure noise; below, what the model takes "
    "it for already."
)
AUTOMATON = (
    "**The steps of the automaton** within one of them: on the left a held-out patch half way in noise, on the right "
    "the patch itself, and in between what the cells take it for as word spreads from neighbour to neighbour."
)
HIDDEN = "Inherited hidden state, RMS, by percent of sampling"


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /) -> Page:
    """The films, each with a strip; of a model whose steps hand a hidden state on its RMS, too."""
    part = pipeline.parts["model"]
    hidden = diffusion(part, data, folder)
    figures = [Figure("diffusion.webp", DIFFUSION, "film", "diffusion_strip.png")]
    if isinstance(part.task.model, Automaton):
        automaton(part, data, folder)
        figures.append(Figure("nca.webp", AUTOMATON, "film", "nca_strip.png"))
    course = [(round(100 * (i + 1) / len(hidden), 1), value) for i, value in enumerate(hidden)]
    facts, curves = ({"hidden_rms": hidden}, {HIDDEN: course}) if hidden else ({}, {})
    return Page("How an image grows", figures=figures, facts=facts, curves=curves)


def diffusion(part: Part, data: Held, folder: Path) -> list[float]:
    """Samples on their way from noise: in the strip x_t above, and below the image that the model has in mind.

    Returns the RMS of the hidden state that they hand on, on the way.
    """
    n = 1 if len(data.patch) > 2 else SHOWN  # a film of volumes would take minutes to decode
    key, here, lay = sampling.spread(arrays.keys(data.seed, n), part)
    settings, cond = sampling.Settings.of(part.config.sample), data.rows(n)
    carries = list(sampling.trajectory(here, key, data.patch, settings, cond, frames=FRAMES, lay=lay))
    xs, some = np.stack([shown(part, c.x) for c in carries]), spaced(len(carries), SHOWN + 2)
    minds = [shown(part, carries[i].x0[:1])[0] for i in some]
    pictures.grid(folder / "diffusion_strip.png", np.stack([*xs[some, 0], *minds]), len(some))
    pictures.film(folder / "diffusion.webp", xs, fps=8)
    return sampling.hidden_rms(carries)


def automaton(part: Part, data: Held, folder: Path) -> None:
    """What the cells take held-out patches for, step by step of one call, from half-way noise."""
    task, real = part.task, data.patches[:SHOWN]
    key, t = arrays.keys(data.seed, len(real)), jnp.asarray(task.process.times(3)[1:2])
    x = noised_cells(task, real, key, t)
    minds = np.asarray(sampling.growth(task, part.params, x, t, key, data.rows(len(real))))
    images = part.decode(minds.reshape(-1, *minds.shape[2:]))
    images = images.reshape(*minds.shape[:2], *images.shape[1:])
    noisy, real = shown(part, x), part.decode(real)
    some = spaced(len(images), SHOWN)
    rows = [np.concatenate([noisy[i : i + 1], images[some, i], real[i : i + 1]]) for i in range(min(ROWS, len(real)))]
    pictures.grid(folder / "nca_strip.png", np.concatenate(rows), len(some) + 2)
    pictures.film(folder / "nca.webp", images, fps=4)


@partial(jax.jit, static_argnums=0)
def noised_cells(task: Any, image: Float[Array, "B *T K"], key: Key[Array, " B"], t: Time) -> Float[Array, "B *S C"]:
    """The cells of images, in noise of time t."""
    x0 = task.codec.encode(image)
    noise = arrays.cell_normal(key, -1, arrays.coords(x0.shape[1:-1]), x0.shape[-1])
    return noised(task.process, x0, noise, t)


def spaced(n: int, most: int) -> Int[np.ndarray, " m"]:
    """``most`` of ``n`` frames, or all where there are fewer, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int))


def shown(part: Part, x: Float[Array, "B *S C"]) -> Float[np.ndarray, "B *T K"]:
    """The images that lie behind cells."""
    return part.decode(np.asarray(part.task.codec.decode(x)))
