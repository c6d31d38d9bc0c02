"""The state of an automaton as a named tree, and its first value."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Cells(NamedTuple):
    """State of every cell. ``image`` is read and never written; ``age`` counts the steps taken."""

    image: Float[Array, "B *S I"]
    out: Float[Array, "B *S O"]
    hidden: Float[Array, "B *S K"]
    age: Int[Array, ""]


def seed(image: Float[Array, "B *S I"], out: int, hidden: int) -> Cells:
    """Newborn cells around ``image``: ``out`` and ``hidden`` channels are zero."""
    zeros = lambda c: jnp.zeros((*image.shape[:-1], c), image.dtype)  # noqa: E731
    return Cells(image, zeros(out), zeros(hidden), jnp.zeros((), jnp.int32))
