"""Looks at every image of a data set before it is trained on, and says what is wrong in plain words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from nca_gen import build
from nca_gen.data.source import Example, Source, digest, progress

LISTED = 5  # names given for each problem
CLASSES = 20  # a label with more values than this is a measurement: its range is shown, not its counts


class Row(NamedTuple):
    """What is kept of an image once it has been read."""

    split: str
    name: str
    patient: str
    shape: tuple[int, int, int]
    depth: str
    low: float
    high: float
    mean: float
    pixels: str  # equal for equal images only
    label: tuple[float, ...]


def check(config: Any) -> dict[str, Any]:
    """Reads all splits of ``config.data``, prints tables and problems, returns them as a JSON-like dict.

    Keys: "splits" (counts, shapes, depth, range, labels of each) and "problems" (sentences). Nothing stops at a bad
    image here, strict or not. Raises UserError where there is no data set at all.
    """
    config = config.copy_and_resolve_references()
    if "strict" in config.data:
        config.data.strict = False
    report = inspect(build.splits(config), config.data.get("patch"))
    show(config.data.name, report)
    return report


def inspect(splits: Mapping[str, Source], patch: tuple[int, int] | None = None) -> dict[str, Any]:
    """The report of :func:`check`. ``patch`` (height, width) is the size that an image must have at least."""
    total = sum(map(len, splits.values()))
    examples = ((split, source[i]) for split, source in splits.items() for i in range(len(source)))
    rows = [_row(split, example) for split, example in progress(examples, "checking images", total)]
    of = {split: [row for row in rows if row.split == split] for split in splits}
    summaries = {split: _summary(of[split]) | {"unreadable": len(splits[split].unreadable)} for split in splits}
    problems = [
        *_unreadable(splits),
        *_odd(rows, patch),
        *_duplicates(rows),
        *_overlap(of),
        *_labels(of),
    ]
    return {"splits": summaries, "problems": problems}


def _row(split: str, example: Example) -> Row:
    image = np.ascontiguousarray(example["image"])
    low, high, mean = (float(f(image)) for f in (np.min, np.max, np.mean))
    pixels = digest(f"{image.shape} {image.dtype} ".encode() + image.tobytes())
    label = tuple(np.ravel(example.get("label", ())).tolist())
    depth = "latent" if "moments" in example else str(image.dtype)
    return Row(split, example["name"], example["patient"], image.shape, depth, low, high, mean, pixels, label)


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    columns = zip(*(row.label for row in rows), strict=True)
    return {
        "images": len(rows),
        "patients": len({row.patient for row in rows}),
        "shapes": dict(Counter("x".join(map(str, row.shape)) for row in rows).most_common()),
        "depth": sorted({row.depth for row in rows}),
        "range": [min((row.low for row in rows), default=None), max((row.high for row in rows), default=None)],
        "mean": float(np.mean([row.mean for row in rows])) if rows else None,
        "labels": [dict(sorted(Counter(column).items())) for column in columns],
    }


def _some(items: Iterable[str]) -> str:
    """The first few items, and how many more there are."""
    items = list(items)
    return ", ".join(items[:LISTED]) + (f" and {len(items) - LISTED} more" if len(items) > LISTED else "")


def _unreadable(splits: Mapping[str, Source]) -> list[str]:
    return [
        f"files of {split} that cannot be used and are left out ({len(source.unreadable)}): "
        + _some(f"{name} ({reason})" for name, reason in source.unreadable)
        for split, source in splits.items()
        if source.unreadable
    ]


def _odd(rows: Sequence[Row], patch: tuple[int, int] | None) -> list[str]:
    """Images that are too small, blank, not finite, or out of the range of their depth."""
    finite = [row for row in rows if np.isfinite(row.mean)]
    odd = {
        f"smaller than the patch of {patch} pixels": [
            r for r in rows if patch and (r.shape[0] < patch[0] or r.shape[1] < patch[1])
        ],
        "blank (one value everywhere)": [r for r in finite if r.low == r.high],
        "not finite (NaN or infinity)": [r for r in rows if not np.isfinite(r.mean)],
        "float but not within [-1, 1]": [r for r in finite if r.depth == "float32" and max(-r.low, r.high) > 1],
    }
    return [f"images {what} ({len(found)}): {_some(r.name for r in found)}" for what, found in odd.items() if found]


def _duplicates(rows: Sequence[Row]) -> list[str]:
    """Images with exactly the same pixels, within and across splits."""
    same, found = defaultdict(list), defaultdict(list)
    for row in rows:
        same[row.pixels].append(row)
    for group in same.values():
        names = defaultdict(list)
        for row in group:
            names[row.split].append(row.name)
        for split in names:
            if len(names[split]) > 1:
                found[f"within {split}"].append(" = ".join(names[split][:LISTED]))
        for a, b in combinations(names, 2):
            found[f"shared by {a} and {b}"].append(f"{names[a][0]} = {names[b][0]}")
    return [f"identical images {where} ({len(sets)}): {_some(sets)}" for where, sets in found.items()]


def _overlap(of: Mapping[str, Sequence[Row]]) -> list[str]:
    """Patients with images in two splits."""
    patients = {split: {row.patient for row in rows} for split, rows in of.items()}
    shared = {(a, b): sorted(patients[a] & patients[b]) for a, b in combinations(of, 2)}
    return [f"patients in both {a} and {b} ({len(who)}): {_some(who)}" for (a, b), who in shared.items() if who]


def _labels(of: Mapping[str, Sequence[Row]]) -> list[str]:
    """Classes that one split has and another lacks."""
    problems = []
    values = {
        split: [set(column) for column in zip(*(row.label for row in rows), strict=True)] for split, rows in of.items()
    }
    for i, column in enumerate(zip(*values.values(), strict=True)):
        every = set().union(*column)
        for split, present in zip(values, column, strict=True):
            if len(every) <= CLASSES and every - present:
                lacking = ", ".join(f"{v:g}" for v in sorted(every - present))
                problems.append(f"{split} has no image with label {i} equal to {lacking}")
    return problems


def show(name: str, report: Mapping[str, Any]) -> None:
    """Prints the report as tables, the problems last."""
    from rich.console import Console
    from rich.table import Table

    console, splits = Console(), report["splits"]
    table = Table(
        "split", "images", "patients", "left out", "shapes", "depth", "range", "mean", title=f"data set {name}"
    )
    for split, s in splits.items():
        shapes = [f"{n} of {shape}" if len(s["shapes"]) > 1 else shape for shape, n in s["shapes"].items()]
        low, high = s["range"]
        row = (
            s["images"],
            s["patients"],
            s["unreadable"],
            _some(shapes),
            ", ".join(s["depth"]),
            f"{low:g} .. {high:g}",
        )
        table.add_row(split, *map(str, row), f"{s['mean']:.4g}")
    console.print(table)
    for i in range(len(next(iter(splits.values()))["labels"])):
        console.print(_balance(i, {split: s["labels"][i] for split, s in splits.items()}))
    for problem in report["problems"]:
        console.print(f"problem: {problem}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"problems found: {len(report['problems'])}", highlight=False)


def _balance(i: int, counts: Mapping[str, Mapping[int | float, int]]) -> Any:
    """How often each value of label ``i`` occurs, or from where to where its values go."""
    from rich.table import Table

    table = Table(f"label {i}", *counts)
    values = sorted(set().union(*counts.values()))
    if len(values) > CLASSES:
        table.add_row("range", *(f"{min(c):g} .. {max(c):g}" for c in counts.values()))
        return table
    for value in values:
        share = [(c.get(value, 0), c.get(value, 0) / sum(c.values())) for c in counts.values()]
        table.add_row(f"{value:g}", *(f"{n} ({part:.1%})" for n, part in share))
    return table
