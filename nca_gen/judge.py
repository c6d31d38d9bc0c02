"""The judge: scores of generated images against real ones, each metric asked for by name.

A metric is asked for as ``name[@extractor][:option=value]...``, such as ``fid``, ``fid@inception-clean`` or
``kid:subsets=100:size=10``: a module of :mod:`nca_gen.metrics`, a row of
:data:`nca_gen.metrics.features.EXTRACTORS` in place of its own, and arguments of its ``score``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Predicate
from jaxtyping import Int

from nca_gen import build, ranges, screen
from nca_gen.errors import UserError, unknown
from nca_gen.io import cache, codec, space
from nca_gen.io import sets as files
from nca_gen.metrics import bootstrap, features
from nca_gen.metrics import classes as by_class
from nca_gen.metrics.about import About
from nca_gen.metrics.classes import Classes
from nca_gen.metrics.notes import collecting

# The arguments of ``score`` that are no options of a spec.
FIXED = ("generated", "real", "train", "seed", "weights", "extractor", "layer", "batch")
# What the published names of metrics mean: weights that are not random, of the network that they were told of.
PUBLISHED = ("inception", "inception-pytorch", "inception-clean", "inception-stylegan", "inception-torchmetrics")
ENDS = ("_low", "_high")  # of the names of the ends of an interval


class Request(NamedTuple):
    """A metric as a spec asks for it. ``extractor`` is "" where no network is needed.

    ``label`` is what its scores are called; ``whole``: it reads the images themselves.
    """

    label: str
    name: str
    metric: ModuleType
    about: About
    extractor: str
    layer: str
    options: dict[str, Any]
    whole: bool


def request(spec: str) -> Request:
    """Reads a spec. Raises UserError for an unknown metric, extractor or option, with the nearest.

    The label names an extractor that is not the metric's own. A distance bears its published name only for features of
    the network that it was published with: of another, and with random weights, it goes by the name that the metric has
    ``elsewhere``.
    """
    head, *fields = spec.split(":")
    name, _, chosen = head.partition("@")
    metric = build.metric(name)
    about: About = metric.ABOUT
    own, _, layer = (about.extracts or about.features).partition(":")
    if chosen and not own:
        raise UserError(f"{spec}: {name} reads the images themselves; leave out @{chosen}")
    if chosen and chosen not in features.EXTRACTORS:
        raise unknown("extractor", chosen, features.EXTRACTORS)
    extractor = chosen or own
    if chosen and layer not in (layers := features.EXTRACTORS[chosen].layers):
        layer = layers[-1]
    renamed = extractor not in (PUBLISHED if own in PUBLISHED else (own,))
    label = (about.elsewhere or name) if renamed else name
    label += f"@{extractor}" if extractor != own else ""
    known = {option: of for option, of in ranges.arguments(metric.score).items() if option not in FIXED}
    options = {}
    for field in fields:
        option, equals, value = field.partition("=")
        if option not in known:
            raise unknown(f"option of {name}", option, known)
        if not equals:
            raise UserError(f"{spec}: {option} needs a value, like {name}:{option}=1")
        options[option] = ranges.read(value, known[option].kind)
        ranges.check(f"{spec}: {option}", options[option], known[option].kind, known[option].default)
    if about.extracts:
        options |= {"extractor": extractor, "layer": layer}
    return Request(label, name, metric, about, extractor, layer, options, not (about.features or about.rows))


Spec = Annotated[str, Predicate(request)]


def judge(
    specs: Sequence[str],
    generated: Any,
    real: Any | None,
    train: Any | None,
    seed: int,
    kind: str = "images",
    classes: Classes | None = None,
    halves: int = 0,
) -> dict[str, Any]:
    """The scores, and all that has to be known about them, for JSON.

    ``generated``, held-out ``real`` and ``train`` are sets of one ``kind`` (:mod:`nca_gen.io.sets`). Where a metric
    compares features with those of ``real``, its headline is also given against as many of ``train``, the same for all
    metrics (:func:`drawn`; ``<label>_train``): a generator that copies is much nearer to those. Features of real sets
    are kept on disk. With ``classes`` the headline of each such metric is given for every class by itself too. With
    ``halves`` (2 or more) the headline of each metric that holds arrays against real ones has a standard error beside
    it, by that many random halves (:func:`nca_gen.metrics.bootstrap.error`; ``<label>_error``).
    Raises UserError before any work is done where a metric cannot be computed.
    """
    requests = [request(spec) for spec in specs]
    sets: dict[str, Any] = {"generated": generated, "real": real, "train": train}
    present: dict[str, Any] = {role: images for role, images in sets.items() if images is not None}
    _check(requests, sets, kind)
    # Where weights are missing, that is said now.
    networks = {name: features.protocol(name) for name in dict.fromkeys(r.extractor for r in requests if r.extractor)}
    networks |= {r.label: r.about.network(**r.options) for r in requests if r.about.network}
    views: dict[tuple[str, str], dict[str, Any]] = {}

    def view(r: Request, role: str) -> Any:
        """What the metric sees of a set: the images, or features, which are taken once for all metrics."""
        if r.whole or sets[role] is None:
            return sets[role]
        key = role, r.extractor or r.label
        if key not in views and not r.extractor:
            views[key] = {r.layer: r.metric.rows(sets[role], role, **r.options)}
        elif key not in views:
            layers = sorted({other.layer for other in requests if other.extractor == r.extractor and not other.whole})
            views[key] = _features(r.extractor, role, sets[role], layers=layers)
        return views[key][r.layer]

    scores, each, protocol = {}, {}, {r.label: r.about.terms for r in requests}
    notes = {role: list(images.notes) for role, images in present.items() if _noted(images)}
    if sizes := _sizes(requests, present):
        notes["size"] = [sizes]
    if apart := list(space.between({role: files.mpp(images) for role, images in present.items()})):
        notes["resolution"] = apart
    depths = {role: name for role, images in present.items() if (name := files.depth(images))}
    if len({*depths.values()}) > 1:
        each_is = ", ".join(f"{role} {name}" for role, name in depths.items())
        notes["depth"] = [
            f"pixels are stored in several depths ({each_is}): white is 127/128 of 8 bits and 1 of others, and equal "
            "pictures differ by as much; bring all to one depth"
        ]
    codecs = {role: name for role, images in present.items() if (name := files.codec(images))}
    if len({codec.lossy(name) for name in codecs.values()}) > 1:
        notes["files"] = ["of some sets pixels are those of a lossy codec: networks tell it from others by that alone"]
    for r in requests:
        with collecting() as caveats:
            others: dict[str, Any] = {k: view(r, k) if k in r.about.reads else None for k in ("real", "train")}
            values = r.metric.score(view(r, "generated"), **others, seed=seed, **r.options)
            if not (r.whole or r.about.yardstick) and r.about.reads == frozenset({"real"}) and train is not None:
                some = view(r, "train")[drawn(len(train), len(others["real"]), seed)]
                against = r.metric.score(view(r, "generated"), some, None, seed=seed, **r.options)
                values |= {f"{r.name}_train": against[r.name]}
                subset = f"{len(some)} of the {len(train)} training images, drawn by the seed"
                protocol[r.label] += f" {r.label}_train is against {subset}."
            views_of = [view(r, "generated"), others["real"]]
            if halves > 1 and r.about.reads == frozenset({"real"}) and all(isinstance(x, np.ndarray) for x in views_of):
                with collecting():  # a half is small, and that is no fault of the sets
                    scored = lambda x, y, r=r: r.metric.score(x, y, None, seed=seed, **r.options)[r.name]
                    values |= {f"{r.name}_error": bootstrap.error(views_of, seed, scored, halves)}
            if classes and not r.whole:
                some = {"generated": view(r, "generated")} | others
                each[r.label] = by_class.scores(r.metric, r.name, some, classes, seed=seed, **r.options)
        scores |= {r.label + part.removeprefix(r.name): value for part, value in values.items()}
        if caveats:
            notes[r.label] = list(dict.fromkeys(caveats))
    return {
        "scores": scores,
        "protocol": protocol,
        "options": {r.label: r.options for r in requests if r.options},
        "features": {r.label: {"extractor": r.extractor, "layer": r.layer} for r in requests if r.extractor},
        "networks": networks,
        "notes": notes,
        "counts": {role: len(sets[role]) for role in present},
        "files": codecs,
        "seed": seed,
    } | ({"classes": {"counts": classes.counts(), "scores": each}} if classes and each else {})


def _sizes(requests: Sequence[Request], sets: dict[str, Any]) -> str:
    """What has to be said of images of several sizes whose features are compared."""
    sides = {
        role: " x ".join(map(str, images.shape[1:-1]))
        for role, images in sets.items()
        if files.kind(images) == "images"
    }
    if len(set(sides.values())) < 2 or all(r.whole for r in requests):
        return ""
    words = ", ".join(f"{role} {side}" for role, side in sides.items())
    return f"images differ in size ({words}): each network brings them to its own, and sees what was sharper"


def drawn(there: int, n: int, seed: int) -> Int[np.ndarray, " m"]:
    """The indices of ``n`` of ``there`` images, in any order, without replacement; of all, if there are not so many."""
    return np.random.default_rng(seed).permutation(there)[:n]


def _check(requests: Sequence[Request], sets: dict[str, Any], kind: str) -> None:
    """Raises UserError where a metric is asked for twice, or does not fit the sets that there are."""
    labels = [r.label for r in requests]
    for r in requests:
        if labels.count(r.label) > 1:
            raise UserError(f"{r.label} is asked for twice; once is enough")
        if kind not in r.about.kinds:
            raise UserError(f"{r.label} scores {' and '.join(r.about.kinds)}, and these are {kind}; leave it out")
        if "real" in r.about.reads and sets["real"] is None:
            raise UserError(f"{r.label} compares with real images: give them with --reference=PATH")
        if "train" in r.about.reads and sets["train"] is None:
            raise UserError(f"{r.label} compares with the training images: give them with --train=PATH")
        if r.about.alike:
            _alike(r, sets, kind)


def _alike(r: Request, sets: dict[str, Any], kind: str) -> None:
    """Raises UserError where the sets that a metric compares differ in what they must have in common."""
    whole = r.about.alike == "shape"
    ours, *others = [(role, sets[role].shape[1 if whole else -1 :]) for role in ("generated", *sorted(r.about.reads))]
    for other in others:
        if other[1] != ours[1]:
            what = "one size and number of channels" if whole else "one number of channels"
            words = " and ".join(f"{role} are {' x '.join(map(str, shape))}" for role, shape in (ours, other))
            raise UserError(
                f"{r.label} compares {kind} of {what}: {words}; bring them to one, or ask for other metrics"
            )


def _noted(images: Any) -> bool:
    """Whether something must be said of a set: one that was opened may have notes, an array has none."""
    return not isinstance(images, np.ndarray) and bool(images.notes)


def _features(extractor: str, role: str, images: Any, **options: Any) -> dict[str, Any]:
    """Features of a set by layer, under a progress bar; those of real images are computed once."""
    with screen.bar(f"{extractor}: {role} images", len(images)) as bar:
        options["progress"] = bar.reach
        if role == "generated":
            return features.extract(extractor, images, **options)
        return features.cached(extractor, images, cache.folder("features"), **options)


def table(facts: dict[str, Any]) -> list[str]:
    """Lines for a screen: every score, those with an interval with it, and below what has to be known."""
    scores = facts["scores"]
    rows = []
    for name, value in scores.items():
        if not name.endswith(ENDS):
            low, high = (scores.get(name + end) for end in ENDS)
            rows.append([name, f"{value:.5g}", "" if low is None else f"95 %: {low:.5g} to {high:.5g}"])
    lines = screen.aligned([], rows)
    for name, row in facts.get("classes", {}).get("scores", {}).items():
        lines += screen.aligned([f"{name} by class", ""], [[k, value] for k, value in row.items()])
    counts = ", ".join(f"{n} {role}" for role, n in facts["counts"].items())
    lines.append(f"({counts}; seed {facts['seed']})")
    if facts.get("files"):
        lines.append("files: " + ", ".join(f"{role} {name}" for role, name in facts["files"].items()))
    for name, row in facts["networks"].items():
        lines.append(f"{name}: " + "; ".join(f"{k} {v}" for k, v in row.items() if isinstance(v, str)))
    return lines + [f"note: {label}: {note}" for label, notes in facts["notes"].items() for note in notes]
