"""--mode=segment: what generated images with label maps are worth to a segmenter; the shape of CA-LDM's downstream
tables (Huang et al. 2024, MICCAI): real against real and twice as many generated.

A row trains on the real images of its folds, alone, with what a generator has added, or at a lower resolution; all
rows see the same folds, steps and seeds. What is judged are real images of other patients, always.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from nca_gen import build
from nca_gen.data import folds as by_patient
from nca_gen.data import mixture
from nca_gen.data.labels import MAP
from nca_gen.data.source import Source, Splits, digest, people
from nca_gen.errors import UserError
from nca_gen.io import write
from nca_gen.metrics import segmentation
from nca_gen.runtime import mesh, record
from nca_gen.runtime.log import say
from nca_gen.sections import Segment
from nca_gen.tasks.segment import Task
from nca_gen.tiling.segments import predictions
from nca_gen.verbs.cells import cell
from nca_gen.verbs.segment_tables import BASELINE, markdown, page, table


class Fold(NamedTuple):
    """What one training of every row sees: of a fold, once of several times."""

    fold: int
    repeat: int
    train: Source
    val: Source


def main(config: Any, args: Namespace) -> None:
    """--mode=segment."""
    segment(config, args.workdir)


def segment(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains what is missing of the table and prints it; writes ``table.json``, ``table.md``, ``table.html``.

    Every cell is a run of its own below ``workdir``/cells, resumed like any run; its result stays, so that a segment
    that was killed goes on. Raises UserError for folds that cannot be made, folders that do not fit, figures that there
    are not, and whatever the data set and the task refuse.
    """
    config, workdir = config.copy_and_resolve_references(), Path(workdir).absolute()
    mesh.connect(config.mesh.get("distributed", False))
    plan, task = Segment(**build.fields(config, "segment")), build.task(config)
    if not isinstance(task, Task):
        raise UserError("--mode=segment trains segmenters: give a config with task.name=segment (configs/segment.py)")
    for spec in plan.figures:
        segmentation.figure(spec, task.model.classes)
    folds, rows = divided(config, plan), {BASELINE: ""} | systems(plan.expansions, lower(plan))
    # All that could be wrong with a folder is said before the first hour of training.
    once = {fold.fold: fold for fold in folds}
    added = {(row, n): listed(row, path, fold, plan) for row, path in rows.items() if path for n, fold in once.items()}
    coarse = {(row, n): coarser(fold, side) for row, side in lower(plan).items() for n, fold in once.items()}
    workdir.mkdir(parents=True, exist_ok=True)
    record.save_config(workdir, config)
    results: dict[str, list[dict]] = {row: [] for row in (BASELINE, *lower(plan), *rows)}
    for fold in folds:
        for row, cells in results.items():
            say(f"{row}, fold {fold.fold} of {plan.folds}, repeat {fold.repeat} of {plan.repeats}")
            place = workdir / "cells" / row / f"{fold.fold}-{fold.repeat}"
            seen = coarse.get((row, fold.fold), fold)._replace(repeat=fold.repeat)
            cells.append(trained(config, place, row, seen, added.get((row, fold.fold)), plan))
    facts = {section: config[section].to_dict() for section in ("data", "model", "train")}
    facts |= table(results, [(len(fold.train), len(fold.val)) for fold in folds], plan, task.classes)
    lines = markdown(facts)
    if jax.process_index() == 0:
        write.facts(workdir / "table.json", facts)
        write.text(workdir / "table.md", "\n".join(lines) + "\n")
        write.text(workdir / "table.html", page(facts))
    for line in lines:
        say(line)
    say(f"the page is {workdir / 'table.html'}")
    return facts


def systems(expansions: Sequence[str], own: Iterable[str]) -> dict[str, str]:
    """Folders by the names of their rows, of words NAME=DIR. UserError for a name that comes twice, or that is ours."""
    pairs = {name.strip(): path for name, _, path in (one.partition("=") for one in expansions)}
    own = [BASELINE, *own]
    if len(pairs) < len(expansions) or pairs.keys() & {*own}:
        names = " or ".join(map(repr, own))
        raise UserError(f"config.segment.expansions={expansions}: give each folder a name of its own, not {names}")
    return pairs


