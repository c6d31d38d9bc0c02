"""A plain folder of images (PNG, JPEG, TIFF, BMP, WebP): 8 or 16 bit or float32, any channels, sub folders included.

Labels, patients and splits come from an optional ``labels.csv``, see :mod:`nca_gen.data.table`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import MaxLen

from nca_gen.data import table
from nca_gen.data.source import Example, Source, Splits, complain, fits, remember
from nca_gen.errors import UserError
from nca_gen.io import images, space, walk
from nca_gen.ranges import Count, Gigabytes, Natural


class Look(NamedTuple):
    """What is known of an image as it is learned: shape, type, the ends of its values, and how large a pixel is."""

    shape: tuple[int, ...]
    dtype: np.dtype
    low: int | float
    high: int | float
    mpp: space.Sizes


def splits(
    path: str = "",
    reduce: Count = 1,
    resize: tuple[Count, Count] | None = None,
    window: Annotated[tuple[int | float, ...], MaxLen(2)] = (),
    label_maps: str = "",
    labels: tuple[str, ...] = (),
    context_factor: Count = 1,
    square: Natural = 0,
    split_seed: int = 0,
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """The three splits of the folder ``path``.

    Each image is reduced by ``reduce`` (area mean), then brought to ``resize`` = (height, width) (bicubic) if given.
    ``window`` = (low, high): these two values of what is stored become the least and the greatest that its type holds
    (-1 and 127/128 of floats), and what lies beyond is cut off: of 12 bits in files of 16, (0, 4095). Float images
    without one must lie within [-1, 1].
    Every file is decoded once here, so that a damaged one is known before the first step: it is named and skipped
    (``strict``: UserError). Decoded images stay in memory up to ``memory_gb``; the others are decoded on access.

    ``label_maps``: a folder with a map for each image, of the same name but for its ending, whose classes become the
    field ``label_map`` (int32 ``[H, W, 1]``, nearest where images are resized). ``labels``: the columns of labels.csv
    that are labels, () for all that hold numbers. ``context_factor`` and ``square``: see
    :meth:`nca_gen.data.source.Source.read`.
    Raises UserError for a missing or empty folder, a wrong labels.csv, and images of different depth or channels.
    """
    if window and not (len(window) == 2 and window[0] < window[1]):
        raise UserError(f"config.data.window={window} must be two numbers, the lower first")
    files = table.below(path, walk.IMAGES, "PNG, JPEG or TIFF images")
    rows, root = table.read(files, split_seed, labels), files.root
    map_of = table.beside(label_maps, walk.IMAGES) if label_maps else None

    def load(name: str) -> Example:
        stored, mpp = images.sized(root / name)
        seen = images.checked(stored, root / name, not window)
        image = images.reduce(images.windowed(seen, *window) if window else seen, reduce)
        covered = tuple(n * reduce for n in image.shape[:-1])
        image = images.resize(image, tuple(resize)) if resize else image
        example: Example = {"image": image, "name": name, "patient": rows.patient[name]}
        example |= {"mpp": space.scaled(mpp, covered, image.shape)} if mpp else {}
        if map_of:
            path = map_of(name)
            numbered = images.checked(images.classes(path), path, bounded=False)
            whole = table.classes(numbered, stored.shape[:-1], path)[: covered[0], : covered[1]]
            example["label_map"] = images.nearest(whole, image.shape[:-1])
        return example

    def look(name: str) -> Look:
        image = get(name)["image"]
        return Look(image.shape, image.dtype, image.min().item(), image.max().item(), get(name).get("mpp", ()))

    get = remember(load, memory_gb)
    known, lost = table.probe(rows, files.names, look)
    complain(lost, strict)
    table.uniform(root, {name: f"{x.shape[-1]} channels of {x.dtype}" for name, x in known.items()}, lost)
    rows = rows._replace(notes=[*rows.notes, *_notes(known)])
    numbers = table.labels(rows, [*known])
    size = next(iter(known.values())).dtype.itemsize + (4 if label_maps else 0)
    resident = fits((x.shape for x in known.values()), size, memory_gb)
    fields = ("label_map",) if label_maps else ()

    def about(name: str) -> Example:
        size = {"mpp": known[name].mpp} if known[name].mpp else {}
        return {"name": name, "patient": rows.patient[name]} | numbers[name] | size

    def source(names: list[str], lost: list[tuple[str, str]]) -> Source:
        return Source(
            lambda i: get(names[i]) | numbers[names[i]],
            [known[name].shape for name in names],
            resident,
            lost,
            fields,
            context_factor,
            about=lambda i: about(names[i]),
            square=square,
        )

    return table.sources(rows, [*known], lost, source, map_of)


def _notes(looks: Mapping[str, Look]) -> Iterator[str]:
    """What has to be said of the pixels of a folder."""
    yield from space.within([*looks], [x.mpp for x in looks.values()])
    low, high = min(x.low for x in looks.values()), max(x.high for x in looks.values())
    yield from images.doubts(next(iter(looks.values())).dtype, low, high)
