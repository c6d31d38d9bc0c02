"""How good are the samples? Distances to held-out images, by any metrics, and both of them to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen import arrays, judge
from nca_gen.contracts import Figure, Page, Pipeline, Table
from nca_gen.data import table
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import METRICS, Held
from nca_gen.io.sets import Lazy
from nca_gen.io.volumes import Volumes
from nca_gen.metrics.classes import Classes
from nca_gen.metrics.classes import of as by_label
from nca_gen.pipelines.sampling import Settings

MOST = 100  # folders that are taken for classes
GROWTH = ("growth", "growth_guidance", "growth_age", "growth_levels")
MORE = ("guidance", "heredity", *GROWTH, "dtype", "grid")  # settings of samplers, beside their steps and clipping


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /, *, metrics: Sequence[judge.Spec] = METRICS) -> Page:
    """``metrics``: specs of :mod:`nca_gen.judge`. ``config.sample.n`` samples are shown, and one of ``.large``."""
    part = pipeline.parts["model"]
    sample = part.config.sample
    drawn = data.samples(pipeline)
    clipped = np.clip(drawn.images, -1.0, 1.0)
    facts = judge.judge(metrics, clipped, data.real, data.train, data.seed, data.kind, data.classes)
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
    facts |= {"sampler": sampler(sample)} if "diffusion" in part.config else {}
    facts |= {"notes": data.notes() | facts["notes"]} | drawn.facts
    return Page("Samples", scores, figures, by_class(facts), facts, judge.table(facts | {"scores": scores}))


def classes(paths: Mapping[str, str | None], opened: Mapping[str, Any]) -> Classes | None:
    """The classes of sets of files, by role: the label columns of a labels.csv in each, else the folders of files.

    None where generated and real images are not labelled alike, or are of one class.
    """
    named = {role: some.names for role, some in opened.items() if isinstance(some, Lazy | Volumes) and some.names}
    if not {"generated", "real"} <= named.keys():
        return None
    known = {role: table.numbered(Path(paths[role] or "").expanduser(), names) for role, names in named.items()}
    columns, _ = known["real"]
    if columns and known["generated"][0] == columns:
        return by_label({role: values for role, (these, values) in known.items() if these == columns}, columns)
    folders = {role: np.array([Path(name).parent.name for name in names]) for role, names in named.items()}
    every = np.unique(folders["real"])
    if not 1 < len(every) <= MOST or not np.array_equal(every, np.unique(folders["generated"])):
        return None
    return Classes(tuple(every.tolist()), {role: names[:, None] == every for role, names in folders.items()})


def by_class(facts: Mapping[str, Any]) -> list[Table]:
    """A row for each class: how many images have it, and its scores; nothing where no classes are known."""
    if "classes" not in facts:
        return []
    counts, scores = facts["classes"]["counts"], facts["classes"]["scores"]
    roles = [*next(iter(counts.values()))]
    rows = [[name, *n.values(), *(scores[label][name] for label in scores)] for name, n in counts.items()]
    intro = "Each class by itself, of its own images; n/a where there are too few. Compare at equal numbers only."
    return [Table("Class by class", ["Class", *roles, *scores], rows, intro)]


def sampler(sample: Any) -> str:
    """The settings of a section ``sample`` in words: steps and clipping, and what else is not as usual."""
    settings, usual = Settings.of(sample)._asdict(), Settings()._asdict()
    more = [f"{field} {settings[field]}" for field in MORE if settings[field] != usual[field]]
    return ", ".join([settings["sampler"], f"{settings['steps']} steps", f"clip {settings['clip']}", *more])
