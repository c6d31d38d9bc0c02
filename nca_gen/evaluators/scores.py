"""How good are the samples? Distances to held-out images, by any metrics, and both of them to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen import arrays, judge
from nca_gen.contracts import Figure, Page, Pipeline
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import METRICS, Held
from nca_gen.pipelines.sampling import Settings

MORE = ("guidance", "heredity", "growth", "dtype")  # settings of samplers, beside their steps and clipping


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /, *, metrics: Sequence[str] = METRICS) -> Page:
    """``metrics``: specs of :mod:`nca_gen.judge`. ``config.sample.n`` samples are shown, and one of ``.large``."""
    part = pipeline.parts["model"]
    sample = part.config.sample
    drawn = data.samples(pipeline)
    facts = judge.judge(metrics, np.clip(drawn.images, -1.0, 1.0), data.real, data.train, data.seed, data.kind)
    pictures.grid(folder / "samples.png", drawn.images[: sample.n])
    pictures.grid(folder / "real.png", data.real[: sample.n])
    figures = [
        Figure("samples.png", f"**Generated** at step {part.step:,}."),
        Figure("real.png", f"**Real**, of the {data.split} split: not seen in training."),
    ]
    if data.kind == "volumes":
        pictures.slices(folder / "slices.webp", drawn.images, data.real)
        figures.append(Figure("slices.webp", "**Slice by slice**: generated volumes above, real ones below.", "film"))
    if sample.large:
        large = np.stack(list(pipeline.draw(arrays.keys(data.seed, 1), tuple(sample.large), data.rows(1))))
        pictures.grid(folder / "large.png", large)
        patch = " \N{MULTIPLICATION SIGN} ".join(map(str, data.patch))
        figures.append(Figure("large.png", f"Generated, larger than a training patch ({patch}).", "wide"))
    scores = facts.pop("scores")
    facts |= {"sampler": sampler(sample), "notes": data.notes() | facts["notes"]} | drawn.facts
    return Page("Samples", scores, figures, facts=facts, lines=judge.table(facts | {"scores": scores}))


def sampler(sample: Any) -> str:
    """The settings of a section ``sample`` in words: steps and clipping, and what else is not as usual."""
    settings, usual = Settings.of(sample)._asdict(), Settings()._asdict()
    more = [f"{field} {settings[field]}" for field in MORE if settings[field] != usual[field]]
    return ", ".join([settings["sampler"], f"{settings['steps']} steps", f"clip {settings['clip']}", *more])
