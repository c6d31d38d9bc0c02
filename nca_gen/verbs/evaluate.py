"""--mode=evaluate, and the evaluation inside training: the evaluators of ``config.evals``, their pages, the report."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from nca_gen import build, hosts, judge
from nca_gen.contracts import Figure, Page, Part, Parts
from nca_gen.data.source import Splits
from nca_gen.errors import UserError
from nca_gen.evaluators import nearest, pictures, scores
from nca_gen.evaluators.held import METRICS, Held
from nca_gen.io import sets, write
from nca_gen.report import files, report
from nca_gen.runtime import cadence, mesh, run
from nca_gen.runtime.log import say

USUAL = {"images": METRICS[:2], "volumes": ("total_variation",), "slides": ("pfid",)}  # of sets without a config
SHOWN = 16  # of the images of a set


def last(workdir: str | Path, step: int) -> dict[str, int]:
    """The last step, up to ``step``, of which each evaluator left a page in ``workdir``."""
    pages = Path(workdir).glob("eval/*/*.json")
    steps = [(int(p.parent.name), p.stem) for p in pages if p.parent.name.isdecimal()]
    return {name: at for at, name in sorted(steps) if at <= step}


def due(config: Any, step: int, before: Mapping[str, int]) -> tuple[str, ...]:
    """The evaluators of ``config.evals`` whose turn it is at ``step``, by the steps of their evaluations ``before``.

    Each comes every so many steps as its section says, and once more at the end of training; at 0 never.
    """
    end, names = step >= config.train.steps, []
    for name, section in config.get("evals", {}).items():
        every, done = section.get("every", 0), before.get(name, 0)
        if every > 0 and done < step and (end or cadence.due(step, every, done)):
            names.append(name)
    return tuple(names)


def evaluate(
    config: Any,
    task: Any,
    params: PyTree,
    splits: Splits,
    workdir: str | Path,
    step: int,
    names: Sequence[str] | None = None,
    parts: run.Beside | None = None,
) -> dict[str, float]:
    """Asks the evaluators ``names`` about ``params``, rewrites the report and returns all scores.

    ``names`` None: those that are :func:`due` after the evaluations of earlier steps. ``parts``: those of
    ``config.parts``, opened here if None. Everything is drawn from ``config.seed``, so two evaluations of one
    checkpoint are equal. All processes must call this: they share the drawing of samples.
    """
    # As open_run has them, so that both compile the same.
    params = jax.device_put(jax.device_get(params), jax.local_devices()[0])
    model = Part(run.frozen(config), task, params, step, splits.decode)
    names = due(config, step, last(workdir, step - 1)) if names is None else names
    beside = run.beside(config, workdir) if parts is None else parts
    parts = run.Beside({"model": workdir, **beside.paths}, {**beside.opened, "model": model})
    pages = ask(parts, splits, workdir, names)
    for page in pages.values():
        if page.scores:
            labels = page.facts.get("protocol") or page.scores
            say("  ".join(f"{name} {page.scores[name]:.4g}" for name in labels if name in page.scores))
    return {name: value for page in pages.values() for name, value in page.scores.items()}


def ask(
    parts: Parts, splits: Splits, workdir: str | Path, names: Sequence[str], out: str | Path | None = None
) -> dict[str, Page]:
    """The pages of the evaluators ``names`` about the part "model" of ``workdir``, written with their pictures, and the
    report, into ``out``, by default ``workdir``.

    An evaluator that is asked twice, under another name, has a folder of its own for its pictures. Every process asks,
    so that they can share what is drawn; what any but the first writes is thrown away.
    """
    hosts.meet()  # all know what is asked, before a page is there
    part = parts["model"]
    pipeline, data = build.pipeline(part.config, parts), Held(part.config, part.task, splits)
    pages = {}
    with place(run.evaluation(out or workdir, part.step)) as folder:
        for name, (_, evaluator) in build.evaluators(part.config).items():
            if name not in names:
                continue
            sub = name if part.config.evals[name].get("name") not in (None, "", name) else ""
            (folder / sub).mkdir(parents=True, exist_ok=True)
            page = below(evaluator(pipeline, data, folder / sub), sub)
            if files.contains(page):
                facts = files.written(page) | {"step": part.step, "split": data.split}
                write.facts(folder / f"{name}.json", facts)
                pages[name] = page
    if hosts.first():
        report.write(workdir, out)
    return pages


@contextlib.contextmanager
def place(folder: Path) -> Iterator[Path]:
    """``folder``, or one that goes away, where another process writes into it."""
    if hosts.first():
        yield folder
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


def below(page: Page, folder: str) -> Page:
    """``page`` whose pictures lie in a folder below that of the evaluation."""
    if not folder:
        return page
    moved = [
        figure._replace(file=f"{folder}/{figure.file}", strip=figure.strip and f"{folder}/{figure.strip}")
        for figure in page.figures
    ]
    return replace(page, figures=moved)


def main(config: Any, args: Namespace) -> None:
    """--mode=evaluate; with --json, standard output is for machines only and the table goes beside it."""
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if args.samples:
            specs = args.metrics and args.metrics.split(",")
            facts = compare(args.samples, args.reference, args.train, specs, args.out)
        else:
            with mesh.joined(config):
                facts = everything(config, args.workdir, args.out)
    if args.json and hosts.first():
        print(write.notation(facts, indent=2))


def everything(config: Any, workdir: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Asks all evaluators about the newest good checkpoint of ``workdir``, and says what they found.

    Pages and the report are written into ``out``, by default ``workdir``.

    Returns what the page of the first evaluator with scores says, and the rows of tables by the names of theirs. Raises
    UserError where there is no checkpoint.
    """
    parts = run.parts(config, workdir)
    pages = ask(parts, build.splits(config), workdir, tuple(config.evals), out)
    pages = dict(sorted(pages.items(), key=lambda item: files.rank(item[1])))
    scored = next((page for page in pages.values() if page.scores), None)
    for page in pages.values():
        for line in page.lines:
            say(line)
    say(f"the report is {Path(out or workdir, 'report.html')}")
    facts = files.written(scored) | {"step": parts["model"].step, "split": config.held.split} if scored else {}
    return facts | {name: page.facts["rows"] for name, page in pages.items() if "rows" in page.facts}


