"""Bootstrap intervals against the normal approximation, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.metrics.bootstrap import error, interval


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    x = np.random.default_rng(0).exponential(size=2000)
    error = x.std() / np.sqrt(len(x))
    assert interval(x, 0) == pytest.approx((x.mean() - 1.96 * error, x.mean() + 1.96 * error), abs=0.3 * error)


def test_a_share_is_a_mean_of_flags():
    low, high = interval(np.arange(1000) < 300, 1)
    assert (low, high) == pytest.approx((0.3 - 0.0284, 0.3 + 0.0284), abs=0.006)


def test_two_sets_are_resampled_each_by_itself():
    """The variance of a difference of means is the sum of both."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(3, 1, 500), rng.normal(1, 2, 800)
    half = 1.96 * np.sqrt(a.var() / 500 + b.var() / 800)
    centre = a.mean() - b.mean()
    found = interval((a, b), 0, lambda a, b: a.mean() - b.mean())
    assert found == pytest.approx((centre - half, centre + half), abs=0.1 * half)


@pytest.mark.slow
def test_it_holds_the_truth_in_about_95_of_100_cases(monkeypatch):
    monkeypatch.setattr("nca_gen.metrics.bootstrap.DRAWS", 300)
    rng = np.random.default_rng(3)
    hit = [low <= 0 <= high for low, high in (interval(rng.normal(size=60), i) for i in range(200))]
    assert 0.88 <= np.mean(hit) <= 0.99


def test_the_seed_fixes_it():
    x = np.random.default_rng(4).normal(size=50)
    assert interval(x, 7) == interval(x, 7) != interval(x, 8)


def test_the_error_of_a_mean_is_known():
    """sigma / sqrt(n), from halves without replacement: 2000 draws of two sets are within a few per cent of it."""
    rng = np.random.default_rng(0)
    x, y = 2.0 * rng.normal(size=400), rng.normal(size=900)
    found = error((x, y), 0, lambda a, b: float(a.mean() - b.mean()), 2000)
    assert found == pytest.approx(np.sqrt(x.var() / 400 + y.var() / 900), rel=0.06)
    assert error((x, y), 0, lambda a, b: float(len(a) + len(b)), 5) == 0  # halves are of one size
