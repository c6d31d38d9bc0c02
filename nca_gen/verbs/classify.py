"""--mode=classify: what synthetic images are worth to a classifier; the shape of GeCA's Table 2 (Elbatel et al. 2024).

A row trains on the photographs of its folds as they are, with geometric augmentation, or with that and what a generator
has added; all rows see the same folds, steps and seeds. Validation is on photographs of other patients, always.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Num

from nca_gen import build
from nca_gen.data import folds as by_patient
from nca_gen.data.source import Example, digest, progress
from nca_gen.errors import UserError, accepted, unknown
from nca_gen.io import images
from nca_gen.metrics import classification
from nca_gen.metrics.notes import collecting
from nca_gen.report import markup, report
from nca_gen.runtime import checkpoint, log, mesh
from nca_gen.runtime.log import replace, say
from nca_gen.tasks.classify import columns, predicted
from nca_gen.verbs.train import train

BASELINE = "geometric"
POOLS = ("image", "eye", "patient")
SIDE = r"(?i)(?<![a-z0-9])(left|right|os|od|l|r)(?=[0-9]*(?![a-z0-9]))"  # 10003_right, 56_r3
HEADS = ("Sen.", "Spe.", "AUC", "F1", "F1 sen/spe", "mAP")  # of classification.FIGURES, as in the paper


class Plan(NamedTuple):
    """``config.classify``.

    ``folds`` by patient of the splits ``of``, drawn with ``seed`` (as --mode=expand draws them, of "train"); where a
    data set brings its own (``config.data.fold``), those. 1 takes the data set's split: trained on "train", validated
    on ``config.eval.split``. Each is trained ``repeats`` times, from other seeds. ``expansions``: folders that
    --mode=expand wrote, a row each, with ``augment`` on top; "{fold}" in one stands for the fold's number.
    Probabilities are averaged over what ``pool`` names ("image", "eye", "patient") before anything is measured;
    ``eye`` is a pattern for the side in a file's name, "" for :data:`SIDE`. ``draws`` are the bootstrap's. ``keep``
    leaves the checkpoints of finished trainings.
    """

    folds: int = 5
    of: tuple[str, ...] = ("train",)
    repeats: int = 1
    seed: int = 0
    augment: str = "geometric"
    expansions: tuple[str, ...] = ()
    pool: str = "image"
    eye: str = ""
    draws: int = 2000
    keep: bool = False


class Part(NamedTuple):
    """What one training of every row sees."""

    fold: int
    repeat: int
    train: list[Example]
    val: list[Example]


class Synthetic(NamedTuple):
    """A row of ``train_syn_{fold}.csv``."""

    path: Path
    patient: str
    label: np.ndarray


def classify(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains what is missing of the table and prints it; writes ``table.json``, ``table.md``, ``table.html``.

    Every cell is a run of its own below ``workdir``/cells, resumed like any run; what it found is kept, so that a
    classify that was killed goes on. Raises UserError for folds that cannot be made, expansions that do not fit, and
    whatever the data set and the task refuse.
    """
    config, workdir = config.copy_and_resolve_references(), Path(workdir).absolute()
    mesh.connect(config.mesh.get("distributed", False))
    plan = Plan(**accepted(Plan, "config.classify", dict(config.get("classify", {}))))
    if plan.pool not in POOLS:
        raise unknown("value of config.classify.pool", plan.pool, POOLS)
    rows = {"none": ("none", ""), BASELINE: ("geometric", "")}
    rows |= {name: (plan.augment, folder) for name, folder in names(plan.expansions).items()}
    parts = divided(config, plan)
    # All that could be wrong with an expansion is said before the first hour of training.
    added = {
        (folder, part.fold): listed(folder, part, len(classes(config))) if folder else []
        for _, folder in rows.values()
        for part in parts
    }
    workdir.mkdir(parents=True, exist_ok=True)
    log.save_config(workdir, config)
    found: dict[str, list[dict]] = {row: [] for row in rows}
    for part in parts:
        for row, (augment, folder) in rows.items():
            place = workdir / "cells" / row / f"{part.fold}-{part.repeat}"
            say(f"{row}, fold {part.fold} of {plan.folds}, repeat {part.repeat} of {plan.repeats}")
            mine = settings(config, plan, row, augment, part, added[folder, part.fold])
            found[row].append(cell(mine, place, part, added[folder, part.fold], plan.keep))
    facts = table(found, parts, plan, config.task.labels == "multi", classes(config))
    facts = {"data": config.data.to_dict(), "model": config.model.to_dict(), "train": config.train.to_dict()} | facts
    lines = markdown(facts)
    if jax.process_index() == 0:
        replace(workdir / "table.json", json.dumps(facts, indent=2))
        replace(workdir / "table.md", "\n".join(lines) + "\n")
        replace(workdir / "table.html", page(facts))
    for line in lines:
        say(line)
    say(f"the page is {workdir / 'table.html'}")
    return facts


