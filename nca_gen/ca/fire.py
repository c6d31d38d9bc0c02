"""Asynchronous updates: which cells fire at which step."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from nca_gen import arrays

Fires = Callable[[Int[Array, ""]], Bool[Array, "B *S 1"]]  # age -> mask


def fires(key: Key[Array, " B"], n: int, at: arrays.Coords, rate: float) -> Fires:
    """Masks of ages 0 .. n-1, one Bernoulli(``rate``) per cell, shared by its channels, survivors not rescaled.

    Drawn together before the first step, one byte a cell and step: inside a scanned step XLA fuses the
    hash into its users and repeats it for every channel.
    """
    if rate >= 1:
        return lambda age: jnp.ones((), bool)
    masks = arrays.cell_uniform(key, jnp.arange(n), at, 1) < rate
    return lambda age: masks[age]
