"""The table of --mode=classify: figures of every row, two tests against the baseline, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from nca_gen import screen
from nca_gen.contracts import Page, Table
from nca_gen.errors import UserError
from nca_gen.metrics import classification
from nca_gen.metrics.notes import collecting
from nca_gen.report import report
from nca_gen.sections import Classify
from nca_gen.verbs.classify_cells import Fold

BASELINE = "geometric"
SIDE = r"(?i)(?<![a-z0-9])(left|right|os|od|l|r)(?=[0-9]*(?![a-z0-9]))"  # 10003_right, 56_r3
HEADS = ("Sen.", "Spe.", "AUC", "F1", "F1 sen/spe", "mAP")  # of classification.FIGURES, as in the paper
Units = tuple[Float[np.ndarray, "N K"], Num[np.ndarray, "N K"], list[str]]
"""Probabilities and truth, a row for each image, eye or patient, and whose it is."""


def units(result: Mapping[str, Any], plan: Classify, multi: bool) -> Units:
    """What a cell was validated on. Raises UserError for a file name without a side, where eyes are asked for."""
    probability, truth = np.array(result["probability"]), np.array(result["truth"])
    if plan.pool == "image":
        return probability, truth, result["patients"]
    groups = list(result["patients"])
    if plan.pool == "eye":
        for i, name in enumerate(result["names"]):
            side = re.search(plan.eye or SIDE, Path(name).stem)
            if side is None:
                raise UserError(f"no eye can be read from {name}: set config.classify.eye, a pattern, or pool=image")
            groups[i] += f"/{side[0].lower()}"
    of = dict(zip(groups, result["patients"], strict=True))
    probability, truth, groups = classification.pooled(probability, truth, groups, multi)
    return probability, truth, [of[group] for group in groups]


def table(results: Mapping[str, list[dict]], folds: Sequence[Fold], plan: Classify, multi: bool) -> dict[str, Any]:
    """Everything that is known of the rows, for JSON; NaN is None. ``results``: of the cells of each row, by fold.

    Of every figure the macro average of each training, their mean and standard deviation (of K - 1), and the mean by
    class; against the baseline, two tests of the difference in mAP.
    """
    rows, classes = {}, folds[0].classes
    cells = {row: [units(result, plan, multi) for result in some] for row, some in results.items()}
    with collecting() as notes:
        for row, some in cells.items():
            by_class = [classification.figures(probability, truth, multi) for probability, truth, _ in some]
            each = [classification.macro(values, classes) for values in by_class]
            rows[row] = {"figures": {}, "classes": {}, "seconds": sum(result["seconds"] for result in results[row])}
            for name in classification.FIGURES:
                values, columns = [one[name] for one in each], np.array([values[name] for values in by_class])
                rows[row]["figures"][name] = spread(values)
                rows[row]["classes"][name] = {c: spread(v)["mean"] for c, v in zip(classes, columns.T, strict=True)}
    for row in rows.keys() - {BASELINE}:
        rows[row] |= compared(cells[row], cells[BASELINE], folds, plan)
    whose = f"{plan.folds} folds by patient" if plan.folds > 1 else "the data's own split"
    shared = ", their variance corrected for what folds share (Nadeau & Bengio 2003)" if plan.folds > 1 else ""
    protocol = {
        "figures": f"percent, per {plan.pool}: one class against the rest, averaged over {len(classes)} classes; "
        + ("a probability of 1/2 decides" if multi else "the most probable class is said"),
        "spread": f"mean and standard deviation over {len(folds)} trainings: {whose}, {plan.repeats} of each",
        "p patients": f"against {BASELINE}, mAP, two-sided: paired bootstrap over patients, {plan.draws} draws",
        "p trainings": f"against {BASELINE}, mAP, two-sided: paired t-test over the trainings{shared}",
    }
    return {"rows": rows, "baseline": BASELINE, "pool": plan.pool, "protocol": protocol, "notes": notes}


def spread(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation of those that are defined, None where none is (or but one), and the values."""
    known = [float(v) for v in values if np.isfinite(v)]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": [float(v) if np.isfinite(v) else None for v in values],
    }


