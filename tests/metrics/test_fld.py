"""FLD and the generalisation gap against a second implementation, and sets whose gap is known."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import features
from scipy.optimize import approx_fprime
from scipy.special import logsumexp

from nca_gen.metrics import fld
from nca_gen.metrics.notes import collecting


def squared(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(2)


def log_normal(square, log_variance, width):
    return -square / (2 * np.exp(log_variance)) - width / 2 * np.log(2 * np.pi * np.exp(log_variance))


class Textbook:
    """The mixture, dense and after the paper: whole matrices, z-scores, one batch."""

    def __init__(self, train, real, generated):
        mean, std = real.mean(0, dtype=np.float64), real.std(0, ddof=1, dtype=np.float64)
        self.train, self.real, self.generated = ((x.astype(np.float64) - mean) / std for x in (train, real, generated))
        self.width, self.count = train.shape[1], len(generated)
        self.near = squared(self.train, self.generated)
        self.middle = 0.81 * ((self.train - self.train.mean(0)) ** 2).sum(1)

    def loss(self, parameters):
        """Mean negative log density of train over the width; the last parameter is that of the extra component."""
        parts = log_normal(self.near, parameters[:-1], self.width) - np.log(self.count)
        extra = log_normal(self.middle, parameters[-1], self.width)
        return -logsumexp(np.column_stack([parts, extra]), axis=1).mean() / self.width

    def gradient(self, parameters):
        parts = log_normal(self.near, parameters[:-1], self.width) - np.log(self.count)
        logs = np.column_stack([parts, log_normal(self.middle, parameters[-1], self.width)])
        share = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        square = np.column_stack([self.near, self.middle])
        return -(share * (square / (2 * np.exp(parameters)) - self.width / 2)).mean(0) / self.width

    def fitted(self):
        p = np.append(np.log((self.near.min(0) + 1e-3) / self.width), 0.0)
        m, v, losses = 0, 0, []
        for t in range(1, 51):
            g = self.gradient(p)
            losses.append(self.loss(p))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            p = p - 0.5 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            p[:-1] = p[:-1].clip(-40, 40)
            if t > 6 and max(abs(losses[-1] - x) for x in losses[-5:]) < 5e-4:
                break
        return p[:-1]

    def n(self, x, log_variance):
        parts = log_normal(squared(x, self.generated), log_variance, self.width)
        return -(logsumexp(parts, axis=1) - np.log(self.count)) / self.width


def sets(width=20, n=90):
    return [features(seed, n - 10 * seed, width) for seed in range(3)]  # generated, real, train


def test_the_gradient_of_the_second_implementation_is_one():
    book = Textbook(*sets(6, 40)[::-1])
    p = np.random.default_rng(0).normal(0, 0.3, book.count + 1)
    np.testing.assert_allclose(book.gradient(p), approx_fprime(p, book.loss, 1e-6), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [2**18, 300])  # in one block of rows, and in many
@pytest.mark.parametrize("width", [5, 20])
def test_equals_the_second_implementation(monkeypatch, cells, width):
    monkeypatch.setattr(fld, "CELLS", cells)
    generated, real, train = sets(width)
    train[:4], generated[2] = generated[10:14] * np.float32(1.01), train[30]  # near copies and a copy
    book = Textbook(train, real, generated)
    logs = book.fitted()
    of_train, of_real = book.n(book.train, logs), book.n(book.real, logs)
    with collecting():
        got = fld.score(generated, real, train, 0, perfect=1.25)
    assert got["fld"] == pytest.approx(100 * (of_real.mean() - 1.25), rel=1e-5)
    assert got["fld_gg"] == pytest.approx(100 * (of_train.mean() - of_real.mean()), rel=1e-5)
    assert got["fld_gg_low"] < got["fld_gg"] < got["fld_gg_high"]


@pytest.mark.slow
def test_memorised_samples_have_a_gap_and_fresh_ones_have_none():
    train, real, fresh = (features(seed, 300, 128) for seed in (10, 11, 12))

    def blurred(x):
        return x + np.random.default_rng(0).normal(0, 0.2, x.shape).astype(np.float32)

    def gap(x):
        return fld.score(x, real, train, 0, perfect=0.0)

    new, near = gap(fresh), gap(blurred(train[:150]))
    assert abs(new["fld_gg"]) < 2
    assert new["fld_gg_low"] < 0 < new["fld_gg_high"]
    assert near["fld_gg"] < near["fld_gg_high"] < -200
    with collecting() as notes:
        assert gap(train)["fld_gg"] < -1000
    assert "are copies, or nearly, of training images" in notes[0]


@pytest.mark.slow
def test_fld_is_about_0_for_fresh_samples_and_grows_with_what_is_wrong():
    """Samples of the source do as well as the training half that sets the zero; a shift and a collapse do worse."""
    train, real, fresh = (features(seed, 300, 128) for seed in (10, 11, 12))
    zero = fld.baseline(train, real, 150, 0)

    def score(x):
        return fld.score(x, real, train, 0, perfect=zero)["fld"]

    assert abs(score(fresh[:150])) < 2
    assert score(fresh[:150] + np.float32(0.5)) > 4
    assert score(np.repeat(fresh[:3], 50, 0)) > 8
    assert score(fresh[:150]) == fld.score(fresh[:150], real, train, 0)["fld"]


@pytest.mark.slow
def test_batches_and_draws(monkeypatch):
    """Many batches and a subset of the samples come to nearly the same number."""
    train, real, fresh = (features(seed, 300, 128) for seed in (10, 11, 12))
    whole = fld.score(fresh, real, train, 0, perfect=0.0)["fld"]
    monkeypatch.setattr(fld, "BATCH", 64)
    assert fld.score(fresh, real, train, 0, perfect=0.0)["fld"] == pytest.approx(whole, rel=0.02)
    monkeypatch.setattr(fld, "CENTRES", 200)
    assert fld.score(fresh, real, train, 0, perfect=0.0)["fld"] == pytest.approx(whole, rel=0.1)


@pytest.mark.slow
def test_scale_and_origin_of_features_do_not_matter():
    generated, real, train = sets()
    a, b = np.random.default_rng(1).uniform(0.5, 2, (2, 20)).astype(np.float32)
    plain = fld.score(generated, real, train, 0)
    assert fld.score(*(a * x + b for x in (generated, real, train)), 0) == pytest.approx(plain, rel=1e-3, abs=1e-2)


def test_a_constant_feature_is_noted():
    generated, real, train = sets()
    real[:, 3] = 1
    with collecting() as notes:
        assert np.isfinite(list(fld.score(generated, real, train, 0).values())).all()
    assert notes == ["fld: 1 of 20 features are constant over the real images and are not scaled"]
