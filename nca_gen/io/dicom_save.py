"""Volumes as DICOM, slice by slice: OCT as one file of many frames, CT and MR as a folder of slices.

The same volume gives the same bytes: identifiers are hashes of what is written, and where a date must stand it is
``NEVER``. Nothing is said of a patient or a machine; images are DERIVED, and for research.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_gen.errors import UserError
from nca_gen.io.geometry import LPS, Geometry
from nca_gen.io.stored import Stored, Volume, runs

NEVER = "19700101"
WRITER = "2.25.251706873210405914306210877061873490237"  # names this writer, as DICOM asks for
CLASSES = {
    "OPT": "1.2.840.10008.5.1.4.1.1.77.1.5.4",  # Ophthalmic Tomography Image Storage
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
}
EYE, SCANNER = ("81745001", "Eye"), ("392012008", "Optical Coherence Tomography Scanner")  # of SNOMED CT
LARGEST = 2**32 - 2  # bytes of the pixels of a file


class Content(NamedTuple):
    """What a volume holds: a hash of it all, the least and the greatest value."""

    digest: bytes
    low: int
    high: int


class Planes(NamedTuple):
    """How the slices lie, in LPS millimetres: the first pixel of the first, from slice to slice, along a row, down a
    column."""

    origin: np.ndarray
    step: np.ndarray
    across: np.ndarray
    down: np.ndarray

    @property
    def spacing(self) -> list[str]:
        """Between rows, and between columns."""
        return _decimals([np.linalg.norm(self.down), np.linalg.norm(self.across)])

    @property
    def apart(self) -> str:
        """Between slices, along their normal."""
        normal = np.cross(self.across, self.down)
        return _decimals([abs(self.step @ normal) / np.linalg.norm(normal)])[0]

    @property
    def directions(self) -> list[str]:
        """Of a row and of a column, each of length 1."""
        return _decimals([*self.across / np.linalg.norm(self.across), *self.down / np.linalg.norm(self.down)])

    def position(self, d: int) -> list[str]:
        """Of the first pixel of slice ``d``."""
        return _decimals(self.origin + d * self.step)


def save(path: Path, volume: Stored, geometry: Geometry | None, modality: str, name: str) -> None:
    """Writes ``volume`` as ``modality``: "OPT" (the file ``path``), "CT" or "MR" (slices in the folder ``path``, which
    is there).

    Slices of CT and MR are written as they are looked at: rows go to the left, columns to the back. Types are uint8,
    uint16 and, but for OPT, int16; CT and MR hold uint8 in 16 bits. Raises UserError for what DICOM cannot say: no
    sizes of voxels, other types, several channels, rows that do not stand at right angles to columns.
    """
    if volume.dtype.name not in ("bool", "uint8", "uint16", *(["int16"] if modality != "OPT" else [])):
        more = "" if modality == "OPT" else " (or int16)"
        raise UserError(f"{name} is {volume.dtype}: DICOM holds whole numbers of 16 bits, give uint8 or uint16{more}")
    if volume.shape[3] != 1:
        raise UserError(f"{name} has {volume.shape[3]} channels: a volume in DICOM has one")
    if geometry is None:
        raise UserError(f"how large a voxel of {name} is must be known for DICOM: set --config.generate.mpp")
    if not geometry.square:
        raise UserError(f"the rows of {name} do not stand at right angles to its columns, and in DICOM they must")
    turns = (False, modality != "OPT", modality != "OPT")
    affine = LPS @ geometry.flipped(turns, volume.shape).affine
    planes = Planes(affine[:3, 3], affine[:3, 2], affine[:3, 0], affine[:3, 1])
    content = _content(volume, f"{geometry.rows} {modality} {name}")
    write = _frames if modality == "OPT" else _slices
    write(path, volume, planes, content, _common(volume, content, modality, name))


def _content(volume: Stored, also: str) -> Content:
    digest, low, high = hashlib.sha256(f"{volume.shape} {volume.dtype} {also}".encode()), [], []
    for some in runs(volume):
        digest.update(np.ascontiguousarray(some).data)
        low.append(int(some.min()))
        high.append(int(some.max()))
    return Content(digest.digest(), min(low), max(high))


def _uid(content: Content, role: str) -> str:
    """An identifier that nothing else has, the same each time."""
    return f"2.25.{int.from_bytes(hashlib.sha256(content.digest + role.encode()).digest()[:16], 'big')}"


def _decimals(numbers: Any) -> list[str]:
    """Numbers in the 16 characters that DICOM has for one."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(number) + 0.0) for number in numbers]


