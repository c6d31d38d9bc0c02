"""Images as arrays ``[H, W, C]`` in the depth in which they are stored: uint8, uint16 or float32.

What a file says about colour is kept or becomes grey or RGB, by the table of :mod:`nca_gen.io.colour`: a palette is
the RGB that it stands for, an alpha channel is dropped (the colours under it are not blended), CMYK becomes RGB,
samples of few bits are stretched to all of their type. Images are upright, as their EXIF or TIFF orientation says. How
large a pixel is (``mpp``, micrometres along height and width) is as in :mod:`nca_gen.io.space`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8

from nca_gen.errors import UserError
from nca_gen.io import colour, space

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
Image = Shaped[np.ndarray, "H W C"]
Reader = Callable[[bytes], tuple[np.ndarray, space.Sizes]]
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STACK = 16  # more pages than this are a volume, not the channels of an image
_MOVING = ("GIF", "PNG", "WEBP")  # formats of pillow whose pages are frames, and not previews
_PNM = re.compile(rb"P([56])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s")


class Unreadable(UserError):  # noqa: N818
    """An image file that cannot be read, for a ``reason`` in plain words."""

    def __init__(self, path: str | Path, reason: str):
        """``reason``: what comes after "cannot read PATH: "."""
        super().__init__(f"cannot read {path}: {reason}")
        self.path, self.reason = str(path), reason


def natural(path: str | Path) -> list:
    """Sort key under which ``img9`` comes before ``img10``."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", str(path)))]


def read(path: str | Path) -> Image:
    """The image in a PNG, JPEG or TIFF file. Raises :class:`Unreadable`, whatever is wrong with it."""
    return decode(_bytes(path), path)


def sized(path: str | Path) -> tuple[Image, space.Sizes]:
    """The image in a file, and how large a pixel is, () where it does not say. Raises :class:`Unreadable`."""
    return measured(_bytes(path), path)


def decode(data: bytes, path: str | Path = "image") -> Image:
    """The image in the bytes of a PNG, JPEG or TIFF file; ``path`` is its name in errors."""
    return measured(data, path)[0]


def measured(data: bytes, path: str | Path = "image") -> tuple[Image, space.Sizes]:
    """The same as :func:`sized` of the bytes of a file; ``path`` is its name in errors."""
    return _decoded(data, path, _tiff, _png)


def classes(path: str | Path) -> Image:
    """The numbers in a file, upright, as they are stored: of a palette the indices, of few bits what they count.

    Raises :class:`Unreadable`.
    """
    return _decoded(_bytes(path), path, _tiff_classes, _png_classes)[0]


def checked(image: Shaped[np.ndarray, "*S"], path: str | Path, bounded: bool = True) -> Shaped[np.ndarray, "*S"]:
    """``image``, whose numbers can be learned from: Unreadable, which names ``path``, where they cannot.

    Floats must be finite, and where they are ``bounded`` within [-1, 1].
    """
    if image.dtype.kind != "f":
        return image
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():
        raise Unreadable(path, f"it holds NaN or infinite {'voxels' if image.ndim == 4 else 'pixels'}")
    if bounded and (low < -1 or high > 1):
        ends = f"float pixels reach from {low:.4g} to {high:.4g}"
        raise Unreadable(path, f"{ends}: scale or clip them to [-1, 1], or set --config.data.window")
    return image


def windowed(image: Image, low: int | float, high: int | float) -> Image:
    """``low`` .. ``high`` stretched to all that an unsigned type holds, of floats to -1 .. 127/128; what lies beyond is
    cut off."""
    part = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    if image.dtype.kind == "f":
        return part * np.float32(255 / 128) - np.float32(1)
    return np.rint(part * np.iinfo(image.dtype).max).astype(image.dtype)


