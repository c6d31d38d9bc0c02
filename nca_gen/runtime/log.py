"""What a run says and leaves behind: the curve, the bar, its config and its environment.

``metrics.jsonl`` has one JSON object a line, ``events.*`` the same for TensorBoard. Only the first process writes.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich.progress import BarColumn, Progress, TextColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from nca_gen.errors import UserError

# What may change when a run is resumed: how long, how often, on what; not what is learned, nor from what.
FREE = ("train", "eval", "sample", "mesh")
PACKAGES = ("nca_gen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "ml-collections")


def say(text: str) -> None:
    """One line for the user, from the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """What the operating system refuses while ``path`` is written, as a UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}; free space, or choose another --workdir") from e


def replace(path: Path, text: str) -> None:
    """Writes ``path`` whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    with writing(path):
        new.write_text(text)
        new.replace(path)


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Holds ``workdir`` against a second run; the operating system lets go of it, however this one ends.

    Raises UserError while another run holds it.
    """
    if jax.process_index():
        yield
        return
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            raise UserError(f"another run is training in {workdir}; stop it, or choose another --workdir") from e
        except OSError:
            pass  # a file system without locks
        yield


def flat(config: Any) -> dict[str, Any]:
    """Dotted path -> value, as JSON has it, of a config or what :func:`json.load` gives back of one."""
    items = json.loads(json.dumps(config)) if isinstance(config, dict) else json.loads(json.dumps(config.to_dict()))

    def walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from walk(f"{path}.{name}" if path else name, inner)
        else:
            yield path, value

    return dict(walk("", items))


def config_hash(config: Any) -> str:
    """Names what must stay when a run is resumed: equal for configs that may resume each other's run."""
    fixed = {k: v for k, v in flat(config).items() if k.split(".")[0] not in FREE}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def check_config(workdir: Path, config: Any) -> None:
    """Raises UserError when ``config.json`` is of another run; says what has changed where that is allowed.

    Without the file nothing is known: :func:`config_hash` of the checkpoint decides.
    """
    path = workdir / "config.json"
    if not path.is_file():
        return
    try:
        then, now = flat(json.loads(path.read_text())), flat(config)
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); delete it to resume with the config given") from e
    for name in sorted(then.keys() | now.keys()):
        old, new = (json.dumps(c[name]) if name in c else "absent" for c in (then, now))
        if old != new and name.split(".")[0] not in FREE:
            raise UserError(f"{workdir} was begun with config.{name}={old}, not {new}; choose another --workdir")
        if old != new:
            say(f"config.{name}: {old} before, {new} from here on")


def save_config(workdir: Path, config: Any) -> None:
    """Writes ``config.json``."""
    if jax.process_index() == 0:
        replace(workdir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")


def save_environment(workdir: Path, parameters: int) -> None:
    """Writes ``environment.json``: the command, versions, devices and commit now, and when each (re)start was.

    ``parameters`` is how many numbers are trained.
    """
    if jax.process_index():
        return
    path = workdir / "environment.json"
    try:
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError):
        starts = []
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    # The command as it was typed: argv[0] is a path where python was given -m.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    environment = {
        "command": shlex.join(["python", *program, *sys.argv[1:]]),
        "argv": sys.argv,
        "parameters": parameters,
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": commit(Path(__file__).parent),
        "starts": [*starts, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")],
    }
    replace(path, json.dumps(environment, indent=2) + "\n")


def commit(folder: Path) -> str | None:
    """The git commit of the checkout around ``folder``, with "-dirty" behind it if files differ; None without one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def memory_mb() -> float:
    """The most memory used so far, in 10^6 bytes: of the first device where it counts, else of the process."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["peak_bytes_in_use"] / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


class DivergedError(Exception):
    """The loss is not finite, or far above what it was: says which, and where."""


def settled(metrics: dict[str, jax.Array], step: int) -> dict[str, float]:
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
        self.lines = self.events = None
        self.rate, self.drawn = 0.0, 0.0
        quiet = jax.process_index() > 0 or not sys.stdout.isatty()
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(None), refresh_per_second=4, disable=quiet)
        self.row = self.bar.add_task("", total=total)

    def __enter__(self) -> Log:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.close()

    def close(self) -> None:
        # A full disk has been told of when the line was written.
        with contextlib.suppress(OSError):
            for file in filter(None, (self.lines, self.events)):
                file.close()

    def rewind(self, step: int) -> None:
        """Goes on from ``step``: lines of later steps are dropped, and TensorBoard is told to drop their events."""
        self.close()
        self.since, self.clock = step, time.perf_counter()
        self.bar.update(self.row, completed=step)
        path = self.workdir / "metrics.jsonl"
        kept = [line for line in _parsed(path) if line["step"] <= step]
        self.losses = [line["loss"] for line in kept if "loss" in line]
        if jax.process_index() == 0:
            replace(path, "".join(json.dumps(line) + "\n" for line in kept))
            with writing(path):
                self.lines = path.open("a")
                # Named after the second it is opened in: a second one in the same second needs a name of its own.
                self.events = EventsWriter(str(self.workdir / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
                start = SessionLog(status=SessionLog.START)
                self.events.write_event(Event(step=step + 1, wall_time=time.time(), session_log=start))

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What is done inside does not count as training time."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.clock += time.perf_counter() - began

    def tick(self, step: int, loss: float) -> None:
        """Moves the bar, a few times a second at most."""
        if not self.bar.disable and time.perf_counter() - self.drawn > 0.2:
            self.drawn = time.perf_counter()
            self.bar.update(self.row, completed=step, description=self.progress(step, loss))

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
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}  # JSON has no NaN
        with writing(self.workdir / "metrics.jsonl"):
            self.lines.write(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
            self.lines.flush()
            self.scalars(step, metrics)
        if self.bar.disable:
            say(self.progress(step, loss))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """For TensorBoard alone. Written here and now: a writer in the background would hang on a full disk."""
        if jax.process_index() == 0:
            summary = Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()])
            self.events.write_event(Event(step=step, wall_time=time.time(), summary=summary))
            self.events.flush()

    def progress(self, step: int, loss: float) -> str:
        """Where the run is, how fast, and when it will be done."""
        eta = datetime.timedelta(seconds=round((self.total - step) / self.rate)) if self.rate else "?"
        speed = f"{self.rate:.3g} step/s  {self.rate * self.batch:.3g} images/s"
        return f"step {step}/{self.total}  loss {loss:.4f}  {speed}  ETA {eta}"


def _parsed(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a curve that are whole: a kill may have cut one."""
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            item = json.loads(line)
            if isinstance(item, dict) and "step" in item:
                yield item


def last_evaluation(workdir: Path, step: int) -> int:
    """The last step, up to ``step``, whose evaluation is in ``workdir``; 0 if none is."""
    done = (int(p.parent.name) for p in workdir.glob("eval/*/scores.json") if p.parent.name.isdigit())
    return max((s for s in done if s <= step), default=0)
