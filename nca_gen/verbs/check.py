"""--mode=check: looks at every image of a data set before it is trained on, and says what is wrong in plain words.

Of examples too large to be decoded (slides, volumes beyond memory) some are read, spread evenly, and of each a part.
"""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from nca_gen import build, screen
from nca_gen.data import labels, pipeline
from nca_gen.data.source import Box, Example, Source, Splits, digest
from nca_gen.errors import UserError
from nca_gen.io import images, write

LISTED = 5  # names given for each problem
CLASSES = 20  # a label with more values than this is a measurement: its range is shown, not its counts
SAMPLE, PART = 200, 2**22  # examples that are read where they are too large to be decoded, and numbers of each


class Look(NamedTuple):
    """What a report needs of pixels once they have been read."""

    depth: str
    low: float
    high: float
    mean: float
    pixels: str  # equal for equal images only
    classes: Mapping[str, Mapping[int, int]]  # how often each class is in each label map
    apart: Sequence[str]  # fields that are not on the grid of the image


class Row(NamedTuple):
    """What a report needs of an example; ``look`` of those that are read."""

    split: str
    name: str
    patient: str
    shape: tuple[int, ...]
    label: tuple[float, ...]
    window: tuple[float, ...]
    look: Look | None
    fault: str = ""  # for which it cannot be read


def main(config: Any, args: Namespace) -> None:
    """--mode=check. With --json, standard output is for machines only, and the tables go beside it."""
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        report = check(config)
    if args.json:
        print(write.notation(report, indent=2))


def check(config: Any) -> dict[str, Any]:
    """Reads all splits of ``config.data``, prints tables and problems, returns them as a JSON-like dict.

    Keys: "splits" (counts, shapes, depth, range, labels of each) and "problems" (sentences). Nothing stops at a bad
    image here, strict or not. Raises UserError where there is no data set at all.
    """
    config = config.copy_and_resolve_references()
    if "strict" in config.data:
        config.data.strict = False
    splits = build.splits(config)
    report = inspect(splits, config.data.get("patch"), [*splits.notes, *told(config, splits)])
    show(config.data.name, report, splits.labels)
    return report


def told(config: Any, splits: Splits) -> list[str]:
    """What is wrong with the labels for the model of ``config``, if it names one."""
    try:
        return labels.check(splits, build.task(config).model) if "task" in config else []
    except UserError as error:
        return [str(error)]


