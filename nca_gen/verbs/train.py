"""THE training loop: any task, any data, one device or many. The same workdir resumes, bit for bit."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from nca_gen import build, devices, ranges
from nca_gen.contracts import Parts
from nca_gen.data import labels
from nca_gen.errors import UserError
from nca_gen.runtime import ahead, checkpoint, feed, log, mesh, record, run
from nca_gen.runtime.cadence import due, stop_signals
from nca_gen.sections import Mesh, Train


class Course(NamedTuple):
    """What a rollback does not change."""

    config: Any
    plan: Train
    workdir: Path
    task: Any
    splits: Any
    parts: Parts
    evaluate: Callable | None
    grid: Any
    program: ahead.Program
    saved: Any
    curve: log.Log
    signals: list[signal.Signals]


def main(config: Any, args: Namespace) -> None:
    """--mode=train."""
    train(config, args.workdir)


def train(
    config: Any, workdir: str | os.PathLike, *, task: Any = None, splits: Any = None, evaluate: Callable | None = None
) -> PyTree:
    """Trains to ``config.train.steps`` from the newest checkpoint of ``workdir``, or from the start; returns the state.

    ``task``, ``splits`` and ``evaluate`` stand in for those that ``config`` names. On SIGTERM or SIGINT the step is
    finished and saved, and SystemExit raised with 128 + the signal's number. Raises UserError for what a user can mend,
    and when the loss diverges; with ``on_divergence="rollback"`` only after ``max_rollbacks`` returns to the last good
    checkpoint, each followed by other keys and another order of the data.
    """
    plan, layout = Train(**build.fields(config, "train")), Mesh(**build.fields(config, "mesh"))
    workdir, patch = Path(workdir).absolute(), tuple(config.data.patch)
    ranges.check_fields(plan, "config.train")
    grid = mesh.opened(layout, plan.batch, patch[0])
    task, splits = task or build.task(config), splits or build.splits(config)
    for note in labels.check(splits, task.model):
        log.say(f"note: {note}")
    parts = jax.device_put(run.beside(config, workdir), devices.replicated(grid))
    with (
        record.alone(workdir),
        stop_signals() as signals,
        log.Log(workdir, plan.steps, plan.batch, plan.divergence) as curve,
    ):
        begun = bool(checkpoint.steps(workdir))
        known = begun and record.check_config(workdir, config)
        log.say(f"training to step {plan.steps} on {grid.size} {jax.default_backend()} device(s) in {workdir}")
        key = jax.random.key(config.seed, impl="threefry2x32")
        batch = feed.shapes(splits["train"], patch, plan.batch, grid)
        program = ahead.compiled(task, key, batch, parts, grid, fresh=not begun)
        record.save_environment(workdir, ahead.size(jax.eval_shape(task.eval_params, program.state)))
        rollbacks, retried, mark = 0, None, record.config_hash(config)
        with checkpoint.manager(workdir, plan.keep) as saved:
            course = Course(config, plan, workdir, task, splits, parts, evaluate, grid, program, saved, curve, signals)
            while True:
                state, meta = checkpoint.restore_latest(saved, program.state) or (program.init(), {"step": 0})
                if meta.get("config", mark) != mark and not known:
                    raise UserError(f"{workdir} was begun with another config; choose another --workdir")
                record.save_config(workdir, config)
                if rollbacks > meta.get("rollbacks", 0):
                    state = jax.jit(checkpoint.rekeyed, out_shardings=devices.replicated(grid))(state, rollbacks)
                elif meta["step"]:
                    log.say(f"resuming at step {meta['step']}")
                rollbacks = max(rollbacks, meta.get("rollbacks", 0))
                try:
                    state, step, halted = follow(course, state, meta["step"], rollbacks, mark)
                    break
                except log.DivergedError as why:
                    saved.wait_until_finished()
                    good = saved.latest_step()
                    if plan.on_divergence == "stop" or rollbacks >= plan.max_rollbacks:
                        raise log.hopeless(why, rollbacks, good or 0) from why
                    if good is not None and good == retried:  # it led here twice: the harm was done before it
                        checkpoint.drop(saved, good)
                    rollbacks, retried = rollbacks + 1, saved.latest_step()
                    log.say(f"{why}: back to step {retried or 0}, rollback {rollbacks} of {plan.max_rollbacks}")
    if halted:
        log.say(f"stopped at step {step} of {plan.steps}; the same command goes on from there")
        raise SystemExit(128 + (signals or [signal.SIGTERM])[0])
    log.say(f"trained to step {step}; the results are in {workdir}")
    return state


def follow(course: Course, state: PyTree, step: int, rollbacks: int, mark: str) -> tuple[PyTree, int, bool]:
    """Trains from ``state`` at ``step`` until done or halted: state, step, whether halted. ``mark``: of the config."""
    plan, curve = course.plan, course.curve
    batches = feed.batches(course.config, course.splits["train"], course.grid, step, rollbacks)
    advance, logged, before, window = course.program.step, step, None, []  # window: metrics since the last line
    curve.rewind(step)
    while True:
        line = due(step, plan.log_every, logged)
        # Hosts are signalled at different steps: they agree where they meet anyway.
        halt = mesh.anywhere(bool(course.signals)) if line or jax.process_count() == 1 else False
        done = step >= plan.steps
        keep = halt or done or due(step, plan.checkpoint_every, step - 1)
        if window and (line or keep):  # a checkpoint ends a line, so that a resumed curve is the same curve
            window[-1] = log.settled(window[-1], step)
            curve.write(step, log.means(window) | ({"rollbacks": float(rollbacks)} if rollbacks else {}))
            window, logged = [], step
        if keep and step:
            with curve.pause():
                checkpoint.save(course.saved, step, state, rollbacks=rollbacks, config=mark)
        if step and not halt:
            with curve.pause():
                before = evaluated(course, state, step, before)
        if halt or done:
            return state, step, halt
        state, metrics = advance(state, next(batches), course.parts)
        step += 1
        window.append(metrics)
        if len(window) > 1:  # one step late: the host waits for the step before, never for this one
            window[-2] = log.settled(window[-2], step - 1)
            curve.tick(step - 1, window[-2]["loss"])


def evaluated(course: Course, state: PyTree, step: int, before: dict[str, int] | None) -> dict[str, int]:
    """Asks the evaluators whose turn it is at ``step``; by name, when each was asked: ``before``, and from now on."""
    from nca_gen.verbs import evaluate  # what it needs is loaded while the first step is computed

    before = evaluate.last(course.workdir, step) if before is None else before
    if names := evaluate.due(course.config, step, before):
        ask, params = course.evaluate or evaluate.evaluate, course.task.eval_params(state)
        scores = ask(course.config, course.task, params, course.splits, course.workdir, step, names, course.parts)
        course.curve.scalars(step, scores or {})
    return before | dict.fromkeys(names, step)
