"""A run of training from its config to where its loop begins: opened, checked, and begun or resumed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from nca_gen import build, ranges
from nca_gen import config as configs
from nca_gen.contracts import Part
from nca_gen.data import flips, labels, pipeline
from nca_gen.errors import UserError
from nca_gen.io import mirror
from nca_gen.pipelines import files, sampling
from nca_gen.runtime import ahead, checkpoint, feed, log, mesh, record, run
from nca_gen.runtime.cadence import stop_signals
from nca_gen.runtime.profile import Profile
from nca_gen.sections import Mesh, Train
from nca_gen.tasks import denoise

LOADING = Lock()
"""One data set is opened at a time: it may have to be fetched and written first."""


class Course(NamedTuple):
    """What a rollback does not change."""

    config: Any
    plan: Train
    workdir: Path
    task: Any
    splits: Any
    beside: run.Beside
    evaluate: Callable | None
    grid: Any
    program: ahead.Program
    saved: Any
    curve: log.Log
    profile: Profile
    signals: list[signal.Signals]
    first: Part | None  # whose weights training begins with
    mark: str  # of the config
    known: bool  # whether that was compared with the one that the run was begun with


@contextmanager
def opened(
    config: Any, workdir: str | os.PathLike, task: Any = None, splits: Any = None, evaluate: Callable | None = None
) -> Iterator[Course]:
    """All that training needs, checked, while its program is compiled; ``workdir`` is held against other runs.

    ``task``, ``splits`` and ``evaluate`` stand in for those that ``config`` names. Raises UserError for what a user can
    mend.
    """
    plan, layout = Train(**build.fields(config, "train")), Mesh(**build.fields(config, "mesh"))
    workdir, patch = Path(workdir).absolute(), tuple(config.data.patch)
    ranges.check_fields(plan, "config.train")
    grid = mesh.opened(layout, plan.batch, patch[0])
    if jax.process_count() > 1 and mirror.is_mirror(workdir):
        raise UserError(
            "several hosts write one checkpoint together, in a folder that all of them see: mount the bucket (gcsfuse, "
            "mountpoint-s3) or a disk, and give that as --workdir"
        )
    with LOADING:
        task, splits = task or build.task(config), splits or build.splits(config)
    config = files.learned(config, splits)
    flips.axes(config.data.get("flips", "all"), len(patch))
    flips.transposed(config.data.get("flips", "all"), patch)
    asked = any(section.get("every", 0) for section in config.evals.values())  # whether something is, in training
    sampled = asked and isinstance(task, denoise.Task) and "sample" in config
    if asked:
        pipeline.check_fits(splits[config.held.split], patch)
    if sampled:
        sampling.check(config, task)
    for note in chain(configs.notes(config), labels.check(splits, task.model)):
        log.say(f"note: {note}")
    near = run.beside(config, workdir)
    with (
        record.alone(workdir),
        stop_signals() as signals,
        log.Log(workdir, plan.steps, plan.batch, plan.divergence) as curve,
        ahead.cache(workdir if plan.cache == "workdir" else None),
        Profile(plan.profile, workdir) as profile,
    ):
        steps = checkpoint.steps(workdir)
        begun, left = bool(steps), plan.steps > max(steps, default=0)
        known = begun and record.check_config(workdir, config)
        record.check_data(workdir, splits, begun)
        log.say(f"training to step {plan.steps} on {grid.size} {jax.default_backend()} device(s) in {workdir}")
        first = None if begun else run.first(config, workdir, task)
        program = programmed(config, task, splits["train"], near, grid, not begun, left)
        if sampled:
            sampling.check_large(config, task)  # while the compiler works
        record.save_environment(workdir, ahead.size(jax.eval_shape(task.eval_params, program.state)))
        with checkpoint.manager(workdir, plan.keep) as saved, mesh.company():
            yield Course(
                *(
                    config,
                    plan,
                    workdir,
                    task,
                    splits,
                    near,
                    evaluate,
                    grid,
                    program,
                    saved,
                    curve,
                    profile,
                    signals,
                ),
                *(first, record.config_hash(config), known),
            )


def programmed(
    config: Any,
    task: Any,
    source: Any,
    near: run.Beside,
    grid: Any,
    fresh: bool,
    left: bool,
    pool: ThreadPoolExecutor | None = None,
) -> ahead.Program:
    """The programs of a run on batches of ``source``, see :func:`nca_gen.runtime.ahead.compiled`."""
    key = jax.random.key(config.seed, impl="threefry2x32")
    batch = feed.shapes(source, tuple(config.data.patch), build.fields(config, "train")["batch"], grid)
    return ahead.compiled(task, key, batch, near, grid, fresh, left, build.fields(config, "mesh")["shard"], pool)


def foresee(config: Any, workdir: str | os.PathLike, pool: ThreadPoolExecutor) -> list[Future]:
    """Has ``pool`` compile what :func:`opened` will compile for a run that has not begun, which finds it in jax's
    memory once all that is returned is done.

    Raises as that does, where not all that it needs is there yet.
    """
    plan, layout = Train(**build.fields(config, "train")), Mesh(**build.fields(config, "mesh"))
    patch = tuple(config.data.patch)
    grid = mesh.opened(layout, plan.batch, patch[0])
    if plan.cache == "workdir":  # where the run begins by forgetting
        return []
    with LOADING:
        task, splits = build.task(config), build.splits(config)
    program = programmed(config, task, splits["train"], run.beside(config, workdir), grid, True, True, pool)
    return [soon for soon in (program.starting, program.stepping) if soon]


def begun(course: Course) -> tuple[PyTree, dict[str, Any]]:
    """The newest good state of the run and its JSON {step, ...}; before the first step that which training begins with.

    Raises UserError for a run that was begun with another config.
    """
    state, meta = checkpoint.restore_latest(course.saved, course.program.state) or (course.program.init(), {"step": 0})
    if meta.get("config", course.mark) != course.mark and not course.known:
        raise UserError(f"{course.workdir} was begun with another config; choose another --workdir")
    if course.first and not meta["step"]:
        state = run.begin(course.task, state, course.first)
    record.save_config(course.workdir, course.config)
    return state, meta
