"""Inception score against closed forms and the digits of torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import logits

from nca_gen.metrics import inception_score
from nca_gen.metrics.notes import collecting


def test_the_digits_of_torch_fidelity():
    """0.4.0: 205 images, which 10 splits do not divide evenly."""
    expected = {"inception_score": 2.503331105443033, "inception_score_std": 0.28054018993804836}
    assert inception_score.score(logits(), None, None, 0) == pytest.approx(expected, rel=1e-12)


def test_sure_and_evenly_spread_classes_score_their_number():
    sure = 1e4 * np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    got = inception_score.score(sure, None, None, 0, splits=1)
    assert got == pytest.approx({"inception_score": 4, "inception_score_std": 0}, abs=1e-12)
    one = inception_score.score(sure[::4], None, None, 0)
    assert one == pytest.approx({"inception_score": 1, "inception_score_std": 0}, abs=1e-12)


def test_two_kinds_of_image_in_closed_form():
    """p = (q, 1-q) or (1-q, q), equally often: log IS = log 2 - entropy(q)."""
    q = 0.9
    x = np.log(np.array([[q, 1 - q], [1 - q, q]])[np.arange(100) % 2])
    entropy = -q * np.log(q) - (1 - q) * np.log(1 - q)
    got = inception_score.score(x, None, None, 0, splits=1)["inception_score"]
    assert got == pytest.approx(2 * np.exp(-entropy), rel=1e-12)


def test_splits_smaller_than_the_number_of_classes_are_noted():
    with collecting() as notes:
        inception_score.score(logits(110, 12), None, None, 0)
    assert "110 images in 10 splits" in notes[0]
    assert "(12)" in notes[0]
