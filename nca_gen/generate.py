"""--mode=generate: pictures from a trained workdir."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.progress import track

from nca_gen import build
from nca_gen.io import images
from nca_gen.pipelines import diff_nca
from nca_gen.runtime import checkpoint
from nca_gen.runtime.log import say

HOW = ("sampler", "steps", "clip")  # the fields of config.sample that the sampler takes


def how(config: Any) -> dict[str, Any]:
    """The settings of the sampler that ``config.sample`` asks for."""
    return {field: config.sample[field] for field in HOW}


def restore(config: Any, workdir: str | Path) -> tuple[Any, dict, int]:
    """The task, its averaged parameters and their step, from the newest good checkpoint; UserError without one."""
    task = build.task(config)
    abstract = jax.eval_shape(task.init, jax.random.key(config.seed, impl="threefry2x32"))
    state, meta = checkpoint.restore_params(workdir, abstract)
    return task, task.eval_params(state), meta["step"]


def draw(task: Any, params: dict, config: Any, n: int, size: tuple[int, ...], seed: int) -> Float[np.ndarray, "n *S C"]:
    """``n`` pictures of ``size`` under a progress bar, in [-1, 1] and a little beyond."""
    batch = config.sample.batch
    todo = diff_nca.images(task.model, task.diffusion, params, seed, n, size, batch, **how(config))
    return np.concatenate(
        list(track(todo, f"sampling {n} of {size}", -(-n // batch), transient=True, disable=not sys.stdout.isatty()))
    )


def generate(config: Any, workdir: str | Path) -> Path:
    """``config.sample.n`` pictures of ``config.sample.size`` as files and one grid; returns their folder.

    Picture i depends on ``config.seed`` and i alone; those that are there already are kept, so a stopped run goes on.
    """
    task, params, step = restore(config, workdir)
    size, n, batch = tuple(config.sample.size), config.sample.n, config.sample.batch
    sampler = f"{config.sample.sampler}{config.sample.steps}"
    clip = [] if config.sample.clip == "none" else [config.sample.clip]
    named = [f"{step:08d}", "x".join(map(str, size)), sampler, *clip, f"seed{config.seed}"]
    folder = Path(workdir, "generated", "_".join(named))
    folder.mkdir(parents=True, exist_ok=True)
    colours = task.model.image_channels // task.diffusion.block ** len(size)
    suffix = ".png" if colours in (1, 3) else ".tif"
    path = lambda i: folder / f"{i:05d}{suffix}"  # noqa: E731
    batches = [range(first, min(first + batch, n)) for first in range(0, n, batch)]
    missing = [todo for todo in batches if not all(path(i).is_file() for i in todo)]
    sampled = partial(diff_nca.images, task.model, task.diffusion, params, config.seed, size=size, **how(config))
    for todo in track(missing, f"sampling {n} of {size}", transient=True, disable=not sys.stdout.isatty()):
        for i, image in zip(todo, next(sampled(n=len(todo), batch=batch, first=todo.start)), strict=True):
            part = path(i).with_name(f".{path(i).name}")
            images.write(part, images.from_float(image))
            part.replace(path(i))  # whole or not at all, wherever the run is stopped
    shown = np.stack([images.read(path(i)) for i in range(min(n, 64))])
    images.write(folder.with_suffix(".png"), images.grid(shown))
    say(f"{n} pictures from step {step} are in {folder}, a grid of them in {folder.with_suffix('.png')}")
    return folder
