"""Volumes from NIfTI and numpy files: axes, grey levels, sizes, damage."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from nca_gen.data import volumes as data
from nca_gen.errors import UserError
from nca_gen.io import images, sets, volumes
from nca_gen.io.geometry import Geometry

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 256, (3, 4, 5, 6)).astype(np.uint8)


def folder(path, voxels=VOXELS, suffix=".nii.gz"):
    path.mkdir(exist_ok=True)
    for i, volume in enumerate(voxels):
        volumes.write(path / f"{i}{suffix}", volume)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
def test_write_then_read_and_the_order_of_axes(tmp_path, suffix):
    path = folder(tmp_path / "x", suffix=suffix)
    np.testing.assert_array_equal(volumes.read(path / f"1{suffix}")[..., 0], VOXELS[1])
    found = sets.open(path)
    assert (found.shape, found.notes, found.names[2]) == ((3, 4, 5, 6, 1), (), f"2{suffix}")
    np.testing.assert_array_equal(found[1:], images.to_float(VOXELS[1:, ..., None]))
    np.testing.assert_array_equal(found[-1], images.to_float(VOXELS[2, ..., None]))
    if suffix != ".npy":  # a file's first axis is W
        assert nibabel.load(path / f"0{suffix}").shape == (6, 5, 4)


def test_grey_levels_of_other_types_are_stretched_volume_by_volume(tmp_path):
    """Least and greatest value become what 0 and 255 of uint8 are, with a note; NIfTI's own scaling is applied."""
    voxels = np.array([[100, 1123], [611, 355]], np.int16).reshape(1, 2, 2, 1)
    found = sets.open(folder(tmp_path / "x", [*voxels, *(voxels * 7)]))
    expected = np.array([0, 255, 255 * 511 / 1023, 255 * 255 / 1023]) / 128 - 1
    np.testing.assert_allclose(found[0].ravel(), expected, atol=1e-6)
    np.testing.assert_allclose(found[1].ravel(), expected, atol=1e-6)
    assert "stretched from its least to its greatest" in found.notes[0]
    scaled = nibabel.Nifti1Image(voxels[0], np.eye(4))
    scaled.header.set_slope_inter(2.0, -5.0)
    nibabel.save(scaled, tmp_path / "y.nii")
    np.testing.assert_allclose(volumes.read(tmp_path / "y.nii").max(), 2 * 1123 - 5)
    flat = sets.open(folder(tmp_path / "z", [np.full((2, 2, 2), 9, np.int32)]))
    np.testing.assert_array_equal(flat[0], -1)


def test_floats_within_one_are_taken_as_they_are(tmp_path):
    x = RNG.uniform(-1, 1, (2, 3, 4, 5)).astype(np.float32)
    found = sets.open(folder(tmp_path / "x", x))
    np.testing.assert_array_equal(found[:][..., 0], x)
    assert found.notes == ()
    assert "grey to white" in sets.open(folder(tmp_path / "y", np.abs(x))).notes[0]
    # One of them that is uint8 makes all a mixed set: each is stretched.
    volumes.write(tmp_path / "x" / "9.nii.gz", VOXELS[0])
    assert sets.open(tmp_path / "x")[0].min() == -1


def test_volumes_of_several_sizes_can_be_read_but_have_no_shape(tmp_path):
    path = folder(tmp_path / "x")
    volumes.write(path / "9.nii.gz", VOXELS[0, :, :4])
    found = sets.open(path)
    assert found.shapes == ((4, 5, 6, 1),) * 3 + ((4, 4, 6, 1),)
    assert found[3].shape == (4, 4, 6, 1)
    with pytest.raises(UserError, match=r"0\.nii\.gz has 4 x 5 x 6 x 1, 9\.nii\.gz has 4 x 4 x 6 x 1"):
        _ = found.shape


def test_damaged_volumes_are_named_and_left_out(tmp_path):
    path = folder(tmp_path / "x")
    (path / "1.nii.gz").write_bytes((path / "1.nii.gz").read_bytes()[:60])
    volumes.write(path / "2.nii.gz", np.full((4, 5, 6), np.nan, np.float32))
    np.save(path / "4.npy", np.zeros((2, 2)))
    found = sets.open(path)
    np.testing.assert_array_equal(found[0], images.to_float(VOXELS[0, ..., None]))
    assert len(found) == 1
    for word in (
        "3 of 4 files cannot be read",
        "1.nii.gz: ",
        "2.nii.gz: it holds NaN",
        "4.npy: float64 of shape (2, 2)",
    ):
        assert word in found.notes[0]
    with pytest.raises(UserError, match="3 of 4 files"):
        sets.open(path, strict=True)


