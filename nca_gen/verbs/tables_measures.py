"""What stands in URCDM's tables for one set of slides or images: FID, patch FID in both protocols, IP and IR; and
beside these, at every magnification, FID and the autocovariance of the stain's mask.

Each measure is one unit of work that is kept once it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache as once
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nca_gen import judge, screen
from nca_gen.io import cache, sets
from nca_gen.io.slides import Slides
from nca_gen.metrics import autocovariance, features, fid, pfid, precision_recall, two_point
from nca_gen.metrics.notes import collecting
from nca_gen.sections import Tables
from nca_gen.verbs import tables_patches as cut

Set = Slides | sets.Lazy
FID, IP, PFID = "fid", "precision_recall", {"urcdm": "pfid", "anyres": "pfid_anyres"}  # names of measures
STRUCTURE = "autocovariance"
ONE = "these are images of one magnification"
MASKS = 256  # patches, at the most, whose masks are compared: of large ones each takes its time


class Measured(NamedTuple):
    """What a measure found. ``scores`` are empty where there is a reason ``why`` there are none.

    ``counts``: patches or images by the role of their set.
    """

    scores: Mapping[str, float] = {}
    counts: Mapping[str, int] = {}
    why: str = ""
    notes: Sequence[str] = ()


class Measure(NamedTuple):
    """``name``: of what it measures. ``facts``: all that its numbers depend on, beside the generated set."""

    name: str
    facts: Sequence[Any]
    of: Callable[[Set, str], Measured]


def requests(plan: Tables) -> dict[str, judge.Request]:
    """The metrics of the tables, as the judge knows them: names and layers follow from the extractors.

    Raises UserError for an unknown extractor.
    """
    by = {FID: f"fid@{plan.fid_by}", PFID["urcdm"]: f"pfid@{plan.fid_by}", IP: f"precision_recall@{plan.ip_by}"}
    return {name: judge.request(spec) for name, spec in by.items()}


def magnification(i: int) -> str:
    """The name of the measure of magnification ``i``."""
    return f"{IP}_{i}"


def distant(plan: Tables, i: int) -> str:
    """The name of FID at magnification ``i``, of which the finest is that of table 1."""
    return FID if i == plan.magnifications - 1 else f"{FID}_{i}"


def structured(i: int) -> str:
    """The name of the autocovariance at magnification ``i``."""
    return f"{STRUCTURE}_{i}"


def largest(sets: Iterable[Set]) -> int:
    """The side of the largest crop of patch FID: the shorter side of the smallest slide of all ``sets``, so that rows
    can be compared; of images nothing is cropped."""
    return min(min(size) for one in sets if isinstance(one, Slides) for size in one.sizes)


def measures(plan: Tables, real: Slides, most: int, seed: int) -> Iterator[Measure]:
    """All measures against ``real``, whose features are kept on disk; what is known of them goes with their measure.

    ``most``: as :func:`largest` says.
    """
    asked, scales = requests(plan), cut.scales(plan)
    drawn = (plan.patch, plan.factor, plan.magnifications, plan.n, plan.tissue, seed)
    base = (real.digest, seed)
    first, last = asked[FID], asked[IP]
    network = features.protocol(first.extractor)
    yield Measure(FID, (FID, base, drawn, network, first.layer), frechet(plan, real, seed, scales[-1]))
    for protocol, name in PFID.items():
        how = (name, base, plan.patch, plan.crops, most, network, first.layer)
        yield Measure(name, how, patch_frechet(plan, real, most, seed, protocol))
    network = features.protocol(last.extractor)
    for i, scale in enumerate(scales):
        how = (i, base, drawn, plan.k, network, last.layer)
        yield Measure(magnification(i), how, coverage(plan, real, seed, scale, i == len(scales) - 1))
    network = features.protocol(first.extractor)
    for i, scale in enumerate(scales[:-1]):
        how = (FID, i, base, drawn, network, first.layer)
        yield Measure(distant(plan, i), how, frechet(plan, real, seed, scale, False))
    for i, scale in enumerate(scales):
        how = (STRUCTURE, i, MASKS, base, drawn)
        yield Measure(structured(i), how, structure(plan, real, seed, scale, i == len(scales) - 1))


def viewed(plan: Tables, some: Set, seed: int, scale: float) -> sets.Lazy:
    """The patches of slides at ``scale``, perhaps none; or of a set of images some.

    Where they lie is kept on disk: to look for tissue in many large slides takes its time.
    """
    if not isinstance(some, Slides):
        return cut.pictures(some, plan.n, seed)
    span = plan.patch * scale
    path = cache.folder("places") / f"{cache.key(some.digest, span, plan.n, plan.tissue, seed)}.npz"
    make = lambda: {k: np.asarray(v) for k, v in cut.places(some, span, plan.n, plan.tissue, seed)._asdict().items()}
    at = cache.arrays(path, make)
    return cut.patches(
        some, cut.Places(at["owner"], at["corner"], int(at["possible"]), int(at["all"])), span, plan.patch
    )


def rows(request: judge.Request, some: sets.Lazy, what: str, keep: bool) -> Float[np.ndarray, "N D"]:
    """Features of all images of a set, under a bar that says ``what`` they are; kept on disk where that is asked."""
    name, layer = request.extractor, request.layer

    def make() -> dict[str, Any]:
        return features.watched(what, name, some, layers=(layer,))

    key = cache.key(features.protocol(name), layer, some.digest)
    return (cache.arrays(cache.folder("features") / f"{name}-{key}.npz", make) if keep else make())[layer]


def too_few(least: int, counts: Mapping[str, int]) -> str:
    """Why nothing can be measured: which set has fewer patches than ``least``; "" where that is none."""
    short = [f"{n} {role}" for role, n in counts.items() if n < least]
    return f"at least {least} patches of a set are needed, and there are {' and '.join(short)}" if short else ""


def frechet(plan: Tables, real: Slides, seed: int, scale: float, finest: bool = True) -> Callable[[Set, str], Measured]:
    """FID of patches at one magnification; of images at the ``finest`` alone."""
    asked = requests(plan)[FID]
    ours = once(lambda: viewed(plan, real, seed, scale))
    stats = once(lambda: fid.statistics(rows(asked, ours(), "real patches", True), "real"))

    def of(some: Set, name: str) -> Measured:
        if not (finest or isinstance(some, Slides)):
            return Measured(why=ONE)
        theirs = viewed(plan, some, seed, scale)
        counts = {"real": len(ours()), "generated": len(theirs)}
        if why := too_few(2, counts):
            return Measured(counts=counts, why=why)
        with collecting() as notes:
            known = fid.statistics(rows(asked, theirs, f"patches of {name}", False), "generated")
            return Measured(fid.distance(stats(), known), counts, "", notes)

    return of


def patch_frechet(plan: Tables, real: Slides, most: int, seed: int, protocol: str) -> Callable[[Set, str], Measured]:
    """Patch FID of slides, of patches of the asked size, or of a quarter of it where ``protocol`` has it so."""
    asked, published = requests(plan)[PFID["urcdm"]], pfid.PROTOCOLS
    patch = plan.patch * published[protocol].patch // published["urcdm"].patch
    score = partial(pfid.score, protocol=protocol, n=plan.crops, patch=patch, largest=most)

    def of(some: Set, name: str) -> Measured:
        if not isinstance(some, Slides):
            return Measured(why="it is of slides, and these are images")
        if most < patch:
            return Measured(why=f"patches are of {patch} pixels, and the smallest slide has a side of {most}")
        with collecting() as notes:
            scores = score(some, real, None, seed, extractor=asked.extractor, layer=asked.layer)
        return Measured(scores, {"real": plan.crops, "generated": plan.crops}, "", notes)

    return of


def coverage(plan: Tables, real: Slides, seed: int, scale: float, finest: bool) -> Callable[[Set, str], Measured]:
    """IP and IR at one magnification; of images at the ``finest`` alone."""
    asked = requests(plan)[IP]
    ours = once(lambda: viewed(plan, real, seed, scale))
    balls = once(lambda: precision_recall.statistics(rows(asked, ours(), "real patches", True), plan.k, "real"))

    def of(some: Set, name: str) -> Measured:
        if not (finest or isinstance(some, Slides)):
            return Measured(why=ONE)
        theirs = viewed(plan, some, seed, scale)
        counts = {"real": len(ours()), "generated": len(theirs)}
        if why := too_few(plan.k + 1, counts):
            return Measured(counts=counts, why=why)
        with collecting() as notes:
            known = precision_recall.statistics(rows(asked, theirs, f"patches of {name}", False), plan.k, "generated")
            return Measured(precision_recall.distance(balls(), known, seed), counts, "", notes)

    return of


def structure(plan: Tables, real: Slides, seed: int, scale: float, finest: bool) -> Callable[[Set, str], Measured]:
    """Autocovariance of the stain's mask at one magnification; of images at the ``finest`` alone."""

    def some_of(some: Set) -> sets.Lazy:
        return cut.pictures(viewed(plan, some, seed, scale), MASKS, seed)

    ours = once(lambda: some_of(real))
    least = once(lambda: two_point.threshold(ours()))
    known = once(lambda: autocovariance.statistics(ours(), least()))

    def of(some: Set, name: str) -> Measured:
        if not (finest or isinstance(some, Slides)):
            return Measured(why=ONE)
        theirs = some_of(some)
        counts = {"real": len(ours()), "generated": len(theirs)}
        if why := too_few(1, counts):
            return Measured(counts=counts, why=why)
        bar = screen.track(range(len(theirs)), f"masks of {name}")
        each = (autocovariance.statistics(theirs[i : i + 1], least()) for i in bar)
        return Measured(autocovariance.distance(known(), reduce(autocovariance.merge, each)), counts)

    return of
