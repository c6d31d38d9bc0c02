"""Drift against its closed form."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.io import images as pixels
from nca_gen.io import sets
from nca_gen.metrics import drift


def test_an_affine_change_of_colour_moves_mean_and_deviation_as_it_says():
    """y = a x + b: the mean moves by |(a - 1) mean + b|, the deviation by |a - 1| std."""
    x = np.random.default_rng(0).uniform(-1, 1, (5, 16, 12, 3)).astype(np.float32)
    a, b = np.array([1.0, 0.5, 1.25]), np.array([0.25, 0.0, -0.5])
    got = drift.score((a * x + b).astype(np.float32), x, None, 0)
    mean = np.abs((a - 1) * x.mean((0, 1, 2), dtype=np.float64) + b)
    std = np.abs(a - 1) * x.std((0, 1, 2), dtype=np.float64)
    for c in range(3):
        assert got[f"drift_mean_{c}"] == pytest.approx(mean[c], abs=1e-7)
        assert got[f"drift_std_{c}"] == pytest.approx(std[c], abs=1e-7)
    assert got["drift"] == pytest.approx(np.sqrt(mean**2 + std**2).mean(), abs=1e-7)


def test_statistics_are_those_of_all_pixels_of_all_images():
    """Images of unlike brightness: the deviation holds what is within and what is between them."""
    images = np.stack([np.full((4, 4, 1), v, np.float32) for v in (-1.0, 0.5)])
    mean, std = drift.moments(drift.statistics(images))
    assert (mean.item(), std.item()) == (-0.25, 0.75)
    x = np.random.default_rng(1).normal(0.9, 1e-3, (7, 9, 8, 2)).astype(np.float32)
    mean, std = drift.moments(drift.statistics(x))
    np.testing.assert_allclose(mean, x.reshape(-1, 2).astype(np.float64).mean(0), rtol=1e-13)
    np.testing.assert_allclose(std, x.reshape(-1, 2).astype(np.float64).std(0), rtol=1e-10)


def test_order_and_number_of_images_do_not_matter():
    x = np.random.default_rng(2).uniform(-1, 1, (6, 8, 8, 2)).astype(np.float32)
    assert drift.score(np.concatenate([x, x[::-1]]), x, None, 0)["drift"] == pytest.approx(0, abs=1e-15)


def test_images_that_are_read_give_what_arrays_give():
    """To the last digit, whatever their blocks."""
    x = np.random.default_rng(3).integers(0, 256, (9, 16, 12, 3)).astype(np.uint8)
    found = drift.statistics(sets.Lazy(lambda at: x[at], x.shape, ""))
    np.testing.assert_array_equal(found, drift.statistics(pixels.to_float(x)))
