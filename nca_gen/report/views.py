"""What the templates show: sections of a page, made of the pages of evaluators and of the curves of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from nca_gen.contracts import Figure, Page, Table
from nca_gen.report import curves
from nca_gen.report.embed import Picture, embedded, readable
from nca_gen.report.files import Columns, Evaluation, dictionary, finite, series
from nca_gen.report.words import cell, number, plain, private

COLUMN = 540  # pixels of half the page: what small pictures are enlarged to
LARGE = 640  # pixels of one that is shown alone
ARROWS = {"lower": "↓", "higher": "↑", "near 1": "→ 1", "near 0": "→ 0"}
ENDS = ("_low", "_high")  # of the names of the ends of an interval
FROM_ZERO = ("images_per_second", "memory_mb")


class Card(NamedTuple):
    """A captioned picture, or a film and its ``strip``; ``width``: of the card, in pixels."""

    kind: str
    picture: Picture | None
    strip: Picture | None
    width: int
    caption: str


class Chart(NamedTuple):
    """A curve; ``value`` stands for it, ``lost`` of its values were not finite."""

    title: str
    value: str
    arrow: str
    lost: str
    drawing: Markup


class Score(NamedTuple):
    """One number of a page: a metric's own, or a part of it."""

    name: str
    metric: str
    value: Any
    arrow: str

    @property
    def headline(self) -> bool:
        """Whether it stands for its metric."""
        return self.name == self.metric


class Line(NamedTuple):
    """A row of the table of scores; ``values``: number and interval, at every step that is shown."""

    kind: str
    name: str
    arrow: str
    values: list[tuple[str, str]]


class Section(NamedTuple):
    """A titled part of a page, left out where it has no body.

    ``groups``: cards of one kind, side by side. ``steps``, ``lines``: the table of scores. ``notes``: caveats by what
    they are about. ``terms``: how numbers were measured. ``facts``: what else is known.
    """

    title: str
    intro: str = ""
    groups: Sequence[Sequence[Card]] = ()
    tables: Sequence[Table] = ()
    steps: Sequence[str] = ()
    lines: Sequence[Line] = ()
    notes: Mapping[str, Sequence[str]] = {}
    charts: Sequence[Chart] = ()
    terms: Mapping[str, str] = {}
    facts: Mapping[str, str] = {}

    @property
    def body(self) -> bool:
        """Whether there is anything to show."""
        return any(self[2:])


def section(page: Page, folder: Path) -> Section:
    """What ``page`` shows, of pictures in ``folder``; one that cannot be embedded is left out."""
    kinds = [figure.kind for figure in page.figures]
    cards = [card(figure, folder, alone=kinds.count(figure.kind) == 1) for figure in page.figures]
    tables = [headed(table, dictionary(page.facts, "protocol")) for table in page.tables]
    charts = [chart({title: dict(curve)}, title, title, dots=True) for title, curve in page.curves.items()]
    charts += [
        Chart(
            title, "", arrow(dictionary(page.facts, "protocol").get(title, "")), "", Markup(curves.scatter(some, title))
        )
        for title, some in page.points.items()
    ]
    return Section(
        page.title,
        page.intro,
        grouped(cards),
        tables,
        notes=notes(page.facts),
        charts=[*filter(None, charts)],
        terms=terms(page.facts),
    )


def grouped(cards: Iterable[Card]) -> list[list[Card]]:
    """Cards that have a picture, those of one kind together while they follow each other."""
    return [list(group) for _, group in groupby((c for c in cards if c.picture or c.strip), lambda c: c.kind)]


