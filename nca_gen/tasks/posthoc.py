"""Averages of any width, after training (Karras et al. 2024, arXiv 2312.02696, section 3).

The average of exponent g after t steps weighs the parameters of step u as u^g. How wide it is, the deviation of u under
that weight as a share of t, is s = sqrt((g+1) / ((g+2)^2 (g+3))). Two averages are kept while a network trains, and
snapshots of them; a sum of snapshots is then nearly any other average.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

WIDTHS = (0.05, 0.10)
KEPT = 24  # snapshots, by which any width from 0.05 to 0.25 is right to a percent of how far parameters have come


class Averages(NamedTuple):
    """``now``: the averages of :data:`WIDTHS`, one beside the other along a first axis.

    ``steps``: after how many steps each of n snapshots was taken; 0 where there is none. ``kept``: the snapshots.
    ``first``: the parameters before the first step.
    """

    first: PyTree
    now: PyTree  # [2, ..]
    steps: Int[Array, " n"]
    kept: PyTree  # [n, 2, ..]


def exponent(width: float) -> float:
    """g of a relative ``width``, below 0.288, that of the plain mean: the largest root of g^3 + 7 g^2 + .. = 0."""
    return float(np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2]).real.max())


def begin(params: PyTree) -> Averages:
    """Averages before the first step."""
    now = jax.tree.map(lambda p: jnp.stack([p] * len(WIDTHS)), params)
    kept = jax.tree.map(lambda a: jnp.zeros((KEPT, *a.shape), a.dtype), now)
    return Averages(jax.tree.map(jnp.copy, params), now, jnp.zeros(KEPT, jnp.int32), kept)


def averaged(averages: Averages, params: PyTree, step: Int[Array, ""]) -> Averages:
    """``averages`` after ``step`` steps, from 1 on, of which the last ended in ``params``.

    Every step is a snapshot, in the place of that whose number has the fewest factors of two, of these the oldest: what
    stays are the multiples of a power of two, of half of it those that came last, and the newest. So the number of
    steps need not be known, and a run that goes on has the snapshots of one that never stopped.
    """
    powers = jnp.array([exponent(width) + 1 for width in WIDTHS])
    share = -jnp.expm1(powers * jnp.log1p(-1.0 / step))  # 1 - (1 - 1/t)^(g+1)

    def moved(average: Array, p: Array) -> Array:
        return average + share.reshape(-1, *[1] * p.ndim).astype(p.dtype) * (p - average)

    now, steps = jax.tree.map(moved, averages.now, params), averages.steps
    twos = steps & -steps
    place = jnp.argmin(jnp.where(twos == twos.min(), steps, jnp.iinfo(steps.dtype).max))
    kept = jax.tree.map(lambda k, a: jax.lax.dynamic_update_index_in_dim(k, a, place, 0), averages.kept, now)
    return Averages(averages.first, now, steps.at[place].set(step), kept)


def product(a: Float[np.ndarray, "..."], t: np.ndarray, b: Float[np.ndarray, "..."], u: np.ndarray) -> np.ndarray:
    """The inner product of weights of exponents ``a`` and ``b`` that end at ``t`` and ``u``, of these axes together."""
    least = np.minimum(t, u)
    ratio = (least / t) ** (a + 1) * (least / u) ** (b + 1) / least  # of powers that overflow by themselves
    return (a + 1) * (b + 1) / (a + b + 1) * ratio


def coefficients(steps: Int[np.ndarray, " n"], width: float) -> Float[np.ndarray, "n 2"]:
    """By which snapshots taken after ``steps`` add up to the average of a relative ``width`` after the last of them:
    least squares between their weights of the steps of training."""
    own, g, end = np.array([exponent(w) for w in WIDTHS]), np.array(exponent(width)), np.array(float(steps.max()))
    a, t = (x.ravel() for x in np.meshgrid(own, np.float64(steps)))
    gram = product(a[:, None], t[:, None], a, t)
    return np.linalg.lstsq(gram, product(a, t, g, end), rcond=1e-14)[0].reshape(-1, len(own))


def rebuilt(averages: Averages, width: float) -> PyTree:
    """The average of a relative ``width``, from 0.05 to 0.25, after the last of the snapshots; there must be some.

    What the coefficients lack to one is weight of steps before the first snapshot, and goes to the first parameters.
    """
    steps = np.asarray(averages.steps)
    there = np.flatnonzero(steps)
    parts = coefficients(steps[there], width)

    def add(first: Array, kept: Array) -> Array:
        start, snapshots = (np.asarray(x, np.float64) for x in (first, kept))
        total = np.tensordot(parts, snapshots[there], 2) + (1 - parts.sum()) * start
        return jnp.asarray(total, first.dtype)

    return jax.tree.map(add, averages.first, averages.kept)
