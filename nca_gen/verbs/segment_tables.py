"""The table of --mode=segment: figures of every row, two tests against real images alone, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Num

from nca_gen import screen
from nca_gen.contracts import Page, Table
from nca_gen.metrics import classification, segmentation
from nca_gen.metrics.notes import collecting
from nca_gen.report import report
from nca_gen.sections import Segment
from nca_gen.verbs.classify_tables import p_value, spread

BASELINE = "real"
FEW = 10  # patients, below which an interval over them says little
Values = Float64[np.ndarray, " N"]
"""A figure of every image or volume that a training was judged on."""


def table(
    results: Mapping[str, Sequence[dict]], counts: Sequence[tuple[int, int]], plan: Segment, classes: Sequence[str]
) -> dict[str, Any]:
    """Everything that is known of the rows, for JSON; NaN is None. ``results``: of the cells of each row, by fold;
    ``counts``: how many real images each fold is trained on and judged on.

    Of every figure the mean of each training over its images, their mean and standard deviation (of K - 1), and by
    class; against the baseline, two tests of the difference.
    """
    rows: dict[str, dict[str, Any]] = {}
    with collecting() as notes:
        figures = {
            row: {spec: [segmentation.values(r["rows"], spec) for r in some] for spec in plan.figures}
            for row, some in results.items()
        }
    for row, some in results.items():
        rows[row] = {
            "figures": {spec: spread(np.array([*map(segmentation.mean, each)])) for spec, each in figures[row].items()},
            "classes": {name: by_class(some, name, classes) for name in ("dice", "iou")},
            "added": [result["added"] for result in some],
            "seconds": sum(result["seconds"] for result in some),
        }
    who = [[one["patient"] for one in result["rows"]] for result in results[BASELINE]]
    if (n := len({patient for some in who for patient in some})) < FEW:
        notes.append(
            f"only {n} patient{'s are' if n > 1 else ' is'} judged: what other patients would give is not known"
        )
    for row in rows.keys() - {BASELINE}:
        rows[row]["against"] = {
            spec: compared(figures[row][spec], figures[BASELINE][spec], who, counts, plan) for spec in plan.figures
        }
    whose = f"{plan.folds} folds by patient" if plan.folds > 1 else "the data's own split"
    shared = ", their variance corrected for what folds share (Nadeau & Bengio 2003)" if plan.folds > 1 else ""
    protocol = {segmentation.heading(s, classes): segmentation.FIGURES[s.partition(":")[0]] for s in plan.figures}
    protocol |= {
        "each": segmentation.EACH,
        "spread": f"mean and standard deviation over {len(counts)} trainings: {whose}, {plan.repeats} of each",
        "p patients": f"against {BASELINE}, two-sided: paired bootstrap over patients, {plan.draws} draws",
        "p trainings": f"against {BASELINE}, two-sided: paired t-test over the trainings{shared}",
    }
    about = {"baseline": BASELINE, "names": [*classes], "specs": [*plan.figures], "counts": [*map(list, counts)]}
    return about | {"rows": rows, "protocol": protocol, "notes": [*dict.fromkeys(notes)]}


def by_class(some: Sequence[dict], name: str, classes: Sequence[str]) -> dict[str, float | None]:
    """A figure of every class: mean over the trainings of the mean over images."""
    with collecting():  # what is left out here is n/a, or told of the figure itself
        each = [
            [segmentation.mean(segmentation.values(result["rows"], f"{name}:{k}")) for result in some]
            for k in range(len(classes))
        ]
    return {c: spread(np.array(values))["mean"] for c, values in zip(classes, each, strict=True)}


def compared(
    cells: Sequence[Values],
    others: Sequence[Values],
    who: Sequence[Sequence[str]],
    counts: Sequence[tuple[int, int]],
    plan: Segment,
) -> dict[str, Any]:
    """Both tests of the difference of a figure to that of another row, fold by fold; ``who``: whose each image is."""
    firsts = range(0, len(cells), plan.repeats)
    repeats = lambda some: [np.stack(some[first : first + plan.repeats])[..., None] for first in firsts]
    nothing = [np.zeros((len(who[first]), 1)) for first in firsts]
    overlap = float(np.mean([val / train for train, val in counts])) if plan.folds > 1 else 0.0
    differences = [float(segmentation.mean(a) - segmentation.mean(b)) for a, b in zip(cells, others, strict=True)]
    tests = {
        "patients": classification.bootstrap(
            repeats(cells), repeats(others), nothing, [who[first] for first in firsts], plan.seed, plan.draws, average
        ),
        "trainings": classification.t_test(differences, overlap),
    }
    return {
        name: {field: value if np.isfinite(value) else None for field, value in test._asdict().items()}
        for name, test in tests.items()
    }


def average(
    values: Float64[np.ndarray, "N 1"], _: Num[np.ndarray, "N 1"], weight: Num[np.ndarray, "*D N"] | None = None
) -> Float64[np.ndarray, "*D"]:
    """The mean of a figure over images; ``weight``: how often each one counts, for several samples at once."""
    return segmentation.mean(values[:, 0], weight)


def words(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The heads of the table, and its rows as they are read."""
    heads = [segmentation.heading(spec, facts["names"]) for spec in facts["specs"]]
    real = number([train for train, _ in facts["counts"]])
    rows = []
    for row, about in facts["rows"].items():
        n = f"{real} + {number(about['added'])}" if any(about["added"]) else real
        title = f"{facts['baseline']} + {row}" if any(about["added"]) else row
        rows.append([title, n, *(plain(figure) for figure in about["figures"].values())])
    return ["trained on", "n", *heads], rows


