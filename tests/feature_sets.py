"""Features that look like those of a network: correlated, not negative. The same numbers everywhere and always."""

from __future__ import annotations

import numpy as np


def features(seed: int, n: int, width: int, shift: float = 0.3, scale: float = 1.0) -> np.ndarray:
    """float32 ``[n, width]``, elementwise from RandomState, so that no library's rounding enters."""
    z = np.random.RandomState(seed).standard_normal((n, width))
    return np.maximum(scale * (z + 0.7 * np.roll(z, 1, 1)) + shift, 0).astype(np.float32)


def pair(n: int = 120, m: int = 150, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Generated and real: near, but not the same."""
    return features(0, n, width), features(1, m, width, 0.4, 1.1)


def logits(n: int = 205, classes: int = 12) -> np.ndarray:
    return 2 * features(2, n, classes)


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distance of every row of ``a`` to every row of ``b``, term by term."""
    return ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(2)
