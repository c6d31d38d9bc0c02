"""Density and coverage against brute force, known expectations, and the digits of prdc."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import features, pair, squares

from nca_gen.metrics import density_coverage, distances
from nca_gen.metrics.notes import collecting


def parts(scores: dict[str, float]) -> tuple[float, float]:
    return scores["density_coverage_density"], scores["density_coverage"]


@pytest.mark.slow
def test_the_digits_of_prdc():
    generated, real = pair()
    assert parts(density_coverage.score(generated, real, None, 0)) == pytest.approx((1.47, 0.98), rel=1e-12)


@pytest.mark.parametrize("block", [2048, 11])
@pytest.mark.parametrize("k", [1, 5])
def test_equals_brute_force(monkeypatch, block, k):
    monkeypatch.setattr(distances, "BLOCK", block)
    generated, real = pair(40, 50, 6)
    held = squares(generated, real) < np.sort(squares(real, real), 1)[:, k]
    expected = held.sum(1).mean() / k, held.any(0).mean()
    assert parts(density_coverage.score(generated, real, None, 0, k=k)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_expectation_for_two_sets_of_one_source():
    """Naeem et al. 2020, section 4: density 1, coverage 1 - (N - 1)...(N - k) / ((2N - 1)...(2N - k)), whatever D."""
    n, k, values = 60, 5, []
    for seed in range(0, 60, 2):
        x = np.random.default_rng(seed).normal(size=(2 * n, 3)).astype(np.float32)
        values.append(parts(density_coverage.score(x[:n], x[n:], None, 0)))
    density, coverage = np.mean(values, 0)
    i = np.arange(1, k + 1)
    assert coverage == pytest.approx(1 - np.prod((n - i) / (2 * n - i)), abs=0.01)
    assert density == pytest.approx(1, abs=0.1)


def test_the_interval_is_around_the_number():
    scores = density_coverage.score(*pair(), None, 0)
    for name in ("density_coverage", "density_coverage_density"):
        assert scores[f"{name}_low"] < scores[name] < scores[f"{name}_high"]


def test_identical_images_hold_nothing_and_are_noted():
    """Radius 0 with the surface excluded, as in prdc: not even a copy is inside."""
    same = np.repeat(features(0, 1, 8), 10, 0)
    with collecting() as notes:
        assert parts(density_coverage.score(same, same, None, 0)) == (0.0, 0.0)
    assert notes == ["density_coverage: 10 of 10 real images have radius 0, they are copies and hold nothing"]
