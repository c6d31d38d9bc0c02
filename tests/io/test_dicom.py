"""Series of slices and files of frames, made here field by field: order, scaling, place, parts, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from nca_gen.data import volumes as data
from nca_gen.errors import UserError
from nca_gen.io import dicom, images, sets, volumes

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 4096, (4, 5, 6)).astype(np.uint16)  # as stored: slices, rows, columns
AXIAL = (1, 0, 0, 0, 1, 0)  # rows to the left, columns to the back


def item(**fields):
    made = Dataset()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def image(pixels, syntax=ExplicitVRLittleEndian, **fields):
    """A DICOM image of ``pixels``, of which ``fields`` say more, or (None) less."""
    made = item(SOPClassUID=CTImageStorage, SOPInstanceUID=pydicom.uid.generate_uid(), SeriesInstanceUID="1.2.3")
    made.Rows, made.Columns = pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    made["PixelData"].VR = "OW"
    for name, value in fields.items():
        delattr(made, name) if value is None else setattr(made, name, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def save(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


def placed(d, step=2.0, directions=AXIAL, spacing=(0.75, 0.5), origin=(10.0, 20.0, 30.0), **more):
    """What places slice ``d`` of a series along its normal."""
    normal = np.cross(directions[:3], directions[3:])
    position = [f"{x:.10g}" for x in np.add(origin, d * step * normal)]
    return {
        "ImagePositionPatient": position,
        "ImageOrientationPatient": [*directions],
        "PixelSpacing": [*spacing],
    } | more


def series(path, voxels=VOXELS, **fields):
    """A folder of axial slices whose names and numbers run against their positions."""
    for d, pixels in enumerate(voxels):
        save(path / f"IM{9 - d}.dcm", image(pixels, InstanceNumber=9 - d, **placed(d, **fields)))
    return path


def test_slices_lie_by_their_positions(tmp_path):
    """Not by names; D goes to the head, H to the front, W to the right; affine in closed form."""
    path = series(tmp_path / "x")
    expected = VOXELS[:, ::-1, ::-1]
    np.testing.assert_array_equal(volumes.read(path)[..., 0], expected)
    assert volumes.read(path).dtype == np.uint16
    affine = volumes.geometry(path).affine
    np.testing.assert_allclose(affine[:3, :3], np.diag([0.5, 0.75, 2.0]))
    np.testing.assert_allclose(affine[:3, 3], [-10 - 5 * 0.5, -20 - 4 * 0.75, 30])  # of the last pixel, in RAS
    assert volumes.microns(path) == (2000, 750, 500)


def test_a_sagittal_series(tmp_path):
    """Columns to the feet, rows to the back, slices to the left: what is D, H and W follows."""
    path = series(tmp_path / "x", directions=(0, 1, 0, 0, 0, -1))
    np.testing.assert_array_equal(volumes.read(path)[..., 0], VOXELS.transpose(1, 2, 0)[::-1, ::-1, ::1])
    assert volumes.microns(path) == (750, 500, 2000)


def test_steps_of_a_few_micrometres(tmp_path):
    """As OCT has them: a missing slice is known, and positions that are rounded to what was written are even."""
    path = series(tmp_path / "x", step=0.0023, spacing=(0.0039, 0.0029))
    assert volumes.microns(path) == (2.3, 3.9, 2.9)
    (path / "IM8.dcm").unlink()
    with pytest.raises(images.Unreadable, match=r"a slice is missing between IM9\.dcm and IM7\.dcm"):
        volumes.read(path)


def test_a_tilted_gantry(tmp_path):
    """Positions that do not lie on one normal make an affine that is sheared, exactly."""
    for d, pixels in enumerate(VOXELS):
        fields = placed(d) | {"ImagePositionPatient": [0, 0.3 * d, 2.0 * d]}
        save(tmp_path / f"{d}.dcm", image(pixels, **fields))
    np.testing.assert_allclose(volumes.geometry(tmp_path).affine[:3, 2], [0, -0.3, 2])


@pytest.mark.parametrize(
    ("fields", "expected", "dtype"),
    [
        ({"RescaleSlope": "1", "RescaleIntercept": "-1024"}, VOXELS.astype(int) - 1024, np.int16),
        ({"RescaleSlope": "0.5", "RescaleIntercept": "3"}, VOXELS * 0.5 + 3, np.float32),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 4095 - VOXELS.astype(int), np.uint16),
        (
            {"BitsStored": 16, "HighBit": 15, "RescaleIntercept": "-1024", "RescaleSlope": "1"},
            VOXELS - 1024.0,
            np.int32,
        ),
    ],
)
def test_numbers_are_rescaled(tmp_path, fields, expected, dtype):
    path = series(tmp_path / "x", **fields)
    found = volumes.read(path)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., 0], expected[:, ::-1, ::-1])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_transfer_syntaxes(tmp_path, syntax):
    for d, pixels in enumerate(VOXELS):
        made = image(pixels, ExplicitVRLittleEndian if syntax == RLELossless else syntax, **placed(d))
        if syntax == RLELossless:
            made.compress(RLELossless, generate_instance_uid=False)
        save(tmp_path / f"{d}.dcm", made)
    np.testing.assert_array_equal(volumes.read(tmp_path)[..., 0], VOXELS[:, ::-1, ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (pydicom.uid.JPEGLosslessSV1, lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True)),
        (pydicom.uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (pydicom.uid.JPEG2000Lossless, lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k")),
    ],
)
def test_packed_pixels(tmp_path, monkeypatch, syntax, encode, dtype):
    """As archives hold them, without a loss; by the package's own dependencies alone."""
    decoder, bits = pydicom.pixels.get_decoder(syntax), 8 * np.dtype(dtype).itemsize
    for name in ("pyjpegls", "pylibjpeg", "gdcm"):
        monkeypatch.delitem(decoder._available, name, raising=False)
    voxels = RNG.integers(0, 2**bits, (4, 16, 17)).astype(f"u{bits // 8}").view(dtype)
    for d, pixels in enumerate(voxels):
        fields = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
        made = image(pixels, **placed(d, **fields))
        made.PixelData = pydicom.encaps.encapsulate([encode(pixels.view(f"u{bits // 8}"))])
        made["PixelData"].VR, made.file_meta.TransferSyntaxUID = "OB", syntax
        save(tmp_path / f"{d}.dcm", made)
    np.testing.assert_array_equal(volumes.read(tmp_path)[..., 0], voxels[:, ::-1, ::-1])
    np.testing.assert_array_equal(volumes.stored(tmp_path)[1:2, 0:3, 0:2][..., 0], voxels[1:2, ::-1, ::-1][:, :3, :2])


