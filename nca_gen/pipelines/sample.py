"""Pictures from noise, of any size: one file each, and a grid of them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from nca_gen.io import images
from nca_gen.pipelines import diff_nca

title = diff_nca.title


def paint(task: Any, params: dict, config: Any, folder: Path) -> list[str]:
    """``config.sample.n`` pictures of ``config.sample.size`` in ``folder``, and one grid beside it.

    Picture i depends on ``config.seed`` and i alone; those that are there already are kept, so a stopped run goes on.
    """
    size, n, batch = tuple(config.sample.size), config.sample.n, config.sample.batch
    colours = task.model.image_channels // task.diffusion.block ** len(size)
    suffix = ".png" if colours in (1, 3) else ".tif"
    path = lambda i: folder / f"{i:05d}{suffix}"  # noqa: E731
    batches = [range(first, min(first + batch, n)) for first in range(0, n, batch)]
    missing = [todo for todo in batches if not all(path(i).is_file() for i in todo)]
    how = diff_nca.how(config)
    sampled = partial(
        diff_nca.images, task.model, task.diffusion, params, config.seed, size=size, space=config.mesh.space, **how
    )
    for todo in track(missing, f"sampling {n} of {size}", transient=True, disable=not sys.stdout.isatty()):
        for i, image in zip(todo, next(sampled(n=len(todo), batch=batch, first=todo.start)), strict=True):
            part = path(i).with_name(f".{path(i).name}")
            images.write(part, images.from_float(image))
            part.replace(path(i))  # whole or not at all, wherever the run is stopped
    shown = np.stack([images.read(path(i)) for i in range(min(n, 64))])
    images.write(folder.with_suffix(".png"), images.grid(shown))
    return [f"{n} pictures are in {folder}, a grid of them in {folder.with_suffix('.png')}"]
