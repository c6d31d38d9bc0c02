"""The rows of --mode=tables: generated sets by name, and the half of the real ones that all are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from nca_gen.errors import UserError

CONFIG, MEASURED = "config.json", "measured.json"
FLOOR = "real (other half)"
OWN = ("real", FLOOR, "all rows")  # names that are ours


def systems(generated: Sequence[str], own: Iterable[str] = OWN) -> dict[str, str]:
    """Folders by the names of their rows, of words NAME=DIR. Raises UserError for a name that comes twice, or is one of
    our ``own``."""
    pairs = [one.partition("=")[::2] for one in generated]
    count = Counter([*(name.strip() for name, _ in pairs), *own])
    if twice := [name for name, n in count.items() if n > 1]:
        raise UserError(f"--tables.generated: {twice[0]!r} is the name of more than one row: give each its own")
    return {name.strip(): path for name, path in pairs}


def half(people: Sequence[str], seed: int) -> Bool[np.ndarray, " n"]:
    """Which slides are of the first half: no patient is in both, and the halves have as many slides as that allows.

    Patients come by their number of slides, those of one number by ``seed``, each to the half that has fewer by then.
    """
    count = Counter(people)
    names = sorted(count)
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    sizes, first = [0, 0], set()
    for name in sorted(shuffled, key=lambda name: -count[name]):
        side = int(sizes[1] < sizes[0])
        sizes[side] += count[name]
        first |= {name} if side == 0 else set()
    return np.array([name in first for name in people])
