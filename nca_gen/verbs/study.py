"""--mode=study: one table of several generators, as large, as good and as fast as they are; GeCA's Table 1.

KID (100 subsets of a quarter of the samples), diversity by LPIPS, the generalisation gap (GG), and beside them what a
generator costs: parameters, steps and time of training, FLOP and seconds of an image, memory. Runs that differ in their
seed alone are one row. Quality over each cost is drawn as in figure 4 of Kalkhof et al. 2024.
"""

from __future__ import annotations

import json
import math
import re
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nca_gen import arrays, build, judge, screen
from nca_gen import config as configs
from nca_gen.contracts import Autoencoder, Denoiser, Figure, Page, Part, Pipeline, Table
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.io import exports, write
from nca_gen.metrics import features, lpips
from nca_gen.report import files, report
from nca_gen.runtime import ahead, budget, record
from nca_gen.runtime import run as runs
from nca_gen.runtime.log import say
from nca_gen.sections import Study
from nca_gen.verbs import describe, study_tasks
from nca_gen.verbs.describe_work import asked_gflop, call_gflop, examples

SHOWN, ACROSS = 32, 8  # samples of each run on the page, and in a row of it
COLUMNS = {
    "parameters": "Parameters",
    "step": "Steps",
    "training_seconds": "Training, s",
    "memory_mb": "Memory, MB",
    "gflop_per_image": "GFLOP/image",
    "images_per_second": "Images/s",
    "rate": "Rate, x",
    "seeds": "Seeds",
}
COSTS = ("parameters", "gflop_per_image", "seconds_per_image")  # over which quality is drawn


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
    runs_seen = tuple(exports.located(str(runs.seen(path, workdir))) for path in plan.runs)
    specs = tuple(map(stand_in, plan.metrics)) if plan.stand_ins else plan.metrics
    plan = plan._replace(metrics=specs or metrics(), runs=runs_seen)
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


def stand_in(spec: str) -> str:
    """``spec``, or the same of the Inception network with random weights where those of its network are not here."""
    asked = judge.request(spec)
    if not asked.extractor or known(features.protocol, asked.extractor):
        return spec
    _, *options = spec.split(":")
    return ":".join([f"{asked.name}@inception-random", *options])


def known(protocol: Callable[..., dict[str, Any]], *name: str) -> bool:
    """Whether there are the weights that ``protocol`` tells of."""
    try:
        return bool(protocol(*name))
    except UserError:
        return False


def row(plan: Study, seed: int, path: str, workdir: Path, name: str) -> dict[str, Any]:
    """What is known of the run at ``path``; a grid of its samples goes into ``workdir`` under ``name``."""
    trained, config = stored(path), stored(path)
    config.update(seed=seed, held={"n": plan.n, "train": plan.train, "split": plan.split})
    parts = runs.parts(config, path)
    part, before = parts["model"], files.read_object(workdir / f"{name}.json")
    settings = {"step": part.step, "metrics": list(plan.metrics), "sample": config.sample.to_dict(), "seed": seed}
    settings |= {"halves": plan.halves, "tasks": list(plan.tasks)}
    settings = json.loads(write.notation(settings | config.held.to_dict() | {"run": str(path)}))
    if before.get("settings") == settings and (workdir / f"{name}.png").is_file():
        return before

    pipeline, data = build.pipeline(part.config, parts), Held(part.config, part.task, build.splits(config))
    samples, rate = draw(pipeline, data, config.sample.batch)
    generated = np.clip(samples, -1.0, 1.0)
    pictures.grid(workdir / f"{name}.png", generated[:SHOWN], ACROSS)
    facts = judge.judge(plan.metrics, generated, data.real, data.train, seed, data.kind, halves=plan.halves)
    training = files.read(Path(path))
    facts |= {
        "notes": data.notes() | facts["notes"],
        "name": Path(path).resolve().name,
        "model": config.model.name,
        "picture": f"{name}.png",
        "parameters": ahead.size(part.params),
        "step": part.step,
        "training_seconds": files.computing(training),
        "memory_mb": peak_mb(trained),
        "gflop_per_image": gflop(config, part, data.sides),
        "images_per_second": rate,
        "seconds_per_image": 1 / rate,
        "tasks": study_tasks.row(plan.tasks, part, pipeline, data, workdir, name),
        "rate": files.read_object(Path(path, budget.FILE)).get("factor", 1.0),
        "alike": alike(trained),
        "trained_from": trained.seed,
        "settings": settings,
    }
    write.facts(workdir / f"{name}.json", facts)
    return facts


