"""Authenticity against brute force, planted copies, and a line on which every distance is known."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import features, squares

from nca_gen.metrics import authpct, distances


@pytest.mark.parametrize("block", [2048, 11])
def test_equals_brute_force(monkeypatch, block):
    monkeypatch.setattr(distances, "BLOCK", block)
    generated, real, train = (features(seed, 40 + seed, 6) for seed in range(3))
    own = np.sort(squares(train, train), 1)[:, 1]

    def share(x):
        return 100 * (squares(x, train).min(1) > own[squares(x, train).argmin(1)]).mean()

    got = authpct.score(generated, real, train, 0)
    assert got["authpct"] == pytest.approx(share(generated), rel=1e-12)
    assert got["authpct_real"] == pytest.approx(share(real), rel=1e-12)
    assert got["authpct_low"] < got["authpct"] < got["authpct_high"]


def test_a_line_of_points():
    """Train at 0, 1, 5: their own neighbours are 1, 1 and 4 away."""

    def line(*x):
        return np.array(x, np.float32)[:, None]

    train = line(0, 1, 5)
    generated = line(
        -0.9, -1.0, -1.1, 1.5, 8.9, 9.0, 9.5
    )  # nearest: 0, 0, 0, 1, 5, 5, 5; on the surface is not farther
    flags = authpct.authentic(generated, train, authpct.statistics(train))
    assert flags.tolist() == [False, False, True, False, False, False, True]


def test_copies_are_not_authentic_and_far_images_are():
    train, real = features(3, 60, 8), features(4, 40, 8)
    assert authpct.score(train[:30], real, train, 0)["authpct"] == 0
    assert authpct.score(train[:30] + np.float32(100), real, train, 0)["authpct"] == 100
    fresh = authpct.score(features(5, 40, 8), real, train, 0)
    assert fresh["authpct"] == pytest.approx(fresh["authpct_real"], abs=25)
