"""Whether a model can be told what the labels of a data set say: a condition that is none must not go unseen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Num

from nca_gen.contracts import Classifier, Denoiser
from nca_gen.data.source import Example, Splits
from nca_gen.errors import UserError

MAP = "label_map"  # the field of examples, and of batches, that holds the class of every place, [B, *T, 1]


def check(splits: Splits, model: Any) -> list[str]:
    """What has to be said of labels of which ``model``, a network that is told or tells classes, makes nothing.

    Looks at all that is known without decoding. Raises UserError for images without any label, for columns that are not
    those of the model, and for the first label that is none: of as many columns as classes each holds 0 or 1, a single
    one holds the grade.
    """
    notes, told = [], isinstance(model, Denoiser)
    classes = model.conditions.get("label", 0) if told else model.classes if isinstance(model, Classifier) else 0
    train = splits["train"]
    if classes and train.about and train.window is None and "label" not in train.about(0) | train[0]:
        also = "; to learn without, set --config.model.classes=0" if told else ""
        raise UserError(
            "these images have no labels: put a labels.csv with the columns filename and grade beside them (names of "
            f"sub folders are no labels){also}"
        )
    for split, values in _labelled(splits, classes) if classes else ():
        zeros = int((values == 0).all(1).sum())
        if told and zeros and values.shape[1] == classes:
            notes.append(
                f"{zeros} of {len(values)} images of {split} have no label, which is the null condition: the model "
                "cannot tell them from images of any class; a column that is 1 for them would"
            )
    return notes


def _labelled(splits: Splits, classes: int) -> Iterator[tuple[str, Num[np.ndarray, "n L"]]]:
    """The labels of each split, as they should be for ``classes``."""
    for split, source in splits.items():
        rows = [source.about(i) for i in range(len(source))] if source.about else []
        if rows and all("label" in row for row in rows):
            values = np.stack([row["label"] for row in rows])
            _columns(splits, values, classes)
            _values(splits, rows, values, classes)
            yield split, values


def _names(splits: Splits, width: int) -> list[str]:
    return list(splits.labels) if len(splits.labels) == width else [f"label {i}" for i in range(width)]


def _columns(splits: Splits, values: Num[np.ndarray, "n L"], classes: int) -> None:
    """Raises UserError for another number of columns than one, or one a class."""
    width = values.shape[1]
    if width in (1, classes):
        return
    many = f", or set --config.model.classes={width}" if np.isin(values, (0, 1)).all() else ""
    raise UserError(
        f"the images have {width} labels each ({', '.join(_names(splits, width))}), and config.model.classes is "
        f"{classes}: choose one column of grades 0 to {classes - 1}, or {classes} of 0 and 1, by --config.data.labels"
        f"{many}"
    )


def _values(splits: Splits, rows: list[Example], values: Num[np.ndarray, "n L"], classes: int) -> None:
    """Raises UserError for a label that is no class."""
    each = values.shape[1] == classes
    good = np.isin(values, (0, 1)) if each else np.isin(values, np.arange(classes))
    for row, column in np.argwhere(~good):
        where, name = splits.cite(rows[row]["name"]), _names(splits, values.shape[1])[column]
        what = (
            f"each of the {classes} label columns holds 0 or 1: choose them by --config.data.labels"
            if each
            else f"a grade is a whole number from 0 to {classes - 1}"
        )
        raise UserError(f"{where}: {name!r} is {values[row, column]:g}; with config.model.classes={classes} {what}")