def alike(config: Any) -> str:
    """Equal for runs that differ in their seed alone."""
    same = config.copy_and_resolve_references()
    with same.unlocked():
        same.seed = 0
    return record.config_hash(same)


def peak_mb(config: Any) -> float | None:
    """Memory of a training step, as it is compiled; None where training needs what is not here."""
    try:
        return describe.peak_mb(config, build.task(config))
    except UserError:
        return None


def gflop(config: Any, part: Part, sides: tuple[int, ...]) -> float | None:
    """GFLOP (matrix products) of a sample: of the calls of a denoiser, or of the decoder; None for any other model."""
    model = part.task.model
    if isinstance(model, Denoiser):
        calls = config.sample.steps * (1 if config.sample.guidance in (0.0, 1.0) or not model.conditions else 2)
        return calls * call_gflop(part.task, examples(part.task, 1, tuple(config.data.patch))["image"].shape[1:])
    if isinstance(model, Autoencoder):
        latent = (*(side // model.factor for side in sides), model.latent_channels)
        return asked_gflop(model, latent, model.decode)
    return None


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


class Line(NamedTuple):
    """A row of the table: runs that differ in their seed alone, their costs (means), and by score its mean over them
    and how far that may be off (:func:`off`)."""

    name: str
    model: str
    costs: dict[str, Any]
    scores: dict[str, tuple[float, float]]


def grouped(facts: dict[str, Any]) -> list[Line]:
    """The rows of the table, in the order of their first runs."""
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    met: Counter[tuple[str, int, int]] = Counter()
    for about in facts["rows"]:
        met[key := (about["alike"], about["step"], about["trained_from"])] += 1  # twice with one seed are two rows
        groups.setdefault((*key[:2], met[key]), []).append(about)
    lines = []
    for rows in groups.values():
        costs = {name: mean([about.get(name) for about in rows]) for name in {*COLUMNS, *COSTS} - {"seeds"}}
        scores = {name: off(rows, name) for name in headings(facts)}
        name = re.sub(r"_s\d+$", "", rows[0]["name"]) if len(rows) > 1 else rows[0]["name"]
        lines.append(Line(name, rows[0]["model"], costs | {"seeds": len(rows)}, scores))
    return lines


def mean(values: Sequence[Any]) -> Any:
    """Of numbers; the value itself where all are equal, None where one is missing."""
    if any(value is None for value in values) or len({*values}) == 1:
        return values[0]
    return float(np.mean(values))


def off(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """The mean of a score over ``rows``, and its standard error: over seeds where there are several, over images where
    there is one run; NaN where nothing is known of it."""
    values = [files.real(about["scores"].get(name)) for about in rows]
    if len(values) > 1:
        return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return values[0], files.real(rows[0]["scores"].get(f"{name}_error"))


def spelled(value: float, error: float) -> str:
    """A score and how far it may be off."""
    return screen.number(value) + ("" if math.isnan(error) else f" ± {screen.number(float(f'{error:.2g}'))}")


def table(facts: dict[str, Any]) -> list[str]:
    """The lines of the table, as Markdown, and what has to be known beside them."""
    heads = ["Run", *shown(facts).values(), *headings(facts)]
    lines = [[name, *map(screen.number, costs), *scores] for name, _, costs, scores in written(facts)]
    return [*screen.markdown(heads, lines), *(f"{name}: {text}" for name, text in notes(facts).items())]


def written(facts: dict[str, Any]) -> list[tuple[str, str, list[Any], list[str]]]:
    """Of each row of the table: its name, its model, the costs that are shown, and its scores in words."""
    names = shown(facts)
    words = lambda line: [spelled(*score) for score in line.scores.values()]
    return [(line.name, line.model, [line.costs[name] for name in names], words(line)) for line in grouped(facts)]


def shown(facts: dict[str, Any]) -> dict[str, str]:
    """The costs that stand in the table, with their headings: those that are known, and differ from one another's."""
    lines = grouped(facts)
    usual = {"rate": 1.0, "seeds": 1}
    known = lambda name: any(line.costs[name] not in (None, usual.get(name)) for line in lines)
    return {name: heading for name, heading in COLUMNS.items() if known(name)}


def notes(facts: dict[str, Any]) -> dict[str, str]:
    """How the numbers were made: counts, protocols, networks and their weights."""
    first = facts["rows"][0]
    counts = ", ".join(f"{n} {role}" for role, n in first["counts"].items())
    text = {"images": f"{counts}, of the split {first['settings']['split']}; seed {first['seed']}"}
    text |= first["protocol"]
    if any(not math.isnan(error) for line in grouped(facts) for _, error in line.scores.values()):
        halves = first["settings"]["halves"]
        text["±"] = (
            f"standard error: over seeds where a row has several, else over {halves} random halves of the images"
        )
    for label, network in first["networks"].items():
        text[f"{label}, network"] = "; ".join(f"{k} {v}" for k, v in network.items() if isinstance(v, str))
    caveats = [f"{about['name']}, {k}: {'; '.join(v)}" for about in facts["rows"] for k, v in about["notes"].items()]
    return text | ({"notes": " / ".join(caveats)} if caveats else {})


def page(facts: dict[str, Any], workdir: Path) -> str:
    """The table, quality over cost, a grid of each run's samples, and the notes: one file that can be passed on."""
    lines, first = grouped(facts), headings(facts)[0]
    rows = [[name, model, *costs, *scores] for name, model, costs, scores in written(facts)]
    figures = [Figure(about["picture"], f"**{about['name']}**") for about in facts["rows"]]
    points = {
        f"{first} over {name.replace('_', ' ').replace('gflop', 'GFLOP')}": [
            (float(line.costs[name]), line.scores[first][0], line.name) for line in lines if line.costs[name]
        ]
        for name in COSTS
    }
    pages = [
        Page("Table", tables=[Table("", ["Run", "Model", *shown(facts).values(), *headings(facts)], rows)]),
        Page("Quality and cost", points={title: some for title, some in points.items() if len(some) > 1}),
        Page("Samples", figures=figures),
        untrained(facts),
        Page("How it was measured", facts={"protocol": notes(facts)}),
    ]
    return report.render("Generators side by side", pages, workdir, over="nca_gen · study")


def untrained(facts: dict[str, Any]) -> Page:
    """What each run does that it was not trained for, and what it cannot do."""
    words = facts["rows"][0]["settings"]["tasks"]
    rows = [
        [about["name"], *(found.get("number", "cannot") for found in (about["tasks"][word] for word in words))]
        for about in facts["rows"]
    ]
    figures, reasons = [], {}
    for word in words:
        for about in facts["rows"]:
            if "picture" in (found := about["tasks"][word]):
                figures.append(Figure(found["picture"], f"**{about['name']}**, {word}"))
            else:
                reasons[f"{about['name']}, {word}"] = found["why"]
    tables = [Table("", ["Run", *map(study_tasks.heading, words)], rows)] if words else []
    return Page("Not trained for", figures=figures, tables=tables, facts={"protocol": reasons})