def frames(voxels, order, **fields):
    """An Enhanced file of frames, which lie in ``order``."""
    measures = item(PixelSpacing=[0.75, 0.5], SliceThickness=2.0)
    shared = item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[item(ImageOrientationPatient=[*AXIAL])])
    each = []
    for d in order:
        position = item(ImagePositionPatient=[10.0, 20.0, 30.0 + 2 * d])
        scale = item(RescaleSlope=str(d + 1), RescaleIntercept="-7", RescaleType="US")
        each.append(item(PlanePositionSequence=[position], PixelValueTransformationSequence=[scale]))
    more = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": each}
    return image(voxels[list(order)], NumberOfFrames=len(order), **more | fields)


def test_a_file_of_frames(tmp_path):
    """In any order, each with a scale of its own; by itself, or alone in a folder."""
    save(tmp_path / "x" / "a.dcm", frames(VOXELS, (2, 0, 3, 1)))
    expected = VOXELS.astype(int) * np.arange(1, 5)[:, None, None] - 7
    for path in (tmp_path / "x" / "a.dcm", tmp_path / "x"):
        np.testing.assert_array_equal(volumes.read(path)[..., 0], expected[:, ::-1, ::-1])
        assert volumes.read(path).dtype == np.int16
        np.testing.assert_allclose(volumes.geometry(path).affine[:3, 3], [-12.5, -23, 30])