def _common(volume: Stored, content: Content, modality: str, name: str) -> Any:
    """What every file of a volume says."""
    from pydicom.dataset import Dataset

    head, empty = Dataset(), ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID")
    for field in (*empty, "PatientName", "PatientBirthDate", "PatientSex", "PositionReferenceIndicator"):
        setattr(head, field, "")
    head.SpecificCharacterSet, head.Modality, head.SOPClassUID = "ISO_IR 192", modality, CLASSES[modality]
    head.PatientID, head.SeriesDescription = content.digest.hex()[:16], name[:64]
    head.StudyInstanceUID, head.SeriesInstanceUID = _uid(content, "study"), _uid(content, "series")
    head.FrameOfReferenceUID, head.SeriesNumber, head.InstanceNumber = _uid(content, "frame of reference"), 1, 1
    head.Manufacturer = head.ManufacturerModelName = "nca_gen"
    head.AcquisitionNumber, head.BurnedInAnnotation, head.LossyImageCompression = 1, "NO", "00"
    head.ImageType = ["DERIVED", "PRIMARY", *{"CT": ["AXIAL"], "MR": ["OTHER"]}.get(modality, [])]
    head.SamplesPerPixel, head.PhotometricInterpretation, head.PresentationLUTShape = 1, "MONOCHROME2", "IDENTITY"
    head.Rows, head.Columns = volume.shape[1:3]
    least = {"OPT": 8, "CT": 12, "MR": 8}[modality]  # bits that are used
    head.BitsAllocated = 8 if modality == "OPT" and volume.dtype.itemsize == 1 else 16
    head.BitsStored = max(least, 8 * volume.dtype.itemsize)
    head.HighBit, head.PixelRepresentation = head.BitsStored - 1, int(volume.dtype.kind == "i")
    return head


def _window(content: Content) -> dict[str, Any]:
    """All grey levels, for who looks at it."""
    middle, width = (content.low + content.high) / 2, max(content.high - content.low, 1)
    return {"WindowCenter": _decimals([middle])[0], "WindowWidth": width}


def _meta(head: Any) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    head.file_meta = meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = head.SOPClassUID, head.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID(WRITER)
    meta.ImplementationVersionName = "NCA_GEN"


def _pixels(volume: Stored, bits: int, turned: bool) -> Iterator[Volume]:
    """The slices one after the other, in so many bits, as they are looked at."""
    for some in runs(volume):
        for plane in some[..., 0]:
            wide = plane.astype(f"<{'i' if plane.dtype.kind == 'i' else 'u'}{bits // 8}")
            yield np.ascontiguousarray(wide[::-1, ::-1] if turned else wide)