def test_channels(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 5, 2), np.uint8))
    assert sets.open(tmp_path / "x.npy").shape == (2, 3, 4, 5, 2)
    path = folder(tmp_path / "y", suffix=".npy")
    np.save(path / "7.npy", np.zeros((4, 5, 6, 2), np.uint8))
    with pytest.raises(UserError, match=r"0\.npy has 1 channels, 7\.npy has 2"):
        sets.open(path)


def test_digest_is_of_the_content_in_its_order(tmp_path):
    a, b = sets.open(folder(tmp_path / "a", suffix=".npy")), sets.open(folder(tmp_path / "b", suffix=".npy"))
    assert sets.digest(a) == sets.digest(b) != sets.digest(sets.open(folder(tmp_path / "c", VOXELS[::-1], ".npy")))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_every_type_comes_back_as_it_was(tmp_path, suffix, dtype):
    volume = (RNG.random((3, 4, 5)) * 200).astype(dtype)
    volumes.write(tmp_path / f"x{suffix}", volume)
    found = volumes.read(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(found[..., 0], volume)
    assert found.dtype == dtype
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint32", "int64", "uint64", "float16", "float64", ">i2", ">f4"])
def test_values_of_every_type_come_back(tmp_path, suffix, dtype):
    """In the same type, or the next larger one that the format has; in the machine's order of bytes."""
    volume = RNG.integers(0, 2 if dtype == "bool" else 100, (3, 4, 5)).astype(dtype)
    volumes.write(tmp_path / f"x{suffix}", volume)
    found = volumes.read(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(found[..., 0], volume)
    assert found.dtype == {"bool": np.uint8, "float16": np.float32}.get(dtype, np.dtype(dtype).newbyteorder("="))


def test_what_files_cannot_hold(tmp_path):
    for name, dtype, says in (("x.nii", complex, "cannot hold complex128"), ("x.tif", np.uint8, "are written as .nii")):
        with pytest.raises(ValueError, match=says):
            volumes.write(tmp_path / name, np.zeros((2, 2, 2), dtype))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "AIL", "SRP"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_axes_are_those_of_the_body(tmp_path, codes, suffix):
    """However a volume is stored and tilted, whole and by parts: head, front, right; so are the sides of a voxel."""
    volume, box = RNG.integers(-99, 99, (4, 5, 6, 2)).astype(np.int16), (slice(1, 3), slice(0, 4), slice(2, 6))
    tilt = np.diag([0.5, 0.75, 2, 1]) @ nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3))
    kind = nibabel.Nifti2Image if codes == "LPS" else nibabel.Nifti1Image
    image = kind(volume.transpose(2, 1, 0, 3), tilt)
    turn = nibabel.orientations
    turn = turn.ornt_transform(turn.axcodes2ornt("RAS"), turn.axcodes2ornt(codes))
    nibabel.save(image.as_reoriented(turn), tmp_path / f"x{suffix}")
    assert nibabel.aff2axcodes(nibabel.load(tmp_path / f"x{suffix}").affine) == tuple(codes)
    np.testing.assert_array_equal(volumes.read(tmp_path / f"x{suffix}"), volume)
    part = volumes.stored(tmp_path / f"x{suffix}")
    assert (tuple(part.shape), part.dtype) == ((4, 5, 6, 2), np.int16)
    np.testing.assert_array_equal(part[box], volume[box])
    sides = 1000 * nibabel.affines.voxel_sizes(tilt)[::-1]
    np.testing.assert_allclose(volumes.microns(tmp_path / f"x{suffix}"), sides, rtol=1e-6)


