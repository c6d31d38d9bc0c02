"""Can readers tell the real picture of a pair: how often the synthetic one is chosen, and whether that is chance.

As in Table 2 of Cechnicka et al. 2024 (MICCAI): of a reader's answers ``tp`` chose the real picture and ``fp`` the
synthetic one; p = fp / (tp + fp), and 0.5 is a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95  # of the intervals


class Tally(NamedTuple):
    """Answers that chose the real picture (``tp``) and the synthetic one (``fp``)."""

    tp: int
    fp: int

    @property
    def n(self) -> int:
        """All answers."""
        return self.tp + self.fp

    @property
    def p(self) -> float:
        """The share that chose the synthetic picture; at least one answer."""
        return self.fp / self.n


def pooled(tallies: Sequence[Tally]) -> Tally:
    """All answers together."""
    return Tally(sum(t.tp for t in tallies), sum(t.fp for t in tallies))


def apart(tallies: Sequence[Tally]) -> float:
    """Says how far readers are from a guess, in [0, 0.5]: the mean of each reader's |p - 0.5|, weighted by answers.

    Readers who prefer the real and readers who prefer the synthetic picture do not cancel, as they do in the p of all.
    """
    return sum(abs(t.fp - t.n / 2) for t in tallies) / pooled(tallies).n


def interval(tally: Tally) -> tuple[float, float]:
    """Wilson's interval of p (1927), for at least one answer."""
    from scipy.stats import binomtest

    low, high = binomtest(tally.fp, tally.n).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def chance(tally: Tally) -> float:
    """The exact two-sided probability that guesses are as far from 0.5 as these, for at least one answer."""
    from scipy.stats import binomtest

    return float(binomtest(tally.fp, tally.n, 0.5).pvalue)
