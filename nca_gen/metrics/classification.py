"""How well a classifier tells diseases: the figures of GeCA's Table 2 (Elbatel et al. 2024), and whether two differ.

Every figure is of one class against the rest, then averaged over the classes (macro). What a fold cannot tell is NaN
and left out of the average: a class that nobody has, or everybody. The table's F1_sen/spe is below the harmonic mean of
its own macro sensitivity and specificity, so it too is a mean of per-class figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from nca_gen.errors import UserError
from nca_gen.metrics.notes import note

FIGURES = ("sensitivity", "specificity", "auc", "f1", "f1_sen_spe", "map")  # all in [0, 1], higher is better


class Test(NamedTuple):
    """A two-sided test of a mean difference against 0; ``low`` and ``high`` bound 95 % of what is plausible."""

    difference: float
    low: float
    high: float
    p: float


def decided(probability: Float[np.ndarray, "N L"], multi: bool) -> Bool[np.ndarray, "N L"]:
    """The classes that are said to be there: all from a probability of 1/2 on (``multi``), or the most probable one."""
    if multi:
        return probability >= 0.5
    return np.arange(probability.shape[1]) == probability.argmax(1)[:, None]


def figures(
    probability: Float[np.ndarray, "N L"], truth: Num[np.ndarray, "N L"], multi: bool
) -> dict[str, Float[np.ndarray, " L"]]:
    """``FIGURES`` of every class, NaN where undefined. ``truth``: 0/1 columns."""
    has, says = truth > 0, decided(probability, multi)
    hits, misses, alarms = (says & has).sum(0), (~says & has).sum(0), (says & ~has).sum(0)
    quiet = len(has) - hits - misses - alarms
    sensitivity, specificity = _share(hits, hits + misses), _share(quiet, quiet + alarms)
    both = _share(2 * sensitivity * specificity, sensitivity + specificity)
    f1 = _share(2 * hits, np.where(has.any(0), 2 * hits + misses + alarms, 0))
    auc, ap = (
        np.array([f(p, t) for p, t in zip(probability.T, has.T, strict=True)]) for f in (auc_of, average_precision)
    )
    # Neither right about those who have it nor about those who have not: the harmonic mean's limit is 0.
    both = np.where((sensitivity == 0) & (specificity == 0), 0.0, both)
    return dict(zip(FIGURES, (sensitivity, specificity, auc, f1, both, ap), strict=True))


def macro(values: dict[str, Float[np.ndarray, " L"]], classes: Sequence[str] = ()) -> dict[str, float]:
    """The mean of each figure over the classes that have it, NaN where none has; a note names those that lack some."""
    lacking = np.any([np.isnan(v) for v in values.values()], 0)
    if lacking.any():
        names = [classes[i] if classes else str(i) for i in np.flatnonzero(lacking)]
        note(f"nobody, or everybody, has class {', '.join(names)}: left out of the averages that it does not define")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return {name: float(np.nanmean(v)) for name, v in values.items()}


def auc_of(probability: Float[np.ndarray, " N"], has: Bool[np.ndarray, " N"]) -> float:
    """Area under the ROC curve: how often one who has the class is ranked above one who has not, ties counting half.

    By Mann and Whitney's count (Hanley & McNeil 1982, Radiology 143).
    """
    positive, negative = probability[has], np.sort(probability[~has])
    if not positive.size or not negative.size:
        return float("nan")
    below, upto = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return float((below + upto).sum() / (2 * positive.size * negative.size))


def average_precision(
    probability: Float[np.ndarray, " N"], has: Bool[np.ndarray, " N"], weight: Num[np.ndarray, "*D N"] | None = None
) -> Float[np.ndarray, "*D"]:
    """Average precision, sum over thresholds of (R_k - R_{k-1}) P_k, without interpolation; equal scores share one.

    ``weight``: how often each one counts, for several samples at once. NaN where nobody has the class.
    """
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)  # the last of each threshold
    weight = np.ones(len(order)) if weight is None else weight[..., order]
    seen = np.cumsum(weight, -1)[..., ends]
    hits = np.cumsum(weight * has[order], -1)[..., ends]
    gained = np.diff(hits, prepend=0)
    return _share((gained * _share(hits, seen, 0.0)).sum(-1), hits[..., -1])


def mean_average_precision(
    probability: Float[np.ndarray, "N L"], truth: Num[np.ndarray, "N L"], weight: Num[np.ndarray, "*D N"] | None = None
) -> Float[np.ndarray, "*D"]:
    """Macro mAP over the classes that someone (of each sample) has."""
    each = [average_precision(p, t > 0, weight) for p, t in zip(probability.T, truth.T, strict=True)]
    known = ~np.isnan(each)
    return _share(np.where(known, each, 0).sum(0), known.sum(0))


def pooled(
    probability: Float[np.ndarray, "N L"], truth: Num[np.ndarray, "N L"], groups: Sequence[str], multi: bool
) -> tuple[Float[np.ndarray, "G L"], Num[np.ndarray, "G L"], list[str]]:
    """Mean probabilities of each group (an eye, a patient), what it has, and its name, by first appearance.

    A group has what any of its images has. Raises UserError where that is more than one class and only one can be.
    """
    names = list(dict.fromkeys(groups))
    index = {name: i for i, name in enumerate(names)}
    inverse = np.array([index[group] for group in groups])
    member = inverse == np.arange(len(names))[:, None]
    has = np.array([truth[rows].max(0) for rows in member])
    if not multi and (mixed := np.flatnonzero((has > 0).sum(1) > 1)).size:
        raise UserError(f"images of {names[mixed[0]]} are of several classes: pool over eyes or images instead")
    return member @ probability / member.sum(1)[:, None], has, names


def bootstrap(
    one: Sequence[Float[np.ndarray, "R _ L"]],
    other: Sequence[Float[np.ndarray, "R _ L"]],
    truth: Sequence[Num[np.ndarray, "_ L"]],
    patients: Sequence[Sequence[str]],
    seed: int,
    draws: int = 2000,
    statistic: Callable[..., Float[np.ndarray, "*D"]] = mean_average_precision,
) -> Test:
    """Whether ``one`` beats the ``other`` on the same images, by a paired bootstrap over patients.

    Each argument has an entry a fold, and of probabilities ``R`` repeats in it; the figure is the mean over both of the
    difference of ``statistic``. In each of ``draws`` samples the patients of every fold are drawn with replacement, all
    images of one together, the same for both classifiers and for all repeats (Efron & Tibshirani 1993, An Introduction
    to the Bootstrap, sections 8.3 and 15.4). p is twice the smaller share of samples at or beyond 0, with one such
    sample more than were drawn. It answers what other patients would have given, not what other trainings would.
    """
    rng, differences, observed = np.random.default_rng(seed), [], []
    for a, b, t, who in zip(one, other, truth, patients, strict=True):
        names, inverse = np.unique(np.asarray(who), return_inverse=True)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        for x, y in zip(a, b, strict=True):
            differences.append(statistic(x, t, counts[:, inverse]) - statistic(y, t, counts[:, inverse]))
            observed.append(statistic(x, t) - statistic(y, t))
    drawn, difference = np.mean(differences, 0), float(np.mean(observed))
    low, high = np.quantile(drawn, (0.025, 0.975))
    p = 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + draws)
    return Test(difference, float(low), float(high), float(min(1.0, p)))


def t_test(differences: Float[np.ndarray, " K"] | Sequence[float], overlap: float = 0.0) -> Test:
    """Student's paired test over K folds: whether their mean ``differences`` is 0; NaN for fewer than two.

    Folds that train on each other's images are no independent repeats. ``overlap``, the images validated on over those
    trained on, widens the variance of the mean from s^2 / K to (1/K + overlap) s^2 (Nadeau & Bengio 2003, Machine
    Learning 52; Bouckaert & Frank 2004 for repeated folds).
    """
    from scipy.special import stdtr, stdtrit

    d = np.asarray(differences, np.float64)
    mean = float(d.mean())
    if len(d) < 2:
        return Test(mean, float("nan"), float("nan"), float("nan"))
    deviation = float(np.sqrt((1 / len(d) + overlap) * d.var(ddof=1)))
    if deviation == 0:
        return Test(mean, mean, mean, float(mean == 0))
    reach = float(stdtrit(len(d) - 1, 0.975)) * deviation
    p = 2 * float(stdtr(len(d) - 1, -abs(mean) / deviation))
    return Test(mean, mean - reach, mean + reach, p)


def _share(part: Any, whole: Any, empty: float = np.nan) -> Float[np.ndarray, "*D"]:
    """``part / whole``, and ``empty`` where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, empty), where=whole != 0)
