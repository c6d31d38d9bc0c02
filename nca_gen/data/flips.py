"""Which axes of an image or volume may be mirrored: one rule for training, encoding and classifying.

The word "dihedral" is for training alone: height and width are mirrored and exchanged, so that a square patch comes in
all its 8 views. Patches that lie anywhere, at half a patch too, come of images or regions larger than the patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from nca_gen.errors import UserError, unknown

AXES = ("horizontal", "vertical", "depth")  # the last spatial axis, the one before it, that of the slices
NAMES = ("all", "none", "dihedral", *AXES)


def axes(flips: str | bool, ndim: int = 2, field: str = "config.data.flips") -> tuple[bool, ...]:
    """For each of ``ndim`` spatial axes whether it may be mirrored.

    ``flips``: "all", "none", "dihedral" (height and width), or names of ``AXES`` joined by "+" ("depth+horizontal");
    True is all, False none. Raises UserError, which names ``field``, for another word, and for an axis that there is
    not.
    """
    words = str({True: "all", False: "none"}.get(flips, flips)).split("+")
    for word in words:
        if word not in NAMES:
            raise unknown(f"value of {field}", word, NAMES)
        if len(words) > 1 and word not in AXES:
            raise UserError(f"unknown value of {field}: {flips!r}, as {word!r} stands alone; + joins {', '.join(AXES)}")
        if word in AXES[ndim:]:
            raise UserError(f"{field}={flips!r}: an image of {ndim} axes has no {word} one")
    words = AXES[:2] if words == ["dihedral"] else words
    return tuple("all" in words or any(word in AXES[i : i + 1] for word in words) for i in reversed(range(ndim)))


def transposed(flips: str | bool, patch: Sequence[int]) -> bool:
    """Whether height and width may be exchanged. Raises UserError where the ``patch`` is then not square."""
    if flips == "dihedral" and patch[-2] != patch[-1]:
        raise UserError(f"config.data.flips='dihedral' is for square patches, and config.data.patch={tuple(patch)}")
    return flips == "dihedral"


def probabilities(flips: str | bool, ndim: int = 2) -> tuple[float, ...]:
    """How often each axis is mirrored in training: half of the time, or never."""
    return tuple(0.5 * may for may in axes(flips, ndim))


def variants(flips: str | bool, ndim: int = 2, field: str = "config.data.flips") -> list[tuple[int, ...]]:
    """All mirror images as the steps of their slices, 1 or -1 on each axis; the image itself first.

    Raises UserError for "dihedral", whose views are more than these.
    """
    if flips == "dihedral":
        raise UserError(f"{field}='dihedral' is for training alone: here images are mirrored, and not transposed")
    return [*product(*((1, -1) if may else (1,) for may in axes(flips, ndim, field)))]
