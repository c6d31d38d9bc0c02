"""The denoising task: learn what was added to an image (Ho et al. 2020, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from nca_gen import arrays
from nca_gen.diffusion import variance
from nca_gen.diffusion.discrete import Diffusion
from nca_gen.errors import UserError, unknown
from nca_gen.tasks.optimizer import ema_decay, optimizer

LOSSES = {
    "l1_l2": lambda d: jnp.mean(jnp.square(d)) + jnp.mean(jnp.abs(d)),  # Diff-NCA, section 3.2
    "l2": lambda d: jnp.mean(jnp.square(d)),
    "l1": lambda d: jnp.mean(jnp.abs(d)),
}
DROPS = ("row", "entry")
_DROP = -4  # the step that names which conditions are dropped; -1 is the noise, -2 the times


class State(NamedTuple):
    """Everything that training changes. ``key`` never changes: randomness is named by (key, step)."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    optimizer: Any
    key: Key[Array, ""]


@dataclass(frozen=True)
class Task:
    """``init(key, batch) -> State``; ``step(state, batch) -> (State, metrics)``, pure.

    batch: {"image": [B, *S, C] in [-1, 1], or latents}, and {"label": [B, L]} for a model of ``classes``, which are 0/1
    columns or a grade, see :func:`nca_gen.arrays.multi_hot`.
    ``label_drop``: what becomes 0 with probability ``drop``, so that the model also learns without a condition: "row"
    the whole condition of an image, "entry" each class for itself, as published for GeCA.
    ``vb``: the weight of the variational bound, in bits, where the model says a variance
    (:func:`nca_gen.diffusion.variance.bits`).
    """

    model: Any
    diffusion: Diffusion
    optimizer: dict
    loss: str = "l1_l2"
    ema: float = 0.99
    ema_warmup: bool = False
    label_drop: str = "row"
    drop: float = 0.1
    vb: float = 1.0

    def __post_init__(self):
        for field, names in (("loss", LOSSES), ("label_drop", DROPS)):
            if getattr(self, field) not in names:
                raise unknown(f"value of config.task.{field}", getattr(self, field), names)

    @property
    def classes(self) -> int:
        """Of the model's condition; 0 where it takes none."""
        return getattr(self.model, "classes", 0)

    def init(self, key: Key[Array, ""], batch: dict | None = None) -> State:
        """The state before the first step. Raises UserError where the images of ``batch`` do not fit the model."""
        channels = self.model.image_channels
        if batch is not None:
            given = jax.eval_shape(self.diffusion.encode, batch["image"]).shape[-1]
            if given != channels:
                raise UserError(
                    f"the images have {given} channels; set --config.model.image_channels={given} (it is {channels})"
                )
            if self.classes and "label" not in batch:
                raise UserError("these images have no labels; set --config.model.classes=0 to learn without")
        params = self.model.init_params(key)
        transform, _ = optimizer(**self.optimizer)
        # A copy, because a donated state must not hold one buffer twice.
        ema = jax.tree.map(jnp.copy, params)
        return State(jnp.zeros((), jnp.int32), params, ema, transform.init(params), key)

    def times(self, key: Key[Array, " B"]) -> Int[Array, " B"]:
        """A random time for every image, each uniform in 0 .. T-1, together spread evenly over them."""
        B = len(key)
        # An even comb on a circle, all turned by one offset: no image keeps to a part of it.
        offset = arrays.cell_uniform(key[:1], -2, (), 1)[0, 0]
        return jnp.floor((jnp.arange(B) / B + offset) % 1.0 * self.diffusion.timesteps).astype(jnp.int32)

    def conditions(self, batch: dict, key: Key[Array, " B"]) -> Float[Array, "B K"] | None:
        """The labels of ``batch`` without those that are dropped; None for a model of no classes."""
        if not self.classes:
            return None
        cond = arrays.multi_hot(batch["label"], self.classes)
        entries = self.classes if self.label_drop == "entry" else 1
        return cond * (arrays.cell_uniform(key, _DROP, (), entries) >= self.drop)

    def objective(self, params: PyTree, batch: dict, key: Key[Array, " B"]) -> Float[Array, ""]:
        """Loss at a random time of every image (see :meth:`times`)."""
        x0, t = self.diffusion.encode(batch["image"]), self.times(key)
        at = arrays.coords(x0.shape[1:-1])
        eps = arrays.cell_normal(key, -1, at, x0.shape[-1])
        x = self.diffusion.noised(x0, eps, t)
        said, _ = self.model.apply(params, x, t, self.conditions(batch, key), (), key)
        said, v = variance.parted(said, x.shape[-1])
        loss = LOSSES[self.loss](said - self.diffusion.target(x0, eps, t))
        return loss if v is None else loss + self.vb * variance.bits(self.diffusion, x0, x, said, v, t)

    def step(self, state: State, batch: dict) -> tuple[State, dict[str, Float[Array, ""]]]:
        here = jax.random.fold_in(state.key, state.step)
        key = jax.vmap(lambda i: jax.random.fold_in(here, i))(jnp.arange(batch["image"].shape[0]))
        loss, grads = jax.value_and_grad(self.objective)(state.params, batch, key)
        transform, rate = optimizer(**self.optimizer)
        updates, opt = transform.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, self.ema, self.ema_warmup)
        ema = jax.tree.map(lambda e, p: p + decay * (e - p), state.ema, params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), "lr": rate(state.step)}
        return State(state.step + 1, params, ema, opt, state.key), metrics

    def eval_params(self, state: State) -> PyTree:
        """The averaged parameters, which are the ones that sample."""
        return state.ema