def test_where_nothing_is_said_of_axes_they_are_as_stored(tmp_path):
    """Both codes are zero; nibabel itself would take the first axis for one that runs to the left."""
    nibabel.save(nibabel.Nifti1Image(VOXELS[0].T, None), tmp_path / "x.nii")
    np.testing.assert_array_equal(volumes.read(tmp_path / "x.nii")[..., 0], VOXELS[0])
    assert volumes.microns(tmp_path / "x.nii") == ()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_axes_of_one_and_colours(tmp_path, suffix):
    """Headers of five axes; vectors lie in the fifth; colours are records of three, and of four with alpha."""
    path, three = tmp_path / f"x{suffix}", RNG.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    fields = [(name, "u1") for name in "RGB"]
    coloured = np.ascontiguousarray(three.transpose(2, 1, 0, 3)).view(fields)[..., 0]
    for stored, expected in (
        (VOXELS[0].T[..., None, None], VOXELS[0, ..., None]),
        (three.transpose(2, 1, 0, 3)[..., None, :], three),
        (coloured, three),
    ):
        nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), path)
        np.testing.assert_array_equal(volumes.read(path), expected)
        np.testing.assert_array_equal(volumes.stored(path)[1:3, 0:5, 2:4], expected[1:3, :, 2:4])
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2, 2), np.uint8), np.eye(4)), path)
    with pytest.raises(images.Unreadable, match=r"axes of \(3, 4, 5, 2, 2\) are no volume"):
        volumes.read(path)


def test_axes_of_one_in_arrays(tmp_path):
    wide = RNG.integers(0, 256, (3, 4, 20)).astype(np.uint8)
    for stored in (wide, wide[None], wide[None, ..., None], wide[..., None, None]):
        np.save(tmp_path / "x.npy", stored)
        np.testing.assert_array_equal(volumes.read(tmp_path / "x.npy")[..., 0], wide)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 20)))
    with pytest.raises(images.Unreadable, match="channels come last"):
        volumes.read(tmp_path / "x.npy")


def test_masks_are_read_and_told(tmp_path):
    """Of truth values; what is 0 and 1 would be nearly black."""
    np.save(tmp_path / "x.npy", VOXELS[0] > 99)
    np.testing.assert_array_equal(volumes.read(tmp_path / "x.npy")[..., 0], VOXELS[0] > 99)
    assert "of 8 bits and end at 1" in sets.open(folder(tmp_path / "y", VOXELS % 2)).notes[0]


def test_capitals_are_as_good(tmp_path):
    for suffix in (".NPY", ".NII.GZ", ".Nii"):
        volumes.write(tmp_path / f"x{suffix.lower()}", VOXELS[0])
        (tmp_path / f"x{suffix.lower()}").rename(tmp_path / f"X{suffix}")
        np.testing.assert_array_equal(volumes.read(tmp_path / f"X{suffix}")[..., 0], VOXELS[0])
        assert volumes.microns(tmp_path / f"X{suffix}") == ()


