"""Improved precision and recall against brute force, sets with known overlap, and the digits of torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import features, pair, squares

from nca_gen.metrics import distances, precision_recall
from nca_gen.metrics.notes import collecting


def parts(scores: dict[str, float]) -> tuple[float, float]:
    return scores["precision_recall_precision"], scores["precision_recall_recall"]


def test_the_digits_of_torch_fidelity():
    """0.4.0, which returns shares in float32: 116 of 120, and 86 of 150."""
    generated, real = pair()
    scores = precision_recall.score(generated, real, None, 0)
    assert parts(scores) == (116 / 120, 86 / 150)
    assert parts(scores) == pytest.approx((0.9666666388511658, 0.5733333230018616), rel=1e-7)
    assert scores["precision_recall"] == pytest.approx(0.7197691039169941, rel=1e-7)


@pytest.mark.parametrize("block", [2048, 11])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_equals_brute_force(monkeypatch, block, k):
    monkeypatch.setattr(distances, "BLOCK", block)
    generated, real = pair(40, 50, 6)

    def inside(x, of):
        return (squares(x, of) <= np.sort(squares(of, of), 1)[:, k]).any(1).mean()

    got = precision_recall.score(generated, real, None, 0, k=k)
    assert parts(got) == (inside(generated, real), inside(real, generated))


def test_half_of_the_classes_and_half_of_the_samples():
    """Real images of two kinds; generated ones of the first kind and of none: both shares are a half."""

    def kind(seed, at):
        return features(seed, 50, 12) + np.float32(at)

    real = np.concatenate([kind(0, 0), kind(1, 100)])
    generated = np.concatenate([kind(0, 0)[:40], kind(2, -100)[:40]])
    precision, recall = parts(precision_recall.score(generated, real, None, 0))
    assert precision == 0.5
    assert 0.45 <= recall <= 0.5


@pytest.mark.slow
def test_the_interval_is_around_the_share():
    scores = precision_recall.score(*pair(), None, 0)
    for name in ("precision_recall_precision", "precision_recall_recall"):
        p = scores[name]
        half = 1.96 * np.sqrt(p * (1 - p) / (120 if name.endswith("precision") else 150))
        assert scores[f"{name}_low"] == pytest.approx(p - half, abs=0.02)
        assert scores[f"{name}_high"] == pytest.approx(p + half, abs=0.02)


@pytest.mark.slow
def test_copies_of_real_images_are_inside_and_collapse_is_noted():
    """Radius 0: a ball around k copies holds what equals them, and nothing else."""
    real = features(3, 30, 8)
    collapsed = np.repeat(real[:1], 20, 0)
    with collecting() as notes:
        assert parts(precision_recall.score(collapsed, real, None, 0)) == (1.0, 1 / 30)
        assert parts(precision_recall.score(collapsed + np.float32(50), real, None, 0)) == (0.0, 0.0)
        assert parts(precision_recall.score(collapsed, collapsed, None, 0)) == (1.0, 1.0)
    assert notes == [
        "precision_recall: 20 of 20 generated images have radius 0, they are copies",
        "precision_recall: 20 of 20 real images have radius 0, they are copies",
    ]
