"""Images larger than memory: zarr v3 arrays through TensorStore, their pyramid, and it as OME-Zarr 0.5 and as TIFF.

An array is cut into shards, one file each, that are written whole or not at all (also where the process is killed);
a shard holds chunks, which are what a read decodes. Nothing here holds more than a few tiles in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from nca_gen.errors import UserError
from nca_gen.io import space
from nca_gen.io import write as files

Store = Any  # tensorstore.TensorStore: imported late
LEAST = 256  # a pyramid ends with the first level that fits in one tile of this side
PAGE = 256  # side of the tiles of a TIFF
STRIDE = 16  # tiles of a TIFF that are read at once
COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}


@contextmanager
def refusals(path: str | Path) -> Generator[None, None, None]:
    """Turns what the operating system refuses TensorStore below ``path`` into a UserError: what stands there stays."""
    try:
        yield
    except ValueError as e:
        if "No space left" not in str(e) and "Disk quota" not in str(e):
            raise
        raise UserError(
            f"the disk of {path} is full: make room, and start the same command again; it goes on from there"
        ) from e


def array(
    path: str | Path,
    shape: Sequence[int],
    dtype: Any,
    shard: Sequence[int],
    chunk: Sequence[int],
    axes: Sequence[str] | None = None,
    packed: bool = False,
) -> Store:
    """The zarr v3 array at ``path``, made if it is not there. ``chunk`` divides ``shard``; ``packed``: with zstd."""
    import tensorstore

    packing = [{"name": "zstd", "configuration": {"level": 3}}] if packed else []
    raw = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {"chunk_shape": list(chunk), "codecs": [raw, *packing]}
    grid = {"name": "regular", "configuration": {"chunk_shape": list(shard)}}
    meta: dict[str, Any] = {"shape": list(shape), "data_type": np.dtype(dtype).name, "chunk_grid": grid}
    meta["codecs"] = [{"name": "sharding_indexed", "configuration": sharding}]
    meta |= {"dimension_names": list(axes)} if axes else {}
    where = {"driver": "file", "path": os.path.abspath(path)}  # TensorStore takes no ".."
    spec = {"driver": "zarr3", "kvstore": where, "metadata": meta}
    return tensorstore.open(spec, open=True, create=True).result()


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Heights and widths of the levels of a pyramid: halves, rounded down, until one tile holds all of it."""
    levels = [(height, width)]
    while max(levels[-1]) > LEAST and min(levels[-1]) > 1:
        levels.append((levels[-1][0] // 2, levels[-1][1] // 2))
    return levels


def halved(pixels: Shaped[np.ndarray, "C H W"]) -> Shaped[np.ndarray, "C h w"]:
    """Mean of every 2 x 2 pixels, halves up; a last odd row or column is left out."""
    c, h, w = pixels.shape[0], pixels.shape[1] // 2, pixels.shape[2] // 2
    blocks = pixels[:, : 2 * h, : 2 * w].reshape(c, h, 2, w, 2)
    if pixels.dtype.kind == "f":
        return blocks.mean((2, 4), dtype=pixels.dtype)
    return ((blocks.sum((2, 4), dtype=np.uint32) + 2) // 4).astype(pixels.dtype)


def level(
    group: str | Path,
    number: int,
    size: Sequence[int],
    channels: int,
    dtype: Any,
    shard: Sequence[int],
    chunk: Sequence[int],
) -> Store:
    """Level ``number`` of the image at ``group``: an array ``[C, H, W]``, cut into shards and chunks of pixels."""
    shape, shard, chunk = ((channels, *sides) for sides in (size, shard, chunk))
    return array(Path(group, str(number)), shape, dtype, shard, chunk, ("c", "y", "x"), packed=True)


class Multiscale(NamedTuple):
    """An OME-Zarr image: the names of its axes, its levels, the largest first, how large its voxels are by axis
    (micrometres, where that is known), and all that its group says."""

    axes: tuple[str, ...]
    levels: tuple[Store, ...]
    sizes: Mapping[str, float]
    attributes: Mapping[str, Any]


def multiscale(path: str | Path) -> Multiscale:
    """The first image of an OME-Zarr group (0.4 or 0.5).

    Raises OSError, ValueError, KeyError, IndexError or TypeError where there is none.
    """
    import tensorstore

    path = Path(path)
    new = (path / "zarr.json").is_file()
    attributes = json.loads((path / ("zarr.json" if new else ".zattrs")).read_text())
    attributes = attributes["attributes"] if new else attributes
    image = (attributes["ome"] if new else attributes)["multiscales"][0]
    stores = []
    for level in image["datasets"]:
        store = {"driver": "file", "path": os.path.abspath(path / level["path"])}
        spec = {"driver": "zarr3" if new else "zarr", "kvstore": store}
        stores.append(tensorstore.open(spec, open=True, read=True).result())
    each = [one.get("coordinateTransformations", ()) for one in (image["datasets"][0], image)]
    sizes = space.of_axes(image["axes"], chain.from_iterable(each))
    return Multiscale(tuple(axis["name"] for axis in image["axes"]), tuple(stores), sizes, attributes)


def describe(
    group: str | Path,
    levels: int,
    channels: int,
    name: str,
    dtype: Any = np.uint8,
    mpp: Sequence[int | float] = (),
    space_axes: Sequence[Mapping[str, Any]] = ({"name": "y"}, {"name": "x"}),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes what makes a group of ``levels`` arrays an image of OME-Zarr 0.5 (ngff.openmicroscopy.org/0.5).

    Pixel i of level l lies over the pixels ``2^l i .. 2^l (i + 1) - 1`` of level 0, whose sides are ``mpp``
    micrometres (along ``space_axes``), or the unit where that is not known. Three channels are red, green and blue.
    ``more``: attributes of other names beside OME's.
    """
    unit, sides = ({"unit": "micrometer"}, [*map(float, mpp)]) if mpp else ({}, [1.0] * len(space_axes))
    axes = [{"name": "c", "type": "channel"}, *({"type": "space"} | dict(axis) | unit for axis in space_axes)]
    datasets = []
    for i in range(levels):
        scale = {"type": "scale", "scale": [1.0, *(side * 2**i for side in sides)]}
        shift = {"type": "translation", "translation": [0.0, *(side * (2**i - 1) / 2 for side in sides)]}
        datasets.append({"path": str(i), "coordinateTransformations": [scale, shift]})
    image = {"name": name, "axes": axes, "datasets": datasets, "type": "mean"}
    ends = (-1, 1) if np.dtype(dtype).kind == "f" else (0, int(np.iinfo(dtype).max))
    window = dict(zip(("min", "max", "start", "end"), 2 * ends, strict=True))
    labels = [f"channel {i + 1}" for i in range(channels)]
    shown = COLOURS if channels == 3 else dict.fromkeys(labels, "FFFFFF")
    omero = {"channels": [{"label": k, "color": v, "window": window, "active": True} for k, v in shown.items()]}
    ome = {"version": "0.5", "multiscales": [image], "omero": omero}
    attributes = {"ome": ome} | dict(more or {})
    text = files.notation({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=2)
    Path(group).mkdir(parents=True, exist_ok=True)
    files.text(Path(group, "zarr.json"), text)


def tiff(
    path: str | Path,
    levels: Sequence[Store],
    tick: Callable[[int], None] = lambda pixels: None,
    mpp: Sequence[int | float] = (),
) -> None:
    """Writes levels ``[C, H, W]`` as a tiled BigTIFF, a page each, which OpenSlide and tiffslide take for a slide.

    Lossless. ``tick`` hears of the pixels as they are read. ``mpp``: micrometres of a pixel of the first level (height,
    width), which every page states for itself. Whole or not at all.
    """
    import tifffile

    with files.whole(path) as draft, tifffile.TiffWriter(draft, bigtiff=True) as file:
        for i, store in enumerate(levels):
            channels, height, width = store.shape
            file.write(
                _pages(store, tick),
                shape=(height, width, channels) if channels > 1 else (height, width),
                dtype=store.dtype.numpy_dtype,
                tile=(PAGE, PAGE),
                photometric="rgb" if channels == 3 else "minisblack",
                planarconfig=None if channels == 1 else "contig",
                compression="zlib",
                predictor=True,
                subfiletype=min(i, 1),  # a reduced form of the first page
                metadata=None,
                buffersize=2**24,
                **space.tiff([size * 2**i for size in mpp]),
            )


def _pages(store: Store, tick: Callable[[int], None]) -> Iterator[np.ndarray]:
    """The tiles of a TIFF, row by row; those at the edges are filled up with zeros."""
    channels, height, width = store.shape
    for top in range(0, height, PAGE):
        for left in range(0, width, STRIDE * PAGE):
            block = store[:, top : min(top + PAGE, height), left : min(left + STRIDE * PAGE, width)].read().result()
            tick(block[0].size)
            rest = [-n % PAGE for n in block.shape[1:]]
            block = np.pad(block, ((0, 0), (0, rest[0]), (0, rest[1])))
            for tile in np.split(block, block.shape[-1] // PAGE, -1):
                yield np.ascontiguousarray(tile[0] if channels == 1 else np.moveaxis(tile, 0, -1))
