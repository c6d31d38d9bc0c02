"""The judge: scores of generated images against real ones, each metric asked for by name.

A metric is asked for as ``name[@extractor][:option=value]...``, such as ``fid``, ``fid@inception-clean`` or
``kid:subsets=100:size=10``: a module of :mod:`nca_gen.metrics`, a row of
:data:`nca_gen.metrics.features.EXTRACTORS` in place of its own, and arguments of its ``score``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from inspect import signature
from types import ModuleType
from typing import Any, NamedTuple

from rich.progress import Progress

from nca_gen import build
from nca_gen.errors import UserError, unknown
from nca_gen.io import cache
from nca_gen.metrics import features
from nca_gen.metrics.notes import collecting

# The arguments of ``score`` that are no options of a spec.
GIVEN = ("generated", "real", "train", "seed", "weights", "extractor", "layer", "batch")
PUBLISHED = ("inception", "inception-pytorch", "inception-clean", "inception-stylegan")  # what FID and its kin mean


class Asked(NamedTuple):
    """A metric as it was asked for. ``extractor`` is None where no network is needed."""

    label: str
    metric: ModuleType
    reads: frozenset[str]
    extractor: str | None
    layer: str
    options: dict[str, Any]
    whole: bool  # it reads the images themselves


def asked(spec: str) -> Asked:
    """Reads a spec. Raises UserError for an unknown metric, extractor or option, with the nearest.

    The label, under which the score is printed, names an extractor that is not the metric's own. A distance between
    features of the Inception network bears its published name only for the published network: with another, and with
    random weights, it goes by the metric's ``ELSEWHERE``.
    """
    whole, *fields = spec.split(":")
    name, _, chosen = whole.partition("@")
    metric = build.metric(name)
    inside = getattr(metric, "EXTRACTS", None)  # a metric that reads images, and takes features of parts of them
    own, _, layer = (inside or getattr(metric, "FEATURES", None) or "").partition(":")
    if chosen and not own:
        raise UserError(f"{spec}: {name} reads the images themselves; leave out @{chosen}")
    if chosen and chosen not in features.EXTRACTORS:
        raise unknown("extractor", chosen, features.EXTRACTORS)
    extractor = chosen or own
    if chosen and layer not in (layers := features.EXTRACTORS[chosen].layers):
        layer = layers[-1]
    label = name if own not in PUBLISHED or extractor in PUBLISHED else getattr(metric, "ELSEWHERE", name)
    label += f"@{extractor}" if extractor != own else ""
    takes = [field for field in signature(metric.score).parameters if field not in GIVEN]
    options = {}
    for field in fields:
        option, equals, value = field.partition("=")
        if option not in takes:
            raise unknown(f"option of {name}", option, takes)
        if not equals:
            raise UserError(f"{spec}: {option} needs a value, like {name}:{option}=1")
        options[option] = _value(value)
    reads = getattr(metric, "READS", frozenset({"real", "train"}))
    if inside:
        options |= {"extractor": extractor, "layer": layer}
    return Asked(label, metric, reads, extractor or None, layer, options, not (own and not inside))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def judge(
    specs: Sequence[str],
    generated: Any,
    real: Any | None,
    train: Any | None,
    seed: int,
    kind: str = "images",
) -> dict[str, Any]:
    """The scores, and all that has to be known about them, for JSON.

    ``generated``, held-out ``real`` and ``train`` are sets of one ``kind`` (:mod:`nca_gen.io.sets`). Where a metric
    compares features with those of ``real``, its headline is also given against as many of ``train``
    (``<label>_train``): a generator that copies is much nearer to those. Features of real sets are kept on disk.
    Raises UserError before any work is done where a metric cannot be computed.
    """
    metrics = [asked(spec) for spec in specs]
    labels = [m.label for m in metrics]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"{label} is asked for twice; once is enough")
    for m in metrics:
        if kind not in (wants := getattr(m.metric, "KINDS", ("images",))):
            raise UserError(f"{m.label} scores {' and '.join(wants)}, and these are {kind}; leave it out")
        if "real" in m.reads and real is None:
            raise UserError(f"{m.label} compares with real images: give them with --reference=PATH")
        if "train" in m.reads and train is None:
            raise UserError(f"{m.label} compares with the training images: give them with --train=PATH")
    # Where weights are missing, that is said now.
    networks = {name: features.protocol(name) for name in dict.fromkeys(m.extractor for m in metrics if m.extractor)}
    networks |= {m.label: m.metric.protocol(**m.options) for m in metrics if hasattr(m.metric, "protocol")}
    sets = {"generated": generated, "real": real, "train": train}
    seen: dict[tuple[str, str], dict[str, Any]] = {}

    def view(m: Asked, role: str) -> Any:
        if m.whole or sets[role] is None:
            return sets[role]
        if (role, m.extractor) not in seen:
            layers = sorted({other.layer for other in metrics if other.extractor == m.extractor and not other.whole})
            seen[role, m.extractor] = _features(m.extractor, role, sets[role], layers=layers)
        return seen[role, m.extractor][m.layer]

    scores = {}
    notes = {role: list(images.notes) for role, images in sets.items() if getattr(images, "notes", ())}
    for m in metrics:
        with collecting() as said:
            needed = {role: view(m, role) if role in m.reads else None for role in ("real", "train")}
            mine = view(m, "generated")
            found = m.metric.score(mine, **needed, seed=seed, **m.options)
            if not m.whole and m.reads == frozenset({"real"}) and train is not None:
                n = len(needed["real"])
                against = m.metric.score(mine, view(m, "train")[:n], None, seed=seed, **m.options)
                found |= {f"{_name(m)}_train": against[_name(m)]}
        scores |= {m.label + key.removeprefix(_name(m)): value for key, value in found.items()}
        if said:
            notes[m.label] = list(dict.fromkeys(said))
    return {
        "scores": scores,
        "protocol": {m.label: m.metric.PROTOCOL for m in metrics},
        "options": {m.label: m.options for m in metrics if m.options},
        "features": {m.label: {"extractor": m.extractor, "layer": m.layer} for m in metrics if m.extractor},
        "networks": networks,
        "notes": notes,
        "counts": {role: len(images) for role, images in sets.items() if images is not None},
        "seed": seed,
    }


def _name(m: Asked) -> str:
    return m.metric.__name__.rpartition(".")[-1]


def _features(extractor: str, role: str, images: Any, **how: Any) -> dict[str, Any]:
    """Features of a set by layer, under a progress bar; those of real images are computed once."""
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(f"{extractor}: {role} images", total=len(images))
        how["progress"] = lambda done: bar.update(task, completed=done)
        if role == "generated":
            return features.extract(extractor, images, **how)
        return features.cached(extractor, images, cache.folder("features"), **how)


def table(facts: dict[str, Any]) -> list[str]:
    """Lines for a screen: every score, those with an interval with it, and below what has to be known."""
    scores = facts["scores"]
    ends = ("_low", "_high")
    lines = []
    for name, value in scores.items():
        if name.endswith(ends):
            continue
        low, high = (scores.get(name + end) for end in ends)
        lines.append(f"{name:<32} {value:>10.5g}" + (f"   95 %: {low:.5g} to {high:.5g}" if low is not None else ""))
    counts = ", ".join(f"{n} {role}" for role, n in facts["counts"].items())
    lines.append(f"({counts}; seed {facts['seed']})")
    for name, row in facts["networks"].items():
        lines.append(f"{name}: " + "; ".join(f"{k} {v}" for k, v in row.items() if isinstance(v, str)))
    return lines + [f"note: {label}: {note}" for label, said in facts["notes"].items() for note in said]
