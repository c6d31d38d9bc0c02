"""One large field cut into strips: the immunohistochemistry field that ships with scikit-image, or one of yours.

From left to right: "train", a strip of "val", a strip of "test", and, where asked for, "train" again: no pixel is in
two splits. They are still one field of one patient: the held-out scores say how well its texture is learned, not how
others would look.

The field (``skimage.data.immunohistochemistry``, 512 x 512 x 3, uint8) shows colonic glands, FHL2 stained brown
(DAB), nuclei blue (haematoxylin); Center for Microscopy And Molecular Imaging (CMMI), no known copyright.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from nca_gen.data.source import SPLITS, Origin, Source, Splits, content
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.ranges import Count, Natural


def splits(
    path: str = "",
    reduce: Count = 1,
    val: Count = 64,
    test: Count = 128,
    right: Natural = 0,
    context_factor: Count = 1,
    square: Natural = 0,
    strict: bool = True,
) -> Splits:
    """The strips; ``val`` and ``test`` are their widths in pixels of the field, before ``reduce`` (area mean).

    ``right`` pixels beyond them are for training again: it moves the held-out strips to where they show what the
    rest shows (the shipped field's right edge is paler than the whole).

    ``path``: an image file that takes the place of the shipped field. ``context_factor`` and ``square``: see
    :meth:`nca_gen.data.source.Source.read`; the context of a strip ends where the strip ends. ``strict`` changes
    nothing: there is one file, and without it nothing can be done.
    Raises UserError where the strips leave nothing to train on, or ``path`` is a folder.
    """
    if path and Path(path).expanduser().is_dir():
        raise UserError(
            f"data.path={path!r} is a folder, and data.name=tissue cuts up one image; for folders set data.name=folder"
        )
    field, name = (
        (images.checked(images.read(Path(path).expanduser()), path), Path(path).name)
        if path
        else (_shipped(), "immunohistochemistry")
    )
    width = field.shape[1]
    edges = [0, width - right - test - val, width - right - test, width - right, *([width] if right else [])]
    if min(np.diff(edges)) < reduce:
        raise UserError(
            f"config.data.val={val}, test={test}, right={right} do not leave strips of a field {width} pixels wide"
        )
    train, *held_out = [images.reduce(field[:, a:b], reduce) for a, b in pairwise(edges)]
    strips = ([train, *held_out[2:]], *([strip] for strip in held_out[:2]))
    sources = (_source(name, split, parts, context_factor, square) for split, parts in zip(SPLITS, strips, strict=True))
    return Splits(dict(zip(SPLITS, sources, strict=True)))


def _source(name: str, split: str, strips: list[np.ndarray], context_factor: int, square: int) -> Source:
    for strip in strips:
        strip.flags.writeable = False
    beside = {"name": f"{name}/{split}", "patient": name}
    examples = [{"image": strip} | beside for strip in strips]
    shapes = [strip.shape for strip in strips]
    return Source(
        lambda i: {**examples[i]},
        shapes,
        context_factor=context_factor,
        square=square,
        digest=lambda: content(examples),
    )


def _shipped() -> images.Image:
    import skimage

    # Not by skimage.data.immunohistochemistry(), which first loads a second's worth of readers and downloaders.
    return images.read(Path(skimage.__file__).parent / "data" / "ihc.png")


def origin(path: str = "") -> Origin | None:
    """Of the shipped field; a file of one's own says nothing of itself."""
    link, terms = "https://scikit-image.org/docs/0.26.x/api/skimage.data.html", "no known copyright restrictions"
    title = "one immunohistochemistry field of colonic glands, 512x512 (CMMI; it ships with scikit-image)"
    return None if path else Origin(title, "other", link, terms)
