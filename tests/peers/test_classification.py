"""Figures of a classifier against scikit-learn's, ties and rare classes included."""

import numpy as np
import pytest

from nca_gen.metrics import classification

sklearn = pytest.importorskip("sklearn.metrics", reason="the peer needs scikit-learn, the package does not")


@pytest.mark.parametrize("levels", [4, 10_000])
@pytest.mark.parametrize("multi", [True, False])
def test_against_scikit_learn(multi, levels):
    rng = np.random.default_rng(levels)
    n, classes = 300, 11
    truth = (rng.random((n, classes)) < 0.03 + 0.3 * rng.random(classes)).astype(int)
    if not multi:
        truth = np.eye(classes, dtype=int)[rng.integers(0, classes, n)]
    p = np.floor((0.6 * rng.random((n, classes)) + 0.4 * truth * rng.random((n, classes))) * levels) / levels
    said = classification.decided(p, multi).astype(int)
    found = classification.macro(classification.figures(p, truth, multi))
    sensitivity = [sklearn.recall_score(t, s) for t, s in zip(truth.T, said.T, strict=True)]
    specificity = [sklearn.recall_score(t, s, pos_label=0) for t, s in zip(truth.T, said.T, strict=True)]
    expected = {
        "sensitivity": np.mean(sensitivity),
        "specificity": np.mean(specificity),
        "auc": sklearn.roc_auc_score(truth, p, average="macro"),
        "f1": sklearn.f1_score(truth, said, average="macro"),
        "f1_sen_spe": np.mean([2 * a * b / (a + b) for a, b in zip(sensitivity, specificity, strict=True)]),
        "map": sklearn.average_precision_score(truth, p, average="macro"),
    }
    assert found == pytest.approx(expected)
    assert float(classification.mean_average_precision(p, truth)) == pytest.approx(expected["map"])


def test_the_t_test_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = np.random.default_rng(0).random((2, 5))
    mine, theirs = classification.t_test(a - b), stats.ttest_rel(a, b)
    assert mine.p == pytest.approx(theirs.pvalue)
    assert (mine.low, mine.high) == pytest.approx(tuple(theirs.confidence_interval()))
