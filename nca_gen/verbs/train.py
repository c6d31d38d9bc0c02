"""THE training loop: any task, any data, one device or many. The same workdir resumes, bit for bit."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from nca_gen import devices, hosts
from nca_gen.runtime import budget, checkpoint, feed, log, mesh
from nca_gen.runtime import course as courses
from nca_gen.runtime.cadence import due
from nca_gen.runtime.course import Course


def main(config: Any, args: Namespace) -> None:
    """--mode=train."""
    with mesh.joined(config):
        train(config, args.workdir)


def train(
    config: Any, workdir: str | os.PathLike, *, task: Any = None, splits: Any = None, evaluate: Callable | None = None
) -> PyTree:
    """Trains to ``config.train.steps`` from the newest checkpoint of ``workdir``, or from the start; returns the state.

    ``task``, ``splits`` and ``evaluate`` stand in for those that ``config`` names. On SIGTERM or SIGINT the step is
    finished and saved, and SystemExit raised with 128 + the signal's number. Raises UserError for what a user can mend,
    and when the loss diverges; with ``on_divergence="rollback"`` only after ``max_rollbacks`` returns to the last good
    checkpoint, each followed by other keys and another order of the data. Of a ``config.budget`` it heeds what
    ``--mode=budget`` has left in ``workdir``.
    """
    config = budget.settled(config, workdir)
    with courses.opened(config, workdir, task, splits, evaluate) as course:
        plan, saved, rollbacks, retried = course.plan, course.saved, 0, None
        while True:
            with course.curve.account.spent("starting"):
                state, meta = courses.begun(course)
            if rollbacks > meta.get("rollbacks", 0):
                state = jax.jit(checkpoint.rekeyed, out_shardings=devices.shardings(state))(state, rollbacks)
            elif meta["step"]:
                log.say(f"resuming at step {meta['step']}")
            rollbacks = max(rollbacks, meta.get("rollbacks", 0))
            try:
                state, step, halted = follow(course, state, meta["step"], rollbacks)
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
        course.curve.account.turn("checkpoints")  # the last one is still being written
    if halted:
        log.say(f"stopped at step {step} of {plan.steps}; the same command goes on from there")
        raise SystemExit(128 + (course.signals or [signal.SIGTERM])[0])
    log.say(f"trained to step {step}; the results are in {course.workdir}")
    return state


def follow(course: Course, state: PyTree, step: int, rollbacks: int) -> tuple[PyTree, int, bool]:
    """Trains from ``state`` at ``step`` until done or halted: state, step, whether halted."""
    plan, curve, account = course.plan, course.curve, course.curve.account
    with account.spent("data"):
        batches = feed.batches(course.config, course.splits["train"], course.grid, step, rollbacks)
    with account.spent("compiling"):
        advance = course.program.step if step < plan.steps else course.task.step  # which nothing will call
    logged, before = step, None
    window: list[Any] = []  # metrics since the last line
    curve.rewind(step)
    hosts.meet()  # a collective waits for seconds only until all have begun it
    while True:
        line = due(step, plan.log_every, logged)
        # Hosts are signalled at different steps: they agree where they meet anyway.
        halt = hosts.anywhere(bool(course.signals)) if line or jax.process_count() == 1 else False
        done = step >= plan.steps
        keep = halt or done or due(step, plan.checkpoint_every, step - 1)
        if window and (line or keep):  # a checkpoint ends a line, so that a resumed curve is the same curve
            window[-1] = log.settled(window[-1], step)
            curve.write(step, log.means(window) | ({"rollbacks": float(rollbacks)} if rollbacks else {}))
            window, logged = [], step
        if keep and step:
            with curve.pause("checkpoints"):
                checkpoint.save(course.saved, step, state, rollbacks=rollbacks, config=course.mark)
        if step and not halt:
            with curve.pause("evaluation"):
                before = evaluated(course, state, step, before)
        if halt or done:
            return state, step, halt
        with account.spent("data"):
            batch = next(batches)
        state, metrics = course.profile.step(step + 1, advance, state, batch, course.program.parts)
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
        ask, params = course.evaluate or evaluate.evaluate, devices.gathered(course.task.eval_params(state))
        scores = ask(course.config, course.task, params, course.splits, course.workdir, step, names, course.beside)
        course.curve.scalars(step, scores or {})
    return before | dict.fromkeys(names, step)
