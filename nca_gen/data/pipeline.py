"""Batches of random patches; batch ``k`` is a function of (source, seed, k) and of nothing else.

An epoch visits example ``i`` once for every patch that fits into it, so a large image is not under-sampled and every
place is drawn about equally often; where a patch is cut and whether it is mirrored is drawn anew each time. Patches
have as many axes as the examples, and every field (:attr:`nca_gen.data.source.Source.grids`) is cut at the same place,
mirrored and transposed alike.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from nca_gen.data import flips as mirrors
from nca_gen.data import source as sources
from nca_gen.data.source import Box, Example, Source
from nca_gen.errors import UserError
from nca_gen.io import images

FLOATS = ("image", "context")  # what a network reads as numbers in [-1, 1); other fields stay as they are stored
KINDS = {2: "images", 3: "volumes"}
_EPOCH = 4096  # grain's shuffle takes up to half a millisecond per draw from a much shorter range
_ENDLESS = 2**52  # draws; of grain's own endless repetition a batch of one cannot be cut: its length is rounded up


def batches(
    source: Sequence[Example],
    *,
    patch: Sequence[int],
    batch: int,
    seed: int,
    step: int = 0,
    process: int = 0,
    processes: int = 1,
    flips: str | bool = "all",
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches, each a dict of ``[batch / processes, *patch, C]``.

    "image" is float32 in [-1, 1), as is "context" where the source has it; "label" ``[.., L]`` and other fields, if
    the source has them, come in their own type. ``step`` batches are passed over at no cost: resuming needs no other
    state. Process ``p`` has the ``p``-th share of the rows of the whole batch: their number changes nothing.
    ``flips``: which axes are mirrored, each with probability 1/2, or all 8 views (see :mod:`nca_gen.data.flips`).
    Raises UserError for a patch of another number of axes than the examples, for an example or a square smaller than
    the patch, for views of a patch that is not square, and where ``processes`` do not divide ``batch``.
    """
    import grain

    if batch % processes:
        raise UserError(f"config.train.batch={batch} cannot be dealt evenly to {processes} processes")
    source = sources.of(source)
    owner = _owners(source, patch)
    ndim, odds, turns = len(patch), mirrors.probabilities(flips, len(patch)), mirrors.transposed(flips, patch)

    def row(slot: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        i, numbers = int(owner[slot % len(owner)]), rng.random(2 * ndim)
        turn = turns and rng.random() < 0.5  # where nothing is turned no number is drawn: batches stay what they were
        example = source.read(i, _box(source.shapes[i], patch, numbers[:ndim]), rng)
        mirror = tuple(slice(None, None, -1 if u < p else 1) for u, p in zip(numbers[ndim:], odds, strict=True))
        grids = {name: example[name][mirror] for name in source.grids}
        return {name: x.swapaxes(ndim - 2, ndim - 1) if turn else x for name, x in grids.items()} | _label(example)

    slots = len(owner) * -(-_EPOCH // len(owner))
    draws = grain.MapDataset.range(slots).seed(seed).shuffle().repeat(_ENDLESS // slots).random_map(row)
    share = draws.batch(batch // processes, batch_fn=_stacked)[process::processes][step:]
    threads = 0 if source.resident else 8
    return iter(share.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)))


def patches(source: Sequence[Example], *, patch: Sequence[int], n: int, seed: int) -> Float[np.ndarray, "m *patch C"]:
    """The images of :func:`examples`."""
    return examples(source, patch=patch, n=n, seed=seed)["image"]


def examples(source: Sequence[Example], *, patch: Sequence[int], n: int, seed: int) -> dict[str, np.ndarray]:
    """A fixed set of ``n`` random patches, never mirrored, for evaluation: the fields of :func:`batches`.

    They are drawn by ``seed`` without replacement: no two are from the same place, and of an example into which only
    one patch fits there is one. Where there are fewer than ``n`` such patches, all are drawn. No example is visited
    twice before each has been visited once for every patch that fits into it.
    """
    source = sources.of(source)
    rng = np.random.default_rng(seed)
    taken: dict[int, set[int]] = defaultdict(set)
    visits = _visits(_owners(source, patch), np.array([_room(shape, patch) for shape in source.shapes]), n, rng)
    corners = rng.random((len(visits), len(patch)))
    boxes = [_free(source.shapes[i], patch, at, taken[i]) for i, at in zip(visits.tolist(), corners, strict=True)]
    rows = [source.read(i, box) for i, box in zip(visits.tolist(), boxes, strict=True)]
    return _stacked([{name: row[name] for name in source.grids} | _label(row) for row in rows])


def _visits(owner: np.ndarray, room: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The examples of up to ``n`` patches, in random rounds of ``owner``, each example at most ``room`` times."""
    visits, left, n = [], room.copy(), min(n, int(room.sum()))
    rounds = [rng.permutation(owner) for _ in range(-(-n // len(owner)))]
    while rounds:
        some = rounds.pop(0)
        order = np.argsort(some, kind="stable")
        turn = np.empty_like(order)  # how often it was there before, in this round
        turn[order] = np.arange(len(some)) - np.searchsorted(some[order], some[order])
        visits.append(some[turn < left[some]])
        left -= np.bincount(visits[-1], minlength=len(left))
        if not rounds and sum(map(len, visits)) < n:
            rounds = [rng.permutation(owner[left[owner] > 0])]
    return np.concatenate(visits)[:n]


def _room(shape: Sequence[int], patch: Sequence[int]) -> int:
    """How many different patches an example has: its places, or 1 where any two patches would overlap."""
    sides = [*zip(shape, patch, strict=False)]
    return math.prod(n - p + 1 for n, p in sides) if any(n >= 2 * p for n, p in sides) else 1


def _free(shape: Sequence[int], patch: Sequence[int], at: np.ndarray, taken: set[int]) -> Box:
    """The patch of :func:`_box`, or the next one whose corner is not ``taken``, where it is noted."""
    box, places = _box(shape, patch, at), [side - p + 1 for side, p in zip(shape, patch, strict=False)]
    place = int(np.ravel_multi_index([start for start, _ in box], places))
    while place in taken:
        place = (place + 1) % math.prod(places)
    taken.add(place)
    corner = np.unravel_index(place, places)
    return [(int(start), int(start) + p) for start, p in zip(corner, patch, strict=True)]


def check_axes(source: Source, patch: Sequence[int]) -> None:
    """Raises UserError for a ``patch`` of another number of axes than the examples."""
    if len(patch) != source.ndim:
        have = f"{KINDS.get(source.ndim, 'arrays')} with {source.ndim}"
        raise UserError(
            f"config.data.patch={tuple(patch)} has {len(patch)} axes; these are {have}: give {source.ndim} numbers"
        )


def check_fits(source: Source, patch: Sequence[int]) -> None:
    """Raises UserError for a ``patch`` of other axes than the examples, and for one that does not fit into each.

    So too for one that does not fit into ``source.square``.
    """
    check_axes(source, patch)
    sources.pieces(source.square, patch)
    small = [i for i, shape in enumerate(source.shapes) if any(n < p for n, p in zip(shape, patch, strict=False))]
    if small:
        name, size = source.head(small[0])["name"], tuple(source.shapes[small[0]][:-1])
        raise UserError(f"{len(small)} images are smaller than config.data.patch={tuple(patch)}: {name} has {size}")


def _owners(source: Source, patch: Sequence[int]) -> np.ndarray:
    """The example of every slot of an epoch. Raises UserError where ``patch`` does not fit into one."""
    check_fits(source, patch)
    sizes = np.array([shape[:-1] for shape in source.shapes])
    return np.repeat(np.arange(len(sizes)), np.rint(sizes.prod(1) / np.prod(patch)).astype(int))


def _box(shape: Sequence[int], patch: Sequence[int], at: np.ndarray) -> Box:
    """The patch whose corner lies at the fractions ``at``, in [0, 1), of the way along each axis."""
    corner = [int(u * (side - p + 1)) for u, side, p in zip(at, shape, patch, strict=False)]
    return [(start, start + p) for start, p in zip(corner, patch, strict=True)]


def _label(example: Example) -> dict[str, np.ndarray]:
    return {"label": example["label"]} if "label" in example else {}


def _stacked(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One array of the rows of each field, numbers in [-1, 1) where a network reads them."""
    out = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return out | {name: images.to_float(out[name]) for name in FLOATS if name in out}
