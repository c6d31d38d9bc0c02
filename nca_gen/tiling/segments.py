"""The classes of images and volumes of any size, from a network that saw patches: window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Num, PyTree

from nca_gen.contracts import Segmenter
from nca_gen.data.labels import MAP
from nca_gen.data.source import Example, Source
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.tiling import tiles


@partial(jax.jit, static_argnums=0)
def told(model: Any, params: PyTree, x: Float[Array, "B *T C"]) -> Int32[Array, " B *T"]:
    """The most probable class of every place."""
    return model.apply(params, x).argmax(-1).astype(jnp.int32)


def segmented(
    model: Segmenter, params: PyTree, image: Num[np.ndarray, "*T C"], patch: Sequence[int], batch: int
) -> Int32[np.ndarray, "*T"]:
    """The classes of an image or volume of any size, from windows of ``patch``, ``batch`` at a time.

    A window is as large as what was trained on, so that norms see as much, and half of one says its middle: it reaches
    a quarter of its shortest side beyond. Where the image is smaller than a window its border is repeated.
    """
    sides = image.shape[:-1]
    pad = [(0, max(p - n, 0)) for p, n in zip(patch, sides, strict=True)]
    x = images.to_float(np.pad(image, [*pad, (0, 0)], mode="edge"))
    halo = min(patch) // 4
    cores = [n if n == p else max(p - 2 * halo, 1) for n, p in zip(x.shape, patch, strict=False)]
    plan, out = tiles.plan(x.shape[:-1], tuple(cores), halo), np.empty(x.shape[:-1], np.int32)
    for start in range(0, len(plan.tiles), batch):
        some = plan.tiles[start : start + batch]
        boxes = [tuple(slice(a, a + n) for a, n in zip(t.origin, plan.window, strict=True)) for t in some]
        windows = np.stack([x[box] for box in boxes])
        windows = np.concatenate([windows, np.repeat(windows[-1:], batch - len(some), 0)])  # compiled once
        for tile, classes in zip(some, np.asarray(told(model, params, windows)), strict=False):
            out[tile.core] = classes[tile.inside]
    return out[tuple(slice(n) for n in sides)]


def predictions(
    model: Segmenter, params: PyTree, source: Source | Sequence[Example], patch: Sequence[int], batch: int
) -> Iterator[tuple[Example, Int32[np.ndarray, "*T"], Int32[np.ndarray, "*T"]]]:
    """Each example of ``source``, its true classes and those that it is said to have; one at a time in memory.

    Raises UserError for an example without a map, and for a class that the model does not know.
    """
    params = jax.device_put(jax.device_get(params))
    for i in range(len(source)):
        example = source[i]
        if MAP not in example:
            raise UserError(f"{example['name']} has no label map: a segmenter is judged on images that have one")
        truth = np.asarray(example[MAP])[..., 0]
        check(example["name"], truth, model.classes)
        yield example, truth, segmented(model, params, example["image"], patch, batch)


def check(name: str, classes: Num[np.ndarray, "*T"], n: int) -> None:
    """Raises UserError where a label map holds a class that is none of ``n``."""
    if classes.size and classes.max() >= n:
        raise UserError(
            f"the label map of {name} holds class {classes.max()}, and config.model.classes={n} are 0 to {n - 1}: "
            "set it to the number of classes, or mend the map"
        )
