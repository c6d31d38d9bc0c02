"""One in twenty samples is a copy: every test of copying finds which ones."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.metrics import authpct, copying, neighbours
from nca_gen.metrics.classification import auc_of

N, COPIES = 400, 20


def spots(seed, n, size=16):
    """Grey images [n, 16, 16, 1] in [-1, 1] of four soft spots each."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:size, :size]
    middle, width = rng.uniform(0, size, (2, n, 4, 1, 1)), rng.uniform(1.5, 4, (n, 4, 1, 1))
    bumps = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (2 * width**2)).sum(1)
    return np.clip(bumps - 1 + 0.02 * rng.standard_normal(bumps.shape), -1, 1)[..., None].astype(np.float32)


@pytest.fixture(scope="module", params=[0.0, 0.02], ids=["exact", "noisy"])
def sets(request):
    """Samples, which of them are copies (with noise of the data's own size), held-out and training images."""
    train, real, generated = spots(0, 600), spots(1, 200), spots(2, N)
    copied = np.random.RandomState(3).choice(N, COPIES, replace=False)
    noise = request.param * np.random.RandomState(4).standard_normal((COPIES, *train.shape[1:]))
    generated[copied] = np.clip(train[:COPIES] + noise, -1, 1)
    return generated, np.isin(np.arange(N), copied), real, train


def found(suspicion, planted):
    return auc_of(np.asarray(suspicion, np.float64), planted)


def test_neighbours(sets):
    generated, planted, _, train = sets
    assert found(-neighbours.statistics(generated, train), planted) >= 0.99


def test_authpct(sets):
    generated, planted, _, train = (x.reshape(len(x), -1) if x.ndim > 1 else x for x in sets)
    own = authpct.statistics(train)
    ratios = authpct.ratios(generated, train, own)
    assert found(-ratios, planted) >= 0.99
    np.testing.assert_array_equal(ratios > 1, authpct.authentic(generated, train, own))
    assert not authpct.authentic(generated, train, own)[planted].any()


@pytest.mark.slow
def test_copying(sets):
    generated, planted, real, train = (x.reshape(len(x), -1) if x.ndim > 1 else x for x in sets)
    of = copying.statistics(train, 5, 0)
    ratios = copying.ratios(of, generated, real)
    assert found(-ratios, planted) >= 0.99
    assert np.median(ratios[~planted]) == pytest.approx(1, abs=0.15)
    scores, clean = (copying.score(x, real, train, 0) for x in (generated, generated[~planted]))
    assert scores["copying"] < clean["copying"] - 0.3
    assert clean["copying_near"] < 2.5
    assert scores["copying_near"] == pytest.approx(5 + 0.95 * clean["copying_near"])
