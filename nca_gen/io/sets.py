"""Sets of images on disk, for scoring: opened by their path, read when they are asked for.

A set is an :class:`Images`, ``Volumes`` (:mod:`nca_gen.io.volumes`) or ``Slides`` (:mod:`nca_gen.io.slides`). Its
``notes`` are caveats that must stand beside every number made of it; :func:`digest` names its content.

What happens to unusual input: images of several sizes, depths or numbers of channels are refused, two of them named;
an unreadable file is named in a note and left out (``strict``: refused); alpha is dropped, one channel and 16 bits are
kept, each with a note; float pixels must lie within [-1, 1].
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped

from nca_gen.errors import UserError
from nca_gen.io import codec as codecs
from nca_gen.io import images, ngff, npy, slides, space, volumes, walk

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
BLOCK = 2**22  # numbers of a set that are held at a time
_THREADS = min(8, os.cpu_count() or 1)


@runtime_checkable
class Images(Protocol):
    """Images of one size: a numpy array, or what reads them. ``x[a:b]`` is float32 ``[n, H, W, C]`` in [-1, 1]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, H, W and C."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __getitem__(self, index: Any, /) -> Shaped[np.ndarray, "..."]:
        """One image, or several on one another."""
        ...


@dataclass(frozen=True)
class Lazy:
    """Images of one size that ``read`` gives, in the depth in which they are stored, for an array of their indices."""

    read: Callable[[np.ndarray], Shaped[np.ndarray, "n H W C"]]
    shape: tuple[int, ...]
    digest: str
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mpp: tuple[space.Sizes, ...] = ()  # of each, where they are known
    codec: str = ""  # of the files, :func:`nca_gen.io.codec.summary`

    def __len__(self) -> int:
        """The number of images."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> Float[np.ndarray, "*n H W C"]:
        """One image, or several on one another."""
        at = np.arange(len(self))[index]
        if not np.size(at):
            return np.empty((0, *self.shape[1:]), np.float32)
        x = images.to_float(self.read(np.atleast_1d(at)))
        return x if np.ndim(at) else x[0]


class Look(NamedTuple):
    """What is to be known of an image file before it is used."""

    shape: tuple[int, ...]
    dtype: np.dtype
    alpha: bool
    low: float
    high: float
    sha256: bytes
    mpp: space.Sizes = ()
    codec: str = ""


def open(
    path: str | Path, *, strict: bool = False, wanted: str = "", progress: Callable[[int], None] = lambda done: None
) -> Lazy | volumes.Volumes | slides.Slides:
    """The set at ``path``.

    A folder (with its sub folders, as :func:`nca_gen.io.walk.walk` finds them; a note says what is passed over) of
    images, of volumes (``.nii``, ``.nii.gz``, ``.npy``, ``.npz``, DICOM of many frames and OME-Zarr with depth: one a
    file; of DICOM slices one a folder) or of slides (``.svs`` and the like, tiled TIFF, OME-Zarr); a single volume or
    slide; an ``.npz`` in the layout of ADM (``arr_0``, ``[N, H, W, C]``) or an ``.npy``, where five axes
    ``[N, D, H, W, C]`` are volumes. Every file is read once here, so that a damaged one is
    known before any number is: ``progress`` hears how many are done. Memory does not grow with the number of images.
    A tiled TIFF without a pyramid is an image where ``wanted`` is "images", or others of the folder are, or it is
    smaller than a tile of a slide; else it is a slide.

    Raises UserError for what cannot be scored (see above), and with ``strict`` for any unreadable file.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(f"no file or folder {str(path)!r}: give a folder of images, volumes or slides, an .npz or .npy")
    if root.is_file() and root.suffix.lower() in npy.SUFFIXES:
        return _array(root)
    if root.is_file() and root.name.lower().endswith(ARCHIVES):
        raise UserError(f"{path} is an archive: unpack it, and give the folder")
    single = root.is_file() or root.name.lower().endswith(slides.ZARR)
    names, notes = ([root.name], []) if single else _files(root)
    folder = root.parent if single or names == ["."] else root
    names = [root.name] if names == ["."] else names  # the folder is one volume
    if beside := _pictures(folder, names):
        names = [name for name in names if name not in beside]
        notes = [*notes, f"passed over: {len(beside)} pictures beside volumes of the same name ({min(beside)})"]
    if again := _again(folder, names):
        names = [name for name in names if name not in again]
        notes = [*notes, f"passed over: {len(again)} files that show a slide of the same name again ({min(again)})"]
    kind = _one_kind(folder, names, wanted)
    look = {"images": _look, "volumes": volumes.look, "slides": slides.open_slide}[kind]
    # Volumes and slides are large, and one at a time is in memory.
    looks, lost = _probe(folder, names, look, _THREADS if kind == "images" else 1, progress)
    if lost:
        count = f"{len(lost)} of {len(names)} files cannot be read"
        named = "; ".join(str(error).removeprefix("cannot read ") for error in lost[:5])
        more = f"; and {len(lost) - 5} more" if len(lost) > 5 else ""
        if strict or not looks:
            raise UserError(f"{count}: {named}{more}")
        notes = [*notes, f"{count} and are left out: {named}{more}"]
    if kind == "slides":
        return slides.of([*looks.values()], notes)
    known = tuple(looks)
    if kind == "volumes":
        return volumes.of(known, lambda i: volumes.read(folder / known[i]), [*looks.values()], notes)
    return _images(folder, known, [*looks.values()], notes)


