"""Autocovariance of masks in closed form."""

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.metrics import autocovariance, two_point

N = 32


def blocks(side, n=64, share=0.5, seed=0):
    """Masks of ``N`` pixels a side of square blocks that are stained by chance, cut at a random place of the grid."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, N // side + 1, N // side + 1)) < share
    masks = masks.repeat(side, 1).repeat(side, 2)
    corners = rng.integers(0, side, (n, 2))
    return np.stack([mask[y : y + N, x : x + N] for mask, (y, x) in zip(masks, corners, strict=True)])


def images(masks):
    """Pictures that are black where there is stain."""
    return np.where(np.asarray(masks, bool)[..., None], -1.0, 1.0).repeat(3, -1).astype(np.float32)


def scaled(masks):
    return autocovariance.scaled(two_point.statistics(images(masks), 0.5))


@pytest.mark.slow
def test_blocks_reach_as_far_as_they_are_wide():
    """Two places y and x apart lie in one block of s pixels with probability (1 - y/s) (1 - x/s), and else know nothing
    of each other: at distance 1, mean of the four along the axes and the four along the diagonals."""
    s = 8
    found = scaled(blocks(s, n=400))
    straight, slanted = (N - 1) * N, (N - 1) ** 2
    expected = (straight * (1 - 1 / s) + slanted * (1 - 1 / s) ** 2) / (straight + slanted)
    assert found[0] == 1
    assert found[1] == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose(found[12:], 0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_share_of_stain_does_not_matter(share):
    """Blocks of one size are alike at any share; S2 itself moves by as much as the share does."""
    other, real = images(blocks(4, n=400, share=share)), images(blocks(4, n=400, seed=1))
    assert autocovariance.score(other, real, None, 0)["autocovariance"] < 0.03
    assert two_point.score(other, real, None, 0)["two_point"] > 0.5


@pytest.mark.slow
def test_it_is_the_root_mean_square():
    small, large = blocks(1), blocks(8, seed=1)
    gap = scaled(small) - scaled(large)
    score = autocovariance.score(images(small), images(large), None, 0)
    assert score == {"autocovariance": pytest.approx(np.sqrt(np.mean(gap**2)))}
    assert autocovariance.score(images(large), images(large), None, 0) == {"autocovariance": 0}


def test_all_or_nothing_has_no_structure():
    assert not scaled(np.ones((1, N, N))).any()


def test_sets_may_be_merged():
    masks = blocks(4)
    whole, *parts = (two_point.statistics(images(some), 0.5) for some in (masks, masks[:20], masks[20:]))
    assert autocovariance.distance(whole, autocovariance.merge(*parts)) == {"autocovariance": 0}


def test_no_images_are_refused():
    with pytest.raises(UserError, match="autocovariance needs images, got 0 generated and 1 real"):
        autocovariance.score(images(np.zeros((0, N, N))), images([np.ones((N, N))]), None, 0)
