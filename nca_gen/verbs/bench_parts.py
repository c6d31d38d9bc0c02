"""What --mode=bench compares: each part is a function of a config and a plan, and returns what goes into bench.json."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nca_gen import build
from nca_gen.contracts import Automaton, Local, Part
from nca_gen.errors import UserError
from nca_gen.io import write
from nca_gen.pipelines import inpaint
from nca_gen.pipelines.sampling import Settings
from nca_gen.runtime.log import say
from nca_gen.sections import Bench
from nca_gen.verbs import bench_tables
from nca_gen.verbs.bench_harness import Row, Worker, in_turns, measure
from nca_gen.verbs.bench_tables import show
from nca_gen.verbs.bench_worker import INCEPTION, step_of
from nca_gen.verbs.describe_work import matmul_flop

WORK = ("pixels", "cell_updates")  # of a call; a pixel of a picture takes config.sample.steps of them
TARGETS = {"seconds": 0.6, "memory_mb": 0.25}  # of eager PyTorch's, on a CPU
FASTER = 2.5  # times eager PyTorch's calls
EQUAL = 1.03  # of another build's time and memory
TILE = 2048  # pixels a side, of a picture that is made in tiles
SLIDE = 41344  # pixels a side: what nine A100 made in 24 hours (URCDM, Cechnicka et al. 2024)
PICTURE = (512, 512)  # pixels of a picture with a hole
HOLES = (8, 16, 32, 64, 128, 256, 512)  # pixels a side
FLAT = 1.25  # what a gradient of 60 steps may take, by one of 20
FORMS = ("shifted", "gathered", "scattered", "split", "convolved")  # of a field ``conv``
REMATS = ("nested", "step", "seen", "none")  # of a field ``remat``
DTYPES = ("float32", "bfloat16")
SHARED = ("image_channels", "classes", "learned_variance", "dtype")  # fields that rivals have from config.model
NO_PEER = (
    "eager PyTorch: not measured; give a config whose page names a peer, --config.bench.peer_python=PATH with torch"
)
JUDGED = "FID of 50,000 x 2048 features a set"


# Commands.


def ours(config: Any, plan: Bench, kind: str, **changes: Any) -> Worker:
    """A worker of ``kind`` (:data:`nca_gen.verbs.bench_worker.KINDS`) with some fields of the model changed."""
    return Worker([sys.executable, "-m", "nca_gen.verbs.bench_worker", spec(config, plan, kind, **changes)])


def theirs(config: Any, plan: Bench, kind: str) -> Worker:
    """The same of ``plan.against``. Raises UserError where that is nothing."""
    there, command = Path(plan.against).expanduser().absolute(), ours(config, plan, kind).command
    if there.is_file():
        return Worker([sys.executable, str(there), command[-1]])
    if not (there / "nca_gen").is_dir():
        raise UserError(f"config.bench.against={plan.against!r}: give a checkout, or a script that is a worker")
    return Worker(command, str(there))


def spec(config: Any, plan: Bench, kind: str, **changes: Any) -> str:
    """What a worker is given."""
    return write.notation({"kind": kind, "config": changed(config, **changes).to_dict(), "batch": plan.batch})


def changed(config: Any, **changes: Any) -> ConfigDict:
    """A copy of ``config`` with some fields of the model changed."""
    return ConfigDict(config.to_dict() | {"model": config.model.to_dict() | changes})


def fields(config: Any) -> set[str]:
    """The fields that the model has."""
    return {field.name for field in dataclasses.fields(build.model(config))}


def peer_python(plan: Bench, module: str) -> str | None:
    """The interpreter that has ``module``: ``config.bench.peer_python``, or this one, or None.

    Raises UserError for a ``config.bench.peer_python`` without it.
    """
    python = plan.peer_python or sys.executable
    there = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    has = shutil.which(python) and subprocess.run([python, "-c", there], check=False).returncode == 0
    if plan.peer_python and not has:
        raise UserError(f"config.bench.peer_python={python} has no {module}")
    return python if has else None


def peers(config: Any, plan: Bench, kind: str = "train") -> dict[str, Worker]:
    """Eager PyTorch's training steps, or calls, where there is a PyTorch and the page names a script that knows it."""
    python, size = peer_python(plan, "torch"), config.data.patch
    if not python or not plan.peer or config.codec.block > 1 or len(set(size)) > 1:
        return {}
    case = {"kind": kind, "size": size[0], "batch": plan.batch}
    model = {field: config.model[field] for field in plan.peer["fields"]}
    return {
        f"eager PyTorch{form}": script(python, plan.peer["script"], case | {"model": model | dict(more)})
        for form, more in (plan.peer.get("forms") or {"": {}}).items()
    }


