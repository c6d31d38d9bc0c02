"""Intervals from resampling (Efron 1979), for scores that are means over images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Num, Shaped

DRAWS = 1000


def interval(
    values: Shaped[np.ndarray, " N"] | tuple[Num[np.ndarray, " _"], ...],
    seed: int,
    statistic: Callable[..., float] = np.mean,
) -> tuple[float, float]:
    """95 % percentile interval of ``statistic`` of the per-image ``values``, from ``DRAWS`` resamples.

    Several sets, in a tuple, are resampled each by itself and are the arguments of ``statistic``. It answers what other
    images from the same sources would have given, not what another training run would.
    """
    sets = values if isinstance(values, tuple) else (values,)
    rng = np.random.default_rng(seed)
    drawn = [statistic(*(x[rng.integers(len(x), size=len(x))] for x in sets)) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