def names(expansions: Sequence[str]) -> dict[str, str]:
    """A short name for every folder: of the run that a folder "expanded" lies in, else its own."""
    found = {}
    for folder in expansions:
        parts = Path(folder).absolute().parts
        name = parts[parts.index("expanded") - 1] if "expanded" in parts[1:] else parts[-1]
        found[name.replace("{fold}", "").strip("_-.") or name] = folder
    if len(found) < len(expansions) or found.keys() & {"none", BASELINE}:
        raise UserError(f"config.classify.expansions={expansions}: give folders, or runs, of different names")
    return found


def classes(config: Any) -> tuple[str, ...]:
    """A name for every class: the data set's own, else its number."""
    known = getattr(build.named("data", "splits", config.data.name), "LABELS", ())
    n = config.model.classes
    return tuple(known) if len(known) == n else tuple(map(str, range(n)))


# Data.


def divided(config: Any, plan: Plan) -> list[Part]:
    """The parts, fold by fold, of images of ``config.data.patch``, whose labels are 0/1 columns.

    Raises UserError where somebody is on both sides of a part.
    """
    held: dict[str, Example] = {}

    def whole(source: Sequence[Example]) -> list[Example]:
        """All of a split, every image brought to size once."""
        examples = [source[i] for i in progress(range(len(source)), "reading images", len(source))]
        if bare := [example["name"] for example in examples if "label" not in example]:
            raise UserError(f"{bare[0]} has no label: put a labels.csv with a label column beside the images")
        table = columns(np.stack([e["label"] for e in examples]), config.model.classes, config.task.labels)
        for example, label in zip(examples, table, strict=True):
            if example["name"] not in held:
                image = resized(example["image"], tuple(config.data.patch))
                held[example["name"]] = example | {"image": image, "label": label}
        return [held[example["name"]] for example in examples]

    config, own = config.copy_and_resolve_references(), "fold" in config.data
    numbers = [config.data.fold] if own and plan.folds == 1 else range(plan.folds)
    if own or plan.folds == 1:
        pairs = []
        for fold in numbers:
            if own:
                config.data.fold = fold
            splits = build.splits(config)
            pairs.append((whole(splits["train"]), whole(splits[config.eval.split])))
    else:
        splits = build.splits(config)
        everyone = [example for split in plan.of for example in whole(splits[split])]
        who, labels = [e["patient"] for e in everyone], np.stack([e["label"] for e in everyone])
        outs = [set(fold.tolist()) for fold in by_patient.folds(who, labels, plan.folds, plan.seed)]
        pairs = [
            ([e for i, e in enumerate(everyone) if i not in out], [everyone[i] for i in sorted(out)]) for out in outs
        ]
    for pair in pairs:
        if both := set.intersection(*({e["patient"] for e in side} for side in pair)):
            raise UserError(f"patient {min(both)} is trained on and validated on: correct the data's patients or split")
    return [
        Part(fold, repeat, *pair) for fold, pair in zip(numbers, pairs, strict=True) for repeat in range(plan.repeats)
    ]