def test_frames_that_nobody_has_placed_lie_as_they_are_stored(tmp_path):
    """Only how large a voxel is is known, where it is."""
    path = save(tmp_path / "a.dcm", image(VOXELS, NumberOfFrames=4, PixelSpacing=[0.75, 0.5], SliceThickness="2"))
    np.testing.assert_array_equal(volumes.read(path)[..., 0], VOXELS)
    assert volumes.microns(path) == (2000, 750, 500)
    bare = save(tmp_path / "b.dcm", image(VOXELS, NumberOfFrames=4))
    assert (volumes.geometry(bare), volumes.microns(bare)) == (None, ())


def test_only_slices_that_a_part_touches_are_decoded(tmp_path, monkeypatch):
    path, seen, decode = series(tmp_path / "x"), [], dicom._pixels
    part = volumes.stored(path)
    assert part.shape == (4, 5, 6, 1)
    monkeypatch.setattr(dicom, "_pixels", lambda frame, dtype: seen.append(frame.name) or decode(frame, dtype))
    found = part[1:3, 0:2, 4:6]
    np.testing.assert_array_equal(found[..., 0], VOXELS[1:3, ::-1, ::-1][:, :2, 4:])
    assert seen == ["IM8.dcm", "IM7.dcm"]


def test_colours(tmp_path):
    """RGB in planes; and palettes are refused."""
    pixels = RNG.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    for d, some in enumerate(pixels):
        fields = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1}
        fields |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "Rows": 5, "Columns": 6}
        save(tmp_path / f"{d}.dcm", image(np.moveaxis(some, -1, 0), **placed(d, **fields)))
    np.testing.assert_array_equal(volumes.read(tmp_path), pixels[:, ::-1, ::-1])


