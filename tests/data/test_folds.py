"""Folds by patient: a partition, without leaks, stratified, and the same everywhere."""

import numpy as np
import pytest

from nca_gen.data import folds
from nca_gen.errors import UserError

RNG = np.random.default_rng(0)
PATIENTS = [f"p{p}" for p in range(200) for _ in range(1 + p % 4)]
GRADES = np.array([int(p[1:]) % 5 for p in PATIENTS])


@pytest.mark.parametrize("labels", [GRADES, GRADES[:, None], RNG.integers(0, 2, (len(PATIENTS), 11))])
def test_every_example_is_in_one_fold_and_every_patient_too(labels):
    found = folds.folds(PATIENTS, labels, 5, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(len(PATIENTS)))
    owners = [{PATIENTS[i] for i in fold} for fold in found]
    assert sum(map(len, owners)) == 200
    assert all((np.diff(fold) > 0).all() for fold in found)


def test_labels_are_dealt_as_evenly_as_patients_allow():
    """20 patients of one example for each of 5 grades, into 5 folds: exactly 4 of each; and two rare ones apart."""
    patients, grades = [f"{i}" for i in range(100)], np.arange(100) % 5
    for fold in folds.folds(patients, grades, 5, 1):
        np.testing.assert_array_equal(np.bincount(grades[fold]), [4] * 5)
    counts = [np.bincount(GRADES[fold], minlength=5) for fold in folds.folds(PATIENTS, GRADES, 5, 0)]
    assert np.ptp(counts, 0).max() <= 2
    rare = np.zeros((100, 2), int)
    rare[:5, 1] = 1
    assert [rare[fold, 1].sum() for fold in folds.folds(patients, rare, 5, 3)] == [1] * 5


def test_order_does_not_matter_and_the_seed_does():
    order = RNG.permutation(len(PATIENTS))

    def sets(folds, names):
        return [{names[i] for i in fold} for fold in folds]

    one = sets(folds.folds(PATIENTS, GRADES, 5, 0), PATIENTS)
    shuffled = [PATIENTS[i] for i in order]
    assert sets(folds.folds(shuffled, GRADES[order], 5, 0), shuffled) == one
    assert sets(folds.folds(PATIENTS, GRADES, 5, 1), PATIENTS) != one


@pytest.mark.parametrize("k", [1, 4])
def test_too_few_patients(k):
    with pytest.raises(UserError, match="3 patients do not make"):
        folds.folds(["a", "b", "c", "c"], np.zeros(4), k)
