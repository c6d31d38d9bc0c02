"""The state of an automaton as a named tree, and its first value."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Cells(NamedTuple):
    """State of every cell. ``image`` is read and never written; ``age`` counts the steps taken.

    ``kept``: what a fast rule has computed of cells as they are, and need not compute again.
    """

    image: Float[Array, "B *S I"]
    out: Float[Array, "B *S O"]
    hidden: Float[Array, "B *S K"]
    age: Int[Array, ""]
    kept: Any = None


def seed(image: Float[Array, "B *S I"], out: int, hidden: int) -> Cells:
    """Newborn cells around ``image``: ``out`` and ``hidden`` channels are zero."""
    born = [jnp.zeros((*image.shape[:-1], channels), image.dtype) for channels in (out, hidden)]
    return Cells(image, *born, jnp.zeros((), jnp.int32))
