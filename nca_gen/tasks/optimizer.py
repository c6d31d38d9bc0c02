"""How parameters move: the optimiser of every task, and the average that is kept of its parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from nca_gen.errors import UserError


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
    Raises UserError for a cosine that would end before the warm-up.
    """
    if cosine_steps and cosine_steps <= warmup:
        raise UserError(
            f"config.optimizer.cosine_steps={cosine_steps} ends before the warm-up of {warmup} steps: "
            "make it longer, or config.optimizer.warmup shorter"
        )

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
