"""The segmenting task: learn which class every place of an image or volume is of, from label maps beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from nca_gen import arrays, ranges
from nca_gen.contracts import Parts, Segmenter
from nca_gen.data.labels import MAP
from nca_gen.errors import UserError
from nca_gen.ranges import Decay, Weight
from nca_gen.tasks.learner import Learner, average

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
        params = self.model.init(arrays.written_out(key))
        if batch is not None and MAP not in batch:
            raise UserError("the images have no label maps: name the folder that has them by --config.data.label_maps")
        if batch is not None:
            jax.eval_shape(self.model.apply, params, batch["image"])
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), self.learner.init(params))

    def loss(self, logits: Float[Array, "B *T K"], target: Num[Array, " B *T"]) -> Float[Array, ""]:
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
        target = jnp.asarray(batch[MAP])[..., 0]
        objective = lambda params: self.loss(self.model.apply(params, batch["image"]), target)
        loss, grads = jax.value_and_grad(objective)(state.params)
        params, optimizer, moved = self.learner.update(grads, state.optimizer, state.params, state.step)
        ema = average(state.ema, params, state.step, self.ema, self.ema_warmup)
        return State(state.step + 1, params, ema, optimizer), {"loss": loss, **moved}

    def inherits(self, params: PyTree) -> PyTree:
        """All of ``params``."""
        return params

    def begin(self, state: State, params: PyTree) -> State:
        """``state`` with ``params``, of which the average begins too."""
        return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))

    def eval_params(self, state: State) -> PyTree:
        """The averaged parameters."""
        return state.ema