def lower(plan: Segment) -> dict[str, int]:
    """Rows of real images of a lower resolution, and how many places a side each has."""
    return {f"{BASELINE}-{side}": side for side in plan.resolutions}


def coarser(fold: Fold, side: int) -> Fold:
    """The same of a lower resolution; the maps by which is judged stay. UserError where no image has more places."""
    return fold._replace(train=mixture.coarse(fold.train, side, True), val=mixture.coarse(fold.val, side, False))


def divided(config: Any, plan: Segment) -> list[Fold]:
    """Fold by fold what is trained on and what is judged. Raises UserError where somebody is in both, or where images
    have no label maps."""
    splits = build.splits(config)
    source = splits["train"]
    if MAP not in source.fields:
        raise UserError("the images have no label maps: name the folder that has them by --config.data.label_maps")
    if plan.folds == 1:
        pairs = [(source, splits[config.held.split])]
    else:
        who = patients(source)
        outs = [set(out.tolist()) for out in by_patient.folds(who, np.zeros(len(who)), plan.folds, plan.seed)]
        every = range(len(who))
        pairs = [
            (mixture.some(source, [i for i in every if i not in out]), mixture.some(source, sorted(out)))
            for out in outs
        ]
    for pair in pairs:
        if both := set.intersection(*(set(patients(side)) for side in pair)):
            raise UserError(f"patient {min(both)} is trained on and judged: correct the data's patients or split")
    return [Fold(fold, repeat, *pair) for fold, pair in enumerate(pairs) for repeat in range(plan.repeats)]


def patients(source: Source) -> list[str]:
    """Whose each example is."""
    return [source.head(i)["patient"] for i in range(len(source))]


def listed(row: str, folder: str, fold: Fold, plan: Segment) -> Source:
    """What ``folder`` adds to the training of ``fold``. Raises UserError for images made after a patient who is judged,
    who would then be on both sides."""
    found = mixture.generated(folder.replace("{fold}", str(fold.fold)))
    away = [*dict.fromkeys(patients(fold.val))]
    who = people([*away, *patients(found)])[len(away) :]  # as the real images spell them
    if both := sorted({*who} & {*away}):
        raise UserError(f"{row}: {folder} has images made after patient {both[0]}, who is judged: generate from others")
    most = round(plan.share * len(fold.train)) or len(found)
    if len(found) < most:
        say(
            f"note: {row} has {len(found)} generated images, fewer than {plan.share:g} times the {len(fold.train)} real"
        )
    return mixture.some(found, range(min(most, len(found))))


def trained(config: Any, workdir: Path, row: str, fold: Fold, added: Source | None, plan: Segment) -> dict[str, Any]:
    """One cell of the table: of every image that is judged its name, patient and what was measured."""
    own = settings(config, row, fold, added, plan)

    def splits() -> Splits:
        seen = mixture.joined([fold.train, added]) if added else fold.train
        return Splits({"train": seen, "val": fold.val})

    def judged(task: Task, params: PyTree) -> dict[str, Any]:
        said = predictions(task.model, params, fold.val, tuple(config.data.patch), config.train.batch)
        rows = [
            {"name": example["name"], "patient": example["patient"]}
            | segmentation.measured(truth, classes, task.model.classes)
            for example, truth, classes in said
        ]
        return {"rows": rows, "added": len(added) if added else 0}

    return cell(own, workdir, splits, judged, plan.keep)


def settings(config: Any, row: str, fold: Fold, added: Source | None, plan: Segment) -> Any:
    """The config of one training: what it depends on, and nothing else."""
    own = config.copy_and_resolve_references()
    seen: Mapping[str, Source | None] = {"train": fold.train, "val": fold.val, "added": added}
    sees = {name: f"{len(some)}, {digest(some.digest() or repr(names(some)))}" for name, some in seen.items() if some}
    with own.unlocked():
        del own.segment
        own.evals, own.seed = {}, config.seed + fold.repeat
        own.cell = {"row": row, "fold": fold.fold, "folds": plan.folds, "repeat": fold.repeat} | sees
    return own


def names(source: Source) -> list[str]:
    """What its examples are called."""
    return [source.head(i)["name"] for i in range(len(source))]
