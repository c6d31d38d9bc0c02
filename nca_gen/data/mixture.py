"""Some of a source, a source of a lower resolution, several sources together, and generated images that join real ones:
for what compares trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nca_gen.data import table
from nca_gen.data.source import Box, Example, Source, clipped, digest, remember
from nca_gen.errors import UserError
from nca_gen.io import images, sets, slides, volumes, walk

MEMORY = 2  # gigabytes of generated examples that stay


def some(source: Source, at: Sequence[int]) -> Source:
    """The examples ``at`` these places."""
    window, about = source.window, source.about
    return replace(
        source,
        load=lambda i: source[at[i]],
        shapes=[source.shapes[i] for i in at],
        window=window and (lambda i, field, box, k: window(at[i], field, box, k)),
        about=about and (lambda i: about(at[i])),
        digest=lambda: digest(f"{source.digest()} {[*at]}") if source.digest() else "",
    )


def coarse(source: Source, side: int, maps: bool) -> Source:
    """The examples at at most ``side`` places along every axis, and brought back (:func:`images.coarse`).

    ``maps``: so are the fields on their grid, whose places take the value that lies nearest. Raises UserError where
    that changes no example.
    """
    if all(n <= side for shape in source.shapes for n in shape[:-1]):
        raise UserError(f"no image has more than {side} places a side, so that this resolution is theirs: take fewer")

    def nearest(grid: np.ndarray) -> np.ndarray:
        small = images.nearest(grid, [min(n, side) for n in grid.shape[:-1]])
        return images.nearest(small, grid.shape[:-1])

    def load(i: int) -> Example:
        example = source[i]
        fields = {name: nearest(example[name]) for name in source.fields} if maps else {}
        return example | {"image": images.coarse(example["image"], side)} | fields

    return replace(
        source,
        load=remember(load, MEMORY),
        window=None,
        about=source.head,
        digest=lambda: digest(f"{source.digest()} at {side} {maps}") if source.digest() else "",
    )


def joined(sources: Sequence[Source]) -> Source:
    """The examples of all ``sources`` one after the other. Images are floats, whatever the depth of each source.

    Raises UserError where they differ in axes, channels or fields.
    """
    kinds = [(s.ndim, s.shapes[0][-1], s.fields) for s in sources]
    if len(set(kinds)) > 1:
        words = (f"{n} axes, {c} channels and {', '.join(f) or 'no other field'}" for n, c, f in dict.fromkeys(kinds))
        raise UserError(f"these do not go together: images with {'; with '.join(words)}")
    owner = [(source, i) for source in sources for i in range(len(source))]

    def floats(field: str, grid: np.ndarray) -> np.ndarray:
        return images.to_float(grid) if field == "image" else grid

    def load(i: int) -> Example:
        source, j = owner[i]
        example = source[j]
        return example | {"image": images.to_float(example["image"])}

    def window(i: int, field: str, box: Box, k: int) -> np.ndarray:
        source, j = owner[i]
        part = source.window(j, field, box, k) if source.window else images.reduce(clipped(source[j][field], box), k)
        return floats(field, part)

    return Source(
        load,
        [source.shapes[i] for source, i in owner],
        all(source.resident for source in sources),
        [lost for source in sources for lost in source.unreadable],
        sources[0].fields,
        window=window,
        about=lambda i: owner[i][0].head(owner[i][1]),
        digest=lambda: digest(" ".join(parts)) if all(parts := [source.digest() for source in sources]) else "",
    )


def generated(folder: str) -> Source:
    """What lies in ``folder``: ``images`` (or volumes), and ``label_maps`` with a map for each, of the same name.

    Images are floats in [-1, 1], as they are scored (:func:`nca_gen.io.sets.open`). A labels.csv beside the images says
    in ``patient_id`` after whom each was made. Raises UserError for a folder without them, and for a map that is
    missing, damaged or of another size.
    """
    root = Path(folder).expanduser()
    if gone := [name for name in ("images", "label_maps") if not (root / name).is_dir()]:
        raise UserError(
            f"no folder {root / gone[0]}: put generated images or volumes into images, their maps of "
            "the same names into label_maps"
        )
    found = sets.open(root / "images", strict=True, wanted="images")
    if isinstance(found, slides.Slides):
        raise UserError(f"{root / 'images'} holds slides: cut them into images")
    names = [*found.names]
    shapes = found.shapes if isinstance(found, volumes.Volumes) else [found.shape[1:]] * len(found)
    map_of = table.beside(str(root / "label_maps"), (*walk.IMAGES, *volumes.SUFFIXES))
    patient = table.read(table.Files(root / "images", names, [])).patient

    def classes(i: int) -> np.ndarray:
        path = map_of(names[i])
        whole = path.name.lower().endswith(volumes.SUFFIXES)
        stored = volumes.read(path) if whole else images.checked(images.classes(path), path, bounded=False)
        return table.classes(stored, shapes[i][:-1], path)

    def about(i: int) -> Example:
        return {"name": names[i], "patient": patient[names[i]]}

    def load(i: int) -> Example:
        return about(i) | {"image": np.asarray(found[i], np.float32), "label_map": classes(i)}

    maps = [digest(classes(i).tobytes()) for i in range(len(names))]  # a map that is missing is known now
    name = digest(f"{sets.digest(found)} {maps}")
    return Source(remember(load, MEMORY), shapes, True, (), ("label_map",), about=about, digest=lambda: name)
