"""Do large pictures have the structure of what was not trained on? What is drawn from noise against real pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Len, MaxLen
from jaxtyping import Float

from nca_gen import build, judge
from nca_gen.contracts import Figure, Page, Pipeline, Table
from nca_gen.data import pipeline as batches
from nca_gen.data.source import Source
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.io import images as pixels
from nca_gen.pipelines import files
from nca_gen.ranges import Count

METRICS = ("two_point", "autocovariance", "power_spectrum", "swd", "drift")
ROW, SHOWN = 4, 16  # pieces in a grid
GENERATED, TRAINING, HELD = "Generated", "Training images", "Held-out images"  # rows of the tables
Sides = Annotated[tuple[Count, ...], Len(2, 2)]
Whole = Annotated[tuple[Count, ...], MaxLen(0)]


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    metrics: Sequence[judge.Spec] = METRICS,
    size: Sides = (256, 256),
    piece: Sides | Whole = (48, 48),
    n: Count = 4,
    real: Count = 64,
    reduce: Count = 1,
    rivals: Sequence[str] = (),
    half_turn: bool = False,
) -> Page:
    """Scores ``n`` pictures of ``size`` pixels, under no condition, cut into pieces, by ``metrics``.

    They are held against ``real`` pieces of ``config.held.split``, and a last row holds as many of training images
    against these; then against those of training images, which shows what was learned. ``piece=()``: as large as the
    images that they are held against (the smallest side of each axis). Where these are of one size every place counts
    alike, while pieces at random show the middle of small ones more often. A table has no row of real images that are
    smaller. ``reduce``: pictures and pieces are reduced so many times first (area mean), so that runs at several
    magnifications are compared at one; ``size`` and ``piece`` are as they are then. ``rivals``: names of
    ``config.parts``, or paths of trained runs such as zoo:tissue, that need no other part and learned at the same
    magnification (a path is seen from the current folder); each draws as many pictures, from the same seeds, in its own
    way. ``half_turn``: every piece, drawn or real, is seen turned by a half as well. A rule that does not know where a
    cell lies draws no side darker than another on average, and a small field has such sides by chance; which way things
    lie is still seen. Raises UserError for data that are no images of two axes, for a piece that is larger than a
    picture or reduced to nothing, and for a rival that is not trained.
    """
    if data.kind != "images":
        raise UserError("structure is for images of two axes; leave out config.evals.structure")
    pieces = {split: piece or least(data.splits.pixels[split], reduce) for split in (data.split, "train")}
    for one in pieces.values():
        if min(one) < 1:
            raise UserError(f"config.evals.structure.reduce={reduce} leaves nothing of the smallest image: lower it")
        if any(p > s for p, s in zip(one, size, strict=True)):
            raise UserError(f"config.evals.structure.piece={tuple(one)} is larger than size={tuple(size)}")
    whole = lambda sides: (sides[0] * reduce, sides[1] * reduce)
    drawn = {}
    for name, one in {GENERATED: pipeline, **{path: rival(pipeline.parts, path) for path in rivals}}.items():
        some = files.drawn(one, data.seed, n, whole(size), None, f"{name}: drawing {n} of {whole(size)}")
        drawn[name] = reduced(np.clip(some, -1.0, 1.0), reduce)

    def seen(split: str) -> dict[str, np.ndarray]:
        """All pieces that are held against those of a split, and these."""
        sides = pieces[split]
        sets = {name: cut(some, sides) for name, some in drawn.items()}
        for name, of in {HELD: data.split, TRAINING: "train"}.items():
            source = data.splits.pixels[of]
            if piece or all(p <= side for p, side in zip(sides, least(source, reduce), strict=True)):
                some = batches.examples(source, patch=whole(sides), n=real, seed=data.seed)["image"]
                sets[name] = reduced(some, reduce)
        return sets

    near = seen(data.split)
    shown = {"structure": drawn[GENERATED][:1]} | {f"rival{i}": drawn[path][:1] for i, path in enumerate(rivals)}
    for name, some in shown.items():
        pictures.grid(folder / f"{name}.png", some)
    for name, some in {"pieces": near[GENERATED], "real_pieces": near[HELD]}.items():
        few = some[np.sort(judge.drawn(len(some), SHOWN, data.seed))]
        blank = max(0, ROW - len(few))  # beside few, so that pieces of both grids are seen as large
        pictures.grid(folder / f"{name}.png", np.pad(few, [(0, blank), *[(0, 0)] * 3], constant_values=1), ROW)
    sides = " \N{MULTIPLICATION SIGN} ".join(map(str, whole(size))) + (f", reduced by {reduce}" if reduce > 1 else "")
    figures = [
        Figure("structure.png", f"Drawn from noise at {sides}.", "wide"),
        *(Figure(f"rival{i}.png", f"**{path}**, from noise at {sides}.", "wide") for i, path in enumerate(rivals)),
        Figure("pieces.png", "**Pieces** of generated pictures."),
        Figure("real_pieces.png", f"**Real** pieces, of the {data.split} split: not seen in training."),
    ]

    def against(reference: str, sets: Mapping[str, np.ndarray]) -> dict[str, dict]:
        """The scores of all sets but one, held against this."""
        if half_turn:
            sets = {name: np.concatenate([some, some[:, ::-1, ::-1]]) for name, some in sets.items()}
        others = [name for name in sets if name != reference]
        return {name: judge.judge(metrics, sets[name], sets[reference], None, data.seed) for name in others}

    found, learned = against(HELD, near), {}
    if data.split != "train":
        learned = against(TRAINING, near if pieces["train"] == pieces[data.split] else seen("train"))
    note = "" if piece else " Pieces are as large as the smallest image that they are held against."
    note += " Every piece is seen turned by a half too." if half_turn else ""
    intro = f"Held against pieces of the {data.split} split.{note}"
    if TRAINING in found:
        intro = f"Pieces of training images, held against the same ones, show what can be reached.{note}"
    tables = [_table("Structure", found, intro)]
    if learned:
        others = ", and images that were not trained on," if HELD in learned else ""
        intro = f"The same pictures{others} held against training images.{note}"
        tables.append(_table("Structure, against training images", learned, intro))
    facts = found[GENERATED]
    scores = facts.pop("scores")
    lines = judge.table(facts | {"scores": scores})
    facts["half_turn"] = half_turn  # which doubles the counts
    facts["training"] = found[TRAINING]["scores"] if TRAINING in found else {}
    facts["rivals"] = {path: found[path]["scores"] for path in rivals}
    facts["against_training"] = {name: some["scores"] for name, some in learned.items()}
    return Page("Structure of large pictures", scores, figures, tables, facts, lines)


def _table(title: str, found: Mapping[str, Mapping], intro: str) -> Table:
    names = [*found[GENERATED]["scores"]]
    rows = [[name, *map(some["scores"].get, names)] for name, some in found.items()]
    return Table(title, ["Images", *names], rows, intro)


def rival(parts: Mapping, path: str) -> Pipeline:
    """How a part generates that needs no other. UserError for what is neither one of ``parts`` nor a trained run."""
    try:
        part = parts[path]
    except KeyError:
        raise UserError(
            f"config.evals.structure.rivals: {path} is none of config.parts, and no path of a run, such as ./{path}"
        ) from None
    return build.pipeline(part.config, {"model": part})


def least(source: Source, k: int) -> tuple[int, ...]:
    """The smallest side of all images along each axis, or of their squares, in pixels reduced by ``k``."""
    shapes = [shape[:-1] for shape in source.shapes] + ([(source.square,) * source.ndim] if source.square else [])
    return tuple(min(sides) // k for sides in zip(*shapes, strict=True))


def reduced(some: Float[np.ndarray, "N H W C"], k: int) -> Float[np.ndarray, "N h w C"]:
    """Images reduced by ``k`` to the area mean."""
    return np.stack([pixels.reduce(image, k) for image in some])


def cut(some: Float[np.ndarray, "N H W C"], piece: Sequence[int]) -> Float[np.ndarray, "M h w C"]:
    """All pieces of images that lie side by side, from the top left."""
    (h, w), (rows, columns) = piece, (side // p for side, p in zip(some.shape[1:3], piece, strict=True))
    some = some[:, : rows * h, : columns * w].reshape(len(some), rows, h, columns, w, -1)
    return some.swapaxes(2, 3).reshape(-1, h, w, some.shape[-1])
