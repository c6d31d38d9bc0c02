"""The pictures of a reader study, stored so that nothing but what they show tells one from another.

All are cut to one size, become 8 bits of RGB, and are encoded by one encoder as tiles of a pyramid, whose levels are
means of the full size: what pyramid, codec, colour space or metadata a file had is gone. Tiles lie in SQLite, in the
order of shuffled numbers, and are all of one length.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nca_gen import screen
from nca_gen.data.slides import stained
from nca_gen.errors import UserError
from nca_gen.io import codec, images, slides, space, walk
from nca_gen.io.deepzoom import RGB, TILE, encoded, halved, rgb

GLANCE = 1024  # side of the middle of a slide's smallest level, at which is seen whether it has colours
FILE = "tiles.sqlite"
TILES = """
CREATE TABLE IF NOT EXISTS tiles (
    picture INTEGER, level INTEGER, row INTEGER, "column" INTEGER, data BLOB NOT NULL,
    PRIMARY KEY (picture, level, row, "column")
);
CREATE TABLE IF NOT EXISTS finished (picture INTEGER PRIMARY KEY);
"""
Size = tuple[int, int]
Window = Callable[[slides.Box, Size], slides.Pixels]


class Original(NamedTuple):
    """A file of a set: its full ``size`` (height, width), how it is stored, and how large a pixel is.

    ``mpp``: micrometres along height and width, () where that is not known. ``grey``: it has no colours.
    """

    path: Path
    size: Size
    codec: str
    mpp: space.Sizes = ()
    grey: bool = False


class Plan(NamedTuple):
    """How all pictures are made alike: the ``fit`` to one ``size``, and the ``quality`` of their tiles."""

    fit: str
    size: Size
    quality: int


def originals(folder: str, field: str) -> list[Original]:
    """The pictures and slides in ``folder``, each read once. Raises UserError where there are none, or one is damaged;
    ``field`` is where the folder was named."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{field}: there is no folder {folder!r}")
    names = walk.below(root, (*walk.IMAGES, *slides.EVERY))
    if not names:
        raise UserError(f"{field}: there is no picture and no slide in {folder}")
    return [original(root / name) for name in screen.track(names, f"reading {folder}")]


