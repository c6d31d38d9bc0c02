"""What every data set is here: three splits, each a sequence of examples, of any number of axes and of any size."""

from __future__ import annotations

import hashlib
import math
import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Num

from nca_gen.contracts import unchanged
from nca_gen.errors import UserError
from nca_gen.io import images

SPLITS = ("train", "val", "test")
Grid = Num[np.ndarray, "*T C"]
Box = Sequence[tuple[int, int]]
"""First place and the one after the last, on each spatial axis; it may reach beyond the example."""
Span = Sequence[tuple[Any, Any]]
"""The same, where ends may also lie between two places."""


Example = dict[str, Any]
"""One image or volume as it is stored: ``image`` (:data:`Grid`), ``name``, and ``patient``, whoever or whatever it is
of (the name where nothing is known). Perhaps also:

``label``: one number for each label column, int32 or float32 ``[L]``. ``label_map``: classes on the grid of the image,
int32 ``[*T, 1]``, and other fields there, all of which :attr:`Source.fields` names. ``context``: the surroundings of a
patch (:meth:`Source.read`). ``window``: the two stored values that became -1 and 127/128. ``moments``, of latents: mean
and log-variance of each of V variants, float32 ``[V, 2, *S, C]``, of which a batch draws; ``image`` is a mean.
"""


@dataclass(frozen=True)
class Source(Sequence):
    """Random access to the examples of one split.

    ``shapes``: ``[*T, C]`` of each, known without decoding, all of one number of axes. ``resident``: decoded images
    stay in memory. ``unreadable`` lists the (name, reason) of files that belong here and are left out. ``fields`` names
    what an example has on the grid of its image. ``context_factor`` above 1: patches come with their surroundings, so
    many times as wide; a float where ``window`` can read at any place, not at whole ones alone. ``square``: side of the
    square of which a patch is a piece, and whose surroundings are meant; 0: the patch is all of it.

    Where an example is too large to be decoded for one patch, ``window(i, field, box, k)`` reads the ``box`` of a field
    reduced by ``k`` (area mean), beyond the example too. ``about(i)`` gives what is known without its pixels: name,
    patient, label. ``digest()`` names the content, images and labels in their order, wherever they lie; "" is unknown.
    """

    load: Callable[[int], Example]
    shapes: Sequence[tuple[int, ...]]
    resident: bool = True
    unreadable: Sequence[tuple[str, str]] = ()
    fields: tuple[str, ...] = ()
    context_factor: int | float = 1
    window: Callable[[int, str, Any, Any], Grid] | None = None
    about: Callable[[int], Example] | None = None
    digest: Callable[[], str] = str
    square: int = 0

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.shapes)

    def __getitem__(self, i: SupportsIndex) -> Example:
        """Example ``i``, whole."""
        return self.load(range(len(self))[i])

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.shapes[0]) - 1

    @property
    def grids(self) -> tuple[str, ...]:
        """The fields of a patch that are cut and flipped together."""
        return ("image", *self.fields, *(("context",) if self.context_factor > 1 else ()))

    def head(self, i: int) -> Example:
        """What is known of example ``i`` beside its pixels: name, patient, label."""
        return self.about(i) if self.about else known(self[i], self.fields)

    def read(self, i: int, box: Box, rng: np.random.Generator | None = None) -> Example:
        """Example ``i`` within ``box``: the image, every field at the same place, and what is known beside.

        ``context`` is the window of ``context_factor`` times the sides around the same middle, reduced to the size of
        the patch; beyond the edge of what there is, the nearest place is repeated. With a ``square`` it is the piece
        of the square's context that the patch is of the square, and no more than this is read: the middle piece, or
        where there is an ``rng`` one that it draws. ``rng`` also draws the image where only its distribution is known
        (``moments``); without it the image is the mean.
        Raises UserError for a ``square`` smaller than the patch.
        """
        k = self.context_factor
        parts: list[tuple[str, str, Span, Any]] = [(name, name, box, 1) for name in ("image", *self.fields)]
        if k > 1:
            sides = [b - a for a, b in box]
            parts.append(("context", "image", around(box, k, pieces(self.square, sides, rng)), k))
        if self.window:
            return self.head(i) | {name: self.window(i, field, where, k) for name, field, where, k in parts}
        whole = dict(self[i])
        whole["image"] = drawn(whole, rng)
        whole.pop("moments", None)
        return whole | {name: images.reduce(clipped(whole[field], where), k) for name, field, where, k in parts}