def compare(
    samples: str, reference: str | None, train: str | None, specs: Sequence[str] | None, workdir: str | Path | None
) -> dict[str, Any]:
    """Scores what lies at ``samples`` against ``reference`` and ``train`` (see :func:`nca_gen.io.sets.open`).

    ``workdir``, if given, gets scores.json and a report, in place of those of another comparison. Raises UserError
    where sets of different kinds meet, and where a run is kept there: its report is about what it has drawn itself.
    """
    if workdir and run.config_file(workdir).is_file():
        raise UserError(f"{workdir} is what a run is kept in; choose another --workdir for the scores of --samples")
    paths = {"generated": samples, "real": reference, "train": train}
    opened = {role: path and sets.open(path, wanted=wanted(specs or ())) for role, path in paths.items()}
    kinds = {role: sets.kind(some) for role, some in opened.items() if some is not None}
    if len(set(kinds.values())) > 1:
        raise UserError("these are of different kinds: " + ", ".join(f"{paths[r]} holds {k}" for r, k in kinds.items()))
    kind = kinds["generated"]
    specs = specs or USUAL[kind] + (("neighbours",) if train and kind == "images" else ())
    three = (opened[role] for role in ("generated", "real", "train"))
    facts = judge.judge(specs, *three, seed=0, kind=kind, classes=scores.classes(paths, opened))
    lines = judge.table(facts)
    facts |= {"step": 0, "sets": {role: path for role, path in paths.items() if path}}
    page = Page("Samples", facts.pop("scores"), tables=scores.by_class(facts), facts=facts)
    if workdir:
        folder = run.evaluation(workdir, 0)
        shutil.rmtree(folder, ignore_errors=True)  # of other sets
        folder.mkdir(parents=True)
        pages = {"scores": page, **(gallery(opened, page, folder) if kind == "images" else {})}
        for name, shown in pages.items():
            write.facts(folder / f"{name}.json", files.written(shown))
        page = pages["scores"]
        report.write(workdir)
        lines.append(f"the report is {Path(workdir, 'report.html')}")
    for line in lines:
        say(line)
    return files.written(page)


def wanted(specs: Sequence[str]) -> str:
    """What the metrics ``specs`` score, where that tells images from slides; images, where none are named."""
    kinds = [set(judge.request(spec).about.kinds) & {"images", "slides"} for spec in specs]
    common = set.intersection(*kinds) if kinds else {"images"}
    return next(iter(common)) if len(common) == 1 else ""


def gallery(opened: Mapping[str, Any], page: Page, folder: Path) -> dict[str, Page]:
    """The pages of sets of images: ``page`` with some of them, and the nearest training images."""
    captions = {"samples": ("generated", "**Generated**."), "real": ("real", "**Real**.")}
    figures, pages = [], {}
    for name, (role, caption) in captions.items():
        if opened[role] is not None:
            some = np.sort(judge.drawn(len(opened[role]), SHOWN, page.facts["seed"]))
            pictures.grid(folder / f"{name}.png", opened[role][some])
            figures.append(Figure(f"{name}.png", caption))
    samples, train = opened["generated"], opened["train"]
    if train is not None and train.shape[1:] == samples.shape[1:]:
        pages["nearest"] = nearest.page(folder, samples, train)
    return {"scores": replace(page, figures=figures), **pages}