def script(python: str, path: str, case: Row) -> Worker:
    """A worker that is the script of a peer. Raises UserError where there is none."""
    if not Path(path).is_file():
        raise UserError(f"config.bench names {path}, which is not there: run this in a checkout, or leave the peer out")
    return Worker([python, path, write.notation(case)])


# Parts.


def model(config: Any, plan: Bench) -> Row:
    """A training step and a call of sampling, beside eager PyTorch's and the machine's own rate of products."""
    rows: list[Row] = []
    rate: dict[str, float] = {}
    known, case = fields(config), partial(ours, config, plan)

    def compare(cases: dict[str, Worker]) -> list[Row]:
        some = measure(cases, plan.rounds)
        for row in some:
            if row.get("dtype") in rate:
                row["fraction_of_matrix_rate"] = row["gflop"] / row["seconds"] / rate[row["dtype"]]
        show(some)
        rows.extend(some)
        return some

    products = compare({f"matrix product in {dtype}": case("matmul", dtype=dtype) for dtype in DTYPES})
    rate |= {row["dtype"]: row["gflop"] / row["seconds"] for row in products}
    step, *others = compare({"training step": case("train")} | peers(config, plan))
    forms: list[dict[str, str]] = [{}]
    if "conv" in known:
        compare({f"training step, perception {form}": case("train", conv=form) for form in FORMS})
        fast = config.model.conv if products[0]["backend"] == "cpu" else "convolved"
        forms = [{"conv": conv} for conv in dict.fromkeys((config.model.conv, fast))]
    for form in forms if "dtype" in known else ():
        for name, kind in {"training step": "train", "sampling call": "call"}.items():
            words = ", ".join([name, *form.values()])
            compare({f"{words}, {dtype}": case(kind, dtype=dtype, **form) for dtype in DTYPES})
    facts: Row = {
        **{"model": config.model.to_dict(), "image": list(config.data.patch), "batch": plan.batch},
        "rows": rows,
        "ratio_to_pytorch": {row["name"]: ratios(step, row) for row in others},
        "targets": TARGETS | {"memory_60_to_20_steps": FLAT},
    }
    for name, ratio in facts["ratio_to_pytorch"].items():
        say(f"ours by {name}: {by(ratio, TARGETS)}")
    if not others:
        say(NO_PEER)
    if {"steps", "remat"} <= known:
        facts["memory_60_to_20_steps"] = growth(config, plan)
    return facts | sampling(config, plan)


def growth(config: Any, plan: Bench) -> dict[str, float]:
    """The buffers of a gradient through 60 steps, by those of 20, for each way to keep or recompute them."""
    found = {}
    for remat in REMATS:
        sizes = [step_of(changed(config, steps=n, remat=remat), plan.batch)[1] for n in (20, 40, 60)]
        found[remat] = sizes[-1] / sizes[0]
        words = ", ".join(f"{size:.0f}" for size in sizes)
        say(f"gradient of 20, 40, 60 steps, remat {remat}: {words} MB of buffers, x {found[remat]:.2f}")
    say(f"gradient of 60 steps by 20, nested: {found['nested']:.2f} x its buffers (target {FLAT})")
    return found


def sampling(config: Any, plan: Bench) -> Row:
    """Calls as in sampling, of a batch of patches, beside eager PyTorch's; of a local rule also :func:`tiling`.

    Every group of rows has the machine's rate of products in its turns.
    """
    rows, times = timed(config, plan, {"ours": ours(config, plan, "call")} | peers(config, plan, "call"))
    report("patches", config.data.patch, rows, times)
    facts = {"sampling": {"patches": rows}, "times_pytorch": {"patches": times}}
    rule = local(config)
    if not reach(rule):
        return facts
    more = tiling(rule, plan)
    return {key: facts.get(key, {}) | more[key] for key in more}


def local(config: Any) -> Any:
    """``config`` with the norm of a cell alone, where its model has a choice: what makes some rules local."""
    return changed(config, norm="cell") if "norm" in fields(config) else changed(config)


