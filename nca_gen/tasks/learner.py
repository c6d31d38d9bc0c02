"""How parameters move, in every task: gradients become updates, and an average is kept of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge
from jaxtyping import Array, Float, Int, PyTree

from nca_gen import devices
from nca_gen.errors import UserError
from nca_gen.ranges import Decay, Fraction, Natural, OneOf, Share, Weight

ITERATIONS = 5  # of Newton and Schulz, a step of Muon


@dataclass(frozen=True)
class Learner:
    """AdamW and its learning rate: ``lr * decay^step``, or a cosine to 0 at ``cosine_steps``, after a linear warm-up.

    ``clip`` bounds the global gradient norm; 0 is off. ``muon``, not 0, is the peak rate at which kernels learn under
    Muon (Jordan et al. 2024: momentum, orthogonalised); all else keeps Adam at ``lr``, with Nesterov's momentum.
    ``cosine_steps`` 0: no cosine; in a config -1: as many as training takes. ``mu_dtype``: in which the first moment,
    Adam's or Muon's, is kept between steps; "bfloat16" saves 2 bytes a parameter. Raises UserError for a cosine that
    would end before the warm-up.
    """

    lr: Fraction = 1e-4
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Fraction = 1e-8
    weight_decay: Weight = 0.0
    warmup: Natural = 0
    decay: Fraction = 1.0
    cosine_steps: Annotated[int, Ge(-1)] = 0
    clip: Weight = 0.0
    muon: Share = 0.0
    mu_dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"

    def __post_init__(self):
        if 0 < self.cosine_steps <= self.warmup:
            raise UserError(
                f"optimizer.cosine_steps={self.cosine_steps} ends before the warm-up of {self.warmup} steps: "
                "make it longer, or optimizer.warmup shorter"
            )

    def schedule(self, peak: float) -> optax.Schedule:
        """step -> rate, with ``peak`` after the warm-up."""
        main = (
            optax.cosine_decay_schedule(peak, self.cosine_steps - self.warmup)
            if self.cosine_steps
            else optax.exponential_decay(peak, transition_steps=1, decay_rate=self.decay)
        )
        if not self.warmup:
            return main
        return optax.join_schedules([optax.linear_schedule(0.0, peak, self.warmup), main], [self.warmup])

    @property
    def transform(self) -> optax.GradientTransformation:
        """What optax makes of the fields."""
        rate = self.schedule(self.lr)
        if self.muon:
            muon = optax.contrib.muon(
                self.schedule(self.muon),
                ns_steps=ITERATIONS,
                eps=self.eps,
                weight_decay=self.weight_decay,
                mu_dtype=self.mu_dtype,
                muon_weight_dimension_numbers=kernels,
                adam_b1=self.b1,
                adam_b2=self.b2,
                adam_learning_rate=rate,
                adam_weight_decay=self.weight_decay,
            )
            main = looped(muon)
        else:
            adam = (self.b1, self.b2, self.eps)
            main = optax.adamw(rate, *adam, mu_dtype=self.mu_dtype, weight_decay=self.weight_decay)
        return optax.chain(optax.clip_by_global_norm(self.clip) if self.clip else optax.identity(), main)

    def init(self, params: PyTree) -> Any:
        """The state of the optimiser before the first step."""
        return self.transform.init(params)

    def update(
        self, grads: PyTree, state: Any, params: PyTree, step: Int[Array, ""]
    ) -> tuple[Any, Any, dict[str, Float[Array, ""]]]:
        """Parameters and state after ``step``; "grad_norm", before it is bounded, and the rate "lr" of the step."""
        pack, unpack = (_same, _same) if self.muon else packing(params)  # Muon asks each array for its axes
        slopes = pack(grads)
        moves, state = self.transform.update(slopes, pack(state), pack(params))
        metrics = {"grad_norm": optax.tree.norm(slopes), "lr": jnp.asarray(self.schedule(self.lr)(step))}
        return optax.apply_updates(params, unpack(moves)), unpack(state), metrics


def _same(tree: PyTree) -> PyTree:
    return tree


class Packed(NamedTuple):
    """A tree of arrays: all ``small`` ones in one, of one axis, and the others."""

    small: Array
    large: list[Array]


def packing(params: PyTree) -> tuple[Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
    """(pack, unpack): every part of a tree that has the form of ``params`` to a :class:`Packed`, and back.

    An optimiser handles every array by kernels of its own: of a network of 160 small ones these take longer to compile
    than half of its gradient.
    """
    leaves, form = jax.tree.flatten(params)
    small = [x.size < devices.SMALL and x.dtype == jnp.float32 for x in leaves]
    if sum(small) < 2:
        return _same, _same
    ends = np.cumsum([x.size for x, one in zip(leaves, small, strict=True) if one])

    def pack(tree: PyTree) -> Packed:
        xs = form.flatten_up_to(tree)
        few = [x.ravel() for x, one in zip(xs, small, strict=True) if one]
        return Packed(jnp.concatenate(few), [x for x, one in zip(xs, small, strict=True) if not one])

    def unpack(packed: Packed) -> PyTree:
        few, rest = iter(jnp.split(packed.small, ends[:-1])), iter(packed.large)
        return form.unflatten(
            next(few).reshape(x.shape) if one else next(rest) for x, one in zip(leaves, small, strict=True)
        )

    like, packed = lambda x: jax.tree.structure(x) == form, lambda x: isinstance(x, Packed)
    each = lambda change, of: lambda tree: jax.tree.map(lambda x: change(x) if of(x) else x, tree, is_leaf=of)
    return each(pack, like), each(unpack, packed)


def looped(muon: optax.GradientTransformation) -> optax.GradientTransformation:
    """``muon`` with its iterations in a loop, which compiles and runs faster, to the same bits and in the same state.

    optax unrolls them where they share their coefficients, and loops over coefficients that are given one by one.
    """

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        shared = optax.tree.get(state, "ns_coeffs")
        each = jnp.tile(shared, (ITERATIONS, 1))
        moves, new = muon.update(updates, optax.tree.set(state, ns_coeffs=each), params)
        return moves, optax.tree.set(new, ns_coeffs=shared)

    return optax.GradientTransformation(muon.init, update)


def kernels(params: PyTree) -> PyTree:
    """What Muon has to know of each array of two axes or more: all axes but the last are inputs. None of the others."""

    def axes(p: Array) -> Any:
        return optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1) if p.ndim > 1 else None

    return jax.tree.map(axes, params)


def ema_decay(step: Int[Array, ""], decay: float, warmup: bool) -> Float[Array, ""]:
    """``decay``, or with a warm-up min(decay, (1 + step) / (10 + step)): early averages forget the start."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else jnp.asarray(decay)


def average(ema: PyTree, params: PyTree, step: Int[Array, ""], decay: float, warmup: bool) -> PyTree:
    """The exponential moving average ``ema`` after one more ``step``, which ended in ``params``."""
    return optax.incremental_update(params, ema, 1.0 - ema_decay(step, decay, warmup))
