"""A label that is no condition is one line before anything is compiled; a condition that is none is told."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from nca_gen.data import labels
from nca_gen.data.source import Splits, of
from nca_gen.errors import UserError
from nca_gen.models import resnet34


def splits(rows, names=()):
    """A split of as many images as there are rows of labels, twice."""
    image = np.zeros((2, 2, 1), np.uint8)
    examples = [{"image": image, "label": np.asarray(row), "name": f"{i}.png"} for i, row in enumerate(rows)]
    return Splits({"train": of(examples), "test": of(examples[:1])}, names, cite=lambda name: f"t.csv, line 7 ({name})")


TOLD = tiny.cells()  # of 3 classes
TELLS = resnet34.Model(classes=3)


@pytest.mark.parametrize("model", [TOLD, TELLS])
@pytest.mark.parametrize("rows", [[[0], [2], [1]], [[0.0], [2.0], [1.0]], [[1, 0, 0], [0, 1, 1]]])
def test_what_is_a_class_is_told(model, rows):
    assert labels.check(splits(rows), model) == []


@pytest.mark.parametrize("model", [TOLD, TELLS])
@pytest.mark.parametrize("bad", [-1, 3, 0.5, 2.5])
def test_a_grade_that_is_none_names_its_place(model, bad):
    told = rf"t\.csv, line 7 \(1\.png\): 'dr' is {bad:g}; with config\.model\.classes=3 a grade is .* 0 to 2"
    with pytest.raises(UserError, match=told):
        labels.check(splits([[0], [bad]], ("dr",)), model)


@pytest.mark.parametrize("model", [TOLD, TELLS])
def test_numbers_of_anything_are_no_labels(model):
    """Row numbers and ages among as many columns as classes: not 0/1, and so no condition."""
    names = ("Unnamed: 0", "dr", "dme")
    with pytest.raises(UserError, match=r"1\.png\): 'Unnamed: 0' is 7; .* each of the 3 label columns holds 0 or 1"):
        labels.check(splits([[0, 1, 0], [7, 0, 1]], names), model)
    with pytest.raises(
        UserError, match=r"2 labels each \(label 0, label 1\), and config\.model\.classes is 3: .*labels$"
    ):
        labels.check(splits([[0, 40], [1, 50]]), model)
    with pytest.raises(UserError, match=r"or set --config\.model\.classes=2$"):
        labels.check(splits([[0, 1], [1, 0]]), model)


def test_a_row_without_any_label_is_the_null_condition():
    told, *others = labels.check(splits([[1, 0, 0], [0, 0, 0], [0, 0, 0]]), TOLD)
    assert told.startswith("2 of 3 images of train have no label, which is the null condition")
    assert others == []
    assert labels.check(splits([[1, 0, 0], [0, 0, 0]]), TELLS) == []  # one of several classes may be none


def test_who_is_told_nothing_asks_nothing():
    assert labels.check(splits([[7], [0.5]]), tiny.cells(classes=0)) == []
    assert labels.check(splits([[7], [0.5]]), tiny.diff()) == []
    assert labels.check(tiny.splits(), TOLD) == []  # images without labels: the task says that


@pytest.mark.parametrize(("model", "more"), [(TOLD, r"config\.model\.classes=0"), (TELLS, r"no labels\)$")])
def test_images_without_any_label_are_told_before_training(model, more):
    """Names of sub folders are none."""
    none = Splits({"train": of([{"image": np.zeros((2, 2, 1), np.uint8), "name": "0/0.png", "patient": "0"}])}, ())
    with pytest.raises(UserError, match=rf"have no labels: put a labels\.csv .*{more}"):
        labels.check(none, model)
