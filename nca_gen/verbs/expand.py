"""--mode=expand: the training set several times over, drawn from a trained workdir (GeCA, section 2.4 and eq. 8)."""

from __future__ import annotations

import csv
import datetime
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Num
from rich.progress import BarColumn, Progress, TextColumn

from nca_gen import arrays, build
from nca_gen.data.folds import folds
from nca_gen.errors import UserError
from nca_gen.pipelines import expand as pipeline
from nca_gen.runtime import mesh
from nca_gen.runtime.log import replace, say
from nca_gen.verbs.generate import how, restore

EVERY = 60  # seconds between two lines where there is no terminal


def expand(config: Any, workdir: str | Path) -> Path:
    """``config.expand.times`` pictures for every label vector of the training set; returns the folder that holds them.

    ``config.expand``: ``fold`` -1 takes the labels of the train split; a fold of ``folds`` (by patient, of all splits
    with ``split_seed``, as --mode=classify makes them) takes those of all patients but the fold's. ``quantile`` and
    ``tries``: what is too near to the train split, which the generator has seen, is drawn again, see
    :mod:`nca_gen.pipelines.expand`. How pictures are drawn is ``config.sample``.

    ``workdir``/``name`` gets train_syn_{fold}.csv (see :func:`table`) and a folder fold{fold} with images/, expand.json
    and labels.csv, for which the expanded set trains like any folder (:mod:`nca_gen.data.folder`). A stopped run goes
    on where it was; several processes, who see one file system, share the work.
    Raises UserError for data without labels, a model without conditions, and a folder begun with other settings.
    """
    mesh.connect(config.mesh.get("distributed", False))
    asked, (task, params, step) = config.expand, restore(config, workdir)
    params, classes = jax.device_get(params), getattr(task.model, "classes", 0)
    if not classes:
        raise UserError("expanding needs a model that knows labels: train one with config.model.classes, their number")
    splits, decode = build.pixels(config)
    chosen = _chosen(config, splits)
    labels = np.stack([example["label"] for example in chosen])
    cond = np.asarray(arrays.multi_hot(labels, classes))
    n = asked.times * len(chosen)

    fold = config.data.get("fold", 0) if asked.fold < 0 else asked.fold
    folder = Path(workdir, asked.name, f"fold{fold}")
    drawing = how(config) | {"size": tuple(config.sample.size), "batch": config.sample.batch, "seed": config.seed}
    about = {"step": step, "sample": drawing, "expand": _kept(asked), "data": [config.data.name, _kept(config.data)]}
    _begin(folder, about)
    train, held = ([example["image"] for example in splits[name]] for name in ("train", "val"))
    references, threshold = pipeline.yardstick(train, held, asked.quantile)

    def drawn(pictures: np.ndarray, attempt: int) -> np.ndarray:
        x = pipeline.draw(task, params, cond, pictures, attempt, space=config.mesh.space, **drawing)
        return np.clip(decode(x), -1.0, 1.0)

    known = len({example["patient"] for example in chosen})
    say(f"{n} pictures, {asked.times} for each of {len(chosen)} label vectors of {known} patients, go into {folder}")
    with _progress() as progress:
        distance, near = pipeline.rounds(
            n,
            folder / "images",
            drawn,
            partial(pipeline.distances, references=references),
            threshold,
            batch=config.sample.batch,
            tries=asked.tries,
            deal=(jax.process_index(), jax.process_count()),
            meet=lambda: mesh.anywhere(False),
            progress=progress,
        )
    if jax.process_index():
        return folder

    columns = _columns(config, labels.shape[1], classes)
    _list(
        folder,
        fold,
        [example["patient"] for example in chosen] * asked.times,
        np.tile(labels, (asked.times, 1)),
        np.tile(cond, (asked.times, 1)),
        columns,
    )
    facts = {
        "settings": about,
        "pictures": n,
        "labels": {
            c: [int(a), int(b)] for c, a, b in zip(columns, cond.sum(0), asked.times * cond.sum(0), strict=True)
        },
        "threshold": threshold,
        "protocol": pipeline.PROTOCOL.format(quantile=asked.quantile, tries=asked.tries),
        "drawn": n + sum(near[:-1]),
        "too_near": near,
        "kept_though_near": near[-1],
        "distance": {f"{q:g}": float(np.quantile(distance, q)) for q in (0, 0.01, 0.5, 1)},
    }
    replace(folder / "expand.json", json.dumps(facts, indent=2))
    for line in told(facts):
        say(line)
    say(f"the expanded set is {folder}, listed in {folder.parent / f'train_syn_{fold}.csv'}")
    return folder


def _list(
    folder: Path, fold: int, patients: list[str], labels: np.ndarray, cond: np.ndarray, columns: Sequence[str]
) -> None:
    """Writes the two tables of the pictures in ``folder``."""
    files = [f"images/{pipeline.name(i)}" for i in range(len(patients))]
    text = table([f"{folder.name}/{file}" for file in files], patients, cond, columns)
    replace(folder.parent / f"train_syn_{fold}.csv", text)
    head = ["filename", "patient_id", *(columns if labels.shape[1] > 1 else ["grade"])]
    rows = zip(files, patients, labels.tolist(), strict=True)
    replace(folder / "labels.csv", _csv(head, [[file, patient, *label] for file, patient, label in rows]))


