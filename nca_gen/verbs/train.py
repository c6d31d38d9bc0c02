"""THE training loop: any task, any data, one device or many. The same workdir resumes, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from nca_gen.errors import UserError, unknown
from nca_gen.runtime import checkpoint, log, mesh
from nca_gen.runtime.cadence import due, stop_signals


class Run(NamedTuple):
    """What a rollback does not change."""

    config: Any
    workdir: Path
    task: Any
    splits: dict
    evaluate: Callable
    devices: Any
    saved: Any
    curve: log.Log
    signals: list[signal.Signals]


def train(
    config: Any, workdir: str | os.PathLike, *, task: Any = None, splits: Any = None, evaluate: Any = None
) -> PyTree:
    """Trains to ``config.train.steps`` from the newest checkpoint of ``workdir``, or from the start; returns the state.

    ``task``, ``splits`` and ``evaluate`` stand in for those that ``config`` names. On SIGTERM or SIGINT the step is
    finished and saved, and SystemExit raised with 128 + the signal's number. Raises UserError for what a user can mend,
    and when the loss diverges; with ``on_divergence="rollback"`` only after ``max_rollbacks`` returns to the last good
    checkpoint, each followed by other keys and another order of the data.
    """
    plan, workdir = config.train, Path(workdir).absolute()
    if plan.on_divergence not in ("stop", "rollback"):
        raise unknown("config.train.on_divergence", plan.on_divergence, ("stop", "rollback"))
    mesh.connect(config.mesh.get("distributed", False))
    devices = mesh.make(config.mesh.data, config.mesh.space)
    mesh.check_batch(devices, plan.batch, config.data.patch[0])
    if task is None or splits is None:
        from nca_gen import build

        task, splits = task or build.task(config), splits or build.splits(config)
    if evaluate is None:
        from nca_gen.verbs.evaluate import evaluate

    with (
        log.alone(workdir),
        checkpoint.manager(workdir, plan.keep) as saved,
        stop_signals() as signals,
        log.Log(workdir, plan.steps, plan.batch, plan.get("divergence", 0.0)) as curve,
    ):
        if saved.latest_step() is not None:
            log.check_config(workdir, config)
        log.say(f"training to step {plan.steps} on {devices.size} {jax.default_backend()} device(s) in {workdir}")
        run = Run(config, workdir, task, splits, evaluate, devices, saved, curve, signals)
        first, everywhere = next(_batches(run, 0, 0)), mesh.replicated(devices)
        init = jax.jit(task.init, out_shardings=everywhere)
        key = jax.random.key(config.seed, impl="threefry2x32")
        abstract = mesh.abstract(jax.eval_shape(task.init, key, first), devices)
        log.save_environment(workdir, sum(x.size for x in jax.tree.leaves(jax.eval_shape(task.eval_params, abstract))))
        advance = jax.jit(task.step, donate_argnums=0, out_shardings=everywhere).lower(abstract, first).compile()

        rollbacks, retried = 0, None
        fresh = {"step": 0, "rollbacks": 0, "config": log.config_hash(config)}
        while True:
            state, meta = checkpoint.restore_latest(saved, abstract) or (init(key, first), fresh)
            if meta["config"] != fresh["config"]:
                raise UserError(f"{workdir} was begun with another config; choose another --workdir")
            log.save_config(workdir, config)
            if rollbacks > meta["rollbacks"]:
                state = jax.jit(checkpoint.rekeyed, out_shardings=everywhere)(state, rollbacks)
            elif meta["step"]:
                log.say(f"resuming at step {meta['step']}")
            rollbacks = max(rollbacks, meta["rollbacks"])
            try:
                state, step, halted = _follow(run, advance, state, meta | {"rollbacks": rollbacks})
                break
            except log.DivergedError as why:
                saved.wait_until_finished()
                good = saved.latest_step()
                if plan.on_divergence == "stop" or rollbacks >= plan.max_rollbacks:
                    raise UserError(
                        f"{why}, after {rollbacks} rollbacks; the last good checkpoint is of step {good or 0}. Lower "
                        "config.optimizer.lr, set config.optimizer.clip, or allow more rollbacks in config.train"
                    ) from why
                if good is not None and good == retried:  # it led here twice: the harm was done before it
                    checkpoint.drop(saved, good)
                rollbacks, retried = rollbacks + 1, saved.latest_step()
                log.say(f"{why}: back to step {retried or 0}, rollback {rollbacks} of {plan.max_rollbacks}")
    if halted:
        log.say(f"stopped at step {step} of {plan.steps}; the same command goes on from there")
        raise SystemExit(128 + (signals or [signal.SIGTERM])[0])
    log.say(f"trained to step {step}; the results are in {workdir}")
    return state


def _follow(run: Run, advance: Callable, state: PyTree, meta: dict) -> tuple[PyTree, int, bool]:
    """Trains from ``state``, of which ``meta`` is saved with it, until done or halted: state, step, whether halted."""
    plan, curve, step, rollbacks = run.config.train, run.curve, meta["step"], meta["rollbacks"]
    batches = _batches(run, step, rollbacks)
    logged, scored = step, log.last_evaluation(run.workdir, step)
    window: list[Any] = []  # metrics since the last line; the newest may still be on the device
    curve.rewind(step)
    while True:
        line = due(step, plan.log_every, logged)
        # Hosts are signalled at different steps: they agree where they meet anyway.
        halt = mesh.anywhere(bool(run.signals)) if line or jax.process_count() == 1 else False
        done = step >= plan.steps
        keep = halt or done or due(step, plan.checkpoint_every, step - 1)
        if window and (line or keep):  # a checkpoint ends a line, so that a resumed curve is the same curve
            window[-1] = log.settled(window[-1], step)
            curve.write(step, log.means(window) | ({"rollbacks": float(rollbacks)} if rollbacks else {}))
            window, logged = [], step
        if keep and step:
            with curve.pause():
                checkpoint.save(run.saved, step, state, rollbacks=rollbacks, config=meta["config"])
        if scored < step and not halt and (done or due(step, plan.eval_every, scored)):
            with curve.pause():
                args = run.config, run.task, run.task.eval_params(state), run.splits, run.workdir, step
                curve.scalars(step, run.evaluate(*args) or {})
            scored = step
        if halt or done:
            return state, step, halt
        state, metrics = advance(state, next(batches))
        step += 1
        window.append(metrics)
        if len(window) > 1:  # one step late: the host waits for the step before, never for this one
            window[-2] = log.settled(window[-2], step - 1)
            curve.tick(step - 1, window[-2]["loss"])


def _batches(run: Run, step: int, rollbacks: int) -> Iterator[dict]:
    """The batches from ``step`` on, on the mesh; in another order after each rollback."""
    from nca_gen.data import pipeline

    config, (process, processes) = run.config, (jax.process_index(), jax.process_count())
    order = {"seed": config.seed + rollbacks, "step": step, "process": process, "processes": processes}
    fields = {"patch": tuple(config.data.patch), "batch": config.train.batch, "flips": config.data.flips}
    return (mesh.put(batch, run.devices) for batch in pipeline.batches(run.splits["train"], **fields, **order))
