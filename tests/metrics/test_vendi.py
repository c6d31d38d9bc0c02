"""The Vendi score in closed form: groups of images that are alike within and have nothing in common between."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import features

from nca_gen.metrics import vendi
from nca_gen.metrics.notes import collecting


def groups(*counts, width=8):
    """So many images in the direction of each axis, of different lengths."""
    rows = np.repeat(np.eye(width)[: len(counts)], counts, 0)
    return (rows * np.arange(1, len(rows) + 1)[:, None]).astype(np.float32)


@pytest.mark.parametrize("width", [8, 40])  # more images than features, and fewer
@pytest.mark.parametrize(
    ("q", "expected"),
    [(1, np.exp(-(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)))), (2, 1 / 0.38), ("inf", 2.0), (0, 3.0)],
)
def test_groups_count_by_their_entropy(width, q, expected):
    """Shares 1/2, 3/10 and 1/5: exp of Shannon's, of order 2 (1 / sum of squares), of the largest, of all."""
    some = groups(10, 6, 4, width=width)
    scores = vendi.score(some, some, None, 0, q=q)
    assert scores == pytest.approx({"vendi": expected, "vendi_real": expected})


def test_the_ends_of_the_range():
    assert vendi.effective(vendi.statistics(groups(7))) == pytest.approx(1)
    assert vendi.effective(vendi.statistics(groups(*[1] * 8))) == pytest.approx(8)


def test_two_directions_by_their_angle():
    """Eigenvalues (1 + cos) / 2 and (1 - cos) / 2."""
    angle = 0.7
    pair = np.array([[1, 0], [np.cos(angle), np.sin(angle)]], np.float32)
    ends = np.sort([(1 - np.cos(angle)) / 2, (1 + np.cos(angle)) / 2])
    np.testing.assert_allclose(vendi.statistics(pair), ends, atol=1e-7)


def test_real_images_are_compared_at_equal_number():
    """Of more real ones as many are drawn by the seed; fewer are said to be."""
    few, many = features(0, 20, 16), features(1, 60, 16)
    first, again, other = (vendi.score(few, many, None, seed)["vendi_real"] for seed in (0, 0, 1))
    assert first == again != other
    assert first < vendi.score(many, many, None, 0)["vendi_real"]
    with collecting() as notes:
        vendi.score(many, few, None, 0)
    assert "60 generated against 20 real" in notes[0]
