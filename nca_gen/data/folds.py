"""Folds by patient, with about the same labels in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Num

from nca_gen.data.source import digest
from nca_gen.errors import UserError


def folds(
    patients: Sequence[str], labels: Num[np.ndarray, "n ..."], k: int = 5, seed: int = 0
) -> list[Int[np.ndarray, " _"]]:
    """The indices of the examples in each of ``k`` folds, in ascending order; every example is in one of them.

    All examples of a patient (``patients``, one an example) lie in one fold. ``labels``: a grade, or one number for
    each label column. Patients with the most, and the rarest, labels are dealt first, each to the fold that has least
    of what the patient brings; patients that bring the same, in the order of a hash of ``seed`` and their name. So the
    folds do not depend on the order of the examples, nor on the machine.
    Raises UserError for fewer patients than folds.
    """
    names, owner = np.unique(np.asarray(patients, str), return_inverse=True)
    if not 1 < k <= len(names):
        raise UserError(f"{len(names)} patients do not make {k} folds: choose 2 to {len(names)}")
    columns = np.asarray(labels).reshape(len(owner), -1).T
    share = np.concatenate([column[:, None] == np.unique(column) for column in columns] + [np.ones((len(owner), 1))], 1)
    brings = np.zeros((len(names), share.shape[1]))
    np.add.at(brings, owner, share / share.sum(0))  # as shares of all: a rare label weighs as much as a frequent one
    order = sorted(range(len(names)), key=lambda p: (-round(brings[p].sum(), 9), digest(f"{seed}/{names[p]}")))
    loads, where = np.zeros((k, share.shape[1])), np.zeros(len(names), int)
    for p in order:
        # Of all choices, this one adds least to the sum of squares of the loads.
        where[p] = np.argmin(np.round(loads @ brings[p], 12))
        loads[where[p]] += brings[p]
    return [np.flatnonzero(where[owner] == fold) for fold in range(k)]
