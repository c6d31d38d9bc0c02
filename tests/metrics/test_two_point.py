"""Two-point correlations in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.metrics import two_point

N = 32


def s2(mask):
    """S2(r) of one mask."""
    return np.divide(*two_point.correlation(np.asarray(mask, bool)))


def images(masks):
    """Pictures that are black where there is stain."""
    return np.where(np.asarray(masks, bool)[..., None], -1.0, 1.0).repeat(3, -1).astype(np.float32)


def counted(mask, most):
    """Pairs that are both stained, and all of them, one by one."""
    both, pairs = np.zeros(most + 1), np.zeros(most + 1)
    cells = [*np.ndindex(mask.shape)]
    for a in cells:
        for b in cells:
            r = round(math.dist(a, b))
            if r <= most:
                both[r] += mask[a] and mask[b]
                pairs[r] += 1
    return both, pairs


@pytest.mark.parametrize("shape", [(7, 6), (5, 9)])
def test_every_pair_is_counted_once(shape):
    mask = np.random.default_rng(0).random(shape) < 0.4
    for mine, expected in zip(two_point.correlation(mask), counted(mask, min(shape) // 2), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_independent_pixels_know_nothing_of_each_other():
    """p, and p^2 at every distance."""
    p = 0.3
    found = two_point.statistics(images(np.random.default_rng(1).random((64, N, N)) < p), 0.5)
    mine = found.both / found.pairs
    np.testing.assert_allclose(mine, [p, *[p * p] * (N // 2)], atol=0.004)


def test_stripes_swing():
    """Of stripes as wide as the gaps: one half at whole periods, nothing at half of one, seen along the axis alone."""
    mask = np.zeros((1, 64), bool).repeat(2, 0)
    mask[:, np.arange(64) // 4 % 2 == 0] = True
    both, pairs = two_point.correlation(mask.repeat(16, 0))
    along = both / pairs
    assert along[0] == 0.5
    assert along[8] > 0.3 > 0.25 > along[4]


def test_a_checkerboard_is_one_half_or_nothing():
    """Of displacements whose sum is even one half, of others nothing: distance 1 is that of (0, 1) and of (1, 1)."""
    board = np.indices((N, N)).sum(0) % 2 == 0
    straight, slanted = 4 * N * (N - 1), 4 * (N - 1) ** 2
    assert s2(board)[0] == 0.5
    assert s2(board)[1] == pytest.approx(0.5 * slanted / (straight + slanted), rel=2e-3)


def test_the_headline_is_in_variances_of_the_real_mask():
    """Of all stained against half of it, in the left: at each distance S2 is 1 and not what is counted."""
    left = np.zeros((N, N), bool)
    left[:, : N // 2] = True
    real, ours = images([left]), images([np.ones((N, N))])
    expected = np.sqrt(np.mean(np.square(1 - s2(left)))) / 0.25
    scores = two_point.score(ours, real, None, 0)
    assert scores == {"two_point": pytest.approx(expected), "two_point_share": pytest.approx(0.5)}
    assert two_point.score(real, real, None, 0) == {"two_point": 0, "two_point_share": 0}


def test_the_mask_is_the_dark_class():
    """Two greys and noise: the threshold lies between them, wherever they are."""
    rng = np.random.default_rng(2)
    mask = rng.random((4, N, N)) < 0.25
    pictures = (np.where(mask, -0.6, 0.5)[..., None] + 0.05 * rng.standard_normal((4, N, N, 3))).astype(np.float32)
    least = two_point.threshold(pictures)
    np.testing.assert_array_equal(two_point.density(pictures) > least, mask)


def test_pixels_that_are_shuffled_are_told_from_disks():
    """The same share, and no structure."""
    y, x = np.indices((N, N))
    disks = np.stack([np.hypot(y - 10, x - 12) < 8, np.hypot(y - 18, x - 15) < 8])
    shuffled = np.random.default_rng(3).permuted(disks.reshape(2, -1), axis=1).reshape(disks.shape)
    found = two_point.score(images(shuffled), images(disks), None, 0)
    assert found["two_point_share"] < 1e-12
    assert found["two_point"] > 0.2


def test_sets_merge():
    some = images(np.random.default_rng(4).random((6, 8, 10)) < 0.5)
    parts = two_point.merge(two_point.statistics(some[:2], 0.5), two_point.statistics(some[2:], 0.5))
    for mine, expected in zip(parts, two_point.statistics(some, 0.5), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_edge_cases():
    blank = images(np.zeros((1, 8, 8)))
    assert two_point.score(blank, blank, None, 0) == {"two_point": 0, "two_point_share": 0}
    assert two_point.score(images(np.ones((1, 8, 8))), blank, None, 0)["two_point"] == math.inf
    with pytest.raises(UserError, match="0 generated and 1 real"):
        two_point.score(blank[:0], blank, None, 0)
