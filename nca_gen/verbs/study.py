"""--mode=study: one table of several generators, as large, as good and as fast as they are; GeCA's Table 1.

KID (100 subsets of a quarter of the samples), diversity by LPIPS, the generalisation gap (GG), and beside them what a
generator costs: parameters, steps and time of training, images a second.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nca_gen import arrays, build, judge, screen
from nca_gen import config as configs
from nca_gen.contracts import Figure, Page, Pipeline, Table
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.io import exports, write
from nca_gen.metrics import features, lpips
from nca_gen.report import files, report
from nca_gen.runtime import ahead
from nca_gen.runtime import run as runs
from nca_gen.runtime.log import say
from nca_gen.sections import Study

SHOWN, ACROSS = 32, 8  # samples of each run on the page, and in a row of it
COLUMNS = {
    "parameters": "Parameters",
    "step": "Steps",
    "training_seconds": "Training, s",
    "images_per_second": "Images/s",
}


def main(config: Any, args: Namespace) -> None:
    """--mode=study."""
    study(config, args.workdir)


def study(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Scores the runs of the plan alike, prints the table and writes study.json and study.html.

    Noise is that of ``config.seed``, everything else, the sampler too, is of each run. A row that is there already, of
    the same checkpoint and settings, is taken as it is. Raises UserError for no run, and for folders that hold none.
    """
    plan, workdir = Study(**build.fields(config, "study")), Path(workdir)
    if not any(plan.runs):
        raise UserError("there is nothing to compare: name runs with --config.study.runs=runs/geca,runs/dit")
    plan = plan._replace(metrics=tuple(plan.metrics) or metrics(), runs=tuple(map(exports.located, plan.runs)))
    for spec in plan.metrics:  # what cannot be compared is said before anything is sampled
        judge.request(spec)
    for path in plan.runs:
        stored(path)
    workdir.mkdir(parents=True, exist_ok=True)
    names = [f"{i}_{Path(path).resolve().name}" for i, path in enumerate(plan.runs)]
    rows = [row(plan, config.seed, path, workdir, name) for path, name in zip(plan.runs, names, strict=True)]
    facts = {"rows": rows}
    write.facts(workdir / "study.json", facts)
    write.text(workdir / "study.html", page(facts, workdir))
    for line in table(facts):
        say(line)
    say(f"the page is {workdir / 'study.html'}")
    return facts


def metrics() -> tuple[str, ...]:
    """What Table 1 shows; without the published weights a stand-in, which says in its name what it is.

    KID and GG by features of the Inception network, or of the same with random weights (KID then goes by the name of a
    plain kernel distance). Diversity by LPIPS, or by the MS-SSIM of pairs of samples, which is low where that is high.
    """
    extractor = "" if known(features.protocol, "inception") else "@inception-random"
    return (
        f"kid{extractor}:subsets=100:size=0.25",
        "lpips" if known(lpips.protocol) else "ms_ssim",
        f"fld{extractor}",
    )


def known(protocol: Callable[..., dict[str, Any]], *name: str) -> bool:
    """Whether there are the weights that ``protocol`` tells of."""
    try:
        return bool(protocol(*name))
    except UserError:
        return False


def row(plan: Study, seed: int, path: str, workdir: Path, name: str) -> dict[str, Any]:
    """What is known of the run at ``path``; a grid of its samples goes into ``workdir`` under ``name``."""
    config = stored(path)
    config.update(seed=seed, held={"n": plan.n, "train": plan.train, "split": plan.split})
    parts = runs.parts(config, path)
    part, before = parts["model"], files.read_object(workdir / f"{name}.json")
    settings = {"step": part.step, "metrics": list(plan.metrics), "sample": config.sample.to_dict(), "seed": seed}
    settings = json.loads(write.notation(settings | config.held.to_dict() | {"run": str(path)}))
    if before.get("settings") == settings and (workdir / f"{name}.png").is_file():
        return before

    pipeline, data = build.pipeline(part.config, parts), Held(part.config, part.task, build.splits(config))
    samples, rate = draw(pipeline, data, config.sample.batch)
    generated = np.clip(samples, -1.0, 1.0)
    pictures.grid(workdir / f"{name}.png", generated[:SHOWN], ACROSS)
    facts = judge.judge(plan.metrics, generated, data.real, data.train, seed, data.kind)
    training = files.read(Path(path))
    facts |= {
        "notes": data.notes() | facts["notes"],
        "name": Path(path).resolve().name,
        "model": config.model.name,
        "picture": f"{name}.png",
        "parameters": ahead.size(part.params),
        "step": part.step,
        "training_seconds": files.computing(training),
        "images_per_second": rate,
        "settings": settings,
    }
    write.facts(workdir / f"{name}.json", facts)
    return facts