def kind(images: Any) -> str:
    """What a set is a set of: "images", "volumes" (also an array of five axes) or "slides"."""
    if isinstance(images, slides.Slides):
        return "slides"
    return "volumes" if isinstance(images, volumes.Volumes) or len(images.shape) == 5 else "images"


def mpp(images: Any) -> tuple[space.Sizes, ...]:
    """How large a pixel of each image of a set is, as far as that is known."""
    if isinstance(images, slides.Slides):
        return tuple((slide.mpp,) if slide.mpp else () for slide in images.slides)
    return images.mpp if isinstance(images, Lazy | volumes.Volumes) else ()


def codec(images: Any) -> str:
    """How the files of a set hold their pixels, as far as that is known: codec and quality."""
    if isinstance(images, slides.Slides):
        return codecs.summary(map(codecs.of_file, images.names))
    return images.codec if isinstance(images, Lazy) else ""


def depth(images: Any) -> str:
    """The type of the pixels that the files of a set of images store, as far as that is known."""
    return str(images.read(np.zeros(1, np.int64)).dtype) if isinstance(images, Lazy) else ""


def digest(images: Any) -> str:
    """SHA-256 of the content of a set, in hex: of its files' bytes in their order, or of an array's type, shape and
    bytes. Equal digests are equal images; the reverse need not hold."""
    return images.digest if isinstance(images, Lazy | volumes.Volumes | slides.Slides) else _hash(np.asarray(images))


def blocks(images: Images, numbers: int = BLOCK) -> Iterator[Shaped[np.ndarray, "n ..."]]:
    """The images in order, in blocks of about ``numbers`` numbers (at least one image), each read once."""
    step = max(1, numbers // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def _hash(array: np.ndarray) -> str:
    key = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for block in blocks(array):
        key.update(np.ascontiguousarray(block).data)
    return key.hexdigest()


def _array(path: Path) -> Lazy | volumes.Volumes:
    """A set in one array."""
    array = npy.mapped(path)
    shape = " x ".join(map(str, array.shape))
    if array.ndim not in (4, 5):
        raise UserError(f"{path} is {shape or 'one number'}: a set has the axes N, H, W, C (or N, D, H, W, C)")
    if 0 in array.shape:
        raise UserError(f"{path} holds no images ({shape})")
    if array.ndim == 4 and array.shape[-1] > (4 if array.shape[1] <= 4 else 16) >= array.shape[1]:
        raise UserError(f"{path} is {shape}: channels come last, N x H x W x C; transpose it")
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind != "f" and dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} holds {array.dtype}: store pixels as uint8, uint16, or floats in [-1, 1]")
    if array.ndim == 5:
        names = [f"{path.name}[{i}]" for i in range(len(array))]
        keys = (hashlib.sha256(np.ascontiguousarray(v)).digest() for v in array)
        looks = [volumes.Look(v.shape, v.dtype, *_ends([v]), key) for v, key in zip(array, keys, strict=True)]
        if bad := [name for name, x in zip(names, looks, strict=True) if not np.isfinite([x.low, x.high]).all()]:
            raise UserError(f"{bad[0]} holds NaN or infinite voxels")
        return volumes.of(names, lambda i: array[i], looks, [])
    notes = _notes(path, array.shape, dtype, *_ends(blocks(array)))

    def read(at: np.ndarray) -> Shaped[np.ndarray, "n H W C"]:
        return array[at].astype(np.float32 if dtype.kind == "f" else dtype, copy=False)

    return Lazy(read, array.shape, _hash(array), (), tuple(notes))


