"""Sets on disk: what was stored is what is scored, and every unusual input has its stated behaviour."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from nca_gen.errors import UserError
from nca_gen.io import huge, images, sets, slides, volumes

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 16, 20, 3)).astype(np.uint8)


def folder(path, pixels=PIXELS, suffix=".png"):
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        images.write(path / f"{i}{suffix}", image)  # 10 comes after 9
    return path


def stored(tmp_path, how):
    if how == "png":
        return folder(tmp_path / "images")
    if how == "tif":
        return folder(tmp_path / "images", suffix=".tif")
    path = tmp_path / f"{how}.{'npy' if how == 'npy' else 'npz'}"
    {"npy": np.save, "stored": np.savez, "deflated": np.savez_compressed}[how](path, PIXELS)
    return path


@pytest.mark.parametrize("how", ["png", "tif", "npy", "stored", "deflated"])
def test_images_are_what_was_stored(tmp_path, how):
    found = sets.open(stored(tmp_path, how))
    assert isinstance(found, sets.Images)
    assert (len(found), found.shape, sets.kind(found), found.notes) == (12, PIXELS.shape, "images", ())
    x = images.to_float(PIXELS)
    for index in (slice(2, 11, 3), [7, 0, 7], np.array([11]), slice(0, 0), 5, -1):
        np.testing.assert_array_equal(found[index], x[index])
        assert found[index].dtype == np.float32
    np.testing.assert_array_equal(images.from_float(found[:]), PIXELS)
    np.testing.assert_array_equal(np.concatenate([*sets.blocks(found, 4000)]), x)
    assert sum(1 for _ in found) == 12  # as an array, it ends
    with pytest.raises(IndexError):
        found[12]


def test_digest_names_the_content(tmp_path):
    """One array is one digest, however it is stored; one changed pixel is another; a folder's name does not matter."""
    arrays = {how: sets.digest(sets.open(stored(tmp_path, how))) for how in ("npy", "stored", "deflated")}
    assert set(arrays.values()) == {sets.digest(PIXELS)}
    changed = PIXELS.copy()
    changed[11, 15, 19, 2] ^= 1
    assert sets.digest(changed) != sets.digest(PIXELS) != sets.digest(PIXELS.reshape(12, 20, 16, 3))
    a, b, c = (
        sets.digest(sets.open(folder(tmp_path / n, x))) for n, x in (("a", PIXELS), ("b", PIXELS), ("c", changed))
    )
    assert a == b != c
    assert a != sets.digest(sets.open(folder(tmp_path / "d", PIXELS[::-1])))  # the order of features


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """200 images of 0.2 MB, 8 of which are asked for at a time."""
    path = folder(tmp_path / "many", [np.full((256, 256, 3), 7, np.uint8)] * 200)
    tracemalloc.start()
    found = sets.open(path)
    for block in sets.blocks(found, 8 * 256 * 256 * 3):
        assert len(block) == 8
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24e6  # all of them are 157 MB as floats, 39 MB in 8 bits


def test_progress_counts_every_file(tmp_path):
    done = []
    sets.open(folder(tmp_path / "x"), progress=done.append)
    assert done == [*range(1, 13)]


def test_mixed_sizes_name_two_files(tmp_path):
    path = folder(tmp_path / "x")
    images.write(path / "20.png", np.zeros((16, 24, 3), np.uint8))
    with pytest.raises(UserError, match=r"0\.png has 16 x 20 pixels.* 20\.png has 16 x 24 pixels"):
        sets.open(path)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (np.zeros((16, 20, 1), np.uint8), "3 channels of uint8.* 1 channels of uint8"),
        (np.zeros((16, 20, 3), np.uint16), "channels of uint8.* channels of uint16"),
    ],
)
def test_mixed_channels_and_depths_name_two_files(tmp_path, other, words):
    images.write(folder(tmp_path / "x") / "20.png", other)
    with pytest.raises(UserError, match=words):
        sets.open(tmp_path / "x")


