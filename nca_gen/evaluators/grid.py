"""At which times are n calls best made? A search for this network, beside the grids that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Num

from nca_gen import arrays
from nca_gen.contracts import Page, Pipeline
from nca_gen.diffusion import grids
from nca_gen.evaluators.held import Held
from nca_gen.evaluators.samplers import caption
from nca_gen.evaluators.sweep import Row, sweep
from nca_gen.judge import Spec
from nca_gen.pipelines import sampling
from nca_gen.ranges import Count

START = "karras"
SHARES = (0.5, 0.25, 0.1)  # of the way to a neighbour that a time is moved, coarse moves first
BESIDE = ("uniform", START)  # what is shown beside what was found


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    calls: Sequence[Annotated[int, Ge(2)]] = (),
    n: Count = 16,
    reference: Count = 50,
    metrics: Sequence[Spec] = (),
) -> Page:
    """Searches a grid for each number of ``calls``, by :func:`searched`, with the sampler of the config; its page holds
    the times, and ``config.sample.grid=searched_4`` uses those of four calls. Scores of them, and of the grids that are
    known, are of other noise than that of the search. ``metrics``: () for those of evals.scores.

    What is wanted is that a few calls end where ``reference`` calls end, from the same noise of ``n`` samples.
    """
    title = "Times of a few calls"
    part = pipeline.parts["model"]
    if not calls:
        return Page(title)
    settings, process = sampling.Settings.of(part.config.sample), part.task.process
    key, cond = arrays.keys(data.seed, n, first=data.n), data.rows(n)

    def drawn(some: sampling.Settings) -> np.ndarray:
        return np.concatenate([*sampling.images(part, key, data.patch, some, cond, batch=part.config.sample.batch)])

    far = drawn(settings._replace(steps=reference, grid=START))

    def off(times: Num[np.ndarray, " n"]) -> float:
        if len({*grids.written(times).split("+")}) < len(times):  # too near to each other to be written
            return np.inf
        near = drawn(settings._replace(steps=len(times) - 1, grid=grids.written(times[:-1])))
        return float(np.sqrt(np.mean((near - far) ** 2)))

    found: dict[str, str] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    rows: list[Row] = []
    for steps in calls:
        times, course = searched(off, grids.times(process, steps, START))
        best = found[f"searched_{steps}"] = grids.written(times[:-1])
        curves[f"{steps} calls: distance to {reference} calls, trial by trial"] = course
        rows += [{"sampler": settings.sampler, "steps": steps, "grid": grid} for grid in (*BESIDE, best)]
    page = sweep(pipeline, data, folder, title, rows, caption, metrics)
    return replace(page, facts=dict(page.facts) | {"grids": found}, curves=curves)


def searched(
    off: Callable[[Num[np.ndarray, " n"]], float], times: Num[np.ndarray, " n"]
) -> tuple[Num[np.ndarray, " n"], list[tuple[float, float]]]:
    """Times by which ``off`` is least, from ``times`` on, and how it fell: (trials, ``off``).

    One time after the other, but the first and the clean end, goes a share of the way to its neighbour on either side,
    and stays where that is better; as long as any does, and then by smaller shares.
    """
    known = {tuple(times): off(times)}
    course = [(1.0, known[tuple(times)])]
    for share in SHARES:
        better = True
        while better:
            better = False
            for i in range(1, len(times) - 1):
                for neighbour in (i - 1, i + 1):
                    moved = times.copy()
                    step = share * (float(times[neighbour]) - float(times[i]))
                    moved[i] += np.trunc(step) if np.issubdtype(times.dtype, np.integer) else step
                    if tuple(moved) in known:
                        continue
                    known[tuple(moved)] = off(moved)
                    if known[tuple(moved)] < known[tuple(times)]:
                        times, better = moved, True
                        course.append((float(len(known)), known[tuple(times)]))
    return times, course
