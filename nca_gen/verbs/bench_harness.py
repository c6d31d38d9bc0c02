"""Programs timed beside each other: each a process of its own, and all of them in turns.

A worker does its work once for every line that it reads, and answers with a line of JSON: seconds, cpu_seconds,
memory_mb, perhaps more. :mod:`nca_gen.verbs.bench_worker` is one, a peer's script in PyTorch another.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

from nca_gen.errors import UserError

ENVIRONMENT = {
    "GOMP_SPINCOUNT": "1000",  # threads of PyTorch that spin slow it down ten times where others use the cores
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
Row = dict[str, Any]


class Worker(NamedTuple):
    """The command of a worker, and the folder in which it runs."""

    command: list[str]
    folder: str | None = None


def measure(workers: Mapping[str, Worker], rounds: int, apart: bool = False) -> list[Row]:
    """A row for each worker: of ``rounds`` after a warm-up, the medians; its memory, also in its first process.

    ``apart``: one worker at a time.
    """
    turns = one_by_one if apart else in_turns
    first, second = turns(workers, 0), turns(workers, rounds)
    rows = []
    for name, answers in second.items():
        times = {k: statistics.median(answer[k] for answer in answers[1:]) for k in ("seconds", "cpu_seconds")}
        row = {"name": name, **answers[-1], **times, "first_mb": first[name][0]["memory_mb"]}
        if "images" in row:
            row["images_per_second"] = row["images"] / row["seconds"]
        rows.append(row)
    return rows


def in_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[Row]]:
    """Starts the workers together and asks one after the other, ``rounds`` times and once before: their answers.

    Raises UserError where one ends early.
    """
    answers: dict[str, list[Row]] = {name: [] for name in workers}
    with contextlib.ExitStack() as stack:
        asks = {name: stack.enter_context(running(name, worker)) for name, worker in workers.items()}
        for _ in range(rounds + 1):
            for name, ask in asks.items():
                answers[name].append(ask())
    return answers


def one_by_one(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[Row]]:
    """As :func:`in_turns`, with no more than one worker at a time, which is started anew for every turn."""
    turns = [
        in_turns({name: worker}, min(rounds, 1)) for _ in range(max(rounds, 1)) for name, worker in workers.items()
    ]
    answers = {name: [turn[name] for turn in turns if name in turn] for name in workers}
    return {name: [own[0][0], *(answer for turn in own for answer in turn[1:])] for name, own in answers.items()}


@contextlib.contextmanager
def running(name: str, worker: Worker) -> Generator[Callable[[], Row], None, None]:
    """Yields what asks the worker ``name`` once, while its process runs."""
    command, environment = worker.command, ENVIRONMENT | os.environ
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=worker.folder, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        requests, replies = process.stdin, process.stdout
        assert requests is not None
        assert replies is not None

        def ask() -> Row:
            with contextlib.suppress(BrokenPipeError):
                print(file=requests, flush=True)
            if not (answer := replies.readline()):
                raise UserError(f"bench: the worker of {name!r} ended early; its own message stands above")
            return json.loads(answer)

        yield ask
        requests.close()
