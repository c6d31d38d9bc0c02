"""C_T: the closed form of copies, the U test of SciPy, no bias where nothing is copied, cells that count."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from nca_gen.errors import UserError
from nca_gen.metrics import copying
from nca_gen.metrics.notes import collecting


def cloud(seed, n, shift=0.0, width=6):
    return (np.random.RandomState(seed).standard_normal((n, width)) + shift).astype(np.float32)


def test_copies_alone_in_closed_form():
    """U is 0: less n m / 2, over sqrt(n m (n + m + 1) / 12)."""
    train, real = cloud(0, 100), cloud(1, 40)
    scores = copying.score(train[:60], real, train, 0, cells=1)
    bound = -np.sqrt(3 * 60 * 40 / 101)
    assert scores == pytest.approx({"copying": bound, "copying_least": bound, "copying_cells": 1, "copying_near": 100})


def test_u_as_scipy_has_it():
    """With ties, of which each counts half."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 30).astype(float), rng.integers(2, 9, 25).astype(float)
    u = mannwhitneyu(a, b).statistic
    assert copying.z_score(a, b) == pytest.approx((u - 375) / np.sqrt(750 * 56 / 12))
    assert copying.z_score(a, a) == 0


@pytest.mark.slow
def test_nothing_copied_is_near_0_and_far_off_is_above():
    """Over ten seeds the mean and deviation of a standard normal, for one cell."""
    values = [
        copying.score(cloud(3 * s, 80), cloud(3 * s + 1, 80), cloud(3 * s + 2, 80), 0)["copying"] for s in range(40)
    ]
    assert abs(np.mean(values)) < 0.5
    assert np.std(values) < 1.2
    assert copying.score(cloud(0, 80, 2.0), cloud(1, 80), cloud(2, 80), 0)["copying"] > 5


def test_cells_are_weighed_by_real_images():
    """Two clusters far apart: one copied, the other not, real images in a ratio of 3 to 1."""
    far = 50.0
    train = np.concatenate([cloud(0, 90), cloud(1, 90, far)])
    real = np.concatenate([cloud(2, 60), cloud(3, 20, far)])
    generated = np.concatenate([train[:40], cloud(4, 40, far)])
    scores = copying.score(generated, real, train, 0, cells=2)
    copied = -np.sqrt(3 * 40 * 60 / 101)
    assert scores["copying_cells"] == 2
    assert scores["copying_least"] == pytest.approx(copied)
    assert scores["copying"] == pytest.approx(0.75 * copied, abs=0.5)
    few = np.concatenate([train[:40], cloud(4, 19, far)])
    assert copying.score(few, real, train, 0, cells=2)["copying"] == pytest.approx(copied)


def test_where_no_cell_counts_there_is_one():
    train = np.concatenate([cloud(0, 40), cloud(1, 40, 50.0)])
    with collecting() as notes:
        scores = copying.score(cloud(2, 30, 50.0), cloud(3, 30), train, 0, cells=2)
    assert scores["copying_cells"] == 1
    assert "taken as one cell" in notes[0]


def test_wide_features_are_seen_on_their_main_axes():
    """65 axes: the last, which varies least, is not seen."""
    rng = np.random.RandomState(5)
    scale = np.linspace(3, 1, 65)
    train, real = ((rng.standard_normal((200, 65)) * scale).astype(np.float32) for _ in range(2))
    of = copying.statistics(train, 1, 0)
    assert of.axes.shape == (65, 64)
    spread = np.linalg.eigvalsh(np.cov(train.T.astype(np.float64)))
    assert of.train.var(0, ddof=1).sum() == pytest.approx(spread[1:].sum())
    assert of.place(train)[0].max() < 1e-6
    assert of.place(real)[0].min() > 1


@pytest.mark.parametrize("sets", [(19, 20, 20), (20, 19, 20), (20, 20, 19)])
def test_fewer_than_20_are_refused(sets):
    with pytest.raises(UserError, match=r"copying needs at least 20 .* images but got 19"):
        copying.score(*(cloud(i, n) for i, n in enumerate(sets)), 0)
