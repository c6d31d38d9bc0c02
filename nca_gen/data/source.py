"""What every data set is here: sequences of examples, one sequence a split."""

from __future__ import annotations

import hashlib
import math
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NotRequired, SupportsIndex, TypedDict

import numpy as np

from nca_gen.errors import UserError
from nca_gen.io.images import Image

SPLITS = ("train", "val", "test")


class Example(TypedDict):
    """One source image as it is stored. ``label`` holds one number for each label column: int32 or float32 ``[L]``.

    ``moments``, of latents: mean and log-variance of each of V variants, of which a batch draws; ``image`` is a mean.
    """

    image: Image
    name: str
    patient: str  # whoever or whatever the image is of; the name where nothing is known
    label: NotRequired[np.ndarray]
    moments: NotRequired[np.ndarray]  # [V, 2, H, W, C]


@dataclass(frozen=True)
class Source(Sequence):
    """Random access to the examples of one split.

    ``shapes`` are known without decoding; ``resident`` tells that decoded images stay in memory;
    ``unreadable`` lists the (name, reason) of files that belong here and are left out.
    """

    load: Callable[[int], Example]
    shapes: Sequence[tuple[int, int, int]]
    resident: bool = True
    unreadable: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: SupportsIndex) -> Example:
        return self.load(range(len(self))[i])


def remember(load: Callable[[Hashable], Example], gigabytes: int | float) -> Callable[[Hashable], Example]:
    """``load``, which keeps its examples (pixels made read-only) as long as they fit into ``gigabytes``."""
    held: dict[Hashable, Example] = {}
    room, lock = gigabytes * 2**30, threading.Lock()

    def get(key: Hashable) -> Example:
        nonlocal room
        if key in held:
            return held[key]
        example = load(key)
        image = example["image"]
        image.flags.writeable = False
        with lock:
            if image.nbytes <= room and key not in held:
                held[key] = example
                room -= image.nbytes
        return example

    return get


def fits(shapes: Iterable[tuple[int, ...]], itemsize: int, gigabytes: int | float) -> bool:
    """Whether images of these shapes, decoded, stay within ``gigabytes``."""
    return sum(map(math.prod, shapes)) * itemsize <= gigabytes * 2**30


def assign(groups: Sequence[str], given: Sequence[str] = (), salt: int = 0) -> list[str]:
    """A split for each item: "val" and "test" get a tenth of the ``groups`` (patients) each, "train" the rest.

    ``given`` are splits that are already fixed, one an item; of these only a missing "val" or "test" is made, out
    of "train". Groups are ranked by a hash of ``salt`` and their name, so the same files always fall the same way.
    Raises UserError where there are too few groups to hold any out.
    """
    splits = list(given) or ["train"] * len(groups)
    missing = [s for s in ("test", "val") if s not in splits]
    free = sorted({g for g, s in zip(groups, splits, strict=True) if s == "train"}, key=lambda g: digest(f"{salt}/{g}"))
    tenth = max(1, round(len(free) / 10))
    if len(free) <= len(missing) * tenth:
        raise UserError(f"{len(free)} patients or images to train on are too few to hold out {' and '.join(missing)}")
    taken = {g: split for i, split in enumerate(missing) for g in free[i * tenth : (i + 1) * tenth]}
    return [taken.get(g, s) if s == "train" else s for g, s in zip(groups, splits, strict=True)]


def digest(text: str | bytes) -> str:
    """A short name for a text or for bytes that is the same on every machine."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def complain(unreadable: Sequence[tuple[str, str]], strict: bool) -> None:
    """Names every file that is skipped, once, and their count; raises UserError instead if ``strict``."""
    if not unreadable:
        return
    names = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:20])
    more = f"; and {len(unreadable) - 20} more" if len(unreadable) > 20 else ""
    if strict:
        raise UserError(f"unreadable files ({len(unreadable)}; config.data.strict=False skips them): {names}{more}")
    print(f"unreadable files are skipped ({len(unreadable)}): {names}{more}", file=sys.stderr)


def progress(items: Iterable, what: str, total: int) -> Iterable:
    """``items``, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, what, total, console=console, transient=True, disable=not console.is_terminal)
