"""KID against the estimate over all pairs, and the digits of torch-fidelity."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from feature_sets import features, pair

from nca_gen.metrics import kid
from nca_gen.metrics.notes import collecting


def test_the_digits_of_torch_fidelity():
    """0.4.0, 10 subsets of 50, on these features in float64: the same draws."""
    generated, real = pair()
    expected = {"kid": 0.4278997143851503, "kid_std": 0.18212902451364718}
    assert kid.score(generated, real, None, 0, subsets=10, size=50) == pytest.approx(expected, rel=1e-12)
    assert kid.score(generated, real, None, 1, subsets=10, size=50) == pytest.approx(expected, rel=1e-12)


def test_one_subset_against_loops_over_pairs():
    x, y = (features(seed, 9, 5).astype(np.float64) for seed in (0, 1))

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    within = [np.mean([k(a, b) for a, b in permutations(s, 2)]) for s in (x, y)]
    assert kid.mmd(x, y) == pytest.approx(sum(within) - 2 * np.mean([k(a, b) for a, b in product(x, y)]), rel=1e-12)


def test_it_is_unbiased_where_there_is_no_difference():
    """Halves of one source, many times: the mean is 0 within its error, and some values are below 0."""
    x = features(2, 4000, 6).astype(np.float64)
    values = np.array([kid.mmd(a, b) for a, b in zip(x.reshape(200, 20, 6)[::2], x.reshape(200, 20, 6)[1::2])])  # noqa: B905
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert values.min() < 0


def test_fewer_images_than_the_subset_lower_its_size_with_a_note():
    generated, real = pair(40, 30, 6)
    with collecting() as notes:
        scores = kid.score(generated, real, None, 0, subsets=3)
    assert scores == kid.score(generated, real, None, 0, subsets=3, size=30)
    assert "30 images, not 1000, of 40 generated and 30 real" in notes[0]


def test_a_size_below_one_is_a_share_of_the_generated_images():
    generated, real = pair(43, 30, 6)
    quarter = kid.score(generated, real, None, 0, subsets=5, size=0.25)
    assert quarter == kid.score(generated, real, None, 0, subsets=5, size=10)
