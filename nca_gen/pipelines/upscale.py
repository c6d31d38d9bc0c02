"""Pictures enlarged by a trained model, twice and twice again, without training for it (Diff-NCA, section 4.8)."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Key
from rich.progress import track

from nca_gen import arrays
from nca_gen.diffusion.discrete import Diffusion
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import inpaint, sampling

NOISE, BLEND = 0.9, 0.02  # of the paper


def doubled(image: Float[np.ndarray, "*T C"]) -> tuple[Float[np.ndarray, "*U C"], Bool[np.ndarray, "*U"]]:
    """``image`` enlarged to the nearest pixel, and which pixels are new: all but the first of each 2 x 2."""
    n = image.ndim - 1
    for axis in range(n):
        image = image.repeat(2, axis)
    new = np.ones(image.shape[:-1], bool)
    new[(slice(None, None, 2),) * n] = False
    return image, new


def passes(factor: int) -> int:
    """How many doublings make ``factor``. Raises UserError where that is no power of two above one."""
    n = max(factor, 1).bit_length() - 1
    if factor < 2 or factor != 2**n:
        raise UserError(f"config.generate.factor={factor}: pictures are enlarged by 2, 4, 8, ...")
    return n


def enlarge(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    key: Key[Array, " 1"],
    image: Float[np.ndarray, "*T C"],
    factor: int = 2,
    *,
    noise: float = NOISE,
    blend: float = BLEND,
    **how: Any,
) -> Float[np.ndarray, "*U C"]:
    """``image`` (in [-1, 1]) ``factor`` times as large along every axis, doubled again and again.

    In each doubling the old pixels are kept bit for bit, every first one of 2 x 2; the new ones begin as the enlarged
    image with ``noise`` of the diffusion's steps, and take in ``blend`` of it at every step. ``how``: as
    :func:`inpaint.fill` takes it. Raises UserError for a ``factor`` that is no power of two.
    """
    for i in range(passes(factor)):
        image, new = doubled(image)
        here = arrays.fold(key, i)
        image = inpaint.fill(model, diffusion, params, here, image, new, noise=noise, blend=blend, **how)[0]
    return image


def title(config: Any) -> list[str]:
    """What two enlargements may differ in."""
    return [Path(config.generate.image).stem, f"x{config.generate.factor}", config.generate.known]


def paint(task: Any, params: dict, config: Any, folder: Path) -> list[str]:
    """``config.generate.samples`` enlargements of ``config.generate.image`` by ``config.generate.factor``, as files.

    Beside them the input, and in comparison.png, side by side, the input to the nearest pixel and the enlargements.
    """
    asked, begun = config.generate, time.perf_counter()
    stored = inpaint.given(task, asked.image)
    image, how = images.to_float(stored), sampling.how(config) | {"known": asked.known}
    made = [
        enlarge(task.model, task.diffusion, params, arrays.keys(config.seed, 1, i), image, asked.factor, **how)
        for i in track(range(asked.samples), "enlarging", transient=True, disable=not sys.stdout.isatty())
    ]
    seconds = time.perf_counter() - begun
    inpaint.write(folder, "input", image, stored.dtype)
    for i, picture in enumerate(made):
        inpaint.write(folder, f"{i:05d}", picture, stored.dtype)
    nearest = image.repeat(asked.factor, 0).repeat(asked.factor, 1)
    images.write(folder / "comparison.png", images.strip(np.stack([nearest, *made])))
    sides = " x ".join(map(str, nearest.shape[:2]))
    return [
        f"{len(made)} enlargements to {sides} pixels are in {folder}, {seconds:.1f} s",
        f"side by side with the input: {folder / 'comparison.png'}",
    ]