def told(facts: dict[str, Any]) -> list[str]:
    """What is to be known about an expansion, as lines."""
    counts = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in facts["labels"].items())
    near, drawn, kept = sum(facts["too_near"]), facts["drawn"], facts["kept_though_near"]
    return [
        f"label counts: {counts}",
        f"copies: {near} of {drawn} drawings lay nearer to a training image than {facts['threshold']:.4g}; "
        f"of these {kept} were kept, for want of tries",
        f"({facts['protocol']})",
    ]


def table(files: Sequence[str], patients: Sequence[str], labels: Num[np.ndarray, "n K"], columns: Sequence[str]) -> str:
    """The text of train_syn_{fold}.csv: filename, a column of 0 and 1 for each label, patient_name, multi_class.

    ``multi_class`` numbers the sets of labels that occur: of grades it is the grade, of several labels at once the rank
    of the set among all sets, ordered by their first label, then their second and so on.
    """
    rows = labels.astype(int)
    single = (rows.sum(1) == 1).all()
    number = rows.argmax(1) if single else np.unique(-rows, axis=0, return_inverse=True)[1].reshape(-1)
    body = zip(files, rows.tolist(), patients, number.tolist(), strict=True)
    return _csv(
        ["filename", *columns, "patient_name", "multi_class"],
        [[file, *row, patient, klass] for file, row, patient, klass in body],
    )


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _chosen(config: Any, splits: dict[str, Any]) -> list[Any]:
    """The examples whose labels are repeated. Says where the generator has seen patients that it should not have."""
    asked, train = config.expand, list(splits["train"])
    everyone = train if asked.fold < 0 else [example for source in splits.values() for example in source]
    if any("label" not in example for example in everyone):
        raise UserError("expanding needs labels, and these images have none")
    if asked.fold < 0:
        return train
    if "fold" in config.data:
        raise UserError("this data set has folds of its own: train with config.data.fold, and leave config.expand.fold")
    if asked.fold >= asked.folds:
        raise UserError(f"config.expand.fold={asked.fold}: there are folds 0 to {asked.folds - 1}")
    who = [example["patient"] for example in everyone]
    labels = np.stack([example["label"] for example in everyone])
    out = {who[i] for i in folds(who, labels, asked.folds, asked.split_seed)[asked.fold]}
    if seen := out & {example["patient"] for example in train}:
        say(f"note: the model was trained on {len(seen)} of the {len(out)} patients that fold {asked.fold} leaves out")
    return [example for example in everyone if example["patient"] not in out]


def _kept(section: Any) -> dict[str, Any]:
    """What a section says about which images these are, and not about where they lie."""
    return {k: v for k, v in section.items() if k not in ("path", "cache", "strict", "memory_gb", "name")}


def _begin(folder: Path, about: dict[str, Any]) -> None:
    """Notes in ``folder`` what is drawn there. Raises UserError where that is something else."""
    text, kept = json.dumps(about, indent=2), folder / "settings.json"
    if kept.is_file() and kept.read_text() != text:
        raise UserError(f"{folder} was begun with other settings, see {kept}: choose another --config.expand.name")
    if not jax.process_index():
        folder.mkdir(parents=True, exist_ok=True)
        replace(kept, text)


def _columns(config: Any, width: int, classes: int) -> list[str]:
    """The names of the labels: grades by their number, others as their data set calls them."""
    if width == 1:
        return [str(grade) for grade in range(classes)]
    module = build.named("data", "splits", config.data.name)
    if hasattr(module, "source"):  # latents bear the labels of what they were made from
        module = build.named("data", "splits", module.source(config.data.path)["name"])
    return list(getattr(module, "LABELS", [f"label{i}" for i in range(width)]))


@contextmanager
def _progress() -> Iterator[Callable[[int, int, int], None]]:
    """A bar with the speed and the time left; without a terminal a line after the first batch and then each minute."""
    quiet = not sys.stdout.isatty() or jax.process_index() > 0
    state = {"done": 0, "start": time.perf_counter(), "said": -np.inf}
    with Progress(TextColumn("{task.description}"), BarColumn(None), transient=True, disable=quiet) as bar:
        row = bar.add_task("drawing")

        def heard(attempt: int, done: int, left: int) -> None:
            if not done:
                state.update(done=0, start=time.perf_counter())
                bar.reset(row, total=left, description=f"round {attempt + 1}: {left} pictures")
                return
            state["done"] += done
            rate = state["done"] / (time.perf_counter() - state["start"])
            eta = datetime.timedelta(seconds=round(left / rate))
            text = f"round {attempt + 1}  {left} left  {rate:.3g} images/s  ETA {eta}"
            bar.update(row, advance=done, description=text)
            if quiet and time.perf_counter() - state["said"] > EVERY:
                state["said"] = time.perf_counter()
                say(text)

        yield heard
