"""The cells that fire as rows: gathered from the grid, and brought back to it.

Either way is a gather, and the transpose of the other: no scatter is run or differentiated, which on a CPU is slow.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

DEVIATIONS = 6  # of the number of cells that fire; in one step of 10^9 more do


class Rows(NamedTuple):
    """Which of the ``n`` cells of each of ``G`` groups of images are its ``m`` rows: those that fire, in their order.

    ``order``: the cell of each row. Rows that are left over are cells that do not fire, and nothing becomes of them.
    ``rank``: the row of each cell that fires. ``fire``: which do.
    """

    order: Int[Array, "G m"]
    rank: Int[Array, "G n"]
    fire: Bool[Array, "G n"]


def groups(batch: int) -> int:
    """In how many groups the images of a ``batch`` are gathered: one a device, so that no cell leaves its device.

    The more cells there are in a group, the fewer rows it needs beyond the mean. Images that the number of devices does
    not divide are gathered each for itself.
    """
    n = jax.device_count()
    return batch if batch % n else n


def room(n: int, rate: float) -> int:
    """Rows for those of ``n`` cells that fire, each with the probability ``rate``: ``DEVIATIONS`` beyond the mean."""
    return min(n, math.ceil(n * rate + DEVIATIONS * math.sqrt(n * rate * (1 - rate))))


def few(fire: Bool[Array, "G n"], m: int) -> Rows:
    """``m`` rows for the cells that ``fire``, which must not be more."""
    rank = jnp.maximum(jnp.cumsum(fire, -1) - 1, 0)
    return Rows(jnp.argsort(~fire, -1)[:, :m], jnp.minimum(rank, m - 1), fire)


@jax.custom_vjp
def take(x: Float[Array, "G n C"], rows: Rows) -> Float[Array, "G m C"]:
    """The rows of cells ``x``. The gradient takes rows that are left over to have none."""
    return _at(x, rows.order)


@jax.custom_vjp
def spread(y: Float[Array, "G m C"], rows: Rows) -> Float[Array, "G n C"]:
    """The cells of which ``y`` are the rows; 0 where they do not fire."""
    return jnp.where(rows.fire[..., None], _at(y, rows.rank), 0)


def _spread_gradient(rows: Rows, d: Float[Array, "G n C"]) -> tuple[Float[Array, "G m C"], None]:
    return jnp.where(jnp.take_along_axis(rows.fire, rows.order, 1)[..., None], _at(d, rows.order), 0), None


take.defvjp(lambda x, rows: (take(x, rows), rows), lambda rows, d: (spread(d, rows), None))
spread.defvjp(lambda y, rows: (spread(y, rows), rows), _spread_gradient)


@jax.custom_vjp
def of_images(table: Float[Array, "G k C"], image: Int[Array, "G m"]) -> Float[Array, "G m C"]:
    """What ``table`` has of the ``image`` of each row; the gradient is a product, for the same reason."""
    return _at(table, image)


def _of_images_gradient(residuals: tuple[Array, Array], d: Float[Array, "G m C"]) -> tuple[Float[Array, "G k C"], None]:
    image, numbers = residuals
    share = (image[..., None] == numbers).astype(d.dtype)
    return jnp.einsum("gmk,gmc->gkc", share, d, precision="highest"), None


of_images.defvjp(
    lambda table, image: (of_images(table, image), (image, jnp.arange(table.shape[1]))), _of_images_gradient
)


@partial(jax.vmap)
def _at(x: Float[Array, "n C"], index: Int[Array, " m"]) -> Float[Array, "m C"]:
    """Rows of ``x``, all of which are there."""
    return x.at[index].get(mode="promise_in_bounds")