def doubts(dtype: Any, low: int | float, high: int | float) -> Iterator[str]:
    """What has to be said of pixels that reach from ``low`` to ``high``, where their type means more than that."""
    kind, top = np.dtype(dtype).kind, 8 * np.dtype(dtype).itemsize
    if kind == "u" and 0 < (bits := int(high).bit_length()) <= {8: 4, 16: 14}.get(top, 0):
        factor, most = (2**top - 1) // (2**bits - 1), 2**bits - 1
        yield (
            f"pixels are of {top} bits and end at {high:g}, which takes {bits}: they are nearly black as they are "
            f"read; multiply them by {factor}, or train with --config.data.window=0,{most}"
        )
    if kind == "f" and low >= 0:
        yield f"float pixels from {low:.4g} to {high:.4g} are taken as grey to white: store 2v - 1 if 0 is black"


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(path, (error.strerror or str(error)).lower()) from None


def _decoded(data: bytes, path: str | Path, tiff: Reader, other: Reader) -> tuple[Image, space.Sizes]:
    """What ``tiff`` or ``other`` reads; Unreadable for whatever they raise, and for types that are no pixels."""
    if not data:
        raise Unreadable(path, "the file is empty")
    try:
        image, mpp = (tiff if data[:4] in _TIFF else other)(data)
    except Exception as error:  # on damaged bytes each codec raises what it likes: struct, zlib, Key, Syntax, ...
        reason = "not a PNG, JPEG or TIFF image" if "cannot identify" in str(error) else str(error).lower()
        raise Unreadable(path, reason or type(error).__name__) from None
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise Unreadable(path, f"pixels are {image.dtype}; save them as uint8, uint16 or float32")
    return np.ascontiguousarray(image), mpp


