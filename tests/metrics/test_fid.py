"""FID against closed forms, the singular values of the centred data, and the digits of peers."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from feature_sets import features, pair

from nca_gen.errors import UserError
from nca_gen.metrics import distances, fid
from nca_gen.metrics.notes import collecting


def test_the_digits_of_torch_fidelity():
    """0.4.0, on these features in float64; pytorch-fid and clean-fid give the same to 1e-13."""
    generated, real = pair()
    assert fid.score(generated, real, None, 0) == pytest.approx({"fid": 2.788802640635133}, rel=1e-12)


def test_closed_form_of_commuting_covariances():
    """For diagonal covariances it is |m1 - m2|^2 + |s1 - s2|^2 of the standard deviations."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    m, s = rng.normal(size=(2, 9)), rng.uniform(0.1, 2, (2, 9))
    s[0, 3] = s[1, 5] = 0  # degenerate directions, in one set and in the other
    stats = [fid.published(q @ m[i], (q * s[i] ** 2) @ q.T, 100) for i in (0, 1)]
    expected = ((m[0] - m[1]) ** 2).sum() + ((s[0] - s[1]) ** 2).sum()
    assert fid.distance(*stats)["fid"] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(20, 15), (20, 80), (70, 40)])
def test_fewer_images_than_features_is_exact_and_noted(n, m):
    """Tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T of the centred data, without any covariance."""
    x, y = features(3, n, 48), features(4, m, 48)
    a, b = ((v - v.mean(0, dtype=np.float64)) / np.sqrt(len(v) - 1) for v in (x, y))
    trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    means = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    expected = (means**2).sum() + (a**2).sum() + (b**2).sum() - 2 * trace
    with collecting() as notes:
        assert fid.score(x, y, None, 0)["fid"] == pytest.approx(expected, rel=1e-9)
    assert len(notes) == 1
    assert f"{n} generated and {m} real images with 48 features" in notes[0]


def test_a_set_to_itself_and_to_a_shift_of_itself():
    x = features(5, 300, 32)
    assert fid.score(x, x[::-1], None, 0)["fid"] < 1e-9
    assert fid.score(x + np.float32(2), x, None, 0)["fid"] == pytest.approx(4 * 32, rel=1e-6)
    assert fid.score(3 * x, x, None, 0)["fid"] == pytest.approx(
        4 * (x.var(0, ddof=1, dtype=np.float64).sum() + (x.mean(0, dtype=np.float64) ** 2).sum()), rel=1e-6
    )


def test_ddof_0_is_the_distance_of_the_covariances_divided_by_n():
    """Of one set and three times the same set, ddof 1 sees a difference and 0 does not."""
    x = features(6, 40, 8)
    thrice = np.concatenate([x, x, x])
    assert fid.score(thrice, x, None, 0, ddof=0)["fid"] < 1e-12
    trace = x.var(0, dtype=np.float64).sum()
    expected = trace * (np.sqrt(40 / 39) - np.sqrt(120 / 119)) ** 2
    assert fid.score(thrice, x, None, 0)["fid"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("block", [2048, 16])
def test_moments_are_those_of_numpy(monkeypatch, block):
    monkeypatch.setattr(distances, "BLOCK", block)
    x = features(7, 50, 12)
    stats = fid.statistics(x)
    np.testing.assert_allclose(stats.mean, x.mean(0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(stats.scatter / 49, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-12, atol=1e-15)


def test_batches_merge_in_any_order_to_the_whole():
    """Streaming: (a + b) + c = a + (b + c) = all at once, also for batches that are far apart, or of one image."""
    x = features(8, 90, 12) + np.repeat([0, 100, -3], [30, 59, 1])[:, None].astype(np.float32)
    a, b, c = (fid.statistics(x[i:j]) for i, j in ((0, 30), (30, 89), (89, 90)))
    whole = fid.statistics(x)
    for merged in (fid.merge(fid.merge(a, b), c), fid.merge(a, fid.merge(b, c)), reduce(fid.merge, (c, a, b))):
        assert merged.n == 90
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-11, atol=1e-9)


def test_kept_statistics_stand_for_their_features():
    x, y = pair()
    cov = np.cov(y.astype(np.float64), rowvar=False, ddof=0)
    kept = fid.published(y.mean(0, dtype=np.float64), cov, len(y), ddof=0)
    expected = fid.score(x, y, None, 0)["fid"]
    assert fid.score(x, fid.statistics(y), None, 0)["fid"] == expected
    assert fid.score(fid.statistics(x), kept, None, 0)["fid"] == pytest.approx(expected, rel=1e-12)


def test_identical_images_give_a_number():
    """A collapsed set has no covariance: what is left is the distance of the means and the other's spread."""
    x, y = np.repeat(features(9, 1, 8), 30, 0), features(10, 50, 8)
    means = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    expected = (means**2).sum() + y.var(0, ddof=1, dtype=np.float64).sum()
    assert fid.score(x, y, None, 0)["fid"] == pytest.approx(expected, rel=1e-12)
    assert fid.score(x, x, None, 0)["fid"] == 0


def test_features_of_two_networks_are_an_error():
    with pytest.raises(UserError, match="one network, got 8 against 9"):
        fid.distance(fid.statistics(features(0, 20, 9)), fid.statistics(features(1, 20, 8)))
