"""Scores of each class by itself: what a mean over all classes hides, where one is rare or not learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Num, Shaped

from nca_gen.errors import UserError
from nca_gen.metrics.notes import collecting


class Classes(NamedTuple):
    """Classes by their ``names``, and which images of a set, by its role, are ``members`` of each."""

    names: tuple[str, ...]
    members: Mapping[str, Bool[np.ndarray, "_ K"]]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many images of each set have each class."""
        each = {role: of.sum(0).tolist() for role, of in self.members.items()}
        return {name: {role: n[k] for role, n in each.items()} for k, name in enumerate(self.names)}


def of(labels: Mapping[str, Num[np.ndarray, "_ L"]], columns: Sequence[str]) -> Classes | None:
    """The classes of sets that are labelled alike, by role; None where there are fewer than two.

    One column holds a grade, whose values are the classes; several hold 0 or 1, and each is a class.
    """
    if len(columns) > 1:
        return Classes(tuple(columns), {role: values > 0 for role, values in labels.items()})
    grades = np.unique(np.concatenate([values[:, 0] for values in labels.values()]))
    names = tuple(f"{next(iter(columns), 'grade')} {grade:g}" for grade in grades)
    return Classes(names, {role: values == grades for role, values in labels.items()}) if len(grades) > 1 else None


def scores(
    metric: ModuleType,
    headline: str,
    sets: Mapping[str, Shaped[np.ndarray, "_ D"] | None],
    classes: Classes,
    **how: Any,
) -> dict[str, float | None]:
    """The ``headline`` of ``metric`` by class; None where a class has too few images.

    ``sets``: "generated", "real" and "train"; one without known members is taken whole. ``how``: the other arguments
    of its ``score``.
    """
    values: dict[str, float | None] = {}
    for k, name in enumerate(classes.names):
        some = {
            role: x[classes.members[role][:, k]] if x is not None and role in classes.members else x
            for role, x in sets.items()
        }
        try:
            with collecting():
                values[name] = metric.score(**some, **how)[headline]
        except UserError:
            values[name] = None
    return values