@dataclass(frozen=True, eq=False)
class Splits(Mapping[str, Source]):
    """The sources of "train", "val" and "test", which is what ``splits`` of every module of this room returns.

    ``labels``: names of the label columns, () where they have none or there are no labels. ``decode`` makes images in
    [-1, 1] of a batch of what the sources hold, where these are latents. ``origin`` opens the images that latents were
    encoded from. ``notes`` have to be said of the files. ``cite`` says where what is known of an example stands.
    """

    sources: Mapping[str, Source]
    labels: tuple[str, ...] = ()
    decode: Callable[[np.ndarray], np.ndarray] = unchanged
    origin: Callable[[], Splits] | None = None
    notes: tuple[str, ...] = ()
    cite: Callable[[str], str] = str

    def __getitem__(self, split: str) -> Source:
        """The source of a split."""
        return self.sources[split]

    def __iter__(self) -> Iterator[str]:
        """The names of the splits."""
        return iter(self.sources)

    def __len__(self) -> int:
        """The number of splits."""
        return len(self.sources)

    @cached_property
    def pixels(self) -> Splits:
        """The splits of the images that these latents were encoded from; these themselves where they are images."""
        return self.origin() if self.origin else self


class Origin(NamedTuple):
    """Where a data set comes from: ``title``, ``licence`` as a model hub spells it, ``link``.

    ``terms``: the licence in words, where the hub has no word of its own and ``licence`` is "other".
    """

    title: str
    licence: str
    link: str
    terms: str = ""


def of(examples: Sequence[Example]) -> Source:
    """The source of examples in memory; a source is its own."""
    if isinstance(examples, Source):
        return examples
    shapes = [example["image"].shape for example in examples]
    return Source(lambda i: examples[i], shapes, about=lambda i: known(examples[i]), digest=lambda: content(examples))


def known(example: Example, fields: Sequence[str] = ()) -> Example:
    """What is known of an example beside what it has on its grid: the image and ``fields``."""
    return {name: value for name, value in example.items() if name not in ("image", "moments", *fields)}


def content(examples: Iterable[Example]) -> str:
    """What names images and labels in their order."""
    key = hashlib.sha256()
    for example in examples:
        for array in (example["image"], example.get("label", ())):
            array = np.asarray(array)
            key.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return key.hexdigest()


def drawn(example: Example, rng: np.random.Generator | None = None) -> Grid:
    """The image, or where ``rng`` is given and only the distribution is known a sample of one of its variants."""
    if rng is None or "moments" not in example:
        return example["image"]
    mean, logvar = example["moments"][rng.integers(len(example["moments"]))]
    return mean + np.exp(logvar / 2) * rng.standard_normal(mean.shape, np.float32)


def clipped(array: Any, box: Box) -> Num[np.ndarray, "*S C"]:
    """The part of ``array`` in ``box``; beyond its edges the nearest place is repeated.

    ``array`` is ``[*T, C]``, or anything with that ``shape`` of which slices can be read.
    """
    sides = [*zip(box, array.shape, strict=False)]
    part = array[tuple(slice(min(max(a, 0), n - 1), max(min(b, n), 1)) for (a, b), n in sides)]
    for axis, ((a, b), n) in enumerate(sides):
        if a < 0 or b > n:
            places = np.clip(np.arange(a, b), 0, n - 1)
            part = part.take(places - places[0], axis)
    return part


