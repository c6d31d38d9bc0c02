"""What a budget has come to for a run: how many steps it buys, and the learning rate that was the best of a few."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nca_gen.errors import UserError

FILE = "budget.json"
RATES = ("lr", "muon")  # fields of config.optimizer that a factor multiplies


def settled(config: Any, workdir: str | os.PathLike) -> Any:
    """``config`` with the steps and rates that :mod:`nca_gen.verbs.budget` has left in ``workdir``; as it is where it
    has no budget. Raises UserError where there is a budget, and nobody has reckoned yet."""
    if not config.get("budget", {}).get("of", ""):
        return config
    file = Path(workdir, FILE)
    if not file.is_file():
        raise UserError(f"config.budget.of={config.budget.of} is not reckoned yet: run --mode=budget first, there")
    found = json.loads(file.read_text())
    return changed(config, found["steps"], found["factor"])


def changed(config: Any, steps: int, factor: float) -> Any:
    """A locked copy of ``config``, of no budget, that trains for ``steps`` at ``factor`` times its learning rates.

    Its cosine, where it has one, ends with training; its warm-up takes a tenth of it at the most.
    """
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.train.steps, copy.budget.of = steps, ""
        copy.optimizer.update({name: factor * copy.optimizer[name] for name in RATES if copy.optimizer.get(name)})
        if copy.optimizer.get("cosine_steps", 0):
            copy.optimizer.cosine_steps = -1
        copy.optimizer.warmup = min(copy.optimizer.get("warmup", 0), steps // 10)
    return copy
