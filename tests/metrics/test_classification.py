"""The figures of a classifier against counts by hand, and its tests against distributions that are known."""

import math

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.metrics import classification
from nca_gen.metrics.notes import collecting

RNG = np.random.default_rng(0)


def columns(classes, n):
    return np.eye(n)[np.asarray(classes)]


def test_two_classes_by_hand():
    """Of the first class 2 are found, 1 is missed, 1 is a false alarm and 6 are left in peace."""
    truth = columns([0, 0, 0, 1, 1, 1, 1, 1, 1, 1], 2)
    said = columns([0, 0, 1, 0, 1, 1, 1, 1, 1, 1], 2)
    found = classification.figures(0.6 * said + 0.2, truth, multi=False)
    assert found["sensitivity"].tolist() == pytest.approx([2 / 3, 6 / 7])
    assert found["specificity"].tolist() == pytest.approx([6 / 7, 2 / 3])
    assert found["f1"].tolist() == pytest.approx([2 * 2 / (4 + 1 + 1), 2 * 6 / (12 + 1 + 1)])
    assert found["f1_sen_spe"].tolist() == pytest.approx([2 * (2 / 3) * (6 / 7) / (2 / 3 + 6 / 7)] * 2)
    assert classification.macro(found)["sensitivity"] == pytest.approx((2 / 3 + 6 / 7) / 2)


def test_one_decides_by_the_largest_and_several_by_a_half():
    p = np.array([[0.5, 0.4, 0.1], [0.1, 0.4, 0.49]])
    assert classification.decided(p, False).tolist() == [[True, False, False], [False, False, True]]
    assert classification.decided(p, True).tolist() == [[True, False, False], [False, False, False]]


def test_auc_counts_pairs():
    p, has = RNG.integers(0, 6, 40) / 6, RNG.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in p[has] for b in p[~has]]
    assert classification.auc_of(p, has) == pytest.approx(np.mean(pairs))
    assert classification.auc_of(-p, has) == pytest.approx(1 - np.mean(pairs))


def test_average_precision_of_a_ranking_by_hand():
    """Found at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3. All tied: one threshold, whose precision is the share."""
    has = np.array([True, False, True, True, False])
    ranked = np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    assert classification.average_precision(ranked, has) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert classification.average_precision(np.full(5, 0.3), has) == pytest.approx(3 / 5)
    # A tie of ranks 2 to 4 is passed at once: 1 of 1, then 3 of 4.
    tied = np.array([0.9, 0.7, 0.7, 0.7, 0.1])
    assert classification.average_precision(tied, has) == pytest.approx((1 + 2 * 3 / 4) / 3)


def test_weights_are_copies():
    p, has = RNG.integers(0, 8, 30) / 8, RNG.random(30) < 0.5
    weight = RNG.integers(0, 4, (5, 30))
    found = classification.average_precision(p, has, weight)
    for w, value in zip(weight, found, strict=True):
        assert value == pytest.approx(classification.average_precision(np.repeat(p, w), np.repeat(has, w)))


def test_scores_of_no_use():
    """A classifier that knows nothing: AUC 1/2, and AP the share of those who have the class."""
    n = 20_000
    p, truth = RNG.random((n, 3)), (RNG.random((n, 3)) < [0.1, 0.5, 0.8]).astype(int)
    found = classification.figures(p, truth, multi=True)
    np.testing.assert_allclose(found["auc"], 0.5, atol=0.02)
    np.testing.assert_allclose(found["map"], [0.1, 0.5, 0.8], atol=0.02)
    np.testing.assert_allclose(found["sensitivity"], 0.5, atol=0.03)


def test_a_class_that_nobody_has_is_left_out_and_named():
    truth = columns([0, 0, 2, 2], 3)
    with collecting() as notes:
        found = classification.figures(truth * 0.9, truth, multi=True)
        mean = classification.macro(found, ("NOR", "AMD", "DR"))
    assert mean == dict.fromkeys(classification.FIGURES, 1.0)
    assert [math.isnan(found[name][1]) for name in classification.FIGURES] == [True, False, True, True, True, True]
    assert len(notes) == 1
    assert "class AMD:" in notes[0]
    assert classification.mean_average_precision(truth * 0.9, truth) == 1


def test_a_class_that_everybody_has():
    truth = np.ones((4, 1))
    with collecting():
        found = classification.macro(classification.figures(np.full((4, 1), 0.7), truth, multi=True))
    assert found["sensitivity"] == found["f1"] == found["map"] == 1
    assert all(math.isnan(found[name]) for name in ("specificity", "auc", "f1_sen_spe"))


def test_always_wrong():
    """Sensitivity and specificity of 0 have the harmonic mean 0, not 0 / 0."""
    truth = columns([0, 1], 2)
    found = classification.figures(1 - truth, truth, multi=False)
    assert found["f1_sen_spe"].tolist() == [0, 0]


