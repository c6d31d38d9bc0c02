"""--mode=expand: the training set several times over, drawn from a trained workdir.

Pictures under the label vectors of training images (Elbatel et al. 2024, eq. 8), or volumes under their label maps,
which are then the maps of these volumes too (Huang et al. 2024, label-guided synthesis).
"""

from __future__ import annotations

import csv
import io
import json
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Num, UInt8

from nca_gen import arrays, build, hosts, screen
from nca_gen.contracts import Guided
from nca_gen.data import labels as conditions
from nca_gen.data.folds import folds
from nca_gen.data.source import Example, Source, Splits
from nca_gen.errors import UserError
from nca_gen.io import volumes, write
from nca_gen.pipelines import expand as rounds
from nca_gen.pipelines import files
from nca_gen.pipelines.sampling import Settings
from nca_gen.runtime import mesh, record, run
from nca_gen.runtime.log import say
from nca_gen.sections import Expand


def main(config: Any, args: Namespace) -> None:
    """--mode=expand."""
    with mesh.joined(config):
        expand(config, args.workdir, args.out)


def expand(config: Any, workdir: str | Path, out: str | Path | None = None) -> Path:
    """Draws ``config.expand.times`` pictures for every label vector of the training set; returns their folder.

    A pipeline that follows label maps draws volumes under those (:func:`follow`). How pictures are drawn is
    ``config.sample``. ``out``/``name``, by default in ``workdir``, gets train_syn_{fold}.csv (see :func:`table`) and a
    folder fold{fold} with images/, expand.json and labels.csv, for which the expanded set trains like any folder
    (:mod:`nca_gen.data.folder`). A stopped run goes on where it was; several processes, who see one file system, share
    the work. Raises UserError for data without labels, a model without conditions, and a folder begun with other
    settings.
    """
    plan, parts = Expand(**build.fields(config, "expand")), run.parts(config, workdir)
    pipeline, part = build.pipeline(config, parts), parts["model"]
    if isinstance(pipeline, Guided):
        return follow(config, plan, pipeline, Path(out or workdir, plan.name))
    classes = part.task.model.conditions.get("label", 0)
    if not classes:
        raise UserError("expanding needs a model that knows labels: train one with config.model.classes, their number")
    splits = build.splits(config).pixels
    for note in conditions.check(splits, part.task.model):
        say(f"note: {note}")
    chosen = examples(config, plan, splits)
    labels = np.stack([example["label"] for example in chosen])
    table = np.asarray(arrays.multi_hot(labels, classes))
    n = plan.times * len(chosen)

    fold = config.data.get("fold", 0) if plan.fold < 0 else plan.fold
    folder = Path(out or workdir, plan.name, f"fold{fold}")
    size, batch = tuple(config.sample.size), config.sample.batch
    settings: dict[str, Any] = {
        "step": part.step,
        "sample": Settings.of(config.sample)._asdict() | {"size": size, "batch": batch, "seed": config.seed},
        "expand": which(plan._asdict()),
        "data": [config.data.name, which(config.data)],
    }
    train, new = ([example["image"] for example in splits[name]] for name in ("train", "val"))
    like, mpp = train[0], splits["train"].head(0).get("mpp", ())
    settings |= {} if like.dtype == np.uint8 else {"dtype": str(like.dtype)}  # pictures are as deep as photographs
    begin(folder, settings)
    record.check_data(folder, splits, begun=True)
    references, threshold = rounds.yardstick(train, new, plan.quantile)

    def drawn(pictures: np.ndarray, attempt: int) -> np.ndarray:
        some = rounds.draw(pipeline, {"label": table}, pictures, attempt, seed=config.seed, size=size, batch=batch)
        return np.clip(some, -1.0, 1.0)

    patients = [example["patient"] for example in chosen]
    people = len(set(patients))
    say(f"{n} pictures, {plan.times} for each of {len(chosen)} label vectors of {people} patients, go into {folder}")
    with screen.bar("drawing", n, "images", quiet=not hosts.first()) as bar:
        distance, near = rounds.rounds(
            n,
            folder / "images",
            drawn,
            partial(rounds.distances, references=references),
            threshold,
            batch=batch,
            tries=plan.tries,
            dtype=like.dtype,
            mpp=mpp,
            deal=(jax.process_index(), jax.process_count()),
            meet=hosts.meet,
            bar=bar,
        )
    if not hosts.first():
        return folder

    names = columns(splits, labels.shape[1], classes)
    pictures = [rounds.name(i, like.dtype, like.shape[-1]) for i in range(n)]
    every, told = (np.tile(x, (plan.times, 1)) for x in (labels, table))
    index(folder, fold, pictures, patients * plan.times, every, told, names)
    facts = {
        "settings": settings,
        "pictures": n,
        "labels": {c: [int(k), int(plan.times * k)] for c, k in zip(names, table.sum(0), strict=True)},
        "threshold": threshold,
        "protocol": rounds.PROTOCOL.format(quantile=plan.quantile, tries=plan.tries),
        "drawn": n + sum(near[:-1]),
        "too_near": near,
        "kept_though_near": near[-1],
        "distance": {f"{q:g}": float(np.quantile(distance, q)) for q in (0, 0.01, 0.5, 1)},
    }
    write.facts(folder / "expand.json", facts)
    for line in lines(facts):
        say(line)
    say(f"the expanded set is {folder}, listed in {folder.parent / f'train_syn_{fold}.csv'}")
    return folder


