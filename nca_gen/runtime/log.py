"""What a run says while it trains: lines for the user, the curve, the bar.

``metrics.jsonl`` has one JSON object a line, ``events.*`` the same for TensorBoard. Only the first process writes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from nca_gen import screen
from nca_gen.errors import UserError
from nca_gen.io import write as disk
from nca_gen.runtime import goodput


def say(text: str) -> None:
    """One line for the user, from the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def memory_mb() -> float:
    """The most memory used so far, in 10^6 bytes: of the first device where it counts, else of the process."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["peak_bytes_in_use"] / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


class DivergedError(Exception):
    """The loss is not finite, or far above what it was: says which, and where."""


def hopeless(why: DivergedError, rollbacks: int, good: int) -> UserError:
    """What a run ends with that has diverged too often; ``good`` is the step of its last good checkpoint."""
    return UserError(
        f"{why}, after {rollbacks} rollbacks; the last good checkpoint is of step {good}. Lower config.optimizer.lr, "
        "set config.optimizer.clip, or allow more rollbacks in config.train"
    )


def settled(metrics: dict[str, Any], step: int) -> dict[str, float]:
    """The metrics of ``step`` on the host, once they are computed. Raises DivergedError where they are not finite."""
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise DivergedError(f"{name} is {values[name]} at step {step}")
    return values


def means(window: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps of ``window``."""
    return {k: math.fsum(m[k] for m in window) / len(window) for k in window[0]}


class Log:
    """The curve and the bar of one run of ``total`` steps; nothing can be written before :meth:`rewind`.

    A loss above ``divergence`` times the median of the last 20 lines is a divergence; 0 is off.
    """

    def __init__(self, workdir: Path, total: int, batch: int, divergence: float = 0.0):
        self.workdir, self.total, self.batch, self.divergence = workdir, total, batch, divergence
        self.losses: list[float] = []  # of the lines that stand, oldest first
        self.lines: Any = None
        self.events: Any = None
        self.rate, self.bar, self.shown = 0.0, screen.SILENT, contextlib.ExitStack()
        self.account = goodput.Account(workdir)

    def __enter__(self) -> Log:
        """Shows the bar, on a terminal."""
        quiet = jax.process_index() > 0
        self.bar = self.shown.enter_context(screen.bar(total=self.total, every=math.inf, stay=True, quiet=quiet))
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the bar away."""
        self.shown.close()
        self.close()
        with contextlib.suppress(UserError):  # of a full disk, which has been told of
            self.account.reach(self.account.at)

    def close(self) -> None:
        """Closes the files."""
        # A full disk has been told of when the line was written.
        with contextlib.suppress(OSError):
            for file in filter(None, (self.lines, self.events)):
                file.close()

    def rewind(self, step: int) -> None:
        """Goes on from ``step``: lines of later steps are dropped, and TensorBoard is told to drop their events."""
        self.close()
        self.account.rewind(step)
        self.since, self.clock = step, time.perf_counter()
        self.bar.begin("", self.total, step)
        path = self.workdir / "metrics.jsonl"
        standing = [line for line in _parsed(path) if line["step"] <= step]
        self.losses = [line["loss"] for line in standing if "loss" in line]
        if jax.process_index() == 0:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2

            disk.text(path, "".join(disk.notation(line) + "\n" for line in standing))
            with disk.refusals(path):
                self.lines = path.open("a")
                # Named after the second it is opened in: a second one in the same second needs a name of its own.
                self.events = EventsWriter(str(self.workdir / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
                events: Any = event_pb2  # whose names protobuf makes when it is imported
                start = events.SessionLog(status=events.SessionLog.START)
                self.events.write_event(events.Event(step=step + 1, wall_time=time.time(), session_log=start))

    @contextlib.contextmanager
    def pause(self, kind: str) -> Iterator[None]:
        """What is done inside does not count as training time, but as of ``kind``."""
        began = time.perf_counter()
        try:
            with self.account.spent(kind):
                yield
        finally:
            self.clock += time.perf_counter() - began

    def tick(self, step: int, loss: float) -> None:
        """Moves the bar, a few times a second at most."""
        self.bar.reach(step, self.progress(step, loss))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line of the curve: ``metrics``, with the time, the throughput since the last line, and the memory.

        Raises UserError when it cannot be written, and DivergedError instead of writing it; that takes 5 lines to
        compare with, and a loss that is positive.
        """
        recent, loss = self.losses[-20:], metrics["loss"]
        if self.divergence > 0 and len(recent) >= 5 and loss > self.divergence * statistics.median(recent):
            raise DivergedError(f"the loss has risen to {loss:.4g} at step {step}")
        seconds = time.perf_counter() - self.clock
        self.rate = (step - self.since) / seconds
        self.since, self.clock = step, time.perf_counter()
        self.losses.append(loss)
        if jax.process_index():
            return
        metrics = metrics | {"images_per_second": self.rate * self.batch, "memory_mb": memory_mb()}
        with disk.refusals(self.workdir / "metrics.jsonl"):
            self.lines.write(disk.notation({"step": step, "time": time.time(), **metrics}) + "\n")
            self.lines.flush()
            self.scalars(step, metrics)
        self.account.reach(step)
        if not sys.stdout.isatty():
            say(self.progress(step, loss))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """For TensorBoard alone. Written here and now: a writer in the background would hang on a full disk."""
        if jax.process_index() == 0:
            from tensorboardX.proto import event_pb2, summary_pb2

            events: Any = event_pb2
            summaries: Any = summary_pb2
            values_of = [summaries.Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
            summary = summaries.Summary(value=values_of)
            self.events.write_event(events.Event(step=step, wall_time=time.time(), summary=summary))
            self.events.flush()

    def progress(self, step: int, loss: float) -> str:
        """Where the run is, how fast, and when it will be done."""
        eta = screen.eta(self.total - step, self.rate)
        speed = f"{self.rate:.3g} step/s  {self.rate * self.batch:.3g} images/s"
        return f"step {step}/{self.total}  loss {loss:.4f}  {speed}  ETA {eta}"


def _parsed(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a curve that are whole: a kill may have cut one."""
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            item = json.loads(line)
            if isinstance(item, dict) and "step" in item:
                yield item


replace = disk.text  # until all say so themselves
