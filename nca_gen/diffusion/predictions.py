"""What the network predicts, as the target that it learns and as the x0 that it implies.

With x_t = a x0 + s eps each prediction is one coordinate or another of the pair (x0, eps). ``a`` and ``s`` broadcast
against the images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array


class Prediction(NamedTuple):
    """``target(x0, eps, a, s)`` is what to learn; ``x0(p, x_t, a, s)`` inverts it.

    ``gain(a, s)`` says how far that x0 moves where the prediction moves by 1.
    """

    target: Callable[..., Array]
    x0: Callable[..., Array]
    gain: Callable[..., Array]


eps = Prediction(
    target=lambda x0, eps, a, s: eps,
    x0=lambda p, x, a, s: (x - s * p) / a,
    gain=lambda a, s: s / a,
)
x0 = Prediction(
    target=lambda x0, eps, a, s: x0,
    x0=lambda p, x, a, s: p,
    gain=lambda a, s: 1.0 + 0.0 * s,
)
# Salimans & Ho 2022, section 4: the velocity along a circle, a^2 + s^2 = 1.
v = Prediction(
    target=lambda x0, eps, a, s: a * eps - s * x0,
    x0=lambda p, x, a, s: a * x - s * p,
    gain=lambda a, s: s,
)
# Liu et al. 2022, equation 1: the velocity along the straight path, a + s = 1. The inverse holds for any a and s.
velocity = Prediction(
    target=lambda x0, eps, a, s: eps - x0,
    x0=lambda p, x, a, s: (x - s * p) / (a + s),
    gain=lambda a, s: s / (a + s),
)

PREDICTIONS = {"eps": eps, "x0": x0, "v": v, "velocity": velocity}
STRAIGHT = ("x0", "velocity")  # defined on the straight path as well, where a^2 + s^2 is not 1 and a may be 0