def compared(cells: list[Units], others: list[Units], folds: Sequence[Fold], plan: Classify) -> dict[str, Any]:
    """Both tests of a row's difference in mAP to another row's, fold by fold."""
    a, b, truth, patients = [], [], [], []
    for first in range(0, len(cells), plan.repeats):
        repeats = slice(first, first + plan.repeats)
        a.append(np.stack([probability for probability, *_ in cells[repeats]]))
        b.append(np.stack([probability for probability, *_ in others[repeats]]))
        truth.append(cells[first][1])
        patients.append(cells[first][2])
    score = classification.mean_average_precision
    differences = [float(score(x, t) - score(y, t)) for (x, t, _), (y, *_) in zip(cells, others, strict=True)]
    overlap = np.mean([len(fold.val) / len(fold.train) for fold in folds]) if plan.folds > 1 else 0.0
    tests = {
        "patients": classification.bootstrap(a, b, truth, patients, plan.seed, plan.draws),
        "trainings": classification.t_test(differences, float(overlap)),
    }
    return {
        name: {field: value if np.isfinite(value) else None for field, value in test._asdict().items()}
        for name, test in tests.items()
    }


def words(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The heads of the table, and its rows as they are read."""
    rows = []
    for row, about in facts["rows"].items():
        values = [percent(about["figures"][name]) for name in classification.FIGURES]
        rows.append([row, *values, *(p_value(about.get(test)) for test in ("patients", "trainings"))])
    return ["augmentation", *HEADS, "p patients", "p trainings"], rows


def by_class(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The same of the average precision of every class."""
    values = {row: about["classes"]["map"] for row, about in facts["rows"].items()}
    rows = [[row, *(percent({"mean": v, "std": None}) for v in some.values())] for row, some in values.items()]
    return ["augmentation", *next(iter(values.values()))], rows


def markdown(facts: dict[str, Any]) -> list[str]:
    """The table as lines of Markdown, and how it was measured."""
    remarks = [f"- {name}: {text}." for name, text in facts["protocol"].items()]
    return [*screen.markdown(*words(facts)), "", *remarks, *(f"- {text}." for text in facts["notes"])]


def page(facts: dict[str, Any]) -> str:
    """The same for a browser, with the mAP of every class."""
    heads, rows = by_class(facts)
    pages = [
        Page(
            "The table",
            tables=[Table("", *words(facts))],
            facts={"notes": {"note": facts["notes"]} if facts["notes"] else {}},
        ),
        Page("How it was measured", facts={"protocol": facts["protocol"]}),
        Page("Average precision, class by class", tables=[Table("", heads, rows, "Percent, mean over the trainings.")]),
        Page("What was trained", facts={"protocol": {name: facts[name] for name in ("model", "data", "train")}}),
    ]
    title = f"What synthetic images are worth to {facts['model']['name']} on {facts['data']['name']}"
    return report.render(title, pages, over="nca_gen · classification")


def downstream(facts: dict[str, Any], row: str) -> Page:
    """What the samples of ``row`` are worth, for the report of the run that they are of."""
    about, name = facts["rows"][row], facts["model"]["name"]
    test, trained = about.get("patients") or {}, f"{name} on {facts['data']['name']}"
    gain = {"map_gain": test.get("difference"), "map_gain_low": test.get("low"), "map_gain_high": test.get("high")}
    scores = {"map": about["figures"]["map"]["mean"]} | (gain if row != facts["baseline"] else {})
    protocol = (
        f"Mean average precision of {trained}, trained with these samples beside photographs ({row}), on photographs "
        f"of other patients. Higher is better. map_gain is that less what training without them gives "
        f"({facts['baseline']}), with its interval over patients."
    )
    return Page(
        "What the samples are worth",
        {k: v for k, v in scores.items() if v is not None},
        tables=[Table("", *words(facts))],
        facts={"protocol": {"map": protocol} | facts["protocol"], "notes": {"classes": facts["notes"]}},
        intro=f"Percent. Distances between sets of images do not tell this: it is what {trained} makes of them.",
    )


def percent(figure: dict[str, Any]) -> str:
    """Mean and deviation in percent."""
    if figure["mean"] is None:
        return "n/a"
    return f"{100 * figure['mean']:.2f}" + (f" ± {100 * figure['std']:.2f}" if figure["std"] is not None else "")


def p_value(test: dict[str, Any] | None) -> str:
    """The p of a test; nothing for the baseline itself."""
    if not test:
        return "-"
    return "n/a" if test["p"] is None else f"{test['p']:.2g}"
