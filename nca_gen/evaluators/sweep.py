"""The same samples by several settings of the sampler: a row of a table each, with its scores and its seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen import arrays, hosts, judge, screen
from nca_gen.contracts import Figure, Page, Part, Pipeline, Table
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held, Samples
from nca_gen.pipelines import sampling

SHOWN = 8  # samples of each row in its strip
LENGTH = 150  # of the name of a picture: times that are written out are long

Row = dict[str, Any]


def sweep(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    title: str,
    rows: Sequence[Row],
    caption: Callable[[Row], str],
    metrics: Sequence[str] = (),
) -> Page:
    """Scores and seconds of samples by each of ``rows``: settings of the sampler, the first two are its name.

    ``caption``: of a row. ``metrics``: () for those of ``config.evals.scores``. All start from the same noise.
    """
    part, lines, figures, facts = pipeline.parts["model"], [], [], {}
    for row in rows:
        drawn = timed(part, data, row)
        clipped = np.clip(drawn.images, -1.0, 1.0)
        facts = judge.judge(metrics or data.metrics, clipped, data.real, data.train, data.seed, data.kind)
        words = ("-".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in row.values())
        picture = f"{'_'.join((next(iter(row)), *words))[:LENGTH]}.png"
        pictures.grid(folder / picture, drawn.images[:SHOWN], SHOWN)
        figures.append(Figure(picture, f"**{caption(row)}**", "strip"))
        lines.append(row | drawn.facts | {"picture": picture, "scores": facts["scores"]})
    facts = {k: facts[k] for k in ("protocol", "counts", "seed")}
    facts = {"rows": lines, "clip": part.config.sample.clip} | facts
    intro = f"{data.n} samples by each, from the same noise."
    return Page(title, figures=figures, tables=[table(facts)], facts=facts, lines=ladder(facts), intro=intro)


def timed(part: Part, data: Held, row: Row) -> Samples:
    """Samples by the settings of ``row``, compiled before: by one step of each stage. Every process draws its share."""
    settings = sampling.Settings.of(part.config.sample)
    if "+" in settings.grid:  # times of another number of calls
        settings = settings._replace(grid="uniform")
    settings = settings._replace(**row)
    key, layout = arrays.keys(data.seed, data.n), {"batch": part.config.sample.batch, "space": part.config.mesh.space}
    what, quiet, stages = f"sampling {data.n} by {label(row)}", not hosts.first(), len(settings.growth or "1")

    def draw(settings: sampling.Settings, some: slice) -> Iterator[np.ndarray]:
        cond = sampling.rows(data.cond, some)
        batches = sampling.images(part, key[some], data.patch, settings, cond, **layout)
        return chain.from_iterable(screen.track(batches, what, quiet=quiet))

    hosts.together(partial(draw, settings._replace(steps=stages, grid="uniform")), data.n)
    start = time.perf_counter()
    images = part.decode(hosts.together(partial(draw, settings), data.n))
    return Samples(images, time.perf_counter() - start)


def label(row: Row) -> str:
    """The first setting of a row, and what was set beside: steps of cells, times, dtype, growth guidance."""
    growth, more = row.get("growth"), [str(row[field]) for field in ("grid", "dtype") if row.get(field)]
    cells = f", {'-'.join(map(str, growth))} cell steps" if growth else ""
    more += [f"growth guidance {row['growth_guidance']:g}"] if "growth_guidance" in row else []
    return ", ".join([f"{next(iter(row.values()))}{cells}", *more])


def headlines(facts: dict[str, Any]) -> list[str]:
    """The scores that stand for their metric."""
    return [name for name in facts["protocol"] if name in facts["rows"][0]["scores"]]


def table(facts: dict[str, Any]) -> Table:
    """The table of a page."""
    names = headlines(facts)
    first, second, *_ = facts["rows"][0]
    columns = [first.capitalize(), second.capitalize(), *names, "Seconds", "Images per second"]
    rows = [
        [label(row), row[second], *(row["scores"][name] for name in names), row["seconds"], row["images_per_second"]]
        for row in facts["rows"]
    ]
    return Table("", columns, rows)


def ladder(facts: dict[str, Any]) -> list[str]:
    """The lines of the table, for a screen."""
    names = headlines(facts)
    first, second, *_ = facts["rows"][0]
    rows = []
    for row in facts["rows"]:
        values = [f"{row['scores'][name]:.4g}" for name in names]
        cost = f"{row['seconds']:.2f}", f"{row['images_per_second']:.3g}"
        rows.append([label(row), str(row[second]), *values, *cost])
    return screen.aligned([first, second, *names, "seconds", "images/s"], rows)
