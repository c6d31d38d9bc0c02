"""Volumes as DICOM: what comes back, what viewers are told, the same bytes each time, and what cannot be said."""

from __future__ import annotations

import re
from datetime import date

import nibabel
import numpy as np
import pydicom
import pytest

from nca_gen.errors import UserError
from nca_gen.io import volumes
from nca_gen.io.geometry import Geometry

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 2**15, (4, 5, 6)).astype(np.uint16)
TILT = nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3)
OBLIQUE = nibabel.affines.from_matvec(TILT @ np.diag([0.45, 0.7, 3.0]), [-11.7, 20.1, 33.3])  # of (w, h, d)
FORMS = {"OPT": "x.dcm", "CT": "x.dicom", "MR": "x.dicom"}
NEEDED = {  # of type 1 in the standard's modules for these images (PS3.3): they must be there, and hold something
    "": """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ImageType Rows
        Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation""",
    "OPT": """SeriesNumber Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions ContentDate
        ContentTime InstanceNumber NumberOfFrames DimensionOrganizationSequence AcquisitionDateTime AcquisitionNumber
        InConcatenationNumber InConcatenationTotalNumber ConcatenationFrameOffsetNumber BurnedInAnnotation
        LossyImageCompression PresentationLUTShape DetectorType AcquisitionDeviceTypeCodeSequence
        AnatomicRegionSequence ImageLaterality SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence""",
    "CT": "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleIntercept RescaleSlope",
    "MR": "ImagePositionPatient ImageOrientationPatient PixelSpacing ScanningSequence SequenceVariant",
}
EMPTY = {  # of type 2: they must be there, and may hold nothing
    "": """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID
        ReferringPhysicianName PositionReferenceIndicator""",
    "OPT": """AcquisitionContextSequence EmmetropicMagnification IntraOcularPressure HorizontalFieldOfView PupilDilated
        RefractiveStateSequence AxialLengthOfTheEye LightPathFilterTypeStackCodeSequence""",
    "CT": "SliceThickness KVP AcquisitionNumber Manufacturer InstanceNumber",
    "MR": "SliceThickness ScanOptions MRAcquisitionType EchoTime EchoTrainLength Manufacturer InstanceNumber",
}


def heads(path):
    """The DICOM files of a volume, in the order of their names."""
    return [pydicom.dcmread(one) for one in (sorted(path.iterdir()) if path.is_dir() else [path])]


@pytest.mark.parametrize("modality", FORMS)
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "AIL", "SRP", "LSA"])
def test_from_nifti_to_dicom_and_back(tmp_path, codes, modality):
    """Oblique, flipped and with other axes first: the affine in float32 and every voxel are as nibabel turns them."""
    turn = nibabel.orientations
    turn = turn.ornt_transform(turn.axcodes2ornt("RAS"), turn.axcodes2ornt(tuple(codes)))
    image = nibabel.Nifti1Image(VOXELS.T, OBLIQUE).as_reoriented(turn)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii.gz")
    volumes.save(
        tmp_path / FORMS[modality],
        volumes.stored(tmp_path / "a.nii.gz"),
        volumes.geometry(tmp_path / "a.nii.gz"),
        modality,
    )
    there = volumes.geometry(tmp_path / FORMS[modality])
    volumes.save(tmp_path / "b.nii.gz", volumes.stored(tmp_path / FORMS[modality]), there)
    canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz"))
    found = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(canonical.dataobj))
    np.testing.assert_allclose(found.affine, canonical.affine, rtol=2e-7, atol=2e-7)
    assert found.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("modality", FORMS)
def test_from_dicom_to_nifti_and_back(tmp_path, modality):
    """The other way about: the same files but for their names' hashes, so the same positions, to the digit."""
    one, other = tmp_path / FORMS[modality], tmp_path / "again" / FORMS[modality]
    other.parent.mkdir()
    volumes.save(one, VOXELS[..., None], Geometry.of(OBLIQUE), modality)
    volumes.save(tmp_path / "a.nii", volumes.stored(one), volumes.geometry(one))
    volumes.save(other, volumes.stored(tmp_path / "a.nii"), volumes.geometry(tmp_path / "a.nii"), modality)
    np.testing.assert_array_equal(volumes.read(other), volumes.read(one))
    np.testing.assert_allclose(volumes.geometry(other).affine, volumes.geometry(one).affine, rtol=2e-7, atol=2e-6)


def test_a_sheared_volume_keeps_its_shear(tmp_path):
    """Slices can be shifted against each other in DICOM; rows and columns cannot be."""
    slanted, skewed = OBLIQUE.copy(), OBLIQUE.copy()
    slanted[:3, 2] += 0.3 * slanted[:3, 0]
    skewed[:3, 1] += 0.3 * skewed[:3, 0]
    for modality, name in FORMS.items():
        volumes.save(tmp_path / name, VOXELS[..., None], Geometry.of(slanted), modality)
        np.testing.assert_allclose(volumes.geometry(tmp_path / name).affine, slanted, atol=1e-9)
        with pytest.raises(UserError, match="right angles"):
            volumes.save(tmp_path / name, VOXELS[..., None], Geometry.of(skewed), modality)