def resized(image: Num[np.ndarray, "H W C"], size: tuple[int, int]) -> Num[np.ndarray, "h w C"]:
    """``image`` in ``size`` = (height, width)."""
    return image if image.shape[:2] == size else images.resize(image, size)


def listed(folder: str, part: Part, width: int) -> list[Synthetic]:
    """What ``folder`` adds to the training of ``part``: its ``train_syn_{fold}.csv``, there or in a folder below.

    Raises UserError for a table or a file that is missing, for labels that are not ``width`` columns of 0 and 1, and
    for images made after a patient of the validation fold, who would then be on both sides.
    """
    name, root = f"train_syn_{part.fold}.csv", Path(folder.replace("{fold}", str(part.fold))).expanduser()
    found = sorted(root.rglob(name))
    if len(found) != 1:
        lie = f"{len(found)} of them lie" if found else "there is none"
        raise UserError(f"one {name} is needed in or below {root}, {lie}: name the folder that --mode=expand wrote")
    path = found[0]
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = [row for row in csv.reader(file) if row] or [[]]
    if head[:1] != ["filename"] or "patient_name" not in head or head.index("patient_name") != width + 1:
        raise UserError(f"{path} needs the columns filename, {width} labels, patient_name; it has {', '.join(head)}")
    away, made = {example["patient"] for example in part.val}, []
    for row in rows:
        file, label, patient = path.parent / row[0], row[1 : width + 1], row[width + 1]
        if set(label) - {"0", "1"} or not file.is_file():
            raise UserError(f"{path}: {row[0]} is missing, or its labels {label} are not 0 and 1; expand anew")
        if not patient or patient in away:
            why = f"made after patient {patient} of the validation fold" if patient else "of nobody known"
            raise UserError(f"{path}: {row[0]} is {why}: expand the training patients of fold {part.fold} alone")
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
        return list(progress(pool.map(example, added), "reading synthetic images", len(added)))


# Cells.


def settings(config: Any, plan: Plan, row: str, augment: str, part: Part, added: Sequence[Synthetic]) -> Any:
    """The config of one training: what it depends on, and nothing else."""
    mine = config.copy_and_resolve_references()
    content = {
        "train": [example["name"] for example in part.train],
        "val": [example["name"] for example in part.val],
        "added": [[s.path.name, s.path.stat().st_size, s.label.tolist()] for s in added],
    }
    sees = {name: f"{len(some)}, {digest(json.dumps(some))}" for name, some in content.items()}
    with mine.unlocked():
        mine.task.augment, mine.data.flips, mine.train.eval_every = augment, "none", 0
        mine.seed = config.seed + part.repeat
        mine.classify = {"row": row, "fold": part.fold, "folds": plan.folds, "repeat": part.repeat} | sees
    return mine


def cell(config: Any, workdir: Path, part: Part, added: Sequence[Synthetic], keep: bool) -> dict[str, Any]:
    """Trains one cell of the table to the end, unless ``workdir`` holds what it found: probabilities, truth, who.

    Raises UserError where ``workdir`` is of another config.
    """
    kept = workdir / "cell.json"
    stamp = {"steps": config.train.steps, "batch": config.train.batch, "config": log.config_hash(config)}
    done = report.read_object(kept)
    if stamp.items() <= done.items():
        return done
    log.check_config(workdir, config)
    size, found, start = tuple(config.data.patch), [], time.perf_counter()

    def validated(config: Any, task: Any, params: Any, splits: dict, *_: Any) -> dict[str, float]:
        probability, truth = predicted(task, params, splits["val"], size, config.train.batch)
        found.append((probability.tolist(), truth.tolist()))
        return {}

    splits = {"train": part.train + opened(added, part.val[0]["image"]), "val": part.val}
    train(config, workdir, task=build.task(config), splits=splits, evaluate=validated)
    [(probability, truth)] = found
    done = stamp | {
        "seconds": time.perf_counter() - start,
        "names": [example["name"] for example in part.val],
        "patients": [example["patient"] for example in part.val],
        "probability": probability,
        "truth": truth,
    }
    if jax.process_index() == 0:
        replace(kept, json.dumps(done))
        if not keep:
            shutil.rmtree(checkpoint.folder(workdir))
    return done