def tests(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What every row changes in every figure."""
    rows = []
    for row, about in facts["rows"].items():
        for spec, test in about.get("against", {}).items():
            one = test["patients"]
            ends = "n/a" if one["low"] is None else f"{one['low']:+.3f} to {one['high']:+.3f}"
            change = "n/a" if one["difference"] is None else f"{one['difference']:+.3f}"
            ps = (p_value(test[name]) for name in ("patients", "trainings"))
            rows.append([row, segmentation.heading(spec, facts["names"]), change, ends, *ps])
    return ["row", "figure", "difference", "95 %", "p patients", "p trainings"], rows


def each(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Dice and IoU of every class."""
    titles = {"dice": "Dice", "iou": "IoU"}
    rows = [
        [row, titles[name], *(plain({"mean": v, "std": None}) for v in about["classes"][name].values())]
        for row, about in facts["rows"].items()
        for name in titles
    ]
    return ["trained on", "", *facts["names"]], rows


def markdown(facts: dict[str, Any]) -> list[str]:
    """The tables as lines of Markdown, and how they were measured."""
    against = ["", *screen.markdown(*tests(facts))] if len(facts["rows"]) > 1 else []
    remarks = [f"- {name}: {text.rstrip('.')}." for name, text in facts["protocol"].items()]
    return [*screen.markdown(*words(facts)), *against, "", *remarks, *(f"- {text}." for text in facts["notes"])]


def page(facts: dict[str, Any]) -> str:
    """The same for a browser, with the figures of every class."""
    compared = [Table("Against real images alone", *tests(facts))] if len(facts["rows"]) > 1 else []
    pages = [
        Page(
            "The table",
            tables=[Table("", *words(facts)), *compared],
            facts={"notes": {"note": facts["notes"]} if facts["notes"] else {}},
        ),
        Page("How it was measured", facts={"protocol": facts["protocol"]}),
        Page("Class by class", tables=[Table("", *each(facts), "Means over images and trainings.")]),
        Page("What was trained", facts={"protocol": {name: facts[name] for name in ("model", "data", "train")}}),
    ]
    title = f"What generated images are worth to {facts['model']['name']} on {facts['data']['name']}"
    return report.render(title, pages, over="nca_gen · segmentation")


def plain(figure: dict[str, Any]) -> str:
    """Mean and deviation."""
    if figure["mean"] is None:
        return "n/a"
    return f"{figure['mean']:.3f}" + (f" ± {figure['std']:.3f}" if figure["std"] is not None else "")


def number(counts: Sequence[int]) -> str:
    """How many, of folds that may differ."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
