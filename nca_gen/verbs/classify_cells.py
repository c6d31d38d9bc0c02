"""The trainings of --mode=classify: who is trained on and validated on, what is added, and a run for each cell."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num, PyTree

from nca_gen import build, screen
from nca_gen.data import folds as by_patient
from nca_gen.data import labels as conditions
from nca_gen.data.source import Example, Splits, digest, people
from nca_gen.data.source import of as source
from nca_gen.errors import UserError
from nca_gen.io import images, write
from nca_gen.sections import Classify
from nca_gen.tasks.classify import columns, predicted
from nca_gen.verbs import cells


class Fold(NamedTuple):
    """What one training of every row sees: of a fold, once of several times. ``classes`` has a name for each."""

    fold: int
    repeat: int
    train: list[Example]
    val: list[Example]
    classes: tuple[str, ...]


class Synthetic(NamedTuple):
    """A row of ``train_syn_{fold}.csv``."""

    path: Path
    patient: str
    label: Float[np.ndarray, " K"]


# Data.


def divided(config: Any, plan: Classify) -> list[Fold]:
    """Fold by fold images of ``config.data.patch``, whose labels are 0/1 columns.

    Raises UserError where somebody is on both sides of a fold.
    """
    memory: dict[str, Example] = {}
    config, own, n = config.copy_and_resolve_references(), "fold" in config.data, config.model.classes

    def whole(split: Sequence[Example]) -> list[Example]:
        """All of a split, every image brought to size once."""
        examples = [split[i] for i in screen.track(range(len(split)), "reading images")]
        if bare := [example["name"] for example in examples if "label" not in example]:
            raise UserError(f"{bare[0]} has no label: put a labels.csv with a label column beside the images")
        labels = columns(np.stack([e["label"] for e in examples]), n, config.task.labels)
        for example, label in zip(examples, labels, strict=True):
            if example["name"] not in memory:
                image = resized(example["image"], tuple(config.data.patch))
                memory[example["name"]] = example | {"image": image, "label": label}
        return [memory[example["name"]] for example in examples]

    def opened(number: int) -> Splits:
        """The splits of a fold that the data set brings."""
        config.data.fold = number
        return build.splits(config)

    numbers = [config.data.fold] if own and plan.folds == 1 else range(plan.folds)
    every = [opened(number) for number in numbers] if own else [build.splits(config)]
    for splits in every:
        conditions.check(splits, build.model(config))
    if own or plan.folds == 1:
        pairs = [(whole(splits["train"]), whole(splits[config.held.split])) for splits in every]
    else:
        everyone = [example for split in plan.of for example in whole(every[0][split])]
        who, labels = [e["patient"] for e in everyone], np.stack([e["label"] for e in everyone])
        outs = [set(fold.tolist()) for fold in by_patient.folds(who, labels, plan.folds, plan.seed)]
        pairs = [
            ([e for i, e in enumerate(everyone) if i not in out], [everyone[i] for i in sorted(out)]) for out in outs
        ]
    for pair in pairs:
        if both := set.intersection(*({e["patient"] for e in side} for side in pair)):
            raise UserError(f"patient {min(both)} is trained on and validated on: correct the data's patients or split")
    names = every[0].labels if len(every[0].labels) == n else tuple(map(str, range(n)))
    trainings = [(fold, pair) for fold, pair in zip(numbers, pairs, strict=True)]
    return [Fold(fold, repeat, *pair, names) for fold, pair in trainings for repeat in range(plan.repeats)]


def resized(image: Num[np.ndarray, "H W C"], size: tuple[int, int]) -> Num[np.ndarray, "h w C"]:
    """``image`` in ``size`` = (height, width)."""
    return image if image.shape[:2] == size else images.resize(image, size)


def listed(folder: str, fold: Fold) -> list[Synthetic]:
    """What ``folder`` adds to the training of ``fold``: its ``train_syn_{fold}.csv``, there or in a folder below.

    Raises UserError for a table or a file that is missing, for labels that are not a column of 0 and 1 for each class,
    and for images made after a patient of the validation fold, who would then be on both sides.
    """
    name, root = f"train_syn_{fold.fold}.csv", Path(folder.replace("{fold}", str(fold.fold))).expanduser()
    tables, width = sorted(root.rglob(name)), len(fold.classes)
    if len(tables) != 1:
        lie = f"{len(tables)} of them lie" if tables else "there is none"
        raise UserError(f"one {name} is needed in or below {root}, {lie}: name the folder that --mode=expand wrote")
    [path] = tables
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = [row for row in csv.reader(file) if row] or [[]]
    if head[:1] != ["filename"] or "patient_name" not in head or head.index("patient_name") != width + 1:
        raise UserError(f"{path} needs the columns filename, {width} labels, patient_name; it has {', '.join(head)}")
    away, made = [*dict.fromkeys(example["patient"] for example in fold.val)], []
    who = people([*away, *(row[width + 1] for row in rows)])[len(away) :]  # as the validation fold spells them
    for row, patient in zip(rows, who, strict=True):
        file, label = path.parent / row[0], row[1 : width + 1]
        if set(label) - {"0", "1"} or not file.is_file():
            raise UserError(f"{path}: {row[0]} is missing, or its labels {label} are not 0 and 1; expand anew")
        if not patient or patient in away:
            why = f"made after patient {patient} of the validation fold" if patient else "of nobody known"
            raise UserError(f"{path}: {row[0]} is {why}: expand the training patients of fold {fold.fold} alone")
        made.append(Synthetic(file, patient, np.array(label, np.float32)))
    return made


def opened(added: Sequence[Synthetic], like: Num[np.ndarray, "H W C"]) -> list[Example]:
    """The synthetic images as examples, of the size of the real image ``like``; UserError for another depth."""

    def example(one: Synthetic) -> Example:
        image = resized(images.read(one.path), like.shape[:2])
        if image.shape != like.shape or image.dtype != like.dtype:
            kinds = (f"{x.shape[-1]} channels of {x.dtype}" for x in (image, like))
            raise UserError("{} has {}, the photographs {}; expand from them".format(one.path, *kinds))
        return {"image": image, "name": str(one.path), "patient": one.patient, "label": one.label}

    with ThreadPoolExecutor(4) as pool:
        return list(screen.track(pool.map(example, added), "reading synthetic images", len(added)))


# Cells.


def settings(config: Any, plan: Classify, row: str, augment: str, fold: Fold, added: Sequence[Synthetic]) -> Any:
    """The config of one training: what it depends on, and nothing else."""
    own = config.copy_and_resolve_references()
    content = {
        "train": [example["name"] for example in fold.train],
        "val": [example["name"] for example in fold.val],
        "added": [[s.path.name, s.path.stat().st_size, s.label.tolist()] for s in added],
    }
    sees = {name: f"{len(some)}, {digest(write.notation(some))}" for name, some in content.items()}
    with own.unlocked():
        del own.classify
        own.task.augment, own.data.flips, own.evals = augment, "none", {}
        own.seed = config.seed + fold.repeat
        own.cell = {"row": row, "fold": fold.fold, "folds": plan.folds, "repeat": fold.repeat} | sees
    return own


def cell(config: Any, workdir: Path, fold: Fold, added: Sequence[Synthetic], keep: bool) -> dict[str, Any]:
    """Trains one cell of the table to the end, unless ``workdir`` holds its result: probabilities, truth, who.

    Raises UserError where ``workdir`` is of another config.
    """

    def splits() -> Splits:
        seen = fold.train + opened(added, fold.val[0]["image"])
        return Splits({"train": source(seen), "val": source(fold.val)}, fold.classes)

    def judged(task: Any, params: PyTree) -> dict[str, Any]:
        probability, truth = predicted(task, params, fold.val, tuple(config.data.patch), config.train.batch)
        return {
            "names": [example["name"] for example in fold.val],
            "patients": [example["patient"] for example in fold.val],
            "probability": probability.tolist(),
            "truth": truth.tolist(),
        }

    return cells.cell(config, workdir, splits, judged, keep)
