"""How well a network outlines what it should: Dice, IoU, and how far surfaces lie from where they are.

Everything is of one image or volume, from the counts of its places by true and said class, or from two maps of layers.
What a volume cannot tell is NaN and left out of means: a class that is neither there nor said, a surface of which
nothing is known. These are the figures of CA-LDM's downstream tables (Huang et al. 2024, MICCAI): IoU of arteries and
veins, Dice and MAD of layers between six surfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Num

from nca_gen.errors import UserError
from nca_gen.metrics.notes import note
from nca_gen.sections import outline

FIGURES = {
    "dice": "2 |A n B| / (|A| + |B|) of the places that have a class and those said to have it. Higher is better.",
    "iou": "|A n B| / |A u B| of the places that have a class and those said to have it. Higher is better.",
    "mad": "Mean absolute distance of surfaces along H, in rows. Lower is better.",
}
EACH = "Of each volume by itself, then averaged over volumes; where it is not defined, it is left out."


def confusion(truth: Num[np.ndarray, "*T"], said: Num[np.ndarray, "*T"], classes: int) -> Int64[np.ndarray, "K K"]:
    """How many places have the class of a row and are said to have that of a column. A negative truth is not known."""
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * classes + said[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def dice(counts: Num[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N K"]:
    """2 |A n B| / (|A| + |B|) of every class; NaN where it is neither there nor said."""
    return _share(2 * _hits(counts), counts.sum(-1) + counts.sum(-2))


def iou(counts: Num[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N K"]:
    """|A n B| / |A u B| of every class (Jaccard 1901); NaN where it is neither there nor said."""
    return _share(_hits(counts), counts.sum(-1) + counts.sum(-2) - _hits(counts))


def surfaces(layers: Num[np.ndarray, "D H W"], classes: int) -> Float64[np.ndarray, "S D W"]:
    """Where the ``classes`` - 1 surfaces of a map of layers lie: how many rows of each A-scan are above, along H.

    Layers are numbered from the front on; a map that a network said may have them out of order. NaN for A-scans of
    which not every place is known (negative).
    """
    above = np.stack([(layers <= k).sum(1) for k in range(classes - 1)]).astype(np.float64)
    return np.where((layers < 0).any(1), np.nan, above)


def mad(
    truth: Float64[np.ndarray, "S D W"], said: Float64[np.ndarray, "S D W"], size: int | float = 1.0
) -> Float64[np.ndarray, " S"]:
    """Mean absolute distance of each surface over the A-scans where it is known, in rows, or in the unit of ``size``,
    that of a row. NaN where it is known nowhere."""
    gaps, known = np.abs(truth - said), ~np.isnan(truth - said)
    return _share(np.where(known, gaps, 0).sum((1, 2)), known.sum((1, 2))) * size


class Figure(NamedTuple):
    """A figure ``name`` of FIGURES, and the classes (of "mad" the surfaces) over which it is a mean."""

    name: str
    of: tuple[int, ...]


def figure(spec: str, classes: int) -> Figure:
    """Reads ``name[:class[+class]...]``, such as "iou:2" or "dice:1+2+3".

    Without classes: all but 0, which is what lies around; of "mad" all surfaces, of which surface k is between the
    classes k and k + 1. Raises UserError for an unknown figure, and for a class that there is not.
    """
    outline(spec)
    name, _, words = spec.partition(":")
    end = classes - 1 if name == "mad" else classes
    if not words:
        return Figure(name, tuple(range(0 if name == "mad" else 1, end)))
    if any(int(word) >= end for word in words.split("+")):
        what = "surfaces" if name == "mad" else "classes"
        raise UserError(f"{spec}: {what} are numbers from 0 to {end - 1}, joined by +, such as {name}:1")
    return Figure(name, tuple(int(word) for word in words.split("+")))


def heading(spec: str, names: Sequence[str]) -> str:
    """The figure ``spec`` in words, of classes with these ``names``: "IoU vein"; numbers where there are several."""
    one, title = figure(spec, len(names)), {"dice": "Dice", "iou": "IoU", "mad": "MAD"}[spec.partition(":")[0]]
    if ":" not in spec:
        return title
    if len(one.of) == 1:
        return f"{title} {one.of[0] if one.name == 'mad' else names[one.of[0]]}"
    row = one.of == tuple(range(one.of[0], one.of[-1] + 1))
    return f"{title} {f'{one.of[0]} to {one.of[-1]}' if row else spec.partition(':')[2]}"


def measured(truth: Num[np.ndarray, "*T"], said: Num[np.ndarray, "*T"], classes: int) -> dict[str, Any]:
    """What is kept of an image or volume, for JSON: its ``counts``, and ``mad`` of each surface, None for NaN.

    Of an image [H, W] the surfaces are lines. Surfaces mean something only where classes are layers.
    """
    at = [surfaces(x.reshape(-1, *x.shape[-2:]), classes) for x in (truth, said)]
    gaps = mad(at[0], at[1])
    counts = confusion(truth, said, classes)
    return {"counts": counts.tolist(), "mad": [float(g) if np.isfinite(g) else None for g in gaps]}


def values(rows: Sequence[dict[str, Any]], spec: str) -> Float64[np.ndarray, " N"]:
    """The figure ``spec`` of each of the ``rows`` of :func:`measured`, a mean over its classes; NaN where none has it.

    A note says what is left out.
    """
    counts = np.array([row["counts"] for row in rows], np.int64)
    one = figure(spec, counts.shape[-1])
    if one.name == "mad":
        each = np.array([row["mad"] for row in rows], np.float64)
    else:
        each = {"dice": dice, "iou": iou}[one.name](counts)
    each = each[:, list(one.of)]
    if lacking := int(np.isnan(each).any(1).sum()):
        why = "a surface is known nowhere" if one.name == "mad" else "a class is neither there nor said"
        note(f"{spec}: in {lacking} of {len(each)} images or volumes {why}: left out of the means")
    return mean(each)


def mean(x: Float64[np.ndarray, "*N K"], weight: Num[np.ndarray, "*D K"] | None = None) -> Float64[np.ndarray, "*M"]:
    """Mean over the last axis of what is defined, NaN where nothing is; ``weight``: how often each one counts."""
    weight = np.ones(x.shape[-1]) if weight is None else weight
    known = ~np.isnan(x)
    return _share((np.where(known, x, 0) * weight).sum(-1), (known * weight).sum(-1))


def _hits(counts: Num[np.ndarray, "*N K K"]) -> Num[np.ndarray, "*N K"]:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _share(part: Any, whole: Any) -> Float64[np.ndarray, "*N"]:
    """``part / whole``, NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)
