"""Where the time of a run has gone, over all its starts: ``goodput.json``.

"starting" is from the call to the first step but for "compiling", which is what was waited for; "data" is waiting for
a batch; "steps" are the rest. Steps whose state was lost (after the last checkpoint of a run that was killed, or before
a rollback) are no progress: they count as "lost", at the mean of a step. "away" is from the last sign of a run to its
next start.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from nca_gen.io import write

KINDS = ("starting", "compiling", "data", "steps", "checkpoints", "evaluation", "lost", "away")


class Account:
    """Seconds by kind, and how many steps were ``computed``, ``lost`` and ``repeated``; of earlier starts too."""

    def __init__(self, workdir: Path):
        self.path = workdir / "goodput.json"
        known = _read(self.path)
        self.seconds = dict.fromkeys(KINDS, 0.0) | known.get("seconds", {})
        self.steps = {"computed": 0, "lost": 0, "repeated": 0} | known.get("steps", {})
        self.at = self.furthest = known.get("step", 0)
        if "time" in known:
            self.seconds["away"] += max(0.0, time.time() - known["time"])
        self.kind, self.since = "starting", time.perf_counter()

    def turn(self, kind: str) -> str:
        """From now on time is of ``kind``; returns what it was of."""
        now, former = time.perf_counter(), self.kind
        self.seconds[former] += now - self.since
        self.kind, self.since = kind, now
        return former

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """What is done inside is of ``kind``."""
        former = self.turn(kind)
        try:
            yield
        finally:
            self.turn(former)

    def rewind(self, step: int) -> None:
        """Steps begin, after ``step``; those that had been taken beyond it are lost."""
        self.turn("steps")
        if (lost := self.at - step) > 0:
            kept = self.steps["computed"] - self.steps["lost"]
            wasted = self.seconds["steps"] * lost / max(kept, lost)
            self.steps["lost"] += lost
            self.seconds["steps"] -= wasted
            self.seconds["lost"] += wasted
        self.at = step

    def reach(self, step: int) -> None:
        """Steps have been taken up to ``step``; writes all down."""
        self.turn(self.kind)
        self.steps["computed"] += step - self.at
        self.steps["repeated"] += max(0, min(step, self.furthest) - self.at)
        self.at, self.furthest = step, max(step, self.furthest)
        self.save()

    def save(self) -> None:
        """Writes ``goodput.json``."""
        if jax.process_index() == 0:
            total = sum(seconds for kind, seconds in self.seconds.items() if kind != "away")
            shares = {kind: self.seconds[kind] / total for kind in KINDS if kind != "away"} if total else {}
            facts = {"goodput": shares.get("steps", 0.0), "shares": shares, "seconds": self.seconds}
            write.facts(self.path, facts | {"steps": self.steps, "step": self.furthest, "time": time.time()})


def _read(path: Path) -> dict[str, Any]:
    """What an earlier start wrote; nothing where it is not whole."""
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text())
        return known if isinstance(known, dict) else {}
    return {}
