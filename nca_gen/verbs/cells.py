"""One training of a table of trainings: a run of its own, resumed like any run, of which the result stays."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from nca_gen import build
from nca_gen.data.source import Splits
from nca_gen.io import write
from nca_gen.report.files import read_object
from nca_gen.runtime import checkpoint, record
from nca_gen.verbs.train import train


def cell(
    config: Any,
    workdir: Path,
    splits: Callable[[], Splits],
    judged: Callable[[Any, PyTree], dict[str, Any]],
    keep: bool,
) -> dict[str, Any]:
    """What ``judged`` says of (task, parameters) of ``config`` trained to the end on ``splits``, unless ``workdir``
    holds it already; and the seconds that both took. It stays as ``cell.json``, the checkpoints only with ``keep``.

    Raises UserError where ``workdir`` is of another config.
    """
    path = workdir / "cell.json"
    record.check_config(workdir, config)
    stamp = {"steps": config.train.steps, "batch": config.train.batch}
    result = read_object(path)
    if stamp.items() <= result.items():
        return result
    start = time.perf_counter()
    task = build.task(config)
    params = task.eval_params(train(config, workdir, task=task, splits=splits()))
    result = stamp | judged(task, params)
    result["seconds"] = time.perf_counter() - start
    if jax.process_index() == 0:
        write.facts(path, result)
        if not keep:
            shutil.rmtree(checkpoint.folder(workdir))
    return result
