"""--mode=classify: what synthetic images are worth to a classifier; the shape of Table 2 of Elbatel et al. 2024.

A row trains on the photographs of its folds as they are, with geometric augmentation, or with that and what a generator
has added; all rows see the same folds, steps and seeds. Validation is on photographs of other patients, always.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from nca_gen import build
from nca_gen.errors import UserError, unknown
from nca_gen.io import write
from nca_gen.report import files, report
from nca_gen.runtime import mesh, record
from nca_gen.runtime.log import say
from nca_gen.sections import Classify
from nca_gen.verbs.classify_cells import Fold, cell, divided, listed, settings
from nca_gen.verbs.classify_tables import BASELINE, downstream, markdown, page, table

POOLS = ("image", "eye", "patient")


def main(config: Any, args: Namespace) -> None:
    """--mode=classify."""
    classify(config, args.workdir)


def classify(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains what is missing of the table and prints it; writes ``table.json``, ``table.md``, ``table.html``.

    The report of each run whose samples it used begins with what they were worth.

    Every cell is a run of its own below ``workdir``/cells, resumed like any run; its result stays, so that a classify
    that was killed goes on. Raises UserError for folds that cannot be made, expansions that do not fit, and whatever
    the data set and the task refuse.
    """
    config, workdir = config.copy_and_resolve_references(), Path(workdir).absolute()
    mesh.connect(config.mesh.get("distributed", False))
    plan = Classify(**build.fields(config, "classify"))
    if plan.pool not in POOLS:
        raise unknown("value of config.classify.pool", plan.pool, POOLS)
    rows = {"none": ("none", ""), BASELINE: ("geometric", "")}
    rows |= {name: (plan.augment, folder) for name, folder in names(plan.expansions).items()}
    folds = divided(config, plan)
    # All that could be wrong with an expansion is said before the first hour of training.
    added = {
        (folder, fold.fold): listed(folder, fold) if folder else [] for _, folder in rows.values() for fold in folds
    }
    workdir.mkdir(parents=True, exist_ok=True)
    record.save_config(workdir, config)
    results: dict[str, list[dict]] = {row: [] for row in rows}
    for fold in folds:
        for row, (augment, folder) in rows.items():
            place = workdir / "cells" / row / f"{fold.fold}-{fold.repeat}"
            say(f"{row}, fold {fold.fold} of {plan.folds}, repeat {fold.repeat} of {plan.repeats}")
            some = added[folder, fold.fold]
            own = settings(config, plan, row, augment, fold, some)
            results[row].append(cell(own, place, fold, some, plan.keep))
    facts = {section: config[section].to_dict() for section in ("data", "model", "train")}
    facts |= table(results, folds, plan, config.task.labels == "multi")
    lines = markdown(facts)
    if jax.process_index() == 0:
        write.facts(workdir / "table.json", facts)
        write.text(workdir / "table.md", "\n".join(lines) + "\n")
        write.text(workdir / "table.html", page(facts))
        for row, home in used({row: folder for row, (_, folder) in rows.items() if folder}, folds):
            write.facts(home / f"{files.DOWNSTREAM}.json", files.written(downstream(facts, row)))
            report.write(home)
    for line in lines:
        say(line)
    say(f"the page is {workdir / 'table.html'}")
    return facts


def run_of(folder: str) -> Path | None:
    """The run that a folder of its samples lies in, below "expanded"."""
    parts = Path(folder).absolute().parts
    return Path(*parts[: parts.index("expanded")]) if "expanded" in parts[1:] else None


def used(expansions: Mapping[str, str], folds: Sequence[Fold]) -> list[tuple[str, Path]]:
    """The runs whose samples a table used, each with the name of its row."""
    places = {
        (row, run_of(path.replace("{fold}", str(fold.fold)))) for row, path in expansions.items() for fold in folds
    }
    return sorted((row, home) for row, home in places if home and (home / "config.json").is_file())


def names(expansions: Sequence[str]) -> dict[str, str]:
    """A short name for every folder: of the run that a folder "expanded" lies in, else its own."""
    folders = {}
    for folder in expansions:
        name = (run_of(folder) or Path(folder).absolute()).name
        folders[name.replace("{fold}", "").strip("_-.") or name] = folder
    if len(folders) < len(expansions) or folders.keys() & {"none", BASELINE}:
        raise UserError(f"config.classify.expansions={expansions}: give folders, or runs, of different names")
    return folders
