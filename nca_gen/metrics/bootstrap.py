"""How far a score may be off, from resampling: intervals (Efron 1979) of means over images, errors of any score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def error(sets: Sequence[Num[np.ndarray, "_ ..."]], seed: int, statistic: Callable[..., float], halves: int) -> float:
    """The standard error of ``statistic`` of several ``sets``: its deviation over random halves of all of them.

    A half without replacement is as far from the whole as the whole is from the truth (Shao & Wu 1989), and holds no
    image twice: kernel and Frechet distances of resamples with replacement see copies, and move.
    """
    rng = np.random.default_rng(seed)
    half = lambda x: x[rng.permutation(len(x))[: len(x) // 2]]
    return float(np.std([statistic(*map(half, sets)) for _ in range(halves)], ddof=1))