def _slices(path: Path, volume: Stored, planes: Planes, content: Content, head: Any) -> None:
    """A file a slice, from the feet to the head."""
    import pydicom

    head.PixelSpacing, head.ImageOrientationPatient = planes.spacing, planes.directions
    head.SliceThickness = head.SpacingBetweenSlices = planes.apart
    head.update(_item(**_window(content)))
    if head.Modality == "CT":
        head.KVP, head.RescaleSlope, head.RescaleIntercept, head.RescaleType = "", "1", "0", "US"
    else:
        head.ScanningSequence, head.SequenceVariant = "RM", "NONE"
        head.ScanOptions = head.MRAcquisitionType = head.RepetitionTime = head.EchoTime = head.EchoTrainLength = ""
    del head.PresentationLUTShape
    for d, plane in enumerate(_pixels(volume, 16, turned=True)):
        head.SOPInstanceUID, head.InstanceNumber = _uid(content, f"slice {d}"), d + 1
        head.ImagePositionPatient = planes.position(d)
        head.PixelData = plane.tobytes()
        head["PixelData"].VR = "OW"
        _meta(head)
        pydicom.dcmwrite(path / f"{d + 1:05d}.dcm", head, enforce_file_format=True)


def _frames(path: Path, volume: Stored, planes: Planes, content: Content, head: Any) -> None:
    """One file, Enhanced: the pixels of all frames behind what is said of them."""
    import pydicom

    depth, height, width = volume.shape[:3]
    size = depth * height * width * head.BitsAllocated // 8
    if size > LARGEST:
        raise UserError(f"{path.name} would have {size / 1e9:.1f} GB of pixels, and a DICOM file holds 4.3 GB at most")
    head.SOPInstanceUID = _uid(content, "volume")
    head.DeviceSerialNumber, head.SoftwareVersions = "none", "none"
    head.ContentDate, head.ContentTime, head.AcquisitionDateTime = NEVER, "000000", f"{NEVER}000000"
    head.ContentQualification, head.OphthalmicVolumetricPropertiesFlag = "RESEARCH", "YES"
    head.InConcatenationNumber, head.InConcatenationTotalNumber, head.ConcatenationFrameOffsetNumber = 1, 1, 0
    for field in ("EmmetropicMagnification", "IntraOcularPressure", "HorizontalFieldOfView", "PupilDilated"):
        setattr(head, field, None)
    head.AxialLengthOfTheEye, head.DetectorType, head.ImageLaterality = None, "INT", "B"  # of no eye: of both
    head.RefractiveStateSequence = head.LightPathFilterTypeStackCodeSequence = head.AcquisitionContextSequence = []
    head.AnatomicRegionSequence, head.AcquisitionDeviceTypeCodeSequence = [_code(*EYE)], [_code(*SCANNER)]
    organization = _uid(content, "dimensions")
    head.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    pointers = {"DimensionIndexPointer": 0x00200032, "FunctionalGroupPointer": 0x00209113}  # position, of a plane
    head.DimensionIndexSequence = [_item(DimensionOrganizationUID=organization, **pointers)]
    apart = {"SliceThickness": planes.apart, "SpacingBetweenSlices": planes.apart, "PixelSpacing": planes.spacing}
    anatomy = {"FrameLaterality": "B", "AnatomicRegionSequence": [_code(*EYE)]}
    head.NumberOfFrames = depth
    head.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[_item(**apart)],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=planes.directions)],
            FrameAnatomySequence=[_item(**anatomy)],
            FrameVOILUTSequence=[_item(**_window(content))],
            DerivationImageSequence=[],
        )
    ]
    head.PerFrameFunctionalGroupsSequence = [
        _item(
            FrameContentSequence=[_item(DimensionIndexValues=d + 1, StackID="1", InStackPositionNumber=d + 1)],
            PlanePositionSequence=[_item(ImagePositionPatient=planes.position(d))],
        )
        for d in range(depth)
    ]
    _meta(head)
    with path.open("wb") as file:
        pydicom.dcmwrite(file, head, enforce_file_format=True)
        vr = b"OB" if head.BitsAllocated == 8 else b"OW"
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, size + size % 2))  # the last of all fields
        for plane in _pixels(volume, head.BitsAllocated, turned=False):
            file.write(plane.data)
        file.write(bytes(size % 2))


def _item(**fields: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for field, value in fields.items():
        setattr(item, field, value)
    return item


def _code(value: str, meaning: str) -> Any:
    return _item(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)
