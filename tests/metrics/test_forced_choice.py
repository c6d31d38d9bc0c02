"""Whether readers can tell: the counts of Table 2 of Cechnicka et al. 2024, published intervals, exact sums."""

import pytest

from nca_gen.metrics import forced_choice
from nca_gen.metrics.forced_choice import Tally

PATCHES = (Tally(250, 179), Tally(106, 145), Tally(29, 99), Tally(110, 162))  # low magnification
SLIDES = (Tally(61, 66), Tally(152, 6), Tally(28, 33), Tally(47, 10), Tally(29, 21))


@pytest.mark.parametrize(
    ("tallies", "shares", "total", "p", "apart"),
    [
        (PATCHES, (0.4172, 0.5777, 0.7734, 0.5956), (495, 585), 0.5417, 0.1074),
        (SLIDES, (0.5197, 0.0380, 0.5410, 0.1754, 0.4200), (317, 136), 0.3002, 0.2219),
    ],
)
def test_the_published_table(tallies, shares, total, p, apart):
    assert [round(tally.p, 4) for tally in tallies] == [*shares]
    assert forced_choice.pooled(tallies) == total
    assert round(forced_choice.pooled(tallies).p, 4) == p
    assert round(forced_choice.apart(tallies), 4) == apart


def test_opposite_tastes_do_not_cancel():
    opposite = [Tally(10, 0), Tally(0, 10)]
    assert (forced_choice.pooled(opposite).p, forced_choice.apart(opposite)) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("fp", "n", "low", "high"),  # Newcombe 1998, Statistics in Medicine 17, 857, Table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval(fp, n, low, high):
    assert [round(end, 4) for end in forced_choice.interval(Tally(n - fp, fp))] == [low, high]


@pytest.mark.parametrize(
    ("fp", "n", "of"),  # tails of Pascal's triangle, of 2^n
    [(5, 10, 1024), (2, 10, 2 * (1 + 10 + 45)), (8, 10, 2 * (1 + 10 + 45)), (0, 10, 2), (1, 4, 2 * (1 + 4))],
)
def test_the_exact_test(fp, n, of):
    assert forced_choice.chance(Tally(n - fp, fp)) == pytest.approx(of / 2**n, rel=1e-12)
