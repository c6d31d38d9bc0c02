"""The denoising task: learn what was added to an image (Ho et al. 2020, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from nca_gen import arrays
from nca_gen.diffusion.process import Diffusion
from nca_gen.errors import UserError, unknown

LOSSES = {
    "l1_l2": lambda d: jnp.mean(jnp.square(d)) + jnp.mean(jnp.abs(d)),  # Diff-NCA, section 3.2
    "l2": lambda d: jnp.mean(jnp.square(d)),
    "l1": lambda d: jnp.mean(jnp.abs(d)),
}


class State(NamedTuple):
    """Everything that training changes. ``key`` never changes: randomness is named by (key, step)."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    optimizer: Any
    key: Key[Array, ""]


def optimizer(
    lr: float = 1e-4,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup: int = 0,
    decay: float = 1.0,
    cosine_steps: int = 0,
    clip: float = 0.0,
    muon: float = 0.0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW and its learning rate: ``lr * decay^step``, or a cosine to 0 at ``cosine_steps``, after a linear warm-up.

    ``clip`` bounds the global gradient norm; 0 is off. ``muon``, not 0, is the peak rate at which kernels learn under
    Muon (Jordan et al. 2024: momentum, orthogonalised); all else keeps Adam at ``lr``, with Nesterov's momentum.
    """

    def schedule(peak: float) -> optax.Schedule:
        main = (
            optax.cosine_decay_schedule(peak, cosine_steps - warmup)
            if cosine_steps
            else optax.exponential_decay(peak, transition_steps=1, decay_rate=decay)
        )
        return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup]) if warmup else main

    def kernels(params: PyTree) -> PyTree:  # all axes but the last are inputs
        axes = lambda p: optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)  # noqa: E731
        return jax.tree.map(lambda p: axes(p) if p.ndim > 1 else None, params)

    rate = schedule(lr)
    if muon:
        adam = {"adam_b1": b1, "adam_b2": b2, "adam_learning_rate": rate, "adam_weight_decay": weight_decay}
        kernel = {"weight_decay": weight_decay, "muon_weight_dimension_numbers": kernels}
        main = optax.contrib.muon(schedule(muon), eps=eps, **kernel, **adam)
    else:
        main = optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay)
    clipping = optax.clip_by_global_norm(clip) if clip else optax.identity()
    return optax.chain(clipping, main), rate


def ema_decay(step: Int[Array, ""], decay: float, warmup: bool) -> Float[Array, ""]:
    """``decay``, or with a warm-up min(decay, (1 + step) / (10 + step)): early averages forget the start."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else jnp.asarray(decay)


@dataclass(frozen=True)
class Task:
    """``init(key, batch) -> State``; ``step(state, batch) -> (State, metrics)``, pure.

    batch: {"image": [B, *S, C] in [-1, 1]}.
    """

    model: Any
    diffusion: Diffusion
    optimizer: dict
    loss: str = "l1_l2"
    ema: float = 0.99
    ema_warmup: bool = False

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise unknown("value of config.task.loss", self.loss, LOSSES)

    def init(self, key: Key[Array, ""], batch: dict | None = None) -> State:
        """The state before the first step. Raises UserError where the images of ``batch`` do not fit the model."""
        channels = self.model.image_channels
        if batch is not None:
            given = jax.eval_shape(self.diffusion.encode, batch["image"]).shape[-1]
            if given != channels:
                raise UserError(
                    f"the images have {given} channels; set --config.model.image_channels={given} (it is {channels})"
                )
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

    def objective(self, params: PyTree, batch: dict, key: Key[Array, " B"]) -> Float[Array, ""]:
        """Loss at a random time of every image (see :meth:`times`)."""
        x0, t = self.diffusion.encode(batch["image"]), self.times(key)
        at = arrays.coords(x0.shape[1:-1])
        eps = arrays.cell_normal(key, -1, at, x0.shape[-1])
        prediction, _ = self.model.apply(params, self.diffusion.noised(x0, eps, t), t, None, (), key)
        return LOSSES[self.loss](prediction - self.diffusion.target(x0, eps, t))

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