def original(path: Path) -> Original:
    """What is to be known of the file at ``path``. Raises UserError where it cannot be read."""
    if slides.is_slide(path):
        slide = slides.open_slide(path)
        full, last = slide.levels[0], slide.levels[-1]
        height, width = min(last.height, GLANCE), min(last.width, GLANCE)
        seen = slide.read(last, (last.height - height) // 2, (last.width - width) // 2, height, width)
        mpp = (slide.mpp,) * 2 if slide.mpp else ()
        return Original(path, (full.height, full.width), codec.of_file(path), mpp, colourless(seen))
    data = path.read_bytes()
    pixels, mpp = images.measured(data, path)
    return Original(path, pixels.shape[:2], codec.of(data), mpp, colourless(pixels))


def colourless(pixels: slides.Pixels) -> bool:
    """Whether nothing in a picture has a colour (:func:`nca_gen.data.slides.stained`)."""
    return pixels.shape[-1] < 3 or not bool(stained(images.picture(pixels)).any())


def window(path: Path) -> Window:
    """What reads any box of the picture at ``path``, in any size."""
    if slides.is_slide(path):
        return partial(slides.window, slides.open_slide(path), inside=False)
    pixels = images.read(path)
    read = lambda top, left, height, width: pixels[top : top + height, left : left + width]
    return partial(slides.resample, read, pixels.shape[:2], inside=False)


# One size for all.


def frame(real: Sequence[Original], synthetic: Sequence[Original], fit: str, size: Sequence[int]) -> Size:
    """The size that all pictures get: ``size``, or the least height and the least width of all.

    Raises UserError where pictures differ and ``fit`` does not say what to do, and where one would be enlarged.
    """
    every = [*real, *synthetic]
    least = min(one.size[0] for one in every), min(one.size[1] for one in every)
    height, width = (size[0], size[-1]) if size else least
    if not fit and (other := next((one for one in every if one.size != (height, width)), None)):
        raise UserError(
            f"pictures differ in size: {other.path} has {other.size[0]} x {other.size[1]} pixels, and not {height} x "
            f"{width}; say --readers.fit=crop, which cuts out their middles, or --readers.fit=resize"
        )
    if height > least[0] or width > least[1]:
        raise UserError(
            f"--readers.size={height},{width} is more than the smallest picture has, {least[0]} x {least[1]}: an "
            "enlarged one is seen at once"
        )
    return height, width


def box(size: Size, plan: Plan) -> slides.Box:
    """What is shown of a picture of ``size``: its middle, or all of it but for the proportions."""
    height, width = plan.size
    if plan.fit != "resize":  # pixels stay what they are
        return (size[0] - height) // 2, (size[1] - width) // 2, height, width
    factor = min(size[0] / height, size[1] / width)
    return (size[0] - factor * height) / 2, (size[1] - factor * width) / 2, factor * height, factor * width


def doubts(real: Sequence[Original], synthetic: Sequence[Original], plan: Plan) -> list[str]:
    """What may still tell the sets apart, whatever the server does; to stand in the report."""
    sentences = []
    codecs = [codec.summary(one.codec for one in some) or "unknown" for some in (real, synthetic)]
    if codecs[0] != codecs[1] and any(map(codec.lossy, codecs)):
        sentences.append(
            f"Files of the real pictures are {codecs[0]}, of the synthetic ones {codecs[1]}: readers may learn the "
            "blocks of JPEG. Give both through the same codec."
        )
    greys = [sum(one.grey for one in some) for some in (real, synthetic)]
    if greys[0] * len(synthetic) != greys[1] * len(real):
        sentences.append(
            f"{greys[0]} of {len(real)} real pictures and {greys[1]} of {len(synthetic)} synthetic ones are grey, the "
            "others in colour: a reader may tell by that alone. Give both in colours, or both in grey."
        )
    factor = lambda one: box(one.size, plan)[2] / plan.size[0]
    sizes = [[[factor(one) * side for side in one.mpp] for one in some if one.mpp][:1] for some in (real, synthetic)]
    if all(sizes) and not space.alike(sizes[0][0], sizes[1][0]):
        sentences.append(
            f"What is shown as a pixel is {space.words(sizes[0][0])} wide in real pictures and "
            f"{space.words(sizes[1][0])} in synthetic ones: cells differ in size."
        )
    factors = [float(np.median([factor(one) for one in some])) for some in (real, synthetic)]
    if max(factors) > 1.01 * min(factors):
        sentences.append(
            f"Real pictures were reduced {factors[0]:.3g} times, synthetic ones {factors[1]:.3g} times, and what is "
            "reduced more is sharper."
        )
    return sentences


# Tiles.


def levels(size: Size) -> list[Size]:
    """Sizes of a pyramid from the full one on: halves, rounded up, until one tile holds all of it."""
    sizes = [size]
    while max(sizes[-1]) > TILE:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def pyramid(read: Callable[[int, int, int, int], RGB], size: Size, keep: Callable[[int, int, int, RGB], None]) -> None:
    """Hands every tile of a pyramid to ``keep`` (level, row, column, pixels); level 0 is the full size.

    ``read`` (top, left, height, width) gives pixels of that one, each of them once: memory holds a few tiles a level.
    """
    sizes = levels(size)

    def tile(level: int, row: int, column: int) -> RGB:
        if level == 0:
            top, left = row * TILE, column * TILE
            pixels = read(top, left, min(TILE, size[0] - top), min(TILE, size[1] - left))
        else:
            rows, columns = (
                range(2 * i, min(2 * i + 2, -(-n // TILE)))
                for i, n in zip((row, column), sizes[level - 1], strict=True)
            )
            lines = [np.concatenate([tile(level - 1, r, c) for c in columns], 1) for r in rows]
            pixels = halved(np.concatenate(lines))
        keep(level, row, column, pixels)
        return pixels

    tile(len(sizes) - 1, 0, 0)


def prepare(folder: Path, pictures: Sequence[tuple[int, Original]], plan: Plan) -> None:
    """Writes the tiles of all ``pictures``, by their numbers, into ``folder``; those that are there are not made again.

    A picture is there whole or not at all, wherever this is stopped.
    """
    tiles = sum(-(-height // TILE) * -(-width // TILE) for height, width in levels(plan.size))
    with closing(sqlite3.connect(folder / FILE)) as store:
        store.executescript(TILES)
        done = {picture for (picture,) in store.execute("SELECT picture FROM finished")}
        rest = [(number, one) for number, one in pictures if number not in done]
        with screen.bar("preparing pictures", tiles * len(rest), "tiles") as bar:
            for number, one in rest:
                with store:
                    _store(store, number, one, plan, bar)


def _store(store: sqlite3.Connection, number: int, one: Original, plan: Plan, bar: screen.Bar) -> None:
    """Writes the tiles of one picture."""
    view, (top, left, height, _) = window(one.path), box(one.size, plan)
    factor = height / plan.size[0]

    def read(y: int, x: int, h: int, w: int) -> RGB:
        return rgb(view((top + factor * y, left + factor * x, factor * h, factor * w), (h, w)))

    def keep(level: int, row: int, column: int, pixels: RGB) -> None:
        data = encoded(pixels, plan.quality)
        store.execute("INSERT INTO tiles VALUES (?, ?, ?, ?, ?)", (number, level, row, column, data))
        bar.advance()

    pyramid(read, plan.size, keep)
    store.execute("INSERT INTO finished VALUES (?)", (number,))


def equalise(folder: Path) -> int:
    """Fills all tiles up with zeros, which no decoder reads, to the bytes of the longest one, and returns them.

    So neither what is sent nor how much is read for it depends on the picture. Nor does where that lies: what was
    filled up would be in pieces, so the file is written anew, in the order of numbers that are by chance.
    """
    with closing(sqlite3.connect(folder / FILE)) as store:
        store.create_function("filled", 2, lambda data, n: data.ljust(n, b"\0"), deterministic=True)
        length = store.execute("SELECT max(length(data)) FROM tiles").fetchone()[0]
        for (picture,) in store.execute("SELECT picture FROM finished").fetchall():
            with store:
                change = "UPDATE tiles SET data = filled(data, ?) WHERE picture = ? AND length(data) < ?"
                store.execute(change, (length, picture, length))
        store.execute("VACUUM")
    return length


def tile(folder: Path, picture: int, level: int, row: int, column: int) -> bytes | None:
    """A tile of a picture; None where there is none."""
    with closing(sqlite3.connect(f"{(folder / FILE).absolute().as_uri()}?mode=ro", uri=True)) as store:
        where = 'picture = ? AND level = ? AND row = ? AND "column" = ?'
        query = f"SELECT data FROM tiles WHERE {where}"
        found = store.execute(query, (picture, level, row, column)).fetchone()
    return found[0] if found else None
