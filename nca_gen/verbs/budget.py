"""--mode=budget: how many steps a budget buys this model, and which of a few learning rates serves it best.

So that rivals cost the same, and each learns as well as it can: a comparison at one rate is one of rates. What is found
lies in budget.json; training in the same workdir heeds it.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen import build, screen
from nca_gen.contracts import Denoiser
from nca_gen.errors import UserError
from nca_gen.io import write
from nca_gen.report import files
from nca_gen.runtime import budget as reckoned
from nca_gen.runtime import mesh
from nca_gen.runtime.log import DivergedError, say
from nca_gen.runtime.run import seen
from nca_gen.sections import Budget, amount
from nca_gen.verbs.describe_work import call_gflop, examples
from nca_gen.verbs.train import train

CLOCKED = 12  # steps that are timed, of which the last 8 count
QUIET = {"log_every": 1, "checkpoint_every": 0, "keep": 1, "profile": ""}


def main(config: Any, args: Namespace) -> None:
    """--mode=budget."""
    with mesh.joined(config):
        budget(config, args.workdir)


def budget(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Writes ``budget.json`` into ``workdir``: what a step costs, how many there are, and the rates that were tried.

    A step costs itself, the seconds that it takes here, or three times the FLOP of a call on its batch. Each rate
    trains for ``config.budget.share`` of the steps, on the same images and noise; the least mean loss of the last
    quarter wins. What was tried before is not tried again. With ``like`` all is as in that workdir. Raises UserError
    where there is no budget, where it buys no step, and where every rate diverges.
    """
    plan, workdir = Budget(**build.fields(config, "budget")), Path(workdir)
    if not plan.of:
        raise UserError("say how much: --config.budget.of=30min, 2000steps or 1e15flop")
    file, settings = workdir / reckoned.FILE, json.loads(write.notation(plan._asdict()))
    if (known := files.read_object(file)).get("settings") == settings:
        return known
    found = files.read_object(Path(seen(plan.like, workdir), reckoned.FILE)) if plan.like else {}
    if plan.like and not found:
        raise UserError(f"config.budget.like={plan.like} holds no {reckoned.FILE}: run --mode=budget there first")
    if not plan.like:
        size, unit = amount(plan.of)
        cost = {"steps": lambda: 1.0, "min": lambda: seconds(config, workdir), "flop": lambda: flop(config)}[unit]()
        steps = int(size / cost)
        if steps < 1:
            raise UserError(f"config.budget.of={plan.of} buys no step of this model, which costs {cost:.3g}: give more")
        tries = searched(config, plan, workdir, steps)
        best = min(tries, key=lambda one: one["loss"], default={"factor": plan.rates[0], "loss": 0.0})
        if not math.isfinite(best["loss"]):
            raise UserError("training diverges at every rate of config.budget.rates: give lower ones")
        found = {"unit": unit, "cost": cost, "steps": steps, "tries": tries, "factor": best["factor"]}
    facts = found | {"settings": settings}
    workdir.mkdir(parents=True, exist_ok=True)
    write.facts(file, facts)
    for line in spoken(facts):
        say(line)
    return facts


def spoken(facts: dict[str, Any]) -> list[str]:
    """What is found, for the screen."""
    lines = [f"the budget of {facts['settings']['of']} is {facts['steps']} steps"]
    rows = [(screen.number(one["factor"]), screen.number(one["loss"])) for one in facts["tries"]]
    return lines + (screen.markdown(["Rate, times the page's", "Loss"], rows) if rows else [])


def searched(config: Any, plan: Budget, workdir: Path, steps: int) -> list[dict[str, float]]:
    """The loss that each rate ends with, infinite where it diverges; nothing of one rate alone."""
    some, tries = max(1, round(plan.share * steps)), []
    for factor in plan.rates if len(plan.rates) > 1 else ():
        folder = workdir / "rates" / f"x{factor:g}"
        say(f"{folder}: {some} steps at {factor:g} times the page's rates")
        try:
            train(short(config, some, factor), folder)
            tries.append({"factor": factor, "loss": last(folder)})
        except (DivergedError, UserError) as why:
            if not isinstance(why, DivergedError) and not isinstance(why.__cause__, DivergedError):
                raise
            tries.append({"factor": factor, "loss": math.inf})
    return tries


def short(config: Any, steps: int, factor: float = 1.0) -> Any:
    """``config`` for ``steps`` at ``factor`` times its rates, without evaluation and without a budget."""
    few = reckoned.changed(config, steps, factor)
    with few.unlocked():
        few.train.update(QUIET)
        for section in few.evals.values():
            section.every = 0
    return few


def last(folder: Path) -> float:
    """The mean loss of the last quarter of a curve; infinite without one."""
    _, loss = files.series(files.read(folder).log, "loss")
    return float(np.mean(loss[-max(1, len(loss) // 4) :])) if len(loss) else math.inf


def seconds(config: Any, workdir: Path) -> float:
    """How long a training step takes here: the median of a few, the first ones left out."""
    folder = workdir / "rates" / "clock"
    train(short(config, CLOCKED), folder)
    _, rate = files.series(files.read(folder).log, "images_per_second")
    return config.train.batch / float(np.median(rate[4:]))


def flop(config: Any) -> float:
    """FLOP of matrix products of a training step: three times those of a call on its batch."""
    task, n = build.task(config), config.train.batch
    if not isinstance(task.model, Denoiser):
        raise UserError("a budget in FLOP is for denoisers: give one in steps or minutes")
    shape = examples(task, n, tuple(config.data.patch))["image"].shape[1:]
    return 3e9 * n * call_gflop(task, shape)
