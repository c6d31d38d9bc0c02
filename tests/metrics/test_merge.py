"""Shards: what is merged of two sets is what is known of both, and two sets of statistics have one distance."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from feature_sets import features

from nca_gen.metrics import cmmd, drift, fid, fid_25d, frd, kid, slice_fid, total_variation
from nca_gen.metrics import features as networks
from nca_gen.metrics.notes import collecting

RNG = np.random.default_rng(0)


def pictures(n):
    return RNG.uniform(-1, 1, (n, 6, 5, 2)).astype(np.float32)


def volumes(n):
    return RNG.uniform(-1, 1, (n, 4, 6, 5, 1)).astype(np.float32)


def corners(name, images, layers, **_):
    """Six numbers of every image in place of a network's features."""
    return {layer: images[:].reshape(len(images), -1)[:, :6] for layer in layers}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "sets", "exact"),
    [
        (fid, [features(seed, n, 8) for seed, n in enumerate((20, 13, 30))], False),
        (kid, [features(seed, n, 8) for seed, n in enumerate((20, 13, 30))], True),
        (cmmd, [features(seed, n, 8) for seed, n in enumerate((20, 13, 30))], True),
        (frd, [RNG.uniform(-1, 1, (n, 9, 9, 1)).astype(np.float32) for n in (3, 2, 4)], True),
        (drift, [pictures(n) for n in (4, 3, 5)], True),
        (drift, [volumes(n) for n in (2, 1, 3)], True),
        (total_variation, [volumes(n) for n in (2, 1, 3)], True),
        (slice_fid, [volumes(n) for n in (2, 1, 3)], False),
        (fid_25d, [volumes(n) for n in (2, 1, 3)], False),
    ],
    ids=["fid", "kid", "cmmd", "frd", "drift", "drift of volumes", "total_variation", "slice_fid", "fid_25d"],
)
def test_merged_statistics_are_those_of_all(metric, sets, exact, monkeypatch, tmp_path):
    """To the last bit where they are kept image by image, else to rounding."""
    monkeypatch.setattr(networks, "extract", corners)
    monkeypatch.setattr(networks, "protocol", lambda *_: {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other, real = sets
    merged = metric.merge(metric.statistics(one), metric.statistics(other))
    whole = metric.statistics(np.concatenate([one, other]))
    close = 0 if exact else 1e-12
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=close, atol=close)
    with collecting():
        scores = metric.distance(metric.statistics(real), merged)
        assert scores == pytest.approx(metric.score(np.concatenate([one, other]), real, None, 0), rel=1e-9)
    assert metric.__name__.rpartition(".")[-1] == next(iter(scores))