@pytest.mark.parametrize("modality", FORMS)
def test_what_the_standard_asks_for_is_there(tmp_path, modality):
    volumes.write(tmp_path / FORMS[modality], VOXELS, (3000, 700, 450), modality)
    for head in heads(tmp_path / FORMS[modality]):
        for name in (NEEDED[""] + " " + NEEDED[modality]).split():
            assert head[name].value not in (None, ""), name
        for name in (EMPTY[""] + " " + EMPTY[modality]).split():
            assert name in head
        for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", head[name].value)
            assert len(head[name].value) <= 64
        assert head.file_meta.MediaStorageSOPInstanceUID == head.SOPInstanceUID
        assert head.ImageType[0] == "DERIVED"


def test_slices_are_as_they_are_looked_at(tmp_path):
    """From the feet to the head, rows to the left, columns to the back: an axial series of the plainest directions."""
    volumes.write(tmp_path / "x.dicom", VOXELS, (3000, 700, 450), "CT")
    some = heads(tmp_path / "x.dicom")
    assert [path.name for path in sorted((tmp_path / "x.dicom").iterdir())] == [f"0000{d}.dcm" for d in range(1, 5)]
    for d, head in enumerate(some):
        np.testing.assert_array_equal(head.ImageOrientationPatient, (1, 0, 0, 0, 1, 0))
        np.testing.assert_allclose(head.ImagePositionPatient, (-5 * 0.45, -4 * 0.7, 3.0 * d))
        np.testing.assert_array_equal(head.PixelSpacing, (0.7, 0.45))
        np.testing.assert_array_equal(head.pixel_array, VOXELS[d, ::-1, ::-1])
        assert (head.InstanceNumber, head.SliceThickness) == (d + 1, 3)
    assert len({head.SOPInstanceUID for head in some}) == 4
    assert len({head.SeriesInstanceUID for head in some}) == 1


def test_frames_of_oct_are_as_they_are(tmp_path):
    """B-scans are not turned; their window is that of the whole, their numbers of 8 bits, filled up to an even size."""
    voxels = RNG.integers(3, 200, (3, 5, 7)).astype(np.uint8)
    volumes.write(tmp_path / "x.dcm", voxels, (11, 4, 6))
    [head] = heads(tmp_path / "x.dcm")
    np.testing.assert_array_equal(head.pixel_array, voxels)
    np.testing.assert_array_equal(volumes.read(tmp_path / "x.dcm")[..., 0], voxels)
    assert volumes.read(tmp_path / "x.dcm").dtype == np.uint8
    [shared] = head.SharedFunctionalGroupsSequence
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, (0.004, 0.006))
    low, high, window = int(voxels.min()), int(voxels.max()), shared.FrameVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == ((low + high) / 2, high - low)
    places = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in head.PerFrameFunctionalGroupsSequence]
    np.testing.assert_allclose(places, [(0, 0, 0.011 * d) for d in range(3)])
    assert (tmp_path / "x.dcm").stat().st_size % 2 == 0


@pytest.mark.parametrize("modality", FORMS)
def test_the_same_volume_is_the_same_file(tmp_path, modality):
    """And another one has other identifiers; the day on which it was written stands nowhere."""
    made = {}
    for name, voxels in (("a", VOXELS), ("b", VOXELS), ("c", VOXELS ^ 1)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / FORMS[modality]
        volumes.write(path, voxels, (3000, 700, 450), modality)
        made[name] = [one.read_bytes() for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
        assert date.today().strftime("%Y%m%d").encode() not in b"".join(made[name])
    assert made["a"] == made["b"]
    one, other = (heads(tmp_path / name / FORMS[modality])[0] for name in "ac")
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


@pytest.mark.parametrize(
    ("name", "voxels", "mpp", "modality", "says"),
    [
        ("x.dcm", VOXELS, (), "", "how large a voxel of x is must be known"),
        ("x.dcm", VOXELS.astype(np.float32), (1,) * 3, "", "x is float32: DICOM holds whole numbers of 16 bits"),
        ("x.dcm", VOXELS.astype(np.int16), (1,) * 3, "", "x is int16: .* give uint8 or uint16$"),
        ("x.dicom", VOXELS.astype(np.int64), (1,) * 3, "CT", r"x is int64: .* give uint8 or uint16 \(or int16\)"),
        ("x.dicom", VOXELS[..., None].repeat(2, -1), (1,) * 3, "MR", "x has 2 channels: a volume in DICOM has one"),
    ],
)
def test_what_dicom_cannot_say(tmp_path, name, voxels, mpp, modality, says):
    """And nothing is left of the attempt."""
    with pytest.raises(UserError, match=says):
        volumes.write(tmp_path / name, voxels, mpp, modality)
    with pytest.raises(ValueError, match="of CT or MR"):
        volumes.write(tmp_path / "x.dicom", VOXELS, (1,) * 3)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16"])
def test_types_of_ct_and_mr(tmp_path, dtype):
    """Values come back in the type that holds the bits that the standard leaves."""
    voxels = (VOXELS.astype(int) - (2**14 if dtype == "int16" else 0)).astype(dtype)
    for modality, held in (("CT", "uint16"), ("MR", "uint8")):
        volumes.write(tmp_path / modality / "x.dicom", voxels, (3000, 700, 450), modality)
        found = volumes.read(tmp_path / modality / "x.dicom")
        np.testing.assert_array_equal(found[..., 0], voxels)
        assert found.dtype == (dtype if dtype == "int16" else held)
