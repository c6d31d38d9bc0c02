"""What a workdir holds, read as far as it can be: a file may be absent, half written, or nonsense, and then is empty.

An evaluation is a folder of ``eval/``. Each of its JSON files is the page of an evaluator; those that were written
before pages were, and pictures that no page names, are shown as what they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from nca_gen.contracts import Figure, Page, Table
from nca_gen.report.embed import MIME

STRIP = "_strip"  # the end of the name of the strip beside a film
FILMS = (".webp", ".gif")
DOWNSTREAM = "downstream"  # the file and the page of what samples are worth

Columns = dict[str, dict[int | float, Any]]  # name -> {step: value}, by ascending step


class Evaluation(NamedTuple):
    """One folder of ``eval/``, and its pages by the names of their files."""

    step: int
    folder: Path
    pages: dict[str, Page]


class Run(NamedTuple):
    """All that a workdir holds; evaluations from the oldest to the newest.

    ``downstream``: what its samples were worth to a task for which they were made, once that is known. ``goodput``:
    where its time has gone.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    log: Columns
    evaluations: list[Evaluation]
    downstream: Evaluation | None = None
    goodput: Mapping[str, Any] = {}

    def newest(self) -> dict[str, Evaluation]:
        """The newest evaluation of every evaluator that left a page, in the order in which they are read."""
        last = {name: e for e in self.evaluations for name in e.pages}
        return {name: last[name] for name in sorted(last, key=lambda name: (rank(last[name].pages[name]), name))}