def card(figure: Figure, folder: Path, alone: bool = True) -> Card:
    """A figure and its caption; nothing outside of ``folder`` is shown."""
    if figure.kind == "film":
        film, still = shown(folder, figure.file, COLUMN // 2), shown(folder, figure.strip, 2 * COLUMN)
        return Card("film", film, still, 2 * COLUMN, figure.caption)
    target = {"strip": 2 * COLUMN if alone else COLUMN, "wide": LARGE}.get(figure.kind, COLUMN)
    picture = shown(folder, figure.file, target)
    return Card(figure.kind, picture, None, picture.width if picture else 0, figure.caption)


def shown(folder: Path, name: Any, target: int) -> Picture | None:
    """The picture ``name`` of a folder, enlarged towards ``target`` pixels."""
    path = inside(folder, name)
    return embedded(path, target) if path else None


def inside(folder: Path, name: Any) -> Path | None:
    """The file ``name`` of a folder or below it; None for any other."""
    path = folder / str(name)
    return path if name and path.resolve().is_relative_to(folder.resolve()) else None


def headed(table: Table, protocol: Mapping[str, Any]) -> Table:
    """``table`` in words, with an arrow at each column of a metric that knows which direction is better."""
    columns = [f"{name} {arrow(protocol.get(name, ''))}".rstrip() for name in map(str, table.columns)]
    rows = [[*map(cell, row)] for row in table.rows if isinstance(row, (list, tuple))]
    return Table(str(table.title), columns, rows, str(table.intro))


def arrow(protocol: Any) -> str:
    """Which way is better, as a protocol says it."""
    better = re.search(rf"({'|'.join(ARROWS)}) is better", str(protocol), re.IGNORECASE)
    return ARROWS[better[1].lower()] if better else ""


# Scores.


def score_list(page: Page) -> list[Score]:
    """The scores of a page. A metric is what has a protocol; its parts bear its name and an underscore."""
    protocols, scores = dictionary(page.facts, "protocol"), []
    for name, value in page.scores.items():
        metric = max((m for m in protocols if f"{name}_".startswith(f"{m}_")), key=len, default=name)
        scores.append(Score(name, metric, value, arrow(protocols.get(metric, ""))))
    return scores


def headlines(page: Page) -> list[Score]:
    """The scores that stand for their metric."""
    return [score for score in score_list(page) if score.headline]


def scores(name: str, evaluations: Sequence[Evaluation]) -> Section | None:
    """Of the evaluator ``name``: the first evaluation and the newest, and the course of all; None where it has none."""
    done = [e for e in evaluations if name in e.pages and e.pages[name].scores]
    if not done:
        return None
    ends, page = ([done[0], done[-1]] if len(done) > 1 else done), done[-1].pages[name]
    lines, course = [], {}
    for score in score_list(page):
        if score.name.endswith(ENDS):
            continue
        words = score.name if score.headline else score.name.removeprefix(f"{score.metric}_").replace("_", " ")
        kind, way = ("whole", score.arrow) if score.headline else ("part", "")
        lines.append(Line(kind, words, way, [measured(e.pages[name], score.name) for e in ends]))
    for e in done:
        for score in headlines(e.pages[name]):
            course.setdefault(score.name, {})[e.step] = score.value
    charts = [chart(course, score.name, score.name, arrow=score.arrow, dots=True) for score in headlines(page)]
    return Section(
        "Scores",
        circumstances(page.facts),
        steps=["" if dictionary(e.pages[name].facts, "sets") else f"step {number(e.step)}" for e in ends],
        lines=lines,
        notes=notes(page.facts),
        charts=[*filter(None, charts)],
        terms=terms(page.facts),
    )


def measured(page: Page, name: str) -> tuple[str, str]:
    """A score, and its interval where there is one."""
    value, *ends = (page.scores.get(name + end) for end in ("", *ENDS))
    return number(value), f"({number(ends[0])} to {number(ends[1])})" if all(map(finite, ends)) else ""


def circumstances(facts: Mapping[str, Any]) -> str:
    """How many images were compared, of which files, and what they depend on."""
    files = {kind: f" ({plain(name)})" for kind, name in dictionary(facts, "files").items()}
    words = [f"{number(n)} {kind} images{files.get(kind, '')}" for kind, n in dictionary(facts, "counts").items()]
    known = {"split": "{} split", "sampler": "sampler {}", "seed": "seed {}"}
    return ", ".join(words + [form.format(facts[k]) for k, form in known.items() if k in facts])


def notes(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Caveats by what they are about."""
    return {k: [*map(str, v)] for k, v in dictionary(facts, "notes").items() if isinstance(v, list)}


def terms(facts: Mapping[str, Any]) -> dict[str, str]:
    """How numbers were measured: protocols and networks."""
    networks = {
        label: "; ".join(f"{k} {v}" for k, v in network.items() if isinstance(v, str))
        for label, network in dictionary(facts, "networks").items()
        if isinstance(network, dict)
    }
    return prose(dictionary(facts, "protocol") | networks)


def prose(facts: Mapping[str, Any]) -> dict[str, str]:
    """Values in words; empty ones are left out."""
    return {str(k): plain(private(v)) for k, v in facts.items() if v not in ("", None, [], {})}


def courses(name: str, evaluations: Sequence[Evaluation]) -> list[Chart]:
    """Of the numbers that the pages of an evaluator have under "course", a chart over the steps of training each."""
    course: Columns = {}
    for e in evaluations:
        for title, value in dictionary(e.pages[name].facts, "course").items() if name in e.pages else ():
            course.setdefault(title, {})[e.step] = value
    return [*filter(None, (chart(course, title, title, dots=True) for title in course))]


# Curves.


def chart(log: Columns, name: str, title: str, *, arrow: str = "", dots: bool = False) -> Chart | None:
    """One curve over steps; None for fewer than two finite values."""
    steps, values = series(log, name)
    if len(steps) < 2:
        return None
    last, lost = values[-1] if dots else end(values), len(log[name]) - len(steps)
    drawing = Markup(curves.draw(steps, values, title, zero=name in FROM_ZERO, dots=dots))
    return Chart(title, number(last), arrow, number(lost) if lost else "", drawing)


def end(values: np.ndarray) -> float:
    """Mean of the last twentieth."""
    return float(np.mean(values[-max(1, len(values) // 20) :]))


def earlier(evaluations: Iterable[Evaluation], figure: Figure, most: int) -> list[Card]:
    """At most ``most`` states of a figure, spread over ``evaluations``."""
    known = [(e, path) for e in evaluations if (path := inside(e.folder, figure.file)) and readable(path)]
    some = sorted({round(i) for i in np.linspace(0, len(known) - 1, min(most, len(known)))})
    pictures = [(known[i][0].step, embedded(known[i][1], 0)) for i in some]
    return [Card("past", picture, None, picture.width, f"Step {number(step)}") for step, picture in pictures if picture]
