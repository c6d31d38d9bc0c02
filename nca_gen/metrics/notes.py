"""Caveats that must stand beside a number, and the check of features that every metric begins with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from jaxtyping import Float

from nca_gen.errors import UserError

_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


def note(text: str) -> None:
    """A caveat that must stand beside a number: goes to the nearest :func:`collecting`, else it is a UserWarning."""
    caveats = _notes.get()
    if caveats is None:
        warnings.warn(text, UserWarning, stacklevel=3)
    elif text not in caveats:
        caveats.append(text)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """A list that receives the notes made inside of the ``with``, each once."""
    token = _notes.set(caveats := [])
    try:
        yield caveats
    finally:
        _notes.reset(token)


def check(metric: str, least: int, **sets: Float[np.ndarray, "_ _"]) -> None:
    """Raises UserError for a set of features with fewer than ``least`` images, or with numbers that are not finite.

    ``sets`` are named by what their images are: ``check("fid", 2, generated=..., real=...)``.
    """
    for name, features in sets.items():
        if len(features) < least:
            images = f"{least} {name} image{'s' * (least > 1)}"
            raise UserError(f"{metric} needs at least {images} but got {len(features)}: give more, or leave it out")
        if bad := int((~np.isfinite(features).all(1)).sum()):
            raise UserError(
                f"{metric}: the features of {bad} of {len(features)} {name} images are NaN or infinite: "
                "look at these images, and at the weights of the feature network"
            )
