"""Runs that do not generate, such as classifiers: evaluators ask of their pipeline the trained part alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float, Key

from nca_gen.contracts import Condition, Parts
from nca_gen.errors import UserError


@dataclass(frozen=True)
class Pipeline:
    """Nothing, of any parts."""

    parts: Parts
    kind: ClassVar[str] = "nothing"

    def title(self) -> list[str]:
        """No words for the name of a folder."""
        return []

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "*T C"]]:
        """Raises UserError."""
        raise UserError(f"this run generates nothing; leave out what needs samples of {size}")

    def write(self, folder: Path) -> list[str]:
        """Raises UserError."""
        raise UserError("this run generates nothing; train one whose task is to denoise, or an autoencoder")