def _ends(arrays: Iterable[np.ndarray]) -> tuple[float, float]:
    """The least and the greatest number of all arrays, NaN if there is one among them."""
    ends = np.array([(a.min(), a.max()) for a in arrays])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def _images(folder: Path, names: tuple[str, ...], looks: Sequence[Look], notes: list[str]) -> Lazy:
    """A set in image files."""
    first = looks[0]
    kinds = ["{} x {} pixels, {} channels of {}".format(*x.shape, x.dtype) for x in looks]
    for name, kind in zip(names, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(f"{folder} mixes images: {names[0]} has {kinds[0]}, {name} has {kind}; bring them to one")
    low, high = min(x.low for x in looks), max(x.high for x in looks)
    far = max(range(len(looks)), key=lambda i: max(-looks[i].low, looks[i].high))
    notes += _notes(folder / names[far], first.shape, first.dtype, low, high)
    notes += space.within(names, [x.mpp for x in looks])
    if alpha := sum(x.alpha for x in looks):
        notes.append(f"the alpha channel of {alpha} of {len(looks)} images is dropped, and nothing is blended with it")

    def read(at: np.ndarray) -> Shaped[np.ndarray, "n H W C"]:
        paths = [folder / names[i] for i in at]
        if len(paths) == 1:
            return images.read(paths[0])[None]
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.stack([*pool.map(images.read, paths)])

    key = hashlib.sha256(b"".join(x.sha256 for x in looks)).hexdigest()
    return Lazy(
        read,
        (len(names), *first.shape),
        key,
        names,
        tuple(notes),
        tuple(x.mpp for x in looks),
        codecs.summary(x.codec for x in looks),
    )


def _notes(path: Path, shape: tuple[int, ...], dtype: np.dtype, low: float, high: float) -> Iterator[str]:
    """What has to be said of such pixels, which ``path`` holds, or of which it holds the greatest.

    Raises UserError for floats that are not in [-1, 1].
    """
    if shape[-1] == 1:
        yield "one channel: feature networks see it three times"
    if dtype == np.uint16:
        yield "16-bit pixels are rounded to 8 bits for feature networks; other metrics see all 16"
    if dtype.kind != "f":
        yield from images.doubts(dtype, low, high)
        return
    if not np.isfinite([low, high]).all():
        raise UserError(f"{path} holds NaN or infinite pixels")
    if low < -1 or high > 1:
        raise UserError(f"float pixels of {path} reach from {low:.4g} to {high:.4g}: scale or clip them to [-1, 1]")
    yield "float pixels are rounded to 8 bits for feature networks; other metrics see them as they are"
    yield from images.doubts(dtype, low, high)


def _look(path: Path) -> Look:
    """Decodes an image once. Raises :class:`~nca_gen.io.images.Unreadable`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise images.Unreadable(path, (error.strerror or str(error)).lower()) from None
    image, mpp = images.measured(data, path)
    ends = _ends([images.checked(image, path, bounded=False)])
    return Look(image.shape, image.dtype, _alpha(data), *ends, hashlib.sha256(data).digest(), mpp, codecs.of(data))


def _alpha(data: bytes) -> bool:
    """Whether an image file has transparency, which :func:`nca_gen.io.images.decode` drops."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    except Exception:  # TIFFs of many channels or bits, which only tifffile reads
        return False


def _files(root: Path) -> tuple[list[str], list[str]]:
    """Scorable files below ``root``, and what has to be said of others."""
    wanted = tuple(dict.fromkeys((*walk.IMAGES, *volumes.SUFFIXES, *slides.EVERY)))
    files = walk.walk(root, wanted)
    if not files.names:
        also = "".join(f" ({sentence})" for sentence in files.said)
        raise UserError(f"no image, volume or slide in {root}: put files there, of {', '.join(wanted)}{also}")
    return volumes.gathered(root, files.names), files.said


def _pictures(folder: Path, names: Sequence[str]) -> set[str]:
    """The images beside a volume of the same name, as we write them: they show it."""
    whole = [name for name in names if name.lower().endswith(volumes.SUFFIXES)]
    whole = [name for name in whole if not name.lower().endswith(slides.ZARR) or ngff.is_volume(folder / name)]
    stems = {name.partition(".")[0] for name in whole}
    return {name for name in names if name.lower().endswith(images.SUFFIXES) and name.partition(".")[0] in stems}


def _again(folder: Path, names: Sequence[str]) -> set[str]:
    """What shows a slide beside it again, as we write it: pictures called as it is, or NAME_MORE, and an OME-Zarr."""

    def stem(name: str) -> str:
        return str(Path(name).with_name(Path(name).name.partition(".")[0]))

    whole = {stem(name): name for name in sorted(names, key=str.lower) if name.lower().endswith(slides.EVERY)}
    found = set()
    for name in names:
        own, low = stem(name), name.lower()
        ends = [] if low.endswith(slides.ZARR) else [one.start() for one in re.finditer("_", own)]
        near = (whole.get(own[:end]) for end in [len(own), *ends])
        other = next((one for one in near if one and one != name), None)
        if low.endswith((".png", ".jpg", ".jpeg", slides.ZARR)) and other and _kind(folder / other) == "slides":
            found.add(name)
    return found


def _one_kind(folder: Path, names: Iterable[str], wanted: str) -> str:
    """What all files of a folder are. Raises UserError, which names two, where they are not one kind."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(_kind(folder / name), name)
    if "tiled" in first:  # what it is, others tell, or who asks
        first.setdefault("images" if wanted == "images" or "images" in first else "slides", first.pop("tiled"))
    if len(first) > 1:
        kinds = ", ".join(f"{kind} ({name})" for kind, name in first.items())
        raise UserError(f"{folder} mixes {kinds}: keep one kind a folder")
    return next(iter(first))


def _kind(path: Path) -> str:
    """What a file is by its name and its pages: one of "images", "volumes" and "slides", or "tiled"."""
    if path.name.lower().endswith(slides.ZARR):
        return "volumes" if ngff.is_volume(path) else "slides"
    if path.name.lower().endswith(volumes.SUFFIXES) or path.is_dir():
        return "volumes"
    if not slides.is_slide(path):
        return "images"
    if not path.name.lower().endswith((".tif", ".tiff")):
        return "slides"
    try:
        full, *more = slides.open_slide(path).levels
    except images.Unreadable:  # as a slide; it may be a readable image
        return "tiled"
    if max(full.height, full.width) < slides.LEAST:
        return "images"
    return "slides" if more or full.height * full.width > slides.LIMIT else "tiled"


def _probe(
    folder: Path, names: Sequence[str], look: Callable, threads: int, progress: Callable[[int], None]
) -> tuple[dict[str, Any], list[images.Unreadable]]:
    """What ``look`` sees, by name, and the errors of the files that cannot be read."""

    def attempt(name: str) -> Any:
        try:
            return look(folder / name)
        except images.Unreadable as error:
            return error

    seen = {}
    with ThreadPoolExecutor(threads) as pool:
        for done, (name, sight) in enumerate(zip(names, pool.map(attempt, names), strict=True), 1):
            seen[name] = sight
            progress(done)
    lost = [x for x in seen.values() if isinstance(x, images.Unreadable)]
    return {name: x for name, x in seen.items() if not isinstance(x, images.Unreadable)}, lost
