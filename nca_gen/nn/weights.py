"""Effective weights by name: what a plain rule in :mod:`nca_gen.models` and its form in :mod:`nca_gen.nn.fast` take."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float


class Linear(NamedTuple):
    """An affine map of the last axis; ``kernel`` is ``[*taps, Cin, Cout]``."""

    kernel: Float[Array, "..."]
    bias: Float[Array, " Cout"]

    def __call__(self, x: Float[Array, "*S Cin"]) -> Float[Array, "*S Cout"]:
        """``x @ kernel + bias``; for a kernel without taps."""
        return x @ self.kernel + self.bias


class Gated(NamedTuple):
    """Weights of cells that perceive, and whose two products are gated by an embedding of ``e`` channels.

    ``c`` state, ``h`` hidden, ``q`` = h / 4 channels.
    """

    perceive: Linear  # [3, .., 3, c + e, c]
    fc0: Linear  # [2 c + e, h]
    fc1: Linear  # [h, c]
    gate0: tuple[Linear, Linear]  # [e, q], [q, 2 c + e]
    gate1: tuple[Linear, Linear]  # [e, q], [q, h]
    embedding: tuple[Linear, Linear]  # [e e, 256], [256, e]
    norm: tuple[Float[Array, " h"], Float[Array, " h"]] | None  # scale and shift of a GroupNorm; None: of each cell


class Attentive(NamedTuple):
    """Weights of cells that attend to their neighbours: tokens of ``d`` features, ``m`` inside the MLP."""

    embedding: Linear  # [c, d]
    norm0: tuple[Float[Array, " d"], Float[Array, " d"]]  # scale, bias
    qkv: Float[Array, "d e"]  # [d, 3 d], without a bias
    proj: Linear  # [d, d]
    norm1: tuple[Float[Array, " d"], Float[Array, " d"]]
    fc0: Linear  # [d, m]
    fc1: Linear  # [m, d]
    last: Linear  # [d, o]


class Modulation(NamedTuple):
    """What the condition makes of the norms and gates of :class:`Attentive`: ``[b, .., d]``, space axes of size 1."""

    attention: tuple[Array, Array, Array]  # shift, scale, gate
    mlp: tuple[Array, Array, Array]
    last: tuple[Array, Array]  # shift, scale