def upright(image: Image, orientation: int) -> Shaped[np.ndarray, "h w C"]:
    """``image`` as it is seen, of pixels that are stored in an EXIF ``orientation`` of 1 .. 8."""
    if orientation not in range(2, 9):
        return image
    seen = image.swapaxes(0, 1) if orientation > 4 else image
    return seen[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _opened(data: bytes) -> Any:
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None  # a whole field of tissue is no decompression bomb
    return PIL.Image.open(io.BytesIO(data))


def _png(data: bytes) -> tuple[Image, space.Sizes]:
    """PNG, JPEG, and what else pillow knows. Of 16 bits it would cut colours down to 8."""
    if deep := _pnm(data):
        return deep
    with _opened(data) as image:
        if image.format in _MOVING and image.n_frames > 1:
            raise ValueError(f"it holds {image.n_frames} frames, and an image is one; save them apart")
        mpp, grey = space.of_picture(image), {"1": "L", "L": "L", "LA": "L", "La": "L"}.get(image.mode, "RGB")
        if data[1:4] == b"PNG" and data[24:25] == b"\x10":
            import imagecodecs

            pixels = np.atleast_3d(imagecodecs.png_decode(data))
            pixels = pixels[..., :-1] if pixels.shape[-1] in (2, 4) else pixels
            return upright(pixels, _orientation(image) if b"eXIf" in data else 1), mpp
        if image.mode == "F" or image.mode.startswith("I"):  # which pillow would clip to 8 bits
            pixels = np.asarray(image)[..., None]
            fits = pixels.dtype.kind == "i" and pixels.min() >= 0 and pixels.max() <= 65535
            return upright(pixels.astype(np.uint16) if fits else pixels, _orientation(image)), mpp
        return upright(np.atleast_3d(np.asarray(image.convert(grey))), _orientation(image)), mpp


def _pnm(data: bytes) -> tuple[Image, space.Sizes] | None:
    """A PGM or PPM of more than 8 bits, stretched to 16; None for all else. Pillow cuts their colours down to 8."""
    head = _PNM.match(data)
    if not head or int(head[4]) < 256:
        return None
    channels, width, height, most = 1 if head[1] == b"5" else 3, *map(int, head.groups()[1:])
    pixels = np.frombuffer(data, ">u2", width * height * channels, head.end()).astype(np.uint64)
    return ((pixels * 65535 + most // 2) // most).astype(np.uint16).reshape(height, width, channels), ()


def _png_classes(data: bytes) -> tuple[Image, space.Sizes]:
    """Of a palette its indices; grey of few bits as it was before pillow stretched it."""
    with _opened(data) as image:
        if image.mode == "P":
            return upright(np.asarray(image)[..., None], _orientation(image)), ()
    pixels, mpp = _png(data)
    bits = data[24] if data[1:4] == b"PNG" and data[25:26] == b"\0" else 8
    return pixels // np.uint8(255 // (2**bits - 1)) if bits < 8 else pixels, mpp


def _orientation(image: Any) -> int:
    return image.getexif().get(0x0112, 1)


def _tiff(data: bytes) -> tuple[Image, space.Sizes]:
    image, page = _series(data)
    return upright(colour.of(page).convert(image), page.tags.valueof(274, 1)), space.of_page(page)


def _tiff_classes(data: bytes) -> tuple[Image, space.Sizes]:
    image, page = _series(data)
    image = image.astype(np.uint8) if image.dtype == bool else image
    return upright(image, page.tags.valueof(274, 1)), space.of_page(page)


def _series(data: bytes) -> tuple[Image, Any]:
    """The first series as it is stored, and its page. An axis besides Y and X that is longer than 1 is the channels, in
    planes or interleaved; Z or T is refused.

    Where the file does not name the axis, the shorter of the first and the last is the channels.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series, page = tiff.series[0], tiff.series[0].keyframe
        if n := sum(other.shape == series.shape for other in tiff.series[1:]):
            raise ValueError(f"it holds {n + 1} images of one size, and is none; save them apart")
        ends = [sum(piece) for p in tiff.pages for piece in zip(p.dataoffsets, p.databytecounts, strict=True)]
        if max(ends, default=0) > len(data):  # a JPEG strip cut short would be decoded without complaint
            raise ValueError("the file is truncated")
        colour.of(page)  # what is refused need not be decoded
        image, axes = series.asarray(), series.axes
        single = [i for i, axis in enumerate(axes) if image.shape[i] == 1 and axis not in "YXS"]
        image = image.squeeze(tuple(single))
        axes = "".join(axis for i, axis in enumerate(axes) if i not in single)
        extra = axes.replace("Y", "").replace("X", "")
        if len(extra) > 1 or extra in ("Z", "T") or (extra in ("Q", "I") and min(image.shape[::2]) > _STACK):
            raise ValueError(f"a stack of shape {image.shape}, axes {axes}, is not an image")
        if not extra:
            image = image[..., None]
        elif extra in ("C", "S"):
            image = np.moveaxis(image, axes.index(extra), -1)
        elif image.shape[0] < image.shape[-1]:
            image = np.moveaxis(image, 0, -1)
        return image, page


def write(path: str | Path, image: Shaped[np.ndarray, "H W *C"], mpp: Sequence[int | float] = ()) -> None:
    """Writes PNG (8 or 16 bit, 1 or 3 channels), JPEG (8 bit, 1 or 3) or TIFF (any depth and channels).

    ``mpp``: how large a pixel is, which PNG and TIFF state. Raises ValueError where the
    format cannot hold the image as it is: nothing is converted on the way.
    """
    image = image[..., None] if image.ndim == 2 else image
    suffix, channels = Path(path).suffix.lower(), image.shape[-1]
    flat = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
    if suffix in (".tif", ".tiff"):
        import tifffile

        photometric = "rgb" if channels == 3 else "minisblack"
        planes = None if channels == 1 else "contig"
        tifffile.imwrite(path, flat, photometric=photometric, planarconfig=planes, **space.tiff(mpp))
    elif suffix == ".png" and image.dtype == np.uint16 and channels in (1, 3):
        import imagecodecs

        Path(path).write_bytes(space.png(bytes(imagecodecs.png_encode(flat)), mpp))
    elif suffix in SUFFIXES and image.dtype == np.uint8 and channels in (1, 3):
        import PIL.Image

        file = io.BytesIO()
        picture = PIL.Image.fromarray(flat)
        picture.save(file, "PNG" if suffix == ".png" else "JPEG", **({} if suffix == ".png" else {"quality": 95}))
        Path(path).write_bytes(space.png(file.getvalue(), mpp) if suffix == ".png" else file.getvalue())
    else:
        raise ValueError(f"{suffix or 'a file without suffix'} cannot hold {image.dtype} with {channels} channels")


def to_float(image: Shaped[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Stored pixels in [-1, 1): ``uint8/128 - 1``, ``uint16/32768 - 1``; float32 unchanged."""
    if image.dtype == np.float32:
        return image
    x = image.astype(np.float32)
    x *= 2.0 / (np.iinfo(image.dtype).max + 1)  # a power of two: exact
    x -= 1.0
    return x


def from_float(x: Float[np.ndarray, "*S"], dtype: Any = np.uint8) -> Shaped[np.ndarray, "*S"]:
    """The inverse of :func:`to_float`, rounded and clipped to ``dtype``; float32 unchanged."""
    if np.dtype(dtype) == np.float32:
        return np.asarray(x, np.float32)
    top = np.iinfo(dtype).max
    return np.clip(np.rint((np.asarray(x, np.float32) + 1.0) * ((top + 1) / 2)), 0, top).astype(dtype)


def reduce(image: Num[np.ndarray, "*T C"], k: int | Sequence[int]) -> Num[np.ndarray, "*S C"]:
    """Mean of every block of ``k`` a side (one number, or one an axis), rounded to the image's type; any axes.

    A remainder at the end of an axis is cut off. Raises UserError where not one block fits.
    """
    sides = image.shape[:-1]
    each = (k,) * len(sides) if isinstance(k, int) else tuple(k)
    if set(each) == {1}:
        return image
    if len(each) != len(sides) or not all(1 <= k <= n for k, n in zip(each, sides, strict=True)):
        raise UserError(f"an image of shape {image.shape} cannot be reduced by {k}")
    blocks = [(n // k, k) for n, k in zip(sides, each, strict=True)]
    whole = image[tuple(slice(n * k) for n, k in blocks)].reshape(*(x for block in blocks for x in block), -1)
    mean = whole.mean(tuple(range(1, 2 * len(sides), 2)), np.float64)
    return (mean if image.dtype.kind == "f" else np.rint(mean)).astype(image.dtype)


def area(image: Num[np.ndarray, "H W C"], box: Sequence[int | float], size: Sequence[int]) -> Num[np.ndarray, "h w C"]:
    """Means over the ``size`` = (h, w) equal parts of the ``box`` = (top, left, height, width), rounded to the type.

    Of a pixel that lies in several parts each takes its share. Where sides are whole this is :func:`reduce`.
    """
    kind = np.float32 if image.dtype == np.uint8 else np.float64
    out = image
    for axis in (0, 1):
        shares = _shares(box[axis], box[2 + axis] / size[axis], size[axis], out.shape[axis], kind)
        flat = np.moveaxis(out, axis, 0)
        sums = shares @ flat.reshape(len(flat), -1)
        out = np.moveaxis(sums.reshape(size[axis], *flat.shape[1:]), 0, axis)
    out = out / (box[2] / size[0] * box[3] / size[1])
    return _rounded(out, image.dtype)


def _shares(start: int | float, step: int | float, n: int, side: int, kind: Any) -> Any:
    """How much of each of ``side`` pixels lies in each of ``n`` parts of the length ``step``: a sparse [n, side]."""
    from scipy.sparse import csr_array

    low = start + step * np.arange(n)[:, None]
    places = np.floor(low).astype(int) + np.arange(math.ceil(step) + 1)
    shares = np.minimum(low + step, places + 1) - np.maximum(low, places)
    shares = np.where((places >= 0) & (places < side), np.clip(shares, 0, None), 0).astype(kind)
    ends = np.arange(n + 1) * places.shape[1]
    return csr_array((shares.ravel(), np.clip(places, 0, side - 1).ravel(), ends), (n, side))


def resize(image: Num[np.ndarray, "*T C"], size: Sequence[int]) -> Num[np.ndarray, "*S C"]:
    """Bicubic (antialiased, pillow's) to ``size``, one number an axis, in the image's own type.

    The last two axes as an image, then the others one by one.
    """
    if image.ndim == 3:
        return _rounded(_resized(image if image.dtype == np.uint8 else image.astype(np.float32), size), image.dtype)
    out = image.astype(np.float32)
    out = np.stack([_resized(plane, size[-2:]) for plane in out.reshape(-1, *image.shape[-3:])])
    out = out.reshape(*image.shape[:-3], *size[-2:], image.shape[-1])
    for axis, side in enumerate(size[:-2]):
        flat = np.moveaxis(out, axis, 0)
        rows = _resized(flat.reshape(len(flat), -1, 1), (side, flat[0].size))
        out = np.moveaxis(rows.reshape(side, *flat.shape[1:]), 0, axis)
    return _rounded(out, image.dtype)


def coarse(image: Num[np.ndarray, "*T C"], side: int) -> Num[np.ndarray, "*T C"]:
    """``image`` brought to at most ``side`` places along every axis and back, bicubic both ways (:func:`resize`).

    What is finer than these places is gone; no value is beyond those of the image.
    """
    small = resize(image, [min(n, side) for n in image.shape[:-1]])
    return np.clip(resize(small, image.shape[:-1]), image.min(), image.max())


def _resized(image: Num[np.ndarray, "H W C"], size: Sequence[int]) -> Num[np.ndarray, "h w C"]:
    import PIL.Image

    how = PIL.Image.Resampling.BICUBIC
    planes = [np.asarray(PIL.Image.fromarray(p).resize(tuple(size)[::-1], how)) for p in np.moveaxis(image, -1, 0)]
    return np.stack(planes, -1)


def _rounded(values: Num[np.ndarray, "*S"], dtype: Any) -> Num[np.ndarray, "*S"]:
    """``values`` in ``dtype``, to its nearest number where it is one of integers."""
    if np.dtype(dtype).kind not in "ui" or values.dtype == dtype:
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(values), ends.min, ends.max).astype(dtype)


def nearest(classes: Num[np.ndarray, "*T C"], size: Sequence[int]) -> Num[np.ndarray, "*S C"]:
    """The map brought to ``size``: each place takes the value that lies at its middle, and none is mixed."""
    for axis, (side, new) in enumerate(zip(classes.shape[:-1], size, strict=True)):
        classes = classes.take((2 * np.arange(new) + 1) * side // (2 * new), axis) if new != side else classes
    return classes


def picture(images: Shaped[np.ndarray, "*N C"]) -> UInt8[np.ndarray, "*N K"]:
    """Anything to 8 bits and 1 or 3 channels, for the eye: floats in [-1, 1), 16 bits by their upper 8.

    Of 2 channels the first is shown, of more than 3 the first three.
    """
    if images.dtype == np.uint16:
        images = (images >> 8).astype(np.uint8)
    elif images.dtype != np.uint8:
        images = from_float(images)
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def grid(images: Shaped[np.ndarray, "N H W C"], columns: int | None = None, gap: int = 2) -> UInt8[np.ndarray, "h w K"]:
    """Pictures in rows of ``columns`` (default: as square as it goes), ``gap`` white pixels between them."""
    cells = picture(np.asarray(images))
    n, h, w, c = cells.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = -(-n // columns)
    out = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, c), 255, np.uint8)
    for i, cell in enumerate(cells):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        out[y : y + h, x : x + w] = cell
    return out


def strip(images: Shaped[np.ndarray, "N H W C"], gap: int = 2) -> UInt8[np.ndarray, "H w K"]:
    """Pictures side by side."""
    return grid(images, len(images), gap)


def animation(path: str | Path, frames: Sequence[Shaped[np.ndarray, "H W C"]], fps: int | float = 10) -> None:
    """An endless animated WebP or GIF (by the suffix of ``path``) that rests one second on its last frame."""
    import PIL.Image

    pictures = picture(np.stack(frames))
    first, *rest = [PIL.Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p).convert("RGB") for p in pictures]
    durations = [max(1, round(1000 / fps))] * len(rest) + [1000]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)