# The table.


def units(done: dict[str, Any], plan: Plan, multi: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities and truth of what a cell was validated on, an image, an eye or a patient a row, and its patient.

    Raises UserError for a file name without a side, where eyes are asked for.
    """
    probability, truth = np.array(done["probability"]), np.array(done["truth"])
    if plan.pool == "image":
        return probability, truth, done["patients"]
    groups = list(done["patients"])
    if plan.pool == "eye":
        for i, name in enumerate(done["names"]):
            side = re.search(plan.eye or SIDE, Path(name).stem)
            if side is None:
                raise UserError(f"no eye can be read from {name}: set config.classify.eye, a pattern, or pool=image")
            groups[i] += f"/{side[0].lower()}"
    of = dict(zip(groups, done["patients"], strict=True))
    probability, truth, groups = classification.pooled(probability, truth, groups, multi)
    return probability, truth, [of[group] for group in groups]


def table(
    found: dict[str, list[dict]], parts: Sequence[Part], plan: Plan, multi: bool, classes: Sequence[str]
) -> dict[str, Any]:
    """Everything that is known of the rows, for JSON; NaN is None.

    Of every figure the macro average of each training, their mean and standard deviation (of K - 1), and the mean by
    class; against the baseline, two tests of the difference in mAP.
    """
    rows, cells = {}, {row: [units(done, plan, multi) for done in trained] for row, trained in found.items()}
    with collecting() as notes:
        for row, some in cells.items():
            by_class = [classification.figures(probability, truth, multi) for probability, truth, _ in some]
            each = [classification.macro(values, classes) for values in by_class]
            rows[row] = {"figures": {}, "classes": {}, "seconds": sum(done["seconds"] for done in found[row])}
            for name in classification.FIGURES:
                values, columns = [one[name] for one in each], np.array([values[name] for values in by_class])
                rows[row]["figures"][name] = spread(values)
                rows[row]["classes"][name] = {c: spread(v)["mean"] for c, v in zip(classes, columns.T, strict=True)}
    for row in rows.keys() - {BASELINE}:
        rows[row] |= compared(cells[row], cells[BASELINE], parts, plan)
    whose = f"{plan.folds} folds by patient" if plan.folds > 1 else "the data's own split"
    shared = ", their variance corrected for what folds share (Nadeau & Bengio 2003)" if plan.folds > 1 else ""
    protocol = {
        "figures": f"percent, per {plan.pool}: one class against the rest, averaged over {len(classes)} classes; "
        + ("a probability of 1/2 decides" if multi else "the most probable class is said"),
        "spread": f"mean and standard deviation over {len(parts)} trainings: {whose}, {plan.repeats} of each",
        "p patients": f"against {BASELINE}, mAP, two-sided: paired bootstrap over patients, {plan.draws} draws",
        "p trainings": f"against {BASELINE}, mAP, two-sided: paired t-test over the trainings{shared}",
    }
    return {"rows": rows, "baseline": BASELINE, "pool": plan.pool, "protocol": protocol, "notes": notes}


def spread(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation of those that are defined, None where none is (or but one), and the values."""
    known = [float(v) for v in values if np.isfinite(v)]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": [float(v) if np.isfinite(v) else None for v in values],
    }


