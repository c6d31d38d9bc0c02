"""Volumes in DICOM: a folder with one series of slices, or one file of many frames (Enhanced CT and MR, OPT, ...).

Slices lie in the order of their positions along the normal, whatever their names and numbers are; rescaled, as their
slope and intercept say, and turned over where 0 is white (MONOCHROME1). They are decoded where a part is asked for.
Where a file gives no positions, as older ones of many frames do not, frames lie as they are stored, and nothing is
known of the body.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np

from nca_gen.io import dicom_codecs, images
from nca_gen.io.geometry import LPS, Geometry, turned
from nca_gen.io.stored import Found, Turned, Volume

SUFFIXES = (".dcm", ".dicom", ".ima")
DEFLATED = "1.2.840.10008.1.2.1.99"
PIXELS = {(0x7FE0, 0x0010): "PixelData", (0x7FE0, 0x0008): "FloatPixelData", (0x7FE0, 0x0009): "DoubleFloatPixelData"}
IMAGE = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated"),
    *("BitsStored", "PixelRepresentation", "NumberOfFrames", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
SERIES = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription")
PLACE = {  # what is said of a slice, and the functional group that says it of a frame
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
LUT = "ModalityLUTSequence"
UNEVEN = 0.02  # of the distance between slices that it may differ by
ROUNDED = 1e-3  # and millimetres, as positions are rounded, where that is less than a tenth of the distance
TILTED = 1e-3  # by which directions, and spacings of pixels in proportion, may differ in one volume


class File(NamedTuple):
    """Where the pixels of a file begin, and what a decoder has to know of them."""

    path: Path
    offset: int
    syntax: str
    options: dict[str, Any]
    series: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """H, W and C of its frames."""
        return self.options["rows"], self.options["columns"], self.options["samples_per_pixel"]

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the greatest number that its bits can hold."""
        bits, signed = self.options.get("bits_stored", 1), self.options.get("pixel_representation", 0)
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


class Frame(NamedTuple):
    """A slice: which frame of a file, and what is said of it: LPS millimetres, directions of a row and of a column,
    millimetres between rows, columns and slices, and how its numbers are scaled."""

    file: File
    number: int
    position: tuple[float, ...]
    directions: tuple[float, ...]
    spacing: tuple[float, ...]
    apart: float
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        """For people."""
        more = f" (frame {self.number + 1})" if self.file.options["number_of_frames"] > 1 else ""
        return f"{self.file.path.name}{more}"

    @property
    def normal(self) -> np.ndarray:
        """At right angles to rows and columns."""
        return np.cross(self.directions[:3], self.directions[3:])