@pytest.mark.parametrize("unit", ["mm", "micron", "unknown"])
def test_how_large_a_voxel_is(tmp_path, unit):
    """Written in millimetres, read in every unit; by custom one that is not named is the millimetre."""
    sides = (3000.0, 700.0, 500.0)
    volumes.write(tmp_path / "x.nii.gz", VOXELS[0], sides)
    image = nibabel.load(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.7, 3))
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    if unit == "micron":
        image = nibabel.Nifti1Image(image.dataobj, np.diag([500, 700, 3000, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "y.nii")
    np.testing.assert_allclose(volumes.microns(tmp_path / "y.nii"), sides, rtol=1e-6)


def test_sizes_of_voxels_that_differ_are_told(tmp_path):
    volumes.write(tmp_path / "0.nii.gz", VOXELS[0], (700, 500, 500))
    volumes.write(tmp_path / "1.nii.gz", VOXELS[1])
    volumes.write(tmp_path / "2.nii.gz", VOXELS[2], (701, 500, 500))
    assert sets.open(tmp_path).notes == ()
    volumes.write(tmp_path / "3.nii.gz", VOXELS[2], (700, 500, 1000))
    found = sets.open(tmp_path)
    assert "0.nii.gz has 700 x 500 x 500 µm a pixel, 3.nii.gz has 700 x 500 x 1000 µm" in found.notes[0]
    np.testing.assert_allclose(found.mpp[3], (700, 500, 1000))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
def test_parts_of_stored_volumes(tmp_path, suffix):
    """Several channels; scaled ones too, whose numbers are what the header makes of them."""
    volume = RNG.integers(0, 99, (5, 6, 7, 2)).astype(np.int16)
    volumes.write(tmp_path / f"x{suffix}", volume)
    box = slice(1, 3), slice(0, 6), slice(4, 7)
    part = volumes.stored(tmp_path / f"x{suffix}")
    assert (tuple(part.shape), part.dtype) == ((5, 6, 7, 2), np.int16)
    np.testing.assert_array_equal(part[box], volume[box])
    scaled = nibabel.Nifti1Image(volume[..., 0].T, np.eye(4))
    scaled.header.set_slope_inter(0.5, 3.0)
    nibabel.save(scaled, tmp_path / "y.nii")
    np.testing.assert_allclose(
        volumes.stored(tmp_path / "y.nii")[box], volumes.read(tmp_path / "y.nii")[box], rtol=0, atol=0
    )


def test_the_three_middle_planes():
    """Each with its own axes, side by side, white below the lower ones."""
    volume = RNG.integers(0, 255, (3, 5, 7, 1)).astype(np.uint8)
    picture = volumes.planes(volume, gap=1)
    assert picture.shape == (5, 7 + 1 + 7 + 1 + 5, 1)
    np.testing.assert_array_equal(picture[:, :7], volume[1])
    np.testing.assert_array_equal(picture[:3, 8:15], volume[:, 2])
    np.testing.assert_array_equal(picture[:3, 16:], volume[:, :, 3])
    assert (picture[:, 7] == 255).all()
    assert (picture[3:, 8:] == 255).all()
    np.testing.assert_array_equal(volumes.planes(images.to_float(volume), gap=1), picture)


def test_a_film_through_the_slices():
    volume = RNG.integers(0, 255, (6, 4, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(volumes.through(volume), volume)
    np.testing.assert_array_equal(volumes.through(images.to_float(volume), axis=2), np.moveaxis(volume, 2, 0))
    np.testing.assert_array_equal(volumes.through(volume, frames=3), volume[1::2])


def test_an_image_is_no_volume(tmp_path):
    """[H, W, 3] is no volume of 3 voxels across; nor has a volume 40 channels, as a film in NIfTI would."""
    np.save(tmp_path / "x.npy", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"\(32, 32, 3\) is an image, and no volume"):
        volumes.read(tmp_path / "x.npy")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 40), np.uint8), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(UserError, match="at most 16 channels"):
        volumes.read(tmp_path / "x.nii")


def test_the_affine_tells_how_large_a_voxel_is(tmp_path):
    """Of a header whose pixdim was left at 1; where there is no affine, pixdim tells."""
    turn = np.array([[0, -0.5, 0, 9], [0.7, 0, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), None)
    image.set_sform(turn, 1)
    nibabel.save(image, tmp_path / "x.nii")
    assert nibabel.load(tmp_path / "x.nii").header.get_zooms() == (1, 1, 1)
    assert volumes.microns(tmp_path / "x.nii") == (3000, 700, 500)
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), None)
    image.header.set_zooms((2, 2, 4))
    nibabel.save(image, tmp_path / "x.nii")
    assert volumes.microns(tmp_path / "x.nii") == (4000, 2000, 2000)


OBLIQUE = np.array([[0.5, 0.1, 0.2, 9], [-0.1, 0.7, 0.1, 8], [0, -0.1, 3, 7], [0, 0, 0, 1]])
BAD = {  # volumes of a set, where they lie, and what comes of it: (what is said), or the least and the greatest value
    "anisotropic": ([VOXELS[0]] * 2, np.diag([0.5, 0.7, 3.0, 1.0]), (-1, 127 / 128)),
    "oblique": ([VOXELS[0]] * 2, OBLIQUE, (-1, 127 / 128)),
    "constant": ([np.full((4, 5, 6), 7, np.int16)] * 2, OBLIQUE, (-1, -1)),
    "int64": ([VOXELS[0].astype(np.int64) * 2**33 - 2**40] * 2, OBLIQUE, (-1, 127 / 128)),
    "bool": ([VOXELS[0] > 99] * 2, OBLIQUE, (-1, -127 / 128)),
    "NaN": ([np.where(VOXELS[0] > 250, np.nan, VOXELS[0]).astype(np.float32)] * 2, OBLIQUE, "it holds NaN or infinite"),
    "infinite": ([np.where(VOXELS[0] > 250, np.inf, 0).astype(np.float32)] * 2, OBLIQUE, "it holds NaN or infinite"),
    "unequal sizes": ([VOXELS[0], VOXELS[1, :, :3]], OBLIQUE, "volumes differ in size: 0.* has 4 x 5 x 6 x 1, 1"),
    "unequal channels": (
        [VOXELS[0], np.stack([VOXELS[1]] * 2, -1)],
        OBLIQUE,
        "volumes of different kinds: 0.* has 1 channels, 1.* has 2",
    ),
    "complex": ([VOXELS[0].astype(complex)] * 2, OBLIQUE, "give integers or floats"),
}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".npy", ".ome.zarr", ".dcm", ".dicom"])
@pytest.mark.parametrize("what", BAD)
def test_what_is_unusual_works_or_is_one_line(tmp_path, what, suffix):
    """Written, opened as a set and as data: in every format the same comes of it, or the format says what it lacks."""
    some, affine, outcome = BAD[what]
    geometry = Geometry.of(affine) if suffix != ".npy" else None
    if suffix in (".dcm", ".dicom"):
        geometry = Geometry.of(np.diag([0.5, 0.7, 3.0, 1.0]))  # what is skew cannot be said in DICOM
        held = ("bool", "uint8", "uint16", *(["int16"] if suffix == ".dicom" else []))
        if what in ("NaN", "infinite", "int64", "complex") or some[0].dtype.name not in held:
            outcome = "holds whole numbers of 16 bits" if what != "complex" else outcome
        elif what == "unequal channels":
            outcome = "a volume in DICOM has one"

    def opened():
        for i, voxels in enumerate(some):
            whole = voxels if voxels.ndim == 4 else voxels[..., None]
            volumes.save(tmp_path / f"{i}{suffix}", whole, geometry, "MR" if suffix == ".dicom" else "")
        found = sets.open(tmp_path)
        assert found.shape == (2, 4, 5, 6, 1)
        return found

    if isinstance(outcome, str):
        with pytest.raises((UserError, ValueError), match=outcome) as error:
            opened()
        assert "\n" not in str(error.value)
        return
    found = opened()
    assert (found[0].min(), found[0].max()) == pytest.approx(outcome, abs=1e-6)
    np.testing.assert_array_equal(images.to_float(data.splits(str(tmp_path))["train"][0]["image"]), found[0])
    np.testing.assert_array_equal(volumes.read(tmp_path / f"0{suffix}")[..., 0], some[0])
    if geometry:
        there = volumes.geometry(tmp_path / f"0{suffix}")
        np.testing.assert_allclose(there.affine, geometry.affine, rtol=2e-7)
        np.testing.assert_allclose(found.mpp[0], geometry.mpp, rtol=1e-6)


