"""Scores by class: of whom they are, and what is said of a class with too few images."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import features

from nca_gen.metrics import classes, fid
from nca_gen.metrics.notes import collecting


def test_a_grade_has_a_class_for_each_value_and_columns_are_classes():
    graded = classes.of({"real": np.array([[2], [0], [2]]), "generated": np.array([[3], [0]])}, ["severity"])
    assert graded.names == ("severity 0", "severity 2", "severity 3")
    assert graded.members["real"].tolist() == [[False, True, False], [True, False, False], [False, True, False]]
    several = classes.of({"real": np.array([[1, 1], [0, 0], [0, 1]])}, ["DME", "CNV"])
    assert several.counts() == {"DME": {"real": 1}, "CNV": {"real": 2}}
    assert classes.of({"real": np.array([[1], [1]])}, ["severity"]) is None


def test_each_class_is_scored_by_its_own_images():
    """FID of rows that are picked by hand; a class with one image has none, and a set without labels is whole."""
    sets = {"generated": features(0, 30, 4), "real": features(1, 30, 4), "train": None}
    label = np.repeat([0, 1, 2], [14, 15, 1])[:, None]
    known = classes.of({"generated": label, "real": label[::-1]}, ["grade"])
    got = classes.scores(fid, "fid", sets, known, seed=0)
    with collecting():
        one = fid.score(sets["generated"][:14], sets["real"][16:], None, 0)["fid"]
        two = fid.score(sets["generated"][14:29], sets["real"][1:16], None, 0)["fid"]
        whole = fid.score(sets["generated"][:14], sets["real"], None, 0)["fid"]
    assert got == {"grade 0": pytest.approx(one), "grade 1": pytest.approx(two), "grade 2": None}
    alone = classes.of({"generated": label}, ["grade"])
    assert classes.scores(fid, "fid", sets, alone, seed=0)["grade 0"] == pytest.approx(whole)