@dataclass(frozen=True)
class Frames:
    """A volume of slices of one size, in their order."""

    frames: tuple[Frame, ...]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W and C."""
        return (len(self.frames), *self.frames[0].file.shape)

    def __getitem__(self, box: Any) -> Volume:
        """The part in three slices. Raises Unreadable for a slice that is damaged."""
        depth, *sides = box
        some, extent = self.frames[depth], [len(range(n)[side]) for n, side in zip(self.shape[1:], sides, strict=False)]
        out = np.empty((len(some), *extent, self.shape[3]), self.dtype)
        for i, frame in enumerate(some):
            out[i] = _pixels(frame, self.dtype)[tuple(sides)]
        return out


def open_volume(path: str | Path) -> Found:
    """The volume in a file of frames, or in the files of a folder. Raises Unreadable, in one line that says what is
    wrong: no pixels, several series, other sizes, slices that are missing or lie unevenly, a codec that is not there.
    """
    try:
        paths = _paths(Path(path))
        stamp = tuple(one.stat().st_mtime_ns for one in paths)
    except OSError as error:
        raise images.Unreadable(path, (error.strerror or str(error)).lower()) from None
    return _opened(Path(path), tuple(paths), stamp)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix, or by its first bytes where it has none."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file() or (path.suffix and not path.suffix[1:].isdigit()):
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_series(path: Path) -> bool:
    """Whether a folder holds DICOM files."""
    return path.is_dir() and bool(_paths(path))


def is_whole(path: Path) -> bool:
    """Whether a file has many frames, and so is a volume by itself."""
    import pydicom

    try:
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return int(head.get("NumberOfFrames") or 1) > 1
    except Exception:  # what is wrong with it is said by who reads it
        return False


def _paths(path: Path) -> list[Path]:
    """The files of a volume. Those of a folder that have other suffixes, such as pictures beside, are not."""
    if not path.is_dir():
        return [path]
    inside = sorted((Path(entry) for entry in os.scandir(path) if not entry.name.startswith(".")), key=images.natural)
    return [one for one in inside if one.name.upper() != "DICOMDIR" and is_dicom(one)]


@lru_cache(maxsize=64)
def _opened(path: Path, paths: tuple[Path, ...], _stamp: tuple[int, ...]) -> Found:
    if not paths:
        raise images.Unreadable(path, "there are no DICOM files in this folder")
    frames = []
    for one in paths:
        try:
            frames += _frames(one)
        except images.Unreadable as error:
            raise images.Unreadable(path, error.reason if one == path else f"{one.name}: {error.reason}") from None
    series = {frame.file.series[0]: frame.file for frame in frames}
    if len(series) > 1:
        names = [f"{' '.join(filter(None, one.series[::-1]))} ({one.path.name})" for one in series.values()]
        raise images.Unreadable(path, f"it holds {len(series)} series: {'; '.join(names[:3])}: keep one a folder")
    _alike(path, frames, "slices differ in size", lambda frame: frame.file.shape)
    _alike(path, frames, "slices differ in the spacing of their pixels", lambda frame: frame.spacing, TILTED)
    if not any(frame.position for frame in frames) and len(paths) == 1:
        return Found(Frames(tuple(frames), _held(frames)), _unplaced(frames))
    for frame in frames:
        if len(frame.position) != 3 or len(frame.directions) != 6 or len(frame.spacing) != 2:
            raise images.Unreadable(path, f"{frame.name} does not say where it lies (position, directions, spacing)")
    frames, step = _ordered(path, frames)
    first = frames[0]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 3] = step, first.position
    affine[:3, 1] = np.multiply(first.directions[3:], first.spacing[0])  # down a column, from row to row
    affine[:3, 2] = np.multiply(first.directions[:3], first.spacing[1])
    volume = Frames(tuple(frames), _held(frames))
    try:
        axes, flips, geometry = turned(LPS @ affine, volume.shape)
    except (ValueError, np.linalg.LinAlgError):
        raise images.Unreadable(path, "its directions and spacings are no three axes") from None
    return Found(Turned(volume, axes, flips), geometry if len(frames) > 1 or first.apart > 0 else None)


def _alike(
    path: Path, frames: Sequence[Frame], what: str, said: Callable[[Frame], tuple[float, ...]], loose: float = 0.0
) -> None:
    first = frames[0]
    for frame in frames:
        if len(said(frame)) != len(said(first)) or not np.allclose(said(frame), said(first), rtol=loose, atol=0):
            one, other = (" x ".join(f"{n:g}" for n in said(some)) or "none" for some in (first, frame))
            raise images.Unreadable(path, f"{what}: {first.name} has {one}, {frame.name} has {other}")


def _ordered(path: Path, frames: Sequence[Frame]) -> tuple[list[Frame], np.ndarray]:
    """Slices in the order of their positions, and the way from one to the next, in millimetres."""
    first, normal = frames[0], frames[0].normal
    for frame in frames:
        if not np.allclose(frame.directions, first.directions, atol=TILTED):
            raise images.Unreadable(path, f"slices lie in different planes: {first.name} and {frame.name}")
    if len(frames) == 1:
        return [first], normal * (first.apart or 1.0)
    frames = sorted(frames, key=lambda frame: float(normal @ frame.position))
    steps = [float(normal @ np.subtract(b.position, a.position)) for a, b in pairwise(frames)]
    usual = median_low(steps)
    slack = UNEVEN * usual + min(ROUNDED, 0.1 * usual)
    for (a, b), step in zip(pairwise(frames), steps, strict=True):
        between = f"{a.name} and {b.name}"
        if step <= max(0.1 * usual, 1e-9):
            raise images.Unreadable(path, f"{between} lie at one place: keep one time or echo a folder")
        if abs(step - usual) > slack:
            lost = round(step / usual) - 1
            if lost > 0 and abs(step - (lost + 1) * usual) <= slack:
                some = "a slice is" if lost == 1 else f"{lost} slices are"
                raise images.Unreadable(path, f"{some} missing between {between}, which lie {step:g} mm apart")
            raise images.Unreadable(path, f"{between} lie {step:g} mm apart, and other slices {usual:g} mm")
    return frames, np.subtract(frames[-1].position, frames[0].position) / (len(frames) - 1)


def _unplaced(frames: Sequence[Frame]) -> Geometry | None:
    """What is known of frames without positions: how large a voxel is."""
    first = frames[0]
    sides = (first.apart, *first.spacing)
    return Geometry.of_sizes([1000 * side for side in sides]) if len(sides) == 3 and min(sides) > 0 else None


def _held(frames: Sequence[Frame]) -> np.dtype:
    """The type that holds all numbers: whole ones where scaling keeps them whole."""
    scales = {(frame.slope, frame.intercept) for frame in frames}
    if any(frame.file.options["pixel_keyword"] != "PixelData" for frame in frames):
        return np.dtype(np.float64 if frames[0].file.options["pixel_keyword"].startswith("Double") else np.float32)
    ends = [end for some in {frame.file.ends for frame in frames} for end in some]
    numbers = [slope * end + intercept for slope, intercept in scales for end in ends]
    if any(number % 1 for scale in scales for number in scale):
        return np.dtype(np.float32)
    fits = lambda kind: np.iinfo(kind).min <= min(numbers) and max(numbers) <= np.iinfo(kind).max
    return np.dtype(next((t for t in (np.uint8, np.uint16, np.int16, np.int32, np.int64) if fits(t)), np.float32))


def _frames(path: Path) -> Iterator[Frame]:
    """The frames of a file, whose pixels are not read yet. Raises Unreadable."""
    import pydicom

    try:
        with path.open("rb") as file:
            wanted = [*IMAGE, *SERIES, *PLACE, *GROUPS, LUT]
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=wanted)
            opened = _file(path, head, file)
        shared, each = ([*(head.get(group) or ())] for group in GROUPS)
        whole = shared[0] if shared else None
        for number in range(opened.options["number_of_frames"]):
            layers = [some for some in (each[number] if number < len(each) else None, whole) if some is not None]
            yield _frame(opened, number, head, layers)
    except images.Unreadable:
        raise
    except OSError as error:
        raise images.Unreadable(path, (error.strerror or str(error)).lower()) from None
    except Exception as error:  # pydicom raises what it likes on damaged bytes
        reason = "it is no DICOM file" if "DICM" in str(error) else str(error).lower() or type(error).__name__
        raise images.Unreadable(path, reason.splitlines()[0]) from None


def _file(path: Path, head: Any, file: Any) -> File:
    """What is to be known of the pixels at which ``file`` stands now."""
    from pydicom.pixels import as_pixel_options, get_decoder

    syntax = head.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise images.Unreadable(path, "it does not say its transfer syntax, how its pixels are stored")
    if syntax == DEFLATED:
        raise images.Unreadable(path, "the file is deflated: store it as Explicit VR Little Endian")
    order, element = "<" if syntax.is_little_endian else ">", file.read(8)
    tag = struct.unpack(f"{order}HH", element[:4]) if len(element) == 8 else ()
    if tag not in PIXELS or "Rows" not in head:
        raise images.Unreadable(path, "there are no pixels in it")
    vr = {} if syntax.is_implicit_VR else {"pixel_vr": element[4:6].decode("ascii", "replace")}
    offset = file.tell() + (0 if syntax.is_implicit_VR else 4)
    if LUT in head or "PALETTE" in head.PhotometricInterpretation:
        raise images.Unreadable(path, "its numbers go through a table (LUT or palette): store the values themselves")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise images.Unreadable(path, f"its pixels are packed as {syntax.name}, which is not read") from None
    dicom_codecs.add(decoder)
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise images.Unreadable(path, f"its pixels are packed as {syntax.name}, and no decoder is there ({needs})")
    options = as_pixel_options(head, transfer_syntax_uid=syntax, pixel_keyword=PIXELS[tag], **vr)
    options["number_of_frames"] = int(options["number_of_frames"])
    bits = int(np.prod([int(options[name]) for name in ("rows", "columns", "samples_per_pixel", "bits_allocated")]))
    plain = not syntax.is_encapsulated and "422" not in options["photometric_interpretation"]
    if plain and path.stat().st_size < offset + bits * options["number_of_frames"] // 8:
        raise images.Unreadable(path, "the file is cut short")
    return File(path, offset, syntax, options, tuple(str(head.get(name) or "") for name in SERIES))


def _frame(file: File, number: int, head: Any, layers: Sequence[Any]) -> Frame:
    """Frame ``number``: of what its functional groups say, or all frames' (``layers``), or the file."""

    def said(field: str) -> tuple[float, ...]:
        inner = [some[0] for layer in layers if (some := layer.get(PLACE[field]))]
        several = file.options["number_of_frames"] > 1 and not layers  # which do not all lie where the first does
        inner += [] if several and field == "ImagePositionPatient" else [head]
        value = next((one.get(field) for one in inner if one.get(field) not in (None, "")), ())
        return tuple(map(float, value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)))

    places = [said(field) for field in PLACE]
    position, directions, spacing, apart, thick, slope, intercept = places
    return Frame(
        *(file, number, position, directions, spacing),
        apart=abs((apart or thick or (0.0,))[0]),
        slope=(slope or (1.0,))[0],
        intercept=(intercept or (0.0,))[0],
    )


def _pixels(frame: Frame, dtype: np.dtype) -> np.ndarray:
    """``[H, W, C]``, scaled."""
    from pydicom.pixels import get_decoder

    file = frame.file
    try:
        with file.path.open("rb") as data:
            data.seek(file.offset)
            pixels, _ = get_decoder(file.syntax).as_array(data, index=frame.number, **file.options)
    except Exception as error:  # as above
        reason = " ".join(str(error).lower().split()) or type(error).__name__
        raise images.Unreadable(file.path, f"frame {frame.number + 1}: {reason}") from None
    pixels = pixels.reshape(file.shape)
    if file.options["photometric_interpretation"] == "MONOCHROME1":
        pixels = sum(file.ends) - pixels.astype(np.int64)
    if (frame.slope, frame.intercept) == (1, 0):
        return pixels.astype(dtype, copy=False)
    if dtype.kind == "f":
        return (pixels * frame.slope + frame.intercept).astype(dtype)
    return (pixels.astype(np.int64) * int(frame.slope) + int(frame.intercept)).astype(dtype)