def inspect(
    splits: Mapping[str, Source], patch: Sequence[int] | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The report of :func:`check`. ``patch`` is the size that an image must have at least, ``notes`` are problems."""
    places = [(split, i) for split, source in splits.items() for i in range(len(source))]
    reads = {split: _sample(source) for split, source in splits.items()}
    rows = [_row(split, splits[split], i, i in reads[split]) for split, i in screen.track(places, "checking images")]
    of = {split: [row for row in rows if row.split == split] for split in splits}
    summaries = {split: _summary(of[split]) | {"unreadable": len(splits[split].unreadable)} for split in splits}
    kind = pipeline.KINDS.get(len(rows[0].shape) - 1, "arrays") if rows else "images"
    problems = [
        *notes,
        *_unreadable(splits),
        *_faults(rows, kind),
        *_axes(splits, patch),
        *_odd(rows, patch, kind),
        *_duplicates(rows, kind),
        *_overlap(of),
        *_labels(of),
        *_classes(summaries),
    ]
    return {"splits": summaries, "problems": problems}


def _sample(source: Source) -> range:
    """The examples that are read: all, or where each is large so many, evenly spread."""
    return range(0, len(source), max(1, -(-len(source) // SAMPLE)) if source.window else 1)


def _row(split: str, source: Source, i: int, read: bool) -> Row:
    """What is known of example ``i``; its pixels if they are to be ``read``."""
    fault = ""
    try:
        if source.window is None:
            example = source[i]
        else:
            plain = replace(source, context_factor=1, square=0)  # the image alone is looked at
            example = plain.read(i, _middle(source.shapes[i])) if read else source.head(i)
    except images.Unreadable as error:  # of which the head alone was known
        example, fault = source.head(i), error.reason
    label, window = tuple(np.ravel(example.get("label", ())).tolist()), tuple(example.get("window", ()))
    look = _look(example, source.fields) if read and not fault else None
    shape = tuple(source.shapes[i] if source.window or fault else example["image"].shape)
    return Row(split, example["name"], example["patient"], shape, label, window, look, fault)


def _middle(shape: Sequence[int]) -> Box:
    """The middle of an example, of at most ``PART`` numbers."""
    side = int((PART / shape[-1]) ** (1 / (len(shape) - 1)))
    return [(max(0, (n - side) // 2), min(n, (n + side) // 2)) for n in shape[:-1]]


def _look(example: Example, fields: Sequence[str]) -> Look:
    """What its pixels say."""
    image = np.ascontiguousarray(example["image"])
    low, high, mean = (float(f(image)) for f in (np.min, np.max, np.mean))
    pixels = digest(f"{image.shape} {image.dtype} ".encode() + image.tobytes())
    maps = {name: example[name] for name in fields if example[name].dtype.kind in "iu"}
    counts = {
        name: dict(zip(*(x.tolist() for x in np.unique(m, return_counts=True)), strict=True))
        for name, m in maps.items()
    }
    apart = [name for name in fields if example[name].shape[:-1] != image.shape[:-1]]
    depth = "latent" if "moments" in example else str(image.dtype)
    return Look(depth, low, high, mean, pixels, counts, apart)


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers of one split."""
    columns = zip(*(row.label for row in rows), strict=True)
    looks = [row.look for row in rows if row.look]
    summary = {
        "images": len(rows),
        "patients": len({row.patient for row in rows}),
        "shapes": dict(Counter("x".join(map(str, row.shape)) for row in rows).most_common()),
        "depth": sorted({look.depth for look in looks}),
        "range": [min((look.low for look in looks), default=None), max((look.high for look in looks), default=None)],
        "mean": float(np.mean([look.mean for look in looks])) if looks else None,
        "labels": [dict(sorted(Counter(column).items())) for column in columns],
    }
    if len(looks) < len(rows):
        summary["read"] = len(looks)
    if windows := [row.window for row in rows if row.window]:
        summary["window"] = [min(low for low, _ in windows), max(high for _, high in windows)]
    if names := dict.fromkeys(name for look in looks for name in look.classes):
        summary["classes"] = {name: dict(sorted(_sum(look.classes[name] for look in looks).items())) for name in names}
    return summary


def _sum(counts: Iterable[Mapping[int, int]]) -> Counter:
    total: Counter = Counter()
    for some in counts:
        total.update(some)
    return total


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


def _faults(rows: Sequence[Row], kind: str) -> list[str]:
    """Examples that are refused when a patch of them is read, which stops training."""
    some = [f"{row.name} ({row.fault})" for row in rows if row.fault]
    return [f"{kind} that stop training when they are read ({len(some)}): {_some(some)}"] if some else []


def _axes(splits: Mapping[str, Source], patch: Sequence[int] | None) -> list[str]:
    """A patch of another number of axes than the examples."""
    try:
        for source in splits.values():
            pipeline.check_axes(source, patch) if patch and len(source) else None
    except UserError as error:
        return [str(error)]
    return []


def _odd(rows: Sequence[Row], patch: Sequence[int] | None, kind: str) -> list[str]:
    """Images that are too small, blank, not finite, out of the range of their depth, or not on the grid of a field."""
    seen = [(row, row.look) for row in rows if row.look]
    finite = [(row, look) for row, look in seen if np.isfinite(look.mean)]
    fits = patch and rows and len(patch) == len(rows[0].shape) - 1
    odd = {
        f"smaller than the patch of {patch} pixels": [
            row for row in rows if fits and any(n < p for n, p in zip(row.shape, patch, strict=False))
        ],
        "blank (one value everywhere)": [row for row, look in finite if look.low == look.high],
        "not finite (NaN or infinity)": [row for row, look in seen if not np.isfinite(look.mean)],
        "float but not within [-1, 1]": [
            row for row, look in finite if look.depth == "float32" and max(-look.low, look.high) > 1
        ],
        "of another size than what is registered to them": [row for row, look in seen if look.apart],
    }
    return [f"{kind} {what} ({len(some)}): {_some(row.name for row in some)}" for what, some in odd.items() if some]


def _duplicates(rows: Sequence[Row], kind: str) -> list[str]:
    """Images with exactly the same pixels, within and across splits."""
    same, pairs = defaultdict(list), defaultdict(list)
    for row in rows:
        if row.look:
            same[row.look.pixels].append(row)
    for group in same.values():
        names = defaultdict(list)
        for row in group:
            names[row.split].append(row.name)
        for split in names:
            if len(names[split]) > 1:
                pairs[f"within {split}"].append(" = ".join(names[split][:LISTED]))
        for a, b in combinations(names, 2):
            pairs[f"shared by {a} and {b}"].append(f"{names[a][0]} = {names[b][0]}")
    return [f"identical {kind} {where} ({len(sets)}): {_some(sets)}" for where, sets in pairs.items()]


def _overlap(of: Mapping[str, Sequence[Row]]) -> list[str]:
    """Patients with images in two splits."""
    patients = {split: {row.patient for row in rows} for split, rows in of.items()}
    shared = {(a, b): sorted(patients[a] & patients[b]) for a, b in combinations(of, 2)}
    return [f"patients in both {a} and {b} ({len(who)}): {_some(who)}" for (a, b), who in shared.items() if who]


def _labels(of: Mapping[str, Sequence[Row]]) -> list[str]:
    """Labels that one split has and another lacks."""
    values = {
        split: [set(column) for column in zip(*(row.label for row in rows), strict=True)] for split, rows in of.items()
    }
    return [
        f"{split} has no image with label {i} equal to {lacking}"
        for i, column in enumerate(zip(*values.values(), strict=True))
        for split, lacking in _lacking(dict(zip(values, column, strict=True)))
    ]


def _classes(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Classes of label maps that one split has and another lacks."""
    names = dict.fromkeys(name for s in summaries.values() for name in s.get("classes", ()))
    return [
        f"{split} has no {name} with {lacking} in it"
        for name in names
        for split, lacking in _lacking({s: set(x.get("classes", {}).get(name, ())) for s, x in summaries.items()})
    ]


def _lacking(present: Mapping[str, set[int | float]]) -> Iterable[tuple[str, str]]:
    """(split, values that another has and it has not), of what is no measurement."""
    every = set().union(*present.values())
    for split, values in present.items():
        if len(every) <= CLASSES and every - values:
            yield split, ", ".join(f"{v:g}" for v in sorted(every - values))


def show(name: str, report: Mapping[str, Any], labels: Sequence[str] = ()) -> None:
    """Prints the report as tables, the problems last. ``labels`` are the names of the label columns."""
    splits = report["splits"]
    heads = ["split", "images", "patients", "left out", "shapes", "depth", "range", "mean"]
    heads += [
        head for key, head in (("window", "-1 .. 1 is"), ("read", "read")) if any(key in s for s in splits.values())
    ]
    rows = []
    for split, s in splits.items():
        shapes = [f"{n} of {shape}" if len(s["shapes"]) > 1 else shape for shape, n in s["shapes"].items()]
        row = [split, *(str(s[key]) for key in ("images", "patients", "unreadable")), _some(shapes)]
        row += [", ".join(s["depth"]), _range(s["range"]), "" if s["mean"] is None else f"{s['mean']:.4g}"]
        row += [_range(s.get("window"))] if "-1 .. 1 is" in heads else []
        row += [str(s.get("read", s["images"]))] if "read" in heads else []
        rows.append(row)
    screen.table(heads, rows, f"data set {name}")
    for i in range(len(next(iter(splits.values()))["labels"])):
        column = labels[i] if i < len(labels) else ""
        _balance(f"label {i} {column}".strip(), {split: s["labels"][i] for split, s in splits.items()})
    for field in dict.fromkeys(field for s in splits.values() for field in s.get("classes", ())):
        _balance(field, {split: s.get("classes", {}).get(field, {}) for split, s in splits.items()})
    for problem in report["problems"]:
        print(f"problem: {problem}")
    print(f"problems found: {len(report['problems'])}", flush=True)


def _range(ends: Sequence[float | None] | None) -> str:
    return "" if ends is None or None in ends else f"{ends[0]:g} .. {ends[1]:g}"


def _balance(head: str, counts: Mapping[str, Mapping[int | float, int]]) -> None:
    """Prints how often each value occurs, or from where to where they go."""
    values = sorted(set().union(*counts.values()))
    if len(values) > CLASSES:
        rows = [["range", *(_range((min(c), max(c))) if c else "" for c in counts.values())]]
    else:
        rows = [
            [f"{v:g}", *(f"{c.get(v, 0)} ({c.get(v, 0) / max(1, sum(c.values())):.1%})" for c in counts.values())]
            for v in values
        ]
    screen.table([head, *counts], rows)
