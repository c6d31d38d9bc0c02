"""--mode=generate: pictures from a trained workdir."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.progress import track

from nca_gen import build
from nca_gen.errors import UserError
from nca_gen.pipelines import sampling
from nca_gen.pipelines.sampling import how
from nca_gen.runtime import checkpoint
from nca_gen.runtime.log import say


def restore(config: Any, workdir: str | Path) -> tuple[Any, dict, int]:
    """The task, its averaged parameters and their step, from the newest good checkpoint; UserError without one."""
    task = build.task(config)
    abstract = jax.eval_shape(task.init, jax.random.key(config.seed, impl="threefry2x32"))
    state, meta = checkpoint.restore_params(workdir, abstract)
    return task, task.eval_params(state), meta["step"]


def draw(
    task: Any, params: dict, config: Any, n: int, size: tuple[int, ...], seed: int, **more: Any
) -> Float[np.ndarray, "n *S C"]:
    """``n`` pictures of ``size`` under a progress bar, in [-1, 1] and a little beyond; rows over config.mesh.space.

    They are latents where the model learned latents. ``more``: arguments of :func:`nca_gen.pipelines.sampling.images`.
    """
    batch, settings = config.sample.batch, how(config) | {"space": config.mesh.space} | more
    todo = sampling.images(task.model, task.diffusion, params, seed, n, size, batch, **settings)
    return np.concatenate(
        list(track(todo, f"sampling {n} of {size}", -(-n // batch), transient=True, disable=not sys.stdout.isatty()))
    )


def generate(config: Any, workdir: str | Path) -> Path:
    """What ``config.generate`` asks for, by the pipeline of its name; returns the folder that holds it.

    Raises UserError for an unknown pipeline and for whatever that pipeline refuses.
    """
    asked = config.get("generate", {"name": "sample", "torus": False})  # runs of before had no other
    pipeline = build.named("pipelines", "paint", asked["name"])
    task, params, step = restore(config, workdir)
    decode = build.decoder(config)
    if asked["name"] != "sample" and (decode or not hasattr(task.model, "strip")):
        raise UserError(
            f"config.generate.name={asked['name']} is for diff_nca and fourier_diff_nca of pixels: use sample"
        )
    if asked["torus"]:
        if not hasattr(task.model, "border"):
            raise UserError("a torus is for automata, whose cells know a border; leave out config.generate.torus")
        if any(side % task.diffusion.block for side in config.sample.size):
            raise UserError(f"a torus has whole cells: make config.sample.size multiples of {task.diffusion.block}")
        task = replace(task, model=replace(task.model, border="wrap"))
    folder = Path(workdir, "generated", "_".join(map(str, _title(config, asked, pipeline.title(config), step))))
    folder.mkdir(parents=True, exist_ok=True)
    for line in pipeline.paint(task, params, config, folder, **({"decode": decode} if decode else {})):
        say(f"step {step}: {line}")
    return folder


def _title(config: Any, asked: Any, title: list[str], step: int) -> Iterator[str]:
    """Whatever two pictures of one model may differ in."""
    yield f"{step:08d}"
    if asked["name"] != "sample":
        yield asked["name"]
    yield from title
    yield f"{config.sample.sampler}{config.sample.steps}"
    if config.sample.clip != "none":
        yield config.sample.clip
    for field, usual in (("guidance", 1.0), ("heredity", "none"), ("growth", ()), ("labels", ())):
        value = config.sample.get(field, usual)
        if value != usual:
            yield field + ("-".join(map(str, value)) if isinstance(value, tuple) else str(value))
    if asked["torus"]:
        yield "torus"
    yield f"seed{config.seed}"