def test_16_bits_are_kept_with_a_note(tmp_path):
    deep = RNG.integers(0, 65536, (2, 8, 8, 3)).astype(np.uint16)
    found = sets.open(folder(tmp_path / "x", deep))
    np.testing.assert_array_equal(images.from_float(found[:], np.uint16), deep)
    assert "16-bit pixels are rounded to 8 bits for feature networks" in found.notes[0]


def test_one_channel_is_kept_with_a_note(tmp_path):
    found = sets.open(folder(tmp_path / "x", PIXELS[..., :1]))
    assert found.shape == (12, 16, 20, 1)
    assert found.notes == ("one channel: feature networks see it three times",)


def test_alpha_is_dropped_with_a_note(tmp_path):
    path = folder(tmp_path / "x")
    Image.fromarray(np.dstack([PIXELS[0], np.full((16, 20), 9, np.uint8)])).save(path / "0.png")
    tifffile.imwrite(path / "1.png", PIXELS[1])  # a TIFF by another name has none
    found = sets.open(path)
    np.testing.assert_array_equal(images.from_float(found[:2]), PIXELS[:2])
    assert found.notes == ("the alpha channel of 1 of 12 images is dropped, and nothing is blended with it",)


def test_unreadable_files_are_named_and_left_out_or_refused(tmp_path):
    path = folder(tmp_path / "x")
    (path / "3.png").write_bytes((path / "3.png").read_bytes()[:200])
    (path / "4.png").write_bytes(b"")
    found = sets.open(path)
    np.testing.assert_array_equal(images.from_float(found[:]), np.delete(PIXELS, [3, 4], 0))
    assert found.notes[0].startswith("2 of 12 files cannot be read and are left out: ")
    assert "3.png: " in found.notes[0]
    assert "4.png: the file is empty" in found.notes[0]
    with pytest.raises(UserError, match=r"2 of 12 files cannot be read: .*3\.png"):
        sets.open(path, strict=True)
    for i in range(12):
        (path / f"{i}.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"12 of 12 files cannot be read: .*; and 7 more"):
        sets.open(path)


def test_empty_and_missing(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        sets.open(tmp_path / "nothing")
    (tmp_path / "x" / ".hidden").mkdir(parents=True)
    folder(tmp_path / "x" / ".hidden")
    with pytest.raises(UserError, match=r"no image, volume or slide in .*x: put files there, of \.png"):
        sets.open(tmp_path / "x")
    np.save(tmp_path / "x.npy", PIXELS[:0])
    with pytest.raises(UserError, match=r"x\.npy holds no images \(0 x 16 x 20 x 3\)"):
        sets.open(tmp_path / "x.npy")


def test_mixed_kinds_name_two_files(tmp_path):
    path = folder(tmp_path / "x")
    np.save(path / "labels.npy", PIXELS[0])
    with pytest.raises(UserError, match=r"images \(0\.png\), volumes \(labels\.npy\): keep one kind"):
        sets.open(path)


@pytest.mark.parametrize("dtype", [">u2", ">f4", ">f8", "float16"])
def test_arrays_in_any_order_of_bytes(tmp_path, dtype):
    """As a big-endian TIFF or NIfTI file leaves them; and halves of float32."""
    array = (PIXELS * (257.0 if dtype == ">u2" else 1 / 256)).astype(dtype)
    np.save(tmp_path / "X.NPY", array)
    (tmp_path / "X.NPY.npy").rename(tmp_path / "X.NPY")
    found = sets.open(tmp_path / "X.NPY")
    native = array.astype(np.uint16 if dtype == ">u2" else np.float32)
    np.testing.assert_array_equal(found[:], images.to_float(native))
    assert found[:2].dtype == np.float32
    assert any(("16-bit" if dtype == ">u2" else "float pixels") in note for note in found.notes)


@pytest.mark.parametrize(
    ("high", "dtype", "words"),
    [
        (
            4080,
            np.uint16,
            "of 16 bits and end at 4080, which takes 12: .* by 16, or train with --config.data.window=0,4095",
        ),
        (1, np.uint8, "of 8 bits and end at 1, which takes 1: .* multiply them by 255"),
        (40000, np.uint16, ""),
        (200, np.uint8, ""),
    ],
)
def test_few_bits_in_many_are_told(tmp_path, high, dtype, words):
    dark = [np.full((8, 8, 1), v, dtype) for v in (0, high)]
    notes = [note for note in sets.open(folder(tmp_path / "x", dark)).notes if "nearly black" in note]
    assert len(notes) == bool(words)
    assert not words or re.search(words, notes[0])


def test_floats_name_their_file(tmp_path):
    """One that is not finite is left out, as a damaged one; a range that cannot be shown refuses all."""
    x = RNG.uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    x[1, 2, 3] = np.nan
    found = sets.open(folder(tmp_path / "x", x, ".tif"))
    assert len(found) == 2
    assert "1.tif: it holds NaN or infinite pixels" in found.notes[0]
    x[1], x[2] = 0, 1000 * x[2]
    with pytest.raises(UserError, match=r"float pixels of .*2\.tif reach from .*: scale or clip them"):
        sets.open(folder(tmp_path / "x", x, ".tif"))


def test_sizes_of_pixels_within_a_set(tmp_path):
    for i, mpp in enumerate([(), (0.25, 0.25), (0.25, 0.251), (1.0, 1.0)]):
        images.write(tmp_path / f"{i}.png", PIXELS[i], mpp)
    found = sets.open(tmp_path)
    assert "1.png has 0.25 µm a pixel, 3.png has 1 µm" in found.notes[-1]
    np.testing.assert_allclose(found.mpp[3], (1, 1))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (PIXELS[0], "16 x 20 x 3: a set has the axes N, H, W, C"),
        (PIXELS.transpose(0, 3, 1, 2), "channels come last"),
        (PIXELS.astype(np.int64), "holds int64: store pixels as uint8"),
        (PIXELS.astype(np.float32), "reach from 0 to 255: scale or clip them"),
        (np.full((2, 4, 4, 3), np.nan, np.float32), "holds NaN or infinite pixels"),
    ],
)
def test_arrays_that_cannot_be_scored(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError, match=words):
        sets.open(tmp_path / "x.npy")