def read(folder: Path) -> Run:
    """The files of a workdir."""
    folders = [p for p in folder.glob("eval/*") if p.name.isdecimal() and p.is_dir()]
    evaluations = [Evaluation(int(p.name), p, pages(p)) for p in folders]
    config, environment = (read_object(folder / f"{name}.json") for name in ("config", "environment"))
    page = parsed(DOWNSTREAM, read_object(folder / f"{DOWNSTREAM}.json"))
    downstream = Evaluation(0, folder, {DOWNSTREAM: page}) if contains(page) else None
    log = read_log(folder / "metrics.jsonl")
    goodput = read_object(folder / "goodput.json")
    return Run(config, environment, log, sorted(evaluations, key=lambda e: e.step), downstream, goodput)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or {}."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_log(path: Path) -> Columns:
    """The numbers of a JSON lines file; null, which stands for one that is not finite, as NaN.

    Lines that are no JSON object with a step are skipped; what a resumed run logged again replaces what was there.
    """
    rows: dict[int | float, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and finite(row.get("step")):
            rows[row["step"]] = row
    columns: Columns = {}
    for step in sorted(rows):
        for name, value in rows[step].items():
            if name not in ("step", "time") and (value is None or type(value) in (int, float)):
                columns.setdefault(name, {})[step] = math.nan if value is None else value
    return columns


# Pages.


def pages(folder: Path) -> dict[str, Page]:
    """The pages of an evaluation by the names of their files, those with content."""
    objects = {path.stem: read_object(path) for path in sorted(folder.glob("*.json"))}
    return {name: page for name, facts in objects.items() if contains(page := parsed(name, facts))}


def contains(page: Page) -> bool:
    """Whether a page has content."""
    return bool(page.scores or page.figures or page.tables or page.curves)


def rank(page: Page) -> int:
    """Which pages are read first: those with scores, then those with pictures only, then those with tables."""
    return 0 if page.scores else 2 if page.tables else 1


def written(page: Page) -> dict[str, Any]:
    """A page as JSON: its facts, its scores, and under "page" what is shown."""
    shown = {
        "title": page.title,
        "intro": page.intro,
        "figures": [figure._asdict() for figure in page.figures],
        "tables": [table._asdict() for table in page.tables],
        "curves": {title: [list(point) for point in curve] for title, curve in page.curves.items()},
        "points": {title: [list(point) for point in some] for title, some in page.points.items()},
    }
    return ({"scores": dict(page.scores)} if page.scores else {}) | dict(page.facts) | {"page": shown}


def parsed(name: str, facts: dict[str, Any]) -> Page:
    """The page of the JSON object ``facts``, as :func:`written` made it, or as it was before there were pages."""
    scores = {k: real(v) for k, v in dictionary(facts, "scores").items()}
    if "page" not in facts:
        title = _words(name)
        return Page(title, scores, tables=[*_rows(facts)], facts=facts, curves=dict(_courses(facts)))
    shown = dictionary(facts, "page")
    return Page(
        str(shown.get("title", name)),
        scores,
        [*_built(Figure, shown.get("figures"), "file")],
        [t for t in _built(Table, shown.get("tables"), "columns") if all(isinstance(v, list) for v in t[1:3])],
        facts,
        intro=str(shown.get("intro", "")),
        curves={str(k): [*_points(v)] for k, v in dictionary(shown, "curves").items()},
        points={str(k): [*_named(v)] for k, v in dictionary(shown, "points").items()},
    )


def _built(make: Any, items: Any, needed: str) -> Iterator[Any]:
    """Named tuples of what JSON has of them."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and needed in item:
            fields = {"title": "", "rows": [], "caption": ""} | item
            yield make(**{k: v for k, v in fields.items() if k in make._fields})


def _points(curve: Any) -> Iterator[tuple[float, float]]:
    for point in curve if isinstance(curve, list) else ():
        if isinstance(point, list) and len(point) == 2 and all(map(finite, point)):
            yield real(point[0]), real(point[1])


def _named(points: Any) -> Iterator[tuple[float, float, str]]:
    for point in points if isinstance(points, list) else ():
        if isinstance(point, list) and len(point) == 3:
            yield from ((x, y, str(point[2])) for x, y in _points([point[:2]]))


def _rows(facts: dict[str, Any]) -> Iterator[Table]:
    """Of before there were pages: a list of settings and their scores as a table, or what else was known."""
    if not facts.keys() & {"rows", "scores"} and facts:
        yield Table(
            "",
            ["", ""],
            [[_words(k), ", ".join(map(str, v)) if isinstance(v, list) else str(v)] for k, v in facts.items()],
        )
    rows = [row for row in facts["rows"] if isinstance(row, dict)] if isinstance(facts.get("rows"), list) else []
    heads = [*dict.fromkeys(k for row in rows for k, v in row.items() if k != "picture" and not isinstance(v, dict))]
    protocol = dictionary(facts, "protocol")
    scores = [*dict.fromkeys(k for row in rows for k in dictionary(row, "scores") if k in protocol)]
    if heads and scores:
        lines = [[_joined(row.get(k, "")) for k in heads] + [at(row, "scores", k) for k in scores] for row in rows]
        yield Table("", [*map(_words, heads), *scores], lines)


def _courses(facts: dict[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Of before there were pages: lists of real numbers as curves."""
    for name, values in facts.items():
        if isinstance(values, list) and values and all(isinstance(v, float) and finite(v) for v in values):
            yield _words(name), [(100 * (i + 1) / len(values), v) for i, v in enumerate(values)]


def _joined(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def loose(run: Run) -> list[tuple[Evaluation, Figure]]:
    """Pictures that no page names, of each name the newest; a film with its strip."""
    named = {
        file for e in run.evaluations for page in e.pages.values() for f in page.figures for file in (f.file, f.strip)
    }
    newest: dict[str, Evaluation] = {}
    for e in run.evaluations:
        newest |= {p.name: e for p in sorted(e.folder.iterdir()) if p.suffix in MIME and p.name not in named}
    stems = {Path(name).stem: name for name in newest}
    shown = []
    for stem, name in sorted(stems.items()):
        words = f"{_words(stem.removesuffix(STRIP))} at step {newest[name].step:,}."
        strip = stems.get(f"{stem}{STRIP}", "")
        if name.endswith(FILMS):
            shown.append((newest[name], Figure(name, words, "film", strip)))
        elif not (stem.endswith(STRIP) and stems.get(stem.removesuffix(STRIP), "").endswith(FILMS)):
            shown.append((newest[name], Figure(name, words)))
    return shown


# Values.


def at(tree: Any, *path: str) -> Any:
    """The value at ``path`` in nested dicts, None where there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def dictionary(tree: Any, name: str) -> dict[str, Any]:
    """The dict ``name`` of a dict, {} where there is none."""
    value = at(tree, name)
    return value if isinstance(value, dict) else {}


def finite(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is a number to show or draw: no NaN, no infinity, nor anything near one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(abs(value) < 1e100)


def real(value: Any) -> float:
    """``value``, NaN where it is no finite number."""
    return float(value) if finite(value) else math.nan


def series(log: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a column, the finite ones."""
    points = [(step, value) for step, value in log.get(name, {}).items() if finite(value)]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def computing(run: Run) -> float:
    """Seconds spent on training steps, by the logged throughput: pauses between two starts do not count."""
    steps, rate = series(run.log, "images_per_second")
    batch = at(run.config, "train", "batch")
    return float(np.sum(np.diff(steps, prepend=0)[rate > 0] / rate[rate > 0])) * batch if finite(batch) else 0.0