def test_films_are_no_volumes(tmp_path):
    """A fourth axis of more than channels; of one place in time it is a volume."""
    for times, says in ((1, ""), (20, "at most 16 channels")):
        nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4, times), np.uint8), OBLIQUE), tmp_path / "x.nii")
        if says:
            with pytest.raises(images.Unreadable, match=says):
                volumes.read(tmp_path / "x.nii")
        else:
            assert volumes.read(tmp_path / "x.nii").shape == (4, 5, 6, 1)


def test_an_affine_of_millimetres_that_are_not_named_is_kept(tmp_path):
    """As templates of the brain have it: sides of 1, and an origin. Where all is 1 and nothing else, nobody knows."""
    for affine, known in ((np.eye(4), False), (OBLIQUE, True)):
        nibabel.save(nibabel.Nifti1Image(VOXELS[0].T, affine), tmp_path / "x.nii")
        found = volumes.geometry(tmp_path / "x.nii")
        assert (found is not None) == known
    shifted = np.array([[1.0, 0, 0, -90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(VOXELS[0].T, shifted), tmp_path / "x.nii")
    np.testing.assert_array_equal(volumes.geometry(tmp_path / "x.nii").affine, shifted)


def test_geometry_is_not_lost_without_a_word(tmp_path):
    """A file that cannot say where a volume lies is not written."""
    with pytest.raises(ValueError, match=r"x\.npy cannot say where a volume lies"):
        volumes.save(tmp_path / "x.npy", VOXELS[0, ..., None], Geometry.of(OBLIQUE))
    assert not [*tmp_path.iterdir()]