def stored(path: str) -> Any:
    """The config that a run left behind. Raises UserError where there is none."""
    file = runs.config_file(path)
    if not file.is_file():
        raise UserError(f"{path} holds no run: there is no config.json; correct --config.study.runs")
    return configs.saved(file)


def draw(pipeline: Pipeline, data: Held, batch: int) -> tuple[Float[np.ndarray, "n *T C"], float]:
    """A sample for each real patch, and how many of them came a second.

    That is the median over the whole batches after the first, which compiles; over all where there is no other.
    """
    samples, seconds, clock = [], [], time.perf_counter
    images = pipeline.draw(arrays.keys(data.seed, data.n), data.patch, data.cond)
    for _ in range(0, data.n, batch):
        start = clock()
        samples.append(np.stack(list(islice(images, batch))))
        seconds.append(clock() - start)
        rate = len(samples[-1]) / seconds[-1]
        say(f"{sum(map(len, samples))} of {data.n} samples, {rate:.3g} images/s")
    whole = [len(x) / s for x, s in zip(samples[1:], seconds[1:], strict=True) if len(x) == batch]
    return np.concatenate(samples), float(np.median(whole)) if whole else data.n / sum(seconds)


def headings(facts: dict[str, Any]) -> list[str]:
    """The scores that stand in the table: of each metric its own, and of FLD only GG."""
    labels = facts["rows"][0]["protocol"]
    return [f"{label}_gg" if label.startswith("fld") else label for label in labels]


def cells(facts: dict[str, Any]) -> list[list[Any]]:
    """What stands in the table for each run: its costs and its scores, NaN for one that it lacks."""
    names = headings(facts)
    return [
        [about.get(field) for field in COLUMNS] + [files.real(about["scores"].get(name)) for name in names]
        for about in facts["rows"]
    ]


def table(facts: dict[str, Any]) -> list[str]:
    """The lines of the table, as Markdown, and what has to be known beside them."""
    lines = [[about["name"], *map(screen.number, values)] for about, values in paired(facts)]
    remarks = [f"{name}: {text}" for name, text in notes(facts).items()]
    return [*screen.markdown(["Run", *COLUMNS.values(), *headings(facts)], lines), *remarks]


def paired(facts: dict[str, Any]) -> list[tuple[dict[str, Any], list[Any]]]:
    """What is known of each run, and its cells of the table."""
    return list(zip(facts["rows"], cells(facts), strict=True))


def notes(facts: dict[str, Any]) -> dict[str, str]:
    """How the numbers were made: counts, protocols, networks and their weights."""
    first = facts["rows"][0]
    counts = ", ".join(f"{n} {role}" for role, n in first["counts"].items())
    text = {"images": f"{counts}, of the split {first['settings']['split']}; seed {first['seed']}"}
    text |= first["protocol"]
    for label, network in first["networks"].items():
        text[f"{label}, network"] = "; ".join(f"{k} {v}" for k, v in network.items() if isinstance(v, str))
    caveats = [f"{about['name']}, {k}: {'; '.join(v)}" for about in facts["rows"] for k, v in about["notes"].items()]
    return text | ({"notes": " / ".join(caveats)} if caveats else {})


def page(facts: dict[str, Any], workdir: Path) -> str:
    """The table, a grid of each run's samples, and the notes: one file that can be passed on."""
    heads = ["Run", "Model", *COLUMNS.values(), *headings(facts)]
    lines = [[about["name"], about["model"], *values] for about, values in paired(facts)]
    figures = [Figure(about["picture"], f"**{about['name']}**") for about in facts["rows"]]
    pages = [
        Page("Table", tables=[Table("", heads, lines)]),
        Page("Samples", figures=figures),
        Page("How it was measured", facts={"protocol": notes(facts)}),
    ]
    return report.render("Generators side by side", pages, workdir, over="nca_gen · study")