def around(box: Box, factor: int | float, margins: Box = ()) -> Span:
    """The context of ``box``: ``factor`` times the sides around its middle; where that is odd, half a place before it.

    ``margins``: how far the square of which the box is a piece goes on before and behind it, on each axis; the context
    is then the same piece of that of the square. A ``factor`` that is a float gives the exact place, whole or not.
    """
    margins = margins or [(0, 0)] * len(box)
    shifts = [(factor - 1) * (b - a + after - before) for (a, b), (before, after) in zip(box, margins, strict=True)]
    starts = [a - (x // 2 if isinstance(factor, int) else x / 2) for (a, _), x in zip(box, shifts, strict=True)]
    return [(start, start + factor * (b - a)) for start, (a, b) in zip(starts, box, strict=True)]


def pieces(square: int, sides: Sequence[int], rng: np.random.Generator | None = None) -> list[tuple[int, int]]:
    """How far a ``square`` goes on before and behind a patch of these ``sides``, on each axis: evenly, or as drawn.

    Of no square, 0, it does not. Raises UserError for one that is smaller than the patch.
    """
    if not square:
        return [(0, 0)] * len(sides)
    if square < max(sides):
        raise UserError(
            f"config.data.square={square} is smaller than config.data.patch={tuple(sides)}, which is a piece of it: "
            f"give {max(sides)} or more, or 0 where the patch is all of it"
        )
    before = [int(rng.integers(square - side + 1)) if rng else (square - side) // 2 for side in sides]
    return [(first, square - side - first) for first, side in zip(before, sides, strict=True)]


def remember(load: Callable[[Any], Example], gigabytes: int | float) -> Callable[[Any], Example]:
    """``load``, which keeps its examples (pixels made read-only) as long as they fit into ``gigabytes``."""
    memory: dict[Hashable, Example] = {}
    room, lock = gigabytes * 2**30, threading.Lock()

    def get(key: Hashable) -> Example:
        nonlocal room
        if key in memory:
            return memory[key]
        example = load(key)
        arrays = [value for value in example.values() if isinstance(value, np.ndarray)]
        for array in arrays:
            array.flags.writeable = False
        size = sum(array.nbytes for array in arrays)
        with lock:
            if size <= room and key not in memory:
                memory[key] = example
                room -= size
        return example

    return get


def fits(shapes: Iterable[tuple[int, ...]], itemsize: int, gigabytes: int | float) -> bool:
    """Whether images of these shapes, decoded, stay within ``gigabytes``."""
    return sum(map(math.prod, shapes)) * itemsize <= gigabytes * 2**30


def assign(groups: Sequence[str], given: Sequence[str] = (), salt: int = 0, few: bool = False) -> list[str]:
    """A split for each item: "val" and "test" get a tenth of the ``groups`` (patients) each, "train" the rest.

    ``given`` are splits that are already fixed, one an item; of these only a missing "val" or "test" is made, out
    of "train". Groups are ranked by a hash of ``salt`` and their name, so the same files always fall the same way.
    Raises UserError where there are too few groups to hold any out; with ``few`` one of two is held out for the first
    that is missing, and of one none (:func:`completed`).
    """
    splits = list(given) or ["train"] * len(groups)
    missing = [s for s in ("test", "val") if s not in splits]
    free = sorted({g for g, s in zip(groups, splits, strict=True) if s == "train"}, key=lambda g: digest(f"{salt}/{g}"))
    tenth = max(1, round(len(free) / 10))
    if len(free) <= len(missing) * tenth:
        if few and free:
            missing = missing[: len(free) - 1]
            return [missing[0] if missing and g == free[0] else s for g, s in zip(groups, splits, strict=True)]
        raise UserError(
            f"{len(free)} patients or images to train on are too few to hold out {' and '.join(missing)}: add some, or "
            "put those to be held out in folders val and test"
        )
    taken = {g: split for i, split in enumerate(missing) for g in free[i * tenth : (i + 1) * tenth]}
    return [taken.get(g, s) if s == "train" else s for g, s in zip(groups, splits, strict=True)]


def completed(sources: Mapping[str, Source]) -> dict[str, Source]:
    """All splits, of "train" and what is held out: that is "val" and "test" alike where one of them is missing.

    Where both are missing, they are the :func:`strips` of the examples that training then goes without.
    """
    train, held = sources["train"], next((sources[split] for split in SPLITS[1:] if split in sources), None)
    if held is None:
        train, held = strips(train)
    return {"train": train, "val": sources.get("val", held), "test": sources.get("test", held)}


def strips(source: Source) -> tuple[Source, Source]:
    """``source`` without the ends of its examples along their longest sides, and these: a quarter of the side, or more
    where that is less than 64 places, up to the half."""
    rest, ends = [], []
    for *sides, _ in source.shapes:
        axis, side = max(enumerate(sides), key=lambda item: item[1])
        end = side - max(side // 4, min(side // 2, 64))
        rest.append((axis, 0, end))
        ends.append((axis, end, side))
    return cut(source, rest), cut(source, ends)


def cut(source: Source, spans: Sequence[tuple[int, int, int]]) -> Source:
    """``source`` of whose examples there is but a part: of each (axis, first place, the one after the last)."""

    def load(i: int) -> Example:
        axis, start, stop = spans[i]
        whole, place = source[i], (*[slice(None)] * axis, slice(start, stop))
        return whole | {field: whole[field][place] for field in ("image", *source.fields)}

    def window(i: int, field: str, box: Span, k: int | float) -> Grid:
        axis, start, _ = spans[i]
        shift = np.eye(len(box), dtype=int)[axis] * start
        return source.window(i, field, [(a + s, b + s) for (a, b), s in zip(box, shift.tolist(), strict=True)], k)

    shapes = [(*shape[:n], b - a, *shape[n + 1 :]) for shape, (n, a, b) in zip(source.shapes, spans, strict=True)]
    return replace(source, load=load, shapes=shapes, window=window if source.window else None)


def sliced(splits: Splits) -> Splits:
    """``splits`` of volumes as those of their slices along D, in order; NAME@d is slice d of NAME.

    Raises UserError for images, and for volumes with a context.
    """
    sources = {split: slices(source) for split, source in splits.items()}
    return replace(splits, sources=sources, origin=splits.origin and (lambda: sliced(splits.pixels)))


def slices(source: Source) -> Source:
    """The slices along D of the volumes of ``source``; see :func:`sliced`."""
    if source.ndim != 3:
        raise UserError(f"config.data.slices is for volumes, and these are of {source.ndim} axes: leave it out")
    if source.context_factor > 1:
        raise UserError("config.data.slices: slices have no context; set config.data.context_factor to 1")
    at, part = [(i, d) for i, shape in enumerate(source.shapes) for d in range(shape[0])], source.window

    def about(j: int) -> Example:
        i, d = at[j]
        head = source.head(i)
        size = {"mpp": head["mpp"][1:]} if head.get("mpp") else {}
        return head | {"name": f"{head['name']}@{d}"} | size

    def load(j: int) -> Example:
        i, d = at[j]
        whole = source[i]
        moments = {"moments": whole["moments"][:, :, d]} if "moments" in whole else {}
        return about(j) | {field: whole[field][d] for field in ("image", *source.fields)} | moments

    def window(j: int, field: str, box: Span, k: int | float) -> Grid:
        i, d = at[j]
        assert part is not None
        return part(i, field, [(d, d + 1), *box], k)[0]

    return replace(
        source,
        load=load,
        shapes=[source.shapes[i][1:] for i, _ in at],
        window=window if part else None,
        about=about,
        digest=lambda: source.digest() and digest(f"slices {source.digest()}"),
    )


def people(names: Sequence[str]) -> list[str]:
    """Of every name of a patient the first that means the same: those differ in case, in blanks at the ends and between
    letters and digits, in the form of letters and dashes, in zeros before a number, by ".0" behind it, or are written
    as 1E+05 for 100000.

    Spreadsheets change all of these. Two patients who are taken for one fall on one side of a split, which does no
    harm; one who is taken for two may fall on both.
    """
    first: dict[str, str] = {}
    return [first.setdefault(_spelled(name), name) for name in names]


def _spelled(name: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", text)
    text = re.sub(r"(?<=[^\W\d_]) (?=\d)|(?<=\d) (?=[^\W\d_])", "", text)
    if re.fullmatch(r"\d(\.\d+)?e\+?\d{1,2}", text):
        return str(int(float(text)))
    text = re.sub(r"^(\d+)\.0+$", r"\1", text)
    return re.sub(r"0*(\d+)", r"\1", text)


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