def follow(config: Any, plan: Expand, pipeline: Guided, root: Path) -> Path:
    """Draws ``plan.times`` volumes under the label map of every training image; returns their folder.

    ``root``/fold{fold} gets images/, with a labels.csv that says after whom each was made, and label_maps/ with the
    maps that they follow, under the same names: what --mode=segment adds to real images. Volume i follows the map of
    training image i mod n. A stopped run goes on where it was. Raises UserError for what :func:`mapped` and
    :func:`checked` refuse, for files that cannot hold such volumes, and for a folder begun with other settings.
    """
    classes, size = pipeline.map_classes(), tuple(config.sample.size)
    source = mapped(config, plan, classes, size)
    _ = (
        files.endings("volumes", config.generate.volume_format, config.generate.mpp),
        files.sides(config.generate.mpp, 3),
    )
    heads, n = [source.head(i) for i in range(len(source))], plan.times * len(source)
    folder = root / f"fold{config.data.get('fold', 0)}"
    settings = {
        "step": pipeline.parts["model"].step,
        "pipeline": pipeline.title(),
        "files": {field: config.generate[field] for field in ("dtype", "mpp", "volume_format")},
        "seed": config.seed,
        "expand": {"times": plan.times},
        "data": [config.data.name, which(config.data)],
    }
    begin(folder, settings)
    record.check_data(folder, {"train": source}, begun=True)
    names = [f"{i:05d}{files.FORMATS[config.generate.volume_format]}" for i in range(n)]
    for place in ("images", "label_maps"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    if hosts.first():
        rows = [[name, heads[i % len(heads)]["patient"]] for i, name in enumerate(names)]
        write.text(folder / "images" / "labels.csv", comma([["filename", "patient_id"], *rows]))
    maps = [folder / "label_maps" / f"{name.removesuffix('.gz').rpartition('.')[0]}.nii.gz" for name in names]
    for i in hosts.dealt(range(n)):
        if not maps[i].is_file():
            volumes.write(maps[i], checked(source[i % len(source)], classes), heads[i % len(heads)].get("mpp", ()))
    hosts.meet()
    say(f"{n} volumes, {plan.times} for each label map of {len(source)} training images, go into {folder}")
    for line in pipeline.follow(folder / "images", n, lambda i: volumes.stored(maps[i])):
        say(line)
    say(f"the expanded set is {folder}: --mode=segment adds it by --config.segment.expansions=NAME={folder}")
    return folder


def mapped(config: Any, plan: Expand, classes: int, size: tuple[int, ...]) -> Source:
    """The training images, whose label maps volumes of ``size`` can follow. No other split is read: who is judged has
    no part in this.

    Raises UserError for parts that learned without label maps, images without them or of another size, ``plan.fold``,
    and maps named by ``config.generate``.
    """
    if not classes:
        raise UserError("expanding volumes needs parts that learned with label maps: train the chain with them")
    if plan.fold >= 0:
        raise UserError("config.expand.fold is for label vectors: volumes follow the maps of the training split")
    if config.generate.get("label_maps"):
        raise UserError("an expansion follows the maps of the training split: set config.generate.label_maps to ''")
    source = build.splits(config)["train"]
    if conditions.MAP not in source.fields:
        raise UserError("the images have no label maps: name the folder that has them by --config.data.label_maps")
    sizes = {tuple(shape[:-1]) for shape in source.shapes}
    words = sorted("x".join(map(str, one)) for one in sizes)
    if len(sizes) > 1:
        raise UserError(f"the label maps are of several sizes ({', '.join(words)}): bring volumes and maps to one")
    if sizes != {size}:
        raise UserError(f"the label maps are of {words[0]} voxels: make config.sample.size that")
    return source


def checked(example: Example, classes: int) -> UInt8[np.ndarray, "D H W 1"]:
    """The label map of a training image, as it is stored. UserError for a class that networks did not learn."""
    label_map = example[conditions.MAP]
    if label_map.min() < 0 or label_map.max() >= classes:
        ends = f"{label_map.min()} to {label_map.max()}"
        raise UserError(f"the label map of {example['name']} has classes from {ends}, and networks learned {classes}")
    return label_map.astype(np.uint8)


def examples(config: Any, plan: Expand, splits: Splits) -> list[Example]:
    """The examples whose labels are repeated. Says where the generator has seen patients that it should not have.

    Raises UserError for images without labels and a fold that there is not.
    """
    train = list(splits["train"])
    everyone = train if plan.fold < 0 else [example for source in splits.values() for example in source]
    if any("label" not in example for example in everyone):
        raise UserError("expanding needs labels, and these images have none")
    if plan.fold < 0:
        return train
    if "fold" in config.data:
        raise UserError("this data set has folds of its own: train with config.data.fold, and leave config.expand.fold")
    if plan.fold >= plan.folds:
        raise UserError(f"config.expand.fold={plan.fold}: there are folds 0 to {plan.folds - 1}")
    who = [example["patient"] for example in everyone]
    labels = np.stack([example["label"] for example in everyone])
    out = {who[i] for i in folds(who, labels, plan.folds, plan.split_seed)[plan.fold]}
    if seen := out & {example["patient"] for example in train}:
        say(f"note: the model was trained on {len(seen)} of the {len(out)} patients that fold {plan.fold} leaves out")
    return [example for example in everyone if example["patient"] not in out]


def which(section: Any) -> dict[str, Any]:
    """What a section says about which images these are, and not about where they lie."""
    return {k: v for k, v in section.items() if k not in ("path", "cache", "strict", "memory_gb", "name")}


def begin(folder: Path, settings: dict[str, Any]) -> None:
    """Notes in ``folder`` what is drawn there. Raises UserError where that is something else."""
    text, path = write.notation(settings, indent=2), folder / "settings.json"
    if path.is_file() and not record.agree(json.loads(path.read_text()), json.loads(text)):
        raise UserError(f"{folder} was begun with other settings, see {path}: choose another --config.expand.name")
    if hosts.first():
        folder.mkdir(parents=True, exist_ok=True)
        write.text(path, text)


def columns(splits: Splits, width: int, classes: int) -> list[str]:
    """The names of the labels: grades by their number, others as their data set calls them."""
    if width == 1:
        return [str(grade) for grade in range(classes)]
    return list(splits.labels) or [f"label{i}" for i in range(width)]


def index(
    folder: Path,
    fold: int,
    pictures: Sequence[str],
    patients: Sequence[str],
    labels: np.ndarray,
    cond: np.ndarray,
    names: Sequence[str],
) -> None:
    """Writes the two tables of the ``pictures`` in ``folder``."""
    files = [f"images/{picture}" for picture in pictures]
    text = table([f"{folder.name}/{file}" for file in files], patients, cond, names)
    write.text(folder.parent / f"train_syn_{fold}.csv", text)
    head = ["filename", "patient_id", *(names if labels.shape[1] > 1 else ["grade"])]
    rows = zip(files, patients, labels.tolist(), strict=True)
    write.text(folder / "labels.csv", comma([head, *([file, patient, *label] for file, patient, label in rows)]))


def table(files: Sequence[str], patients: Sequence[str], labels: Num[np.ndarray, "n K"], names: Sequence[str]) -> str:
    """The text of train_syn_{fold}.csv: filename, a column of 0 and 1 for each label, patient_name, multi_class.

    ``multi_class`` numbers the sets of labels that occur: of grades it is the grade, of several labels at once the rank
    of the set among all sets, ordered by their first label, then their second and so on.
    """
    rows = labels.astype(int)
    single = (rows.sum(1) == 1).all()
    number = rows.argmax(1) if single else np.unique(-rows, axis=0, return_inverse=True)[1].reshape(-1)
    body = zip(files, rows.tolist(), patients, number.tolist(), strict=True)
    head = ["filename", *names, "patient_name", "multi_class"]
    return comma([head, *([file, *row, patient, klass] for file, row, patient, klass in body)])


def comma(rows: Sequence[Sequence[Any]]) -> str:
    """``rows`` as the text of a table with commas."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def lines(facts: dict[str, Any]) -> list[str]:
    """What is to be known about an expansion."""
    counts = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in facts["labels"].items())
    near, drawn, rest = sum(facts["too_near"]), facts["drawn"], facts["kept_though_near"]
    return [
        f"label counts: {counts}",
        f"copies: {near} of {drawn} drawings lay nearer to a training image than {facts['threshold']:.4g}; "
        f"of these {rest} were kept, for want of tries",
        f"({facts['protocol']})",
    ]