def reach(config: Any) -> int:
    """How many pixels far a cell of the model hears in a call; 0 where it is not :class:`Local`, or hears all."""
    rule = build.model(config)
    return (rule.halo or 0) * config.codec.block if isinstance(rule, Local) else 0


def tiling(config: Any, plan: Bench) -> Row:
    """Calls on one large picture, beside eager PyTorch's; what the halo of a tile costs; the hours of a whole slide.

    The halo is measured where the tiles are small and it is large.
    """
    halo, large = reach(config), tuple(config.sample.large)
    one, tile = plan._replace(batch=1), changed(config)
    config.data.patch, tile.data.patch = large, tuple(side + 2 * halo for side in large)
    groups = {
        "large": {"ours": ours(config, one, "call")} | peers(config, one, "call"),
        "halo": {"without halo": ours(config, one, "call"), "with halo": ours(tile, one, "call")},
    }
    rows: dict[str, list[Row]] = {}
    times: dict[str, dict[str, float]] = {}
    for group, cases in groups.items():
        rows[group], times[group] = timed(config, plan, cases)
        report(group, large, rows[group], times[group] if group == "large" else {})
    axes = len(large)
    more = {"computed": math.prod(tile.data.patch) / math.prod(large) - 1}
    more |= {"measured": times["halo"]["with halo"] - 1, "large_tiles": (1 + 2 * halo / TILE) ** axes - 1}
    words = ", ".join(f"{k.replace('_', ' ')} {v:.1%}" for k, v in more.items())
    say(f"more work for a halo of {halo} pixels: {words} (those are of {TILE} pixels)")
    best = max(rows["large"][:1] + rows["halo"], key=lambda row: row["pixels_per_second"])
    pixels = SLIDE**2 * (1 + more["large_tiles"])
    slide = {"side": SLIDE, "hours": pixels / best["pixels_per_second"] / 3600}
    slide["exaflop"] = pixels * best["gflop"] / best["pixels"] / 1e9
    work = f"{slide['exaflop']:.3g} EFLOP in matrix products, {slide['hours']:.3g} hours at the best rate above"
    say(f"{SLIDE} x {SLIDE} pixels in {config.sample.steps} steps: {work}")
    return {"sampling": rows, "times_pytorch": {"large": times["large"]}, "halo": more, "slide": slide}


def timed(config: Any, plan: Bench, cases: dict[str, Worker]) -> tuple[list[Row], dict[str, float]]:
    """Rows of calls with their rates, and how many times as long as the first the others take."""
    product, first, *others = measure({"matrix product": ours(config, plan, "matmul")} | cases, plan.rounds)
    for row in (first, *others):
        if "gflop" in row:
            row["fraction_of_matrix_rate"] = row["gflop"] / row["seconds"] / product["gflop"] * product["seconds"]
        row |= {k: row.get(k, first[k]) for k in WORK}
        row |= {f"{k}_per_second": row[k] / row["seconds"] for k in WORK}
    return [first, *others], {row["name"]: row["seconds"] / first["seconds"] for row in others}


def report(group: str, sides: tuple[int, ...], rows: list[Row], times: dict[str, float]) -> None:
    """Says what :func:`timed` returned."""
    show(rows, f"{group}, {bench_tables.size(sides)}")
    for name, factor in times.items():
        say(f"ours by {name}: {factor:.2f} x its pixels a second (target {FASTER})")


def ratios(row: Row, other: Row) -> dict[str, float]:
    """Time and memory of a row, by those of another."""
    return {k: row[k] / other[k] for k in TARGETS}


def by(ratio: dict[str, float], targets: Mapping[str, float]) -> str:
    """Ratios in words."""
    return ", ".join(f"{ratio[k]:.2f} x its {k} (target {target})" for k, target in targets.items())


def peer(config: Any, plan: Bench) -> Row:
    """A training step and a call, in each of the dtypes, beside eager PyTorch's."""
    rows: list[Row] = []
    ratio: dict[str, dict[str, float]] = {}
    targets = dict(plan.peer.get("targets") or TARGETS)
    for name, kind in {"training step": "train", "call": "call"}.items():
        cases = {f"{name}, {dtype}": ours(config, plan, kind, dtype=dtype) for dtype in plan.dtypes}
        others = {f"{name}, {other}": worker for other, worker in peers(config, plan, kind).items()}
        some = measure(cases | others, plan.rounds, plan.apart)
        rows += some
        show(some)
        for row in some[: len(cases)] if others else ():
            ratio[row["name"]] = ratios(row, some[-1])
            say(f"{row['name']}, by eager PyTorch: {by(ratio[row['name']], targets)}")
    if not ratio:
        say(NO_PEER)
    return {"peer": rows, "ratio": ratio, "targets": targets}