def test_float_arrays_are_taken_as_they_are_with_notes(tmp_path):
    x = RNG.uniform(-1, 1, (3, 4, 4, 3))
    np.save(tmp_path / "x.npy", x)
    found = sets.open(tmp_path / "x.npy")
    np.testing.assert_array_equal(found[:], x.astype(np.float32))
    assert "rounded to 8 bits" in found.notes[0]
    np.save(tmp_path / "x.npy", np.abs(x))
    assert "store 2v - 1 if 0 is black" in sets.open(tmp_path / "x.npy").notes[1]


def test_pictures_of_volumes_are_passed_over(tmp_path):
    """A folder of generated volumes can be scored as it is written."""
    for i in range(2):
        volumes.write(tmp_path / f"0000{i}.nii.gz", PIXELS[i : i + 4, ..., 0])
        images.write(tmp_path / f"0000{i}.png", PIXELS[i])
    found = sets.open(tmp_path)
    assert (sets.kind(found), len(found)) == ("volumes", 2)
    assert found.notes == ("passed over: 2 pictures beside volumes of the same name (00000.png)",)
    images.write(tmp_path / "other.png", PIXELS[0])
    with pytest.raises(UserError, match="mixes"):
        sets.open(tmp_path)


def test_kinds_by_their_files(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS.reshape(3, 4, 16, 20, 3))
    found = sets.open(tmp_path / "x.npy")
    assert isinstance(found, volumes.Volumes)
    assert found.shape == (3, 4, 16, 20, 3)
    assert sets.kind(found) == sets.kind(PIXELS.reshape(3, 4, 16, 20, 3)) == "volumes"
    tifffile.imwrite(tmp_path / "s.tif", PIXELS[0].repeat(16, 0), tile=(64, 64), photometric="rgb")
    assert isinstance(found := sets.open(tmp_path / "s.tif"), slides.Slides)
    assert sets.kind(found) == "slides"


