"""The segmenting task: learn which class every place of an image or volume is of, from label maps beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Int32, Key, Num, PyTree

from nca_gen import ranges
from nca_gen.contracts import Parts, Segmenter
from nca_gen.data.source import Example, Source
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.ranges import Decay, Weight
from nca_gen.tasks.learner import Learner, average
from nca_gen.tiling import tiles

FIELD = "label_map"  # of a batch: classes [B, *T, 1]
SMOOTH = 1e-5  # of Dice: of a class that is neither there nor said it is 1


class State(NamedTuple):
    """Everything that training changes; ``ema``, the averaged parameters, are what segments."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    optimizer: Any


@dataclass(frozen=True)
class Task:
    """A :class:`nca_gen.contracts.Task` for segmenters.

    batch: {"image": [B, *T, C] in [-1, 1], "label_map": [B, *T, 1] classes from 0; negative: not known, counts
    nowhere}. The loss is softmax cross-entropy, a mean over places, and ``dice`` times 1 - Dice of probabilities over
    the batch, a mean over all classes but 0 (Milletari et al. 2016, arXiv 1606.04797; Isensee et al. 2021). ``ema``:
    decay of the average of the parameters, with ``ema_warmup`` as :func:`nca_gen.tasks.learner.ema_decay` has it.
    ``names``: of the classes, for tables; () for their numbers.
    """

    model: Any
    learner: Learner
    dice: Weight = 1.0
    ema: Decay = 0.999
    ema_warmup: bool = True
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if not isinstance(self.model, Segmenter):
            raise UserError("task.name=segment is for segmenters, and config.model is none: choose another name of one")
        ranges.check_fields(self, "task")
        if len(self.names) not in (0, self.model.classes):
            raise UserError(f"task.names are {len(self.names)}, of config.model.classes={self.model.classes} classes")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers."""
        return self.names or tuple(map(str, range(self.model.classes)))

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any] | None = None) -> State:
        """The state before the first step. Raises UserError where ``batch`` has no maps, or images of another kind."""
        params = self.model.init(key)
        if batch is not None and FIELD not in batch:
            raise UserError("the images have no label maps: name the folder that has them by --config.data.label_maps")
        if batch is not None:
            jax.eval_shape(self.model.apply, params, batch["image"])
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), self.learner.init(params))

    def loss(self, logits: Float[Array, "B *T K"], target: Num[Array, "B *T"]) -> Float[Array, ""]:
        """Cross-entropy and Dice of the places that are known."""
        known = (target >= 0)[..., None]
        there = jax.nn.one_hot(target, logits.shape[-1]) * known
        entropy = -(there * jax.nn.log_softmax(logits)).sum() / jnp.maximum(known.sum(), 1)
        said, axes = jax.nn.softmax(logits) * known, tuple(range(target.ndim))
        overlap = (2 * (said * there).sum(axes) + SMOOTH) / (said.sum(axes) + there.sum(axes) + SMOOTH)
        return entropy + self.dice * (1 - overlap[1:].mean())

    def step(
        self, state: State, batch: Mapping[str, Array], parts: Parts | None = None
    ) -> tuple[State, dict[str, Array]]:
        """One step of gradient descent and of the average; metrics "loss", "grad_norm", "lr"."""
        target = jnp.asarray(batch[FIELD])[..., 0]
        objective = lambda params: self.loss(self.model.apply(params, batch["image"]), target)
        loss, grads = jax.value_and_grad(objective)(state.params)
        params, optimizer, rate = self.learner.update(grads, state.optimizer, state.params, state.step)
        ema = average(state.ema, params, state.step, self.ema, self.ema_warmup)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), "lr": rate}
        return State(state.step + 1, params, ema, optimizer), metrics

    def begin(self, state: State, params: PyTree) -> State:
        """``state`` with ``params``, of which the average begins too."""
        return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))

    def eval_params(self, state: State) -> PyTree:
        """The averaged parameters."""
        return state.ema


@partial(jax.jit, static_argnums=0)
def told(model: Any, params: PyTree, x: Float[Array, "B *T C"]) -> Int32[Array, "B *T"]:
    """The most probable class of every place."""
    return model.apply(params, x).argmax(-1).astype(jnp.int32)


def segmented(
    model: Any, params: PyTree, image: Num[np.ndarray, "*T C"], patch: Sequence[int], batch: int
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
    task: Task, params: PyTree, source: Source | Sequence[Example], patch: Sequence[int], batch: int
) -> Iterator[tuple[Example, Int32[np.ndarray, "*T"], Int32[np.ndarray, "*T"]]]:
    """Each example of ``source``, its true classes and those that it is said to have; one at a time in memory.

    Raises UserError for an example without a map, and for a class that the model does not know.
    """
    params = jax.device_put(jax.device_get(params))
    for i in range(len(source)):
        example = source[i]
        if FIELD not in example:
            raise UserError(f"{example['name']} has no label map: a segmenter is judged on images that have one")
        truth = np.asarray(example[FIELD])[..., 0]
        check(example["name"], truth, task.model.classes)
        yield example, truth, segmented(task.model, params, example["image"], patch, batch)


def check(name: str, classes: Num[np.ndarray, "*T"], n: int) -> None:
    """Raises UserError where a label map holds a class that is none of ``n``."""
    if classes.size and classes.max() >= n:
        raise UserError(
            f"the label map of {name} holds class {classes.max()}, and config.model.classes={n} are 0 to {n - 1}: "
            "set it to the number of classes, or mend the map"
        )
