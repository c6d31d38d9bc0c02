"""A plain folder of images (PNG, JPEG, TIFF, BMP, WebP): 8 or 16 bit or float32, any channels, sub folders included.

Labels, patients and splits come from an optional ``labels.csv``, see :mod:`nca_gen.data.table`.
"""

from __future__ import annotations

import numpy as np

from nca_gen.data import table
from nca_gen.data.source import Example, Source, Splits, complain, fits, remember
from nca_gen.io import images, walk
from nca_gen.ranges import Count, Gigabytes


def splits(
    path: str = "",
    reduce: Count = 1,
    resize: tuple[Count, Count] | None = None,
    label_maps: str = "",
    labels: tuple[str, ...] = (),
    context_factor: Count = 1,
    split_seed: int = 0,
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """The three splits of the folder ``path``.

    Each image is reduced by ``reduce`` (area mean), then brought to ``resize`` = (height, width) (bicubic) if given.
    Every file is decoded once here, so that a damaged one is known before the first step: it is named and skipped
    (``strict``: UserError). Decoded images stay in memory up to ``memory_gb``; the others are decoded on access.

    ``label_maps``: a folder with a map for each image, of the same name but for its ending, whose classes become the
    field ``label_map`` (int32 ``[H, W, 1]``, nearest where images are resized). ``labels``: the columns of labels.csv
    that are labels, () for all that hold numbers. ``context_factor``: see :meth:`nca_gen.data.source.Source.read`.
    Raises UserError for a missing or empty folder, a wrong labels.csv, and images of different depth or channels.
    """
    files = table.below(path, walk.IMAGES, "PNG, JPEG or TIFF images")
    rows, root = table.read(files, split_seed, labels), files.root
    map_of = table.beside(label_maps, walk.IMAGES) if label_maps else None

    def load(name: str) -> Example:
        stored = images.read(root / name)
        image = images.reduce(stored, reduce)
        covered = tuple(n * reduce for n in image.shape[:-1])
        image = images.resize(image, tuple(resize)) if resize else image
        example = {"image": image, "name": name, "patient": rows.patient[name]}
        if map_of:
            path = map_of(name)
            whole = table.classes(images.read(path), stored.shape[:-1], path)[: covered[0], : covered[1]]
            example["label_map"] = images.nearest(whole, image.shape[:-1])
        return example

    def look(name: str) -> tuple[tuple[int, ...], np.dtype]:
        image = get(name)["image"]
        return image.shape, image.dtype

    get = remember(load, memory_gb)
    known, lost = table.probe(rows, files.names, look)
    complain(lost, strict)
    table.uniform(root, {name: f"{shape[-1]} channels of {dtype}" for name, (shape, dtype) in known.items()})
    numbers = table.labels(rows, [*known])
    size = sum(dtype.itemsize for _, dtype in [*known.values()][:1]) + (4 if label_maps else 0)
    resident = fits((shape for shape, _ in known.values()), size, memory_gb)
    fields = ("label_map",) if label_maps else ()

    def about(name: str) -> Example:
        return {"name": name, "patient": rows.patient[name]} | numbers[name]

    def source(names: list[str], lost: list[tuple[str, str]]) -> Source:
        return Source(
            lambda i: get(names[i]) | numbers[names[i]],
            [known[name][0] for name in names],
            resident,
            lost,
            fields,
            context_factor,
            about=lambda i: about(names[i]),
        )

    return table.splits(rows, [*known], lost, source, map_of)