WRONG = {  # what is done to the slices, and what is said of it
    "a missing slice": (
        lambda some: some.pop(1),
        r"a slice is missing between s0\.dcm and s2\.dcm, which lie 4 mm apart",
    ),
    "two missing slices": (
        lambda some: [some.pop(1), some.pop(1)],
        r"2 slices are missing between s0\.dcm and s3\.dcm",
    ),
    "unequal spacing": (
        lambda some: setattr(some[5], "ImagePositionPatient", [10, 20, 41]),
        r"s4\.dcm and s5\.dcm lie 3 mm apart, and other slices 2 mm",
    ),
    "two at one place": (
        lambda some: setattr(some[5], "ImagePositionPatient", some[4].ImagePositionPatient),
        r"s4\.dcm and s5\.dcm lie at one place: keep one time or echo a folder",
    ),
    "unequal sizes": (
        lambda some: (setattr(some[3], "Rows", 4), setattr(some[3], "PixelData", some[3].PixelData[:48])),
        r"slices differ in size: s0\.dcm has 5 x 6 x 1, s3\.dcm has 4 x 6 x 1",
    ),
    "unequal pixels": (
        lambda some: setattr(some[2], "PixelSpacing", [0.75, 0.6]),
        r"differ in the spacing of their pixels: s0\.dcm has 0\.75 x 0\.5, s2\.dcm has 0\.75 x 0\.6",
    ),
    "another plane": (
        lambda some: setattr(some[0], "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]),
        r"slices lie in different planes: s0\.dcm and s1\.dcm",
    ),
    "two series": (
        lambda some: (setattr(some[4], "SeriesInstanceUID", "1.2.4"), setattr(some[4], "SeriesDescription", "T2")),
        r"it holds 2 series: 1\.2\.3 \(s5\.dcm\); T2 1\.2\.4 \(s4\.dcm\): keep one a folder",
    ),
    "no place": (lambda some: delattr(some[1], "ImagePositionPatient"), r"s1\.dcm does not say where it lies"),
    "no pixels": (lambda some: delattr(some[1], "PixelData"), r"s1\.dcm: there are no pixels in it"),
    "cut short": (
        lambda some: setattr(some[1], "PixelData", some[1].PixelData[:20]),
        r"s1\.dcm: the file is cut short",
    ),
    "a palette": (
        lambda some: setattr(some[1], "PhotometricInterpretation", "PALETTE COLOR"),
        r"s1\.dcm: its numbers go through a table \(LUT or palette\)",
    ),
    "film": (
        lambda some: setattr(some[0].file_meta, "TransferSyntaxUID", pydicom.uid.MPEG4HP41),
        r"s0\.dcm: its pixels are packed as MPEG-4 .*, which is not read",
    ),
    "no decoder": (
        lambda some: setattr(some[0].file_meta, "TransferSyntaxUID", pydicom.uid.HTJ2KLossless),
        r"s0\.dcm: its pixels are packed as High-Throughput JPEG 2000 .*, and no decoder is there \(pylibjpeg",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, what):
    spoil, says = WRONG[what]
    some = [image(pixels, **placed(d)) for d, pixels in enumerate(RNG.integers(0, 4096, (6, 5, 6)).astype(np.uint16))]
    names = {id(made): f"s{d}.dcm" for d, made in enumerate(some)}
    spoil(some)
    for made in some:
        packed = made.file_meta.TransferSyntaxUID.is_encapsulated
        if packed:
            made.PixelData = pydicom.encaps.encapsulate([made.PixelData])
        save(tmp_path / "x" / names[id(made)], made)
    monkeypatch.setattr(pydicom.pixels.decoders.HTJ2KLosslessDecoder, "_available", {})
    with pytest.raises(images.Unreadable, match=says) as error:
        volumes.read(tmp_path / "x")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=says):  # and by the set that it is part of
        data.splits(str(tmp_path))


def test_what_is_no_dicom(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"not at all")
    with pytest.raises(images.Unreadable, match=r"a\.dcm: it is no DICOM file"):
        volumes.read(tmp_path / "a.dcm")
    with pytest.raises(images.Unreadable, match="no such file"):
        volumes.read(tmp_path / "b.dcm")


def test_series_and_files_of_frames_are_sets(tmp_path):
    """Of the volumes below a folder; slices are one volume, whatever lies in other folders."""
    series(tmp_path / "x" / "p1")
    series(tmp_path / "x" / "p2", VOXELS[::-1])
    save(tmp_path / "x" / "enhanced" / "a.dcm", frames(VOXELS, range(4)))
    found = sets.open(tmp_path / "x")
    assert (found.names, found.shapes) == (("enhanced/a.dcm", "p1", "p2"), ((4, 5, 6, 1),) * 3)
    assert found.mpp == ((2000, 750, 500),) * 3
    low, high = int(VOXELS.min()), int(VOXELS.max())
    expected = (VOXELS[:, ::-1, ::-1] - np.float32(low)) * np.float32(255 / 128 / (high - low)) - 1
    np.testing.assert_allclose(found[1][..., 0], expected, atol=1e-6)
    alone = sets.open(tmp_path / "x" / "p1")
    assert (alone.names, alone.shape) == (("p1",), (1, 4, 5, 6, 1))
    splits = data.splits(str(tmp_path / "x"), window=(0, 4096))
    assert sorted(source.head(i)["name"] for source in splits.values() for i in range(len(source))) == [*found.names]


def test_files_without_a_suffix(tmp_path):
    """As scanners write them; what lies beside the slices is left alone."""
    path = series(tmp_path / "x")
    for file in path.iterdir():
        file.rename(file.with_suffix(""))
    (path / "DICOMDIR").write_bytes(b"an index")
    (path / "readme.txt").write_text("words")
    np.testing.assert_array_equal(volumes.read(path)[..., 0], VOXELS[:, ::-1, ::-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what pydicom says of its own odd files
def test_the_files_that_pydicom_tests_itself_with():
    """Of any codec, order of bytes and damage: the values that it has itself, or one line."""
    equal, refused = [], {}
    for path in sorted(Path(pydicom.__file__).parent.joinpath("data", "test_files").rglob("*.dcm")):
        try:
            found = volumes.read(path)
        except images.Unreadable as error:
            refused[path.name] = str(error)
            continue
        head = pydicom.dcmread(path)
        expected = pydicom.pixels.apply_rescale(head.pixel_array, head)
        np.testing.assert_array_equal(np.sort(found.astype(float), None), np.sort(expected.astype(float), None))
        equal.append(path.name)
    assert {"CT_small.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_rle_2frame.dcm"} <= {*equal}
    assert {"MR_truncated.dcm", "image_dfl.dcm", "examples_palette.dcm", "rtplan.dcm"} <= {*refused}
    assert len(equal) >= 45
    assert not any("\n" in line for line in refused.values())