def test_pooling_by_hand():
    p = np.array([[0.2, 0.8], [0.6, 0.4], [0.4, 0.6], [1.0, 0.0]])
    truth = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    pooled, has, names = classification.pooled(p, truth, ["b", "a", "b", "c"], multi=True)
    assert names == ["b", "a", "c"]
    np.testing.assert_allclose(pooled, [[0.3, 0.7], [0.6, 0.4], [1.0, 0.0]])
    assert has.tolist() == [[1, 0], [0, 1], [0, 1]]
    _, has, _ = classification.pooled(p, truth, ["b", "b", "a", "a"], multi=True)
    assert has.tolist() == [[1, 1], [1, 1]]
    with pytest.raises(UserError, match="images of b are of several classes"):
        classification.pooled(p, truth, ["b", "b", "a", "a"], multi=False)


def share(probability, truth, weight=None):
    """The weighted mean of the first column: a statistic whose distribution is known."""
    weight = np.ones(len(probability)) if weight is None else weight
    return (weight * probability[:, 0]).sum(-1) / weight.sum(-1)


def test_the_bootstrap_of_a_mean_is_normal():
    """Differences d of n patients: the mean deviates by s / sqrt(n), and p is that of the normal distribution."""
    n, truth = 200, np.ones((200, 1))
    d = RNG.normal(0, 1, n)
    d += 1.8 / math.sqrt(n) * d.std() - d.mean()  # 1.8 deviations from 0
    a, b = np.zeros((1, n, 1)), np.zeros((1, n, 1))
    a[0, :, 0] = d
    who = [str(i) for i in range(n)]
    found = classification.bootstrap([a], [b], [truth], [who], 0, 5000, share)
    deviation = d.std() / math.sqrt(n)
    assert found.difference == pytest.approx(d.mean())
    assert (found.low, found.high) == pytest.approx(
        d.mean() + deviation * np.array([-1.96, 1.96]), abs=0.12 * deviation
    )
    assert found.p == pytest.approx(math.erfc(1.8 / math.sqrt(2)), abs=0.02)
    assert classification.bootstrap([b], [a], [truth], [who], 0, 5000, share).p == pytest.approx(found.p)


def test_images_of_a_patient_and_repeats_of_a_fold_are_not_independent():
    """Ten copies of every image, or ten of every training, tell nothing new: the interval is the same."""
    n, truth = 50, np.ones((50, 1))
    a, b, who = RNG.normal(0.2, 1, (1, n, 1)), np.zeros((1, n, 1)), [str(i) for i in range(n)]
    once = classification.bootstrap([a], [b], [truth], [who], 0, 500, share)
    images = classification.bootstrap(
        [np.tile(a, (1, 10, 1))], [np.tile(b, (1, 10, 1))], [np.tile(truth, (10, 1))], [who * 10], 0, 500, share
    )
    repeats = classification.bootstrap(
        [np.tile(a, (10, 1, 1))], [np.tile(b, (10, 1, 1))], [truth], [who], 0, 500, share
    )
    assert images == pytest.approx(once)
    assert repeats == pytest.approx(once)


def test_classifiers_that_agree_do_not_differ():
    a, truth = RNG.random((1, 30, 4)), columns(RNG.integers(0, 4, 30), 4)
    who = [f"{i // 2}" for i in range(30)]
    found = classification.bootstrap([a, a], [a, a], [truth, truth], [who, who], 0, 200)
    assert found == (0, 0, 0, 1)


def test_the_p_of_a_bootstrap_is_never_zero():
    truth = columns([0, 1] * 20, 2)
    found = classification.bootstrap([truth[None]], [1 - truth[None]], [truth], [[str(i) for i in range(40)]], 0, 99)
    assert found.p == pytest.approx(2 / 100)
    assert found.difference == pytest.approx(1 - 1 / 2)  # inverted, all who have it come last, at one threshold


def test_student_by_hand():
    """K = 2: t = mean / (s / sqrt 2) has the Cauchy distribution, p = 1 - (2 / pi) arctan |t|."""
    found = classification.t_test([0.1, 0.3])
    t = 0.2 / (np.std([0.1, 0.3], ddof=1) / math.sqrt(2))
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(t))
    assert found.difference == pytest.approx(0.2)
    # K = 3: p = 1 - t / sqrt(t^2 + 2).
    d = np.array([0.1, 0.3, 0.2])
    t = d.mean() / (d.std(ddof=1) / math.sqrt(3))
    assert classification.t_test(d).p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert classification.t_test(-d).p == pytest.approx(classification.t_test(d).p)
    assert (classification.t_test(d).low, classification.t_test(d).high) == pytest.approx((-0.0484, 0.4484), abs=1e-4)


def test_what_folds_share_widens():
    """Five folds: 1/5 + 1/4 in place of 1/5, so t is smaller by 3/2."""
    d = [0.01, 0.04, 0.03, 0.02, 0.05]
    plain, corrected = classification.t_test(d), classification.t_test(d, 1 / 4)
    assert corrected.high - corrected.difference == pytest.approx(1.5 * (plain.high - plain.difference))
    assert corrected.p > plain.p


def test_too_few_folds_and_no_spread():
    assert math.isnan(classification.t_test([0.3]).p)
    assert classification.t_test([0.0, 0.0]).p == 1
    assert classification.t_test([0.1, 0.1]).p == 0