def rivals(config: Any, plan: Bench) -> Row:
    """Calls of the config's model, as it is and made cheaper, and of its rivals; as pictures a second."""
    name, known, case = config.model.name, fields(config), partial(ours, config, plan)
    cases = {f"{name}, {dtype}": case("call", dtype=dtype) for dtype in DTYPES if "dtype" in known} or {
        name: case("call")
    }
    if isinstance(build.model(config), Automaton):
        steps = config.model.steps
        cases |= {f"{name}, {n} cell steps": case("call", steps=n) for n in dict.fromkeys((steps // 2, steps // 3))}
    cases |= {f"{name}, two batches in one call": ours(config, plan._replace(batch=2 * plan.batch), "call")}
    shared = {k: config.model[k] for k in SHARED if k in config.model}
    for other, section in plan.rivals.items():
        rival = ConfigDict(config.to_dict() | {"model": shared | dict(section)})
        cases |= {other: ours(rival, plan, "call")} if other != name else {}
    some = measure(cases, plan.rounds)
    show(some)
    return {"rivals": some}


def hole(config: Any, plan: Bench) -> Row:
    """What a step of inpainting costs, by the area of the hole, in a picture of which the local rule is a part."""
    task = build.task(local(config))
    image = np.zeros((*PICTURE, task.codec.colours(task.model.reads, len(PICTURE))), np.float32)
    steps, part = 2, Part(config, task, task.model.init(jax.random.key(0)))
    cost = partial(inpaint.curve, part, image, flop=matmul_flop, settings=Settings(steps=steps))
    rows = cost(HOLES, rounds=plan.rounds)
    (whole,) = cost(HOLES[-1:], rounds=plan.rounds, whole=True)
    for row in (*rows, whole):
        row |= {k: row[k] / steps for k in ("gflop", "seconds")}
    bench_tables.holes(rows, whole, PICTURE)
    return {"hole": rows, "whole": whole}


def judge(config: Any, plan: Bench) -> Row:
    """Inception features, beside torch-fidelity's, and one FID of 50,000 x 2048 features a set."""
    cases = {"Inception features": ours(config, plan, "inception")}
    if plan.features_peer and (python := peer_python(plan, "torch_fidelity")):
        cases["Inception features, torch-fidelity"] = script(python, plan.features_peer, INCEPTION)
    some = measure(cases, plan.rounds)
    distance = in_turns({"fid": ours(config, plan, "fid")}, 0)["fid"][0] | {"name": JUDGED}
    show([*some, distance])
    if len(some) == 1:
        say("torch-fidelity: not measured; give --config.bench.peer_python=PATH of a Python that has it")
        return {"judge": [*some, distance]}
    here, there = (row["images_per_second"] for row in some)
    say(f"ours by torch-fidelity: {here / there:.2f} x its images a second (target 1)")
    return {"judge": [*some, distance], "ratio_to_torch_fidelity": here / there}


def against(config: Any, plan: Bench) -> Row:
    """A training step, a call of sampling and an evaluation, beside those of another checkout of this program."""
    rows: list[Row] = []
    ratio: dict[str, dict[str, float]] = {}
    for name, kind in {"training step": "train", "sampling call": "call", "evaluation": "evaluate"}.items():
        here, there = {name: ours(config, plan, kind)}, {f"{name}, {plan.against}": theirs(config, plan, kind)}
        one, other = some = measure(here | there, plan.rounds)
        rows += some
        show(some)
        ratio[name] = {k: one[k] / other[k] for k in ("seconds", "cpu_seconds", "memory_mb", "first_mb")}
        words = ", ".join(f"{value:.3f} x its {field}" for field, value in ratio[name].items())
        say(f"{name}, by {plan.against}: {words} (target {EQUAL})")
    return {"against": {"checkout": plan.against, "rows": rows, "ratio": ratio}}


PARTS = {f.__name__: f for f in (model, peer, rivals, sampling, hole, judge, against)}
