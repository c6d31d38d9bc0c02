"""Pictures from noise, of any size: one file each, and a grid of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from nca_gen.io import images
from nca_gen.pipelines import sampling

title = sampling.title


def paint(
    task: Any, params: dict, config: Any, folder: Path, decode: Callable[[np.ndarray], np.ndarray] | None = None
) -> list[str]:
    """``config.sample.n`` pictures of ``config.sample.size`` in ``folder``, and one grid beside it.

    Picture i depends on ``config.seed`` and i alone; those that are there already are kept, so a stopped run goes on.
    Of a conditional model they take turns through ``config.sample.labels`` (() for all classes), and the grid has a row
    for each. ``decode``: what makes images of latents, which ``size`` is then in.
    """
    size, n, batch = tuple(config.sample.size), config.sample.n, config.sample.batch
    colours = 3 if decode else task.model.image_channels // task.diffusion.block ** len(size)
    suffix = ".png" if colours in (1, 3) else ".tif"
    path = lambda i: folder / f"{i:05d}{suffix}"  # noqa: E731
    batches = [range(first, min(first + batch, n)) for first in range(0, n, batch)]
    missing = [todo for todo in batches if not all(path(i).is_file() for i in todo)]
    how, labels = sampling.how(config), tuple(config.sample.get("labels", ()))
    cond = sampling.conditions(task.model, labels, n)
    sampled = partial(
        sampling.images, task.model, task.diffusion, params, config.seed, size=size, space=config.mesh.space, **how
    )
    for todo in track(missing, f"sampling {n} of {size}", transient=True, disable=not sys.stdout.isatty()):
        mine = None if cond is None else cond[todo.start : todo.stop]
        drawn = next(sampled(n=len(todo), batch=batch, first=todo.start, cond=mine))
        for i, image in zip(todo, decode(drawn) if decode else drawn, strict=True):
            part = path(i).with_name(f".{path(i).name}")
            images.write(part, images.from_float(image))
            part.replace(path(i))  # whole or not at all, wherever the run is stopped
    rows = 1 if cond is None else min(n, len(labels) or cond.shape[1])
    columns = min(n, 64) // rows if rows > 1 else 0
    shown = [row + rows * i for row in range(rows) for i in range(columns)] or range(min(n, 64))
    beside = folder.with_name(f"{folder.name}.png")
    images.write(beside, images.grid(np.stack([images.read(path(i)) for i in shown]), columns or None))
    return [f"{n} pictures are in {folder}, a grid of them in {beside}"]
