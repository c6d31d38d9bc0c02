"""--mode=study: one table of several generators, as large, as good and as fast as they are; GeCA's Table 1.

KID (100 subsets of a quarter of the samples), diversity by LPIPS, the generalisation gap (GG), and beside them what a
generator costs: parameters, steps and time of training, images a second.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen import build, judge
from nca_gen.config import saved
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.metrics import features, lpips
from nca_gen.pipelines import sampling
from nca_gen.report import markup, report
from nca_gen.runtime.log import replace, say
from nca_gen.verbs.evaluate import compared
from nca_gen.verbs.generate import how, restore

SHOWN = 32  # samples of each run on the page
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
    """Scores the runs ``config.study.runs`` alike, prints the table and writes study.json and study.html.

    ``config.study``: ``n`` samples of each, under the labels of as many real images of ``split``, which they are held
    against, and ``train`` training images; ``metrics``, or () for :func:`metrics`. Noise is that of ``config.seed``,
    everything else, the sampler too, is of each run. A row that is there already, of the same checkpoint and settings,
    is taken as it is. Raises UserError for no run, and for folders that hold none.
    """
    asked, workdir = config.study, Path(workdir)
    if not any(asked.runs):
        raise UserError("there is nothing to compare: name runs with --config.study.runs=runs/geca,runs/dit")
    specs = tuple(asked.metrics) or metrics()
    workdir.mkdir(parents=True, exist_ok=True)
    names = [f"{i}_{Path(run).resolve().name}" for i, run in enumerate(asked.runs)]
    facts = {"rows": [row(config, run, specs, workdir, n) for run, n in zip(asked.runs, names, strict=True)]}
    replace(workdir / "study.json", json.dumps(facts, indent=2))
    replace(workdir / "study.html", page(facts, workdir))
    for line in table(facts):
        say(line)
    say(f"the page is {workdir / 'study.html'}")
    return facts


def metrics() -> tuple[str, ...]:
    """What Table 1 shows; without the published weights a stand-in, which says in its name what it is.

    KID and GG by features of the Inception network, or of the same with random weights (KID then goes by the name of a
    plain kernel distance). Diversity by LPIPS, or by the MS-SSIM of pairs of samples, which is low where that is high.
    """

    def have(protocol: Any, *name: str) -> bool:
        try:
            return bool(protocol(*name))
        except UserError:
            return False

    extractor = "" if have(features.protocol, "inception") else "@inception-random"
    return (
        f"kid{extractor}:subsets=100:size=0.25",
        "lpips" if have(lpips.protocol) else "ms_ssim",
        f"fld{extractor}",
    )


def row(config: Any, run: str, specs: tuple[str, ...], workdir: Path, name: str) -> dict[str, Any]:
    """What is known of one run; a grid of its samples goes into ``workdir`` under ``name``."""
    mine = _config(run)
    mine.seed = config.seed
    mine.eval.update({field: config.study[field] for field in ("n", "train", "split")})
    task, params, step = restore(mine, run)
    settings = {"step": step, "metrics": list(specs), "sample": how(mine), "seed": config.seed} | mine.eval.to_dict()
    settings = json.loads(json.dumps(settings | {"run": str(run), "batch": mine.sample.batch}))
    kept = workdir / f"{name}.json"
    found = report.read_object(kept)
    if found.get("settings") == settings and (workdir / f"{name}.png").is_file():
        return found

    held = compared(mine, task, build.splits(mine))
    drawn, rate = draw(task, params, mine, held.cond)
    generated = np.clip(held.decode(drawn), -1.0, 1.0)
    images.write(workdir / f"{name}.png", images.grid(generated[:SHOWN], 8))
    facts = judge.judge(specs, generated, held.real, held.train, config.seed)
    told = report.read(Path(run))
    facts |= {
        "name": Path(run).resolve().name,
        "model": mine.model.name,
        "picture": f"{name}.png",
        "parameters": told.environment.get("parameters"),
        "step": step,
        "training_seconds": report.computing(told),
        "images_per_second": rate,
        "settings": settings,
    }
    replace(kept, json.dumps(facts, indent=2))
    return facts


def draw(task: Any, params: dict, config: Any, cond: np.ndarray | None) -> tuple[np.ndarray, float]:
    """``config.eval.n`` samples, and how many of them came a second.

    That is the median over the whole batches after the first, which compiles; over all where there is no other.
    """
    n, batch, clock, found, took = config.eval.n, config.sample.batch, time.perf_counter, [], []
    size, settings = tuple(config.data.patch), how(config) | {"space": config.mesh.space}
    start = clock()
    for some in sampling.images(task.model, task.diffusion, params, config.seed, n, size, batch, cond=cond, **settings):
        found.append(some)
        took.append(clock() - start)
        start = clock()
        say(f"{sum(map(len, found))} of {n} samples, {len(some) / took[-1]:.3g} images/s")
    whole = [len(x) / s for x, s in zip(found[1:], took[1:], strict=True) if len(x) == batch]
    return np.concatenate(found), float(np.median(whole)) if whole else n / sum(took)


def headings(facts: dict[str, Any]) -> list[str]:
    """The scores that stand in the table: of each metric its own, and of FLD only GG."""
    known = facts["rows"][0]["protocol"]
    return [f"{label}_gg" if label.startswith("fld") else label for label in known]


def value(found: dict[str, Any], heading: str) -> float:
    """A score of a row; the scores of fld@other are called fld@other_gg."""
    return found["scores"].get(heading, float("nan"))


def table(facts: dict[str, Any]) -> list[str]:
    """The lines of the table, as Markdown, and what has to be known beside them."""
    names = headings(facts)
    head = ["Run", *COLUMNS.values(), *names]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for found in facts["rows"]:
        cells = [markup.number(found.get(field)) for field in COLUMNS]
        cells += [markup.number(value(found, name)) for name in names]
        lines.append(f"| {' | '.join([found['name'], *cells])} |")
    return lines + [f"{name}: {said}" for name, said in notes(facts).items()]


def notes(facts: dict[str, Any]) -> dict[str, str]:
    """How the numbers were made: counts, protocols, networks and their weights."""
    first = facts["rows"][0]
    counts = ", ".join(f"{n} {role}" for role, n in first["counts"].items())
    found = {"images": f"{counts}, of the split {first['settings']['split']}; seed {first['seed']}"}
    found |= first["protocol"]
    for label, network in first["networks"].items():
        found[f"{label}, network"] = "; ".join(f"{k} {v}" for k, v in network.items() if isinstance(v, str))
    said = [f"{r['name']}, {label}: {'; '.join(text)}" for r in facts["rows"] for label, text in r["notes"].items()]
    return found | ({"notes": " / ".join(said)} if said else {})


def page(facts: dict[str, Any], workdir: Path) -> str:
    """The table, a grid of each run's samples, and the notes: one file that can be passed on."""
    names = headings(facts)
    head = "".join(f"<th>{markup.text(name)}</th>" for name in ("Run", "Model", *COLUMNS.values(), *names))
    body, cards = "", []
    for found in facts["rows"]:
        values = [found.get(field) for field in COLUMNS] + [value(found, name) for name in names]
        cells = "".join(f"<td>{markup.number(x)}</td>" for x in values)
        who = f"<td>{markup.text(found['name'])}</td><td>{markup.text(found['model'])}</td>"
        body += f'<tr class="whole">{who}{cells}</tr>'
        picture, width = markup.img(workdir / found["picture"], report.COLUMN)
        cards.append(markup.figure(picture, width, f"<b>{markup.text(found['name'])}</b>"))
    scores = f'<div class="card table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    parts = [
        '<header><p class="over">nca_gen · study</p><h1>Generators side by side</h1></header>',
        markup.section("Table", scores),
        markup.section("Samples", markup.grid(cards)),
        markup.section("How it was measured", markup.terms(notes(facts), "notes")),
    ]
    return markup.page("Generators side by side", parts)


def _config(run: str) -> Any:
    """The config that a run left behind. Raises UserError where there is none."""
    kept = Path(run, "config.json")
    if not kept.is_file():
        raise UserError(f"{run} holds no run: there is no config.json; correct --config.study.runs")
    return saved(kept)
