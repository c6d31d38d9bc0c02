"""What the network predicts, as the target it learns and as the x0 that it implies.

With x_t = a x0 + s eps, a^2 + s^2 = 1, each prediction is one orthogonal coordinate or another of the
pair (x0, eps). ``a`` and ``s`` broadcast against the images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

NAMES = ("eps", "x0", "v")


class Prediction(NamedTuple):
    """``target(x0, eps, a, s)`` is what to learn; ``x0(p, x_t, a, s)`` inverts it."""

    target: Callable[..., Array]
    x0: Callable[..., Array]


eps = Prediction(
    target=lambda x0, eps, a, s: eps,
    x0=lambda p, x, a, s: (x - s * p) / a,
)
x0 = Prediction(
    target=lambda x0, eps, a, s: x0,
    x0=lambda p, x, a, s: p,
)
v = Prediction(  # Salimans & Ho 2022, section 4
    target=lambda x0, eps, a, s: a * eps - s * x0,
    x0=lambda p, x, a, s: a * x - s * p,
)