def compared(mine: list, theirs: list, parts: Sequence[Part], plan: Plan) -> dict[str, Any]:
    """Both tests of a row's difference in mAP to another row's, part by part."""
    a, b, truth, patients = [], [], [], []
    for first in range(0, len(mine), plan.repeats):
        here = slice(first, first + plan.repeats)
        a.append(np.stack([probability for probability, *_ in mine[here]]))
        b.append(np.stack([probability for probability, *_ in theirs[here]]))
        truth.append(mine[first][1])
        patients.append(mine[first][2])
    score = classification.mean_average_precision
    differences = [float(score(x, t) - score(y, t)) for (x, t, _), (y, *_) in zip(mine, theirs, strict=True)]
    overlap = np.mean([len(p.val) / len(p.train) for p in parts]) if plan.folds > 1 else 0.0
    tests = {
        "patients": classification.bootstrap(a, b, truth, patients, plan.seed, plan.draws),
        "trainings": classification.t_test(differences, float(overlap)),
    }
    return {
        name: {field: value if np.isfinite(value) else None for field, value in test._asdict().items()}
        for name, test in tests.items()
    }


def words(facts: dict[str, Any]) -> list[list[str]]:
    """The table as it is read: heads, then a line a row."""
    lines = [["augmentation", *HEADS, "p patients", "p trainings"]]
    for row, about in facts["rows"].items():
        values = [percent(about["figures"][name]) for name in classification.FIGURES]
        lines.append([row, *values, *(p_value(about.get(test)) for test in ("patients", "trainings"))])
    return lines


def markdown(facts: dict[str, Any]) -> list[str]:
    """The table as lines of Markdown, and how it was measured."""
    heads, *lines = words(facts)
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    rule = ["-" * width for width in widths]
    drawn = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in [heads, rule, *lines]]
    remarks = [f"- {name}: {text}." for name, text in facts["protocol"].items()]
    return [*drawn, "", *remarks, *(f"- {text}." for text in facts["notes"])]


def page(facts: dict[str, Any]) -> str:
    """The same for a browser, with the mAP of every class."""
    text, joined = markup.text, markup.joined

    def drawn(lines: list[list[str]]) -> str:
        heads, *rows = [[text(word) for word in line] for line in lines]
        body = joined(f'<tr class="whole"><td>{"</td><td>".join(row)}</td></tr>' for row in rows)
        head = f"<thead><tr><th>{'</th><th>'.join(heads)}</th></tr></thead>"
        return f'<div class="card table"><table>{head}<tbody>{body}</tbody></table></div>'

    values = {row: about["classes"]["map"] for row, about in facts["rows"].items()}
    each = [["augmentation", *next(iter(values.values()))]]
    each += [[row, *(percent({"mean": v, "std": None}) for v in mine.values())] for row, mine in values.items()]
    remarks = joined(f'<p><span class="bad">{text(note)}.</span></p>' for note in facts["notes"])
    title = f"What synthetic images are worth to {facts['model']['name']} on {facts['data']['name']}"
    return markup.page(
        text(title),
        [
            f'<header><p class="over">nca_gen · classification</p><h1>{text(title)}</h1></header>',
            markup.section("The table", drawn(words(facts)) + remarks),
            markup.section("How it was measured", markup.terms(facts["protocol"], "notes")),
            markup.section("Average precision, class by class", drawn(each), "Percent, mean over the trainings."),
            markup.section("What was trained", markup.terms({k: facts[k] for k in ("model", "data", "train")})),
        ],
    )


def percent(found: dict[str, Any]) -> str:
    """Mean and deviation in percent."""
    if found["mean"] is None:
        return "n/a"
    return f"{100 * found['mean']:.2f}" + (f" ± {100 * found['std']:.2f}" if found["std"] is not None else "")


def p_value(test: dict[str, Any] | None) -> str:
    """The p of a test; nothing for the baseline itself."""
    if not test:
        return "-"
    return "n/a" if test["p"] is None else f"{test['p']:.2g}"