def test_a_set_tells_what_it_passed_over(tmp_path):
    path = folder(tmp_path / "x")
    Image.fromarray(PIXELS[0]).save(path / "12.bmp")
    (path / "scan.mha").write_bytes(b"?")
    (path / "more").symlink_to(folder(tmp_path / "y", PIXELS[:2]))
    found = sets.open(path)
    assert (len(found), found.notes) == (15, ("passed over: 1 of *.mha (scan.mha)",))
    np.testing.assert_array_equal(images.from_float(found[12]), PIXELS[0])
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "scan.mha").write_bytes(b"?")
    with pytest.raises(UserError, match=r"passed over: 1 of \*\.mha"):
        sets.open(tmp_path / "z")


def tiled(path, side, **options):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, np.full((side, side, 3), 9, np.uint8), tile=(64, 64), photometric="rgb", **options)
    return path


def test_tiled_patches_are_images(tmp_path):
    """Smaller than a slide's tile; or where images are wanted, or lie beside them. A pyramid is a slide."""
    assert sets.kind(sets.open(tiled(tmp_path / "a" / "0.tif", 128).parent)) == "images"
    large = tiled(tmp_path / "b" / "0.tif", 320).parent
    assert sets.kind(sets.open(large)) == sets.kind(sets.open(large, wanted="slides")) == "slides"
    found = sets.open(large, wanted="images")
    assert (sets.kind(found), found.shape) == ("images", (1, 320, 320, 3))
    images.write(large / "1.png", np.zeros((320, 320, 3), np.uint8))
    assert sets.open(large).shape == (2, 320, 320, 3)
    with tifffile.TiffWriter(tmp_path / "p.tif") as file:
        for side in (320, 160):
            file.write(np.zeros((side, side, 3), np.uint8), tile=(64, 64), photometric="rgb")
    assert sets.kind(sets.open(tmp_path / "p.tif", wanted="images")) == "slides"


def test_archives_are_to_be_unpacked(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"x\.zip is an archive: unpack it"):
        sets.open(tmp_path / "x.zip")


@pytest.mark.parametrize("side", [5, 16, 32])
def test_channels_that_come_first_are_told(tmp_path, side):
    np.save(tmp_path / "x.npy", np.zeros((5, 3, side, side), np.uint8))
    with pytest.raises(UserError, match="channels come last, N x H x W x C"):
        sets.open(tmp_path / "x.npy")


def test_slides_are_ome_zarr_too_and_what_shows_them_again_is_passed_over(tmp_path):
    """As a gigapixel picture is written: a TIFF, the same as OME-Zarr, a glance at it and a mask."""
    pixels = np.random.default_rng(5).integers(0, 256, (3, 300, 280), np.uint8)
    for name in ("a", "b"):
        huge.level(tmp_path / f"{name}.ome.zarr", 0, (300, 280), 3, np.uint8, (128, 128), (64, 64)).write(
            pixels
        ).result()
        huge.describe(tmp_path / f"{name}.ome.zarr", 1, 3, name)
    alone = sets.open(tmp_path)
    assert (sets.kind(alone), len(alone), alone.sizes) == ("slides", 2, ((300, 280),) * 2)
    np.testing.assert_array_equal(alone.window(1, (8, 16, 40, 50), (40, 50)), np.moveaxis(pixels, 0, -1)[8:48, 16:66])
    one = sets.open(tmp_path / "a.ome.zarr")
    assert (len(one), one.names) == (1, (str(tmp_path / "a.ome.zarr"),))
    assert len({alone.digest, one.digest, sets.open(tmp_path / "b.ome.zarr").digest}) == 3
    with tifffile.TiffWriter(tmp_path / "a.tiff") as file:
        for k in (1, 2):
            file.write(images.reduce(np.moveaxis(pixels, 0, -1), k), tile=(128, 128), photometric="rgb")
    for name in ("a", "a_mask", "b"):
        images.write(tmp_path / f"{name}.png", PIXELS[0])
    found = sets.open(tmp_path)
    assert [path.rpartition("/")[2] for path in found.names] == ["a.tiff", "b.ome.zarr"]
    assert found.notes[0] == "passed over: 4 files that show a slide of the same name again (a.ome.zarr)"
    images.write(tmp_path / "other.png", PIXELS[0])
    with pytest.raises(UserError, match="mixes"):
        sets.open(tmp_path)
