"""What a metric says of itself: one value, ``ABOUT``, in each module of this room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class About(NamedTuple):
    """What a metric measures and reads.

    ``protocol``: what was measured, in a sentence or two that travel with every number. It says which direction is
    better in these words, which the report turns into an arrow: "lower / higher / near 1 / near 0 is better".
    ``features``: ``"<extractor>:<layer>"`` of the features that it compares by default; "" where it reads the images
    themselves. ``extracts``: the same, where it reads the images and takes features of parts of them by itself.
    ``rows``: it takes features of images by itself, by ``rows(images, role, **options)``, and ``score`` reads these.
    ``reference``: whose it is. ``range``: the values that it can take. ``least``: the fewest images of a set, by its
    role, where more than one is needed: with fewer ``score`` raises UserError. ``yardstick``: real images are that
    alone, and its headline is one of the generated images.
    ``alike``: what the sets that it reads must have in common, "shape" or "channels"; "" for nothing.
    ``reads``: which of ``"real"`` and ``"train"`` it needs beside the generated images; the others may be None.
    ``kinds``: of ``"images"``, ``"volumes"``, ``"slides"``, those that it scores. ``elsewhere``: what it is called with
    features of another network than that of its published name; "" for the same. ``network``: ``network(**options)``
    says what stands beside a number of a metric that brings its own network.
    """

    protocol: str
    features: str = ""
    extracts: str = ""
    reads: frozenset[str] = frozenset({"real"})
    kinds: tuple[str, ...] = ("images",)
    elsewhere: str = ""
    alike: str = ""
    reference: str = ""
    range: str = ""
    least: Mapping[str, int] = {}
    yardstick: bool = False
    rows: bool = False
    network: Callable[..., dict[str, Any]] | None = None

    @property
    def terms(self) -> str:
        """What must be known beside a number: protocol, range, fewest images, source."""
        fewest = " and ".join(f"{n} {role}" for role, n in self.least.items())
        needs = f" At least {fewest} images." if fewest else ""
        return f"{self.protocol} Range: {self.range}.{needs} Source: {self.reference}."
