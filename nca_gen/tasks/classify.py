"""The classifying task: learn which diseases an image shows, one of them or any number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from nca_gen import arrays, ranges
from nca_gen.contracts import Classifier, Parts
from nca_gen.data.flips import probabilities
from nca_gen.data.source import Example
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.ranges import Fraction, OneOf, Positive
from nca_gen.tasks.learner import Learner


class State(NamedTuple):
    """Everything that training changes. ``key`` never changes: randomness is named by (key, step, row)."""

    step: Int[Array, ""]
    params: PyTree
    statistics: PyTree
    optimizer: Any
    key: Key[Array, ""]


def geometric(
    x: Float[Array, "B H W C"], key: Key[Array, " B"], flips: str, rotation: float, zoom: float
) -> Float[Array, "B H W C"]:
    """Each image flipped, turned about its centre and cut to a part of itself, as its key says.

    The angle is uniform within ``rotation`` degrees either way; the part is a window of the image's shape whose side
    is uniform in [``zoom``, 1] of the image's, anywhere inside it. Bilinear; beyond the border its nearest pixel
    continues. With no flips, rotation 0 and zoom 1 the image comes back as it is.
    """
    H, W = x.shape[1:3]
    u = arrays.cell_uniform(key, 0, (), 6)  # [B, 6]
    sign = 1.0 - 2.0 * (u[:, :2] < jnp.array(probabilities(flips)))
    angle = jnp.deg2rad(rotation) * (2 * u[:, 2] - 1)
    side = 1 - (1 - zoom) * u[:, 3]
    shift = (u[:, 4:] - 0.5) * (1 - side)[:, None]  # of the window's centre, in sides of the image
    centre = jnp.array([(H - 1) / 2, (W - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(H), jnp.arange(W), indexing="ij"), -1) - centre

    def one(image: Array, sign: Array, angle: Array, side: Array, shift: Array) -> Array:
        turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        # Sums by hand: a product of matrices may be rounded to fewer digits than places in an image have.
        y, x = (side * sum(turn[i, j] * sign[j] * grid[..., j] for j in (0, 1)) for i in (0, 1))
        return sampled(image, y + centre[0] + shift[0] * H, x + centre[1] + shift[1] * W)

    return jax.vmap(one)(x, sign, angle, side, shift)


def sampled(image: Float[Array, "H W C"], y: Float[Array, "*S"], x: Float[Array, "*S"]) -> Float[Array, "*S C"]:
    """``image`` between its pixels, bilinear; places outside are moved to the border."""
    H, W = image.shape[:2]
    y, x = jnp.clip(y, 0, H - 1), jnp.clip(x, 0, W - 1)
    i, j = (jnp.clip(jnp.floor(v).astype(jnp.int32), 0, max(n - 2, 0)) for v, n in ((y, H), (x, W)))
    v, u = (y - i)[..., None], (x - j)[..., None]
    below, beside = jnp.minimum(i + 1, H - 1), jnp.minimum(j + 1, W - 1)
    upper = (1 - u) * image[i, j] + u * image[i, beside]
    lower = (1 - u) * image[below, j] + u * image[below, beside]
    return (1 - v) * upper + v * lower


@dataclass(frozen=True)
class Task:
    """A :class:`nca_gen.contracts.Task` for classifiers.

    batch: {"image": [B, H, W, C] in [-1, 1], "label": [B, L] 0/1 columns, or [B, 1] a grade}. ``labels``: "single",
    softmax cross-entropy, or "multi", binary cross-entropies of the classes. Those who have a class weigh
    ``pos_weight`` in it: nothing for 1, one number for all, or one a class. ``augment``: "none" or "geometric", see
    :func:`geometric` for ``flips``, ``rotation`` and ``zoom``.
    """

    model: Any
    learner: Learner
    labels: Annotated[str, OneOf(("single", "multi"))] = "single"
    augment: Annotated[str, OneOf(("none", "geometric"))] = "none"
    flips: Annotated[str, OneOf(("all", "none", "horizontal", "vertical"))] = "horizontal"
    rotation: Annotated[float, Interval(ge=0, le=180)] = 15.0
    zoom: Fraction = 0.8
    pos_weight: tuple[Positive, ...] = ()

    def __post_init__(self):
        if not isinstance(self.model, Classifier):
            raise UserError(
                "task.name=classify is for classifiers, and config.model is none: choose another name of one"
            )
        ranges.check_fields(self, "task")
        if len(self.pos_weight) not in (0, 1, self.model.classes):
            raise UserError(f"task.pos_weight has {len(self.pos_weight)} numbers: give none, 1, or one a class")

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any] | None = None) -> State:
        """The state before the first step. Raises UserError where ``batch`` has no labels, or others than the model."""
        if batch is not None and "label" not in batch:
            raise UserError("the images have no labels: put a labels.csv with a label column beside them")
        if batch is not None:
            jax.eval_shape(partial(arrays.multi_hot, classes=self.model.classes), batch["label"])
        params = self.model.init(arrays.written_out(key))
        start = jnp.zeros((), jnp.int32)
        return State(start, params, self.model.init_statistics(), self.learner.init(params), key)

    def loss(self, logits: Float[Array, "B K"], target: Float[Array, "B K"]) -> Float[Array, ""]:
        """Mean over the images, and over the classes where there may be several."""
        weight = jnp.asarray(self.pos_weight or (1.0,), jnp.float32)
        if self.labels == "single":
            return -(weight * target * jax.nn.log_softmax(logits)).sum(-1).mean()
        there, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return -(weight * target * there + (1 - target) * absent).mean()

    def step(
        self, state: State, batch: Mapping[str, Array], parts: Parts | None = None
    ) -> tuple[State, dict[str, Array]]:
        """One step of gradient descent, of images as they are or augmented; metrics "loss", "grad_norm", "lr"."""
        x = batch["image"]
        if self.augment == "geometric":
            key = arrays.fold(jnp.broadcast_to(state.key, x.shape[:1]), state.step)
            key = jax.vmap(jax.random.fold_in)(key, jnp.arange(len(x)))
            x = geometric(x, key, self.flips, self.rotation, self.zoom)
        target = arrays.multi_hot(batch["label"], self.model.classes)

        def objective(params: PyTree) -> tuple[Array, PyTree]:
            logits, statistics = self.model.apply(params, state.statistics, x, train=True)
            return self.loss(logits, target), statistics

        (loss, statistics), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        params, optimizer, moved = self.learner.update(grads, state.optimizer, state.params, state.step)
        return State(state.step + 1, params, statistics, optimizer, state.key), {"loss": loss, **moved}

    def inherits(self, params: PyTree) -> PyTree:
        """All."""
        return params

    def begin(self, state: State, params: PyTree) -> State:
        """``state`` with the parameters and statistics ``params``."""
        return state._replace(**params)

    def eval_params(self, state: State) -> PyTree:
        """Parameters and statistics, which both are needed to tell a class."""
        return {"params": state.params, "statistics": state.statistics}


def columns(label: Num[np.ndarray, "N L"], classes: int, labels: str) -> Float[np.ndarray, "N K"]:
    """The labels of images as 0/1 columns. Raises UserError for what ``labels`` ("single", "multi") does not allow."""
    table = np.asarray(jax.jit(arrays.multi_hot, static_argnums=1)(label, classes))  # one compilation, not ten
    if not np.isin(table, (0, 1)).all() or (label.shape[1] == 1 and (table.sum(1) != 1).any()):
        raise UserError(f"labels must be 0/1 columns, or one grade from 0 to {classes - 1} (config.model.classes - 1)")
    if labels == "single" and (table.sum(1) != 1).any():
        raise UserError("some images have several classes, or none: set --config.task.labels=multi")
    return table


@partial(jax.jit, static_argnums=(0, 1))
def probability(model: Any, labels: str, params: PyTree, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
    """Of every class, at what :meth:`Task.eval_params` gave; of single labels they sum to 1."""
    logits, _ = model.apply(params["params"], params["statistics"], x)
    return jax.nn.softmax(logits) if labels == "single" else jax.nn.sigmoid(logits)


def predicted(
    task: Task, params: PyTree, source: Sequence[Example], size: tuple[int, int], batch: int
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N K"]]:
    """Probabilities and true 0/1 columns of the images of ``source``, which are ``size`` = (height, width).

    Raises UserError for images of another size, and without labels.
    """
    params, outputs, labels = jax.device_put(jax.device_get(params)), [], []
    for start in range(0, len(source), batch):
        rows = [source[i] for i in range(start, min(start + batch, len(source)))]
        for row in rows:
            if row["image"].shape[:2] != size or "label" not in row:
                what = "no label" if "label" not in row else f"size {row['image'].shape[:2]}"
                raise UserError(f"{row['name']} has {what}; a classifier needs labels, and images of {size}")
        x = images.to_float(np.stack([row["image"] for row in rows]))
        x = np.concatenate([x, np.zeros((batch - len(x), *x.shape[1:]), x.dtype)])  # one shape: compiled once
        outputs.append(np.asarray(probability(task.model, task.labels, params, x))[: len(rows)])
        labels.append(np.stack([row["label"] for row in rows]))
    return np.concatenate(outputs), columns(np.concatenate(labels), task.model.classes, task.labels)
