"""CMMD in closed form; the embedding itself is tested in nn/test_clip.py."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import features

from nca_gen.metrics import cmmd, distances


def test_points_on_the_sphere():
    """At right angles |x - y|^2 is 2, opposite it is 4; length does not count."""
    one, right, opposite = (np.array([row], np.float32) for row in ((3, 0), (0, 2), (-1, 0)))
    assert cmmd.score(right, one, None, 0)["cmmd"] == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-12)
    assert cmmd.score(opposite, one, None, 0)["cmmd"] == pytest.approx(2000 * (1 - np.exp(-0.02)), rel=1e-12)
    assert cmmd.score(5 * one, one, None, 0)["cmmd"] == 0


def test_the_biased_estimate_over_all_pairs(monkeypatch):
    """Means of the kernel over all pairs, itself included, as published; in blocks."""
    monkeypatch.setattr(distances, "BLOCK", 7)
    x, y = features(0, 30, 12), features(1, 40, 12, 0.5)
    u, v = (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (x, y))

    def kernel(a, b):
        return np.exp(-((a[:, None] - b) ** 2).sum(2) / 200).mean()

    expected = 1000 * (kernel(u, u) + kernel(v, v) - 2 * kernel(u, v))
    assert cmmd.score(x, y, None, 0)["cmmd"] == pytest.approx(expected, rel=1e-8)
    merged = cmmd.merge(cmmd.statistics(x[:11]), cmmd.statistics(x[11:]))
    np.testing.assert_array_equal(merged, cmmd.statistics(x))
