from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nca_gen.errors import UserError
from nca_gen.io import images

RNG = np.random.default_rng(0)


def noise(shape, dtype=np.uint8):
    if dtype == np.float32:
        return RNG.standard_normal(shape).astype(np.float32)
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [(".png", d, c) for d in (np.uint8, np.uint16) for c in (1, 3)]
    + [(s, d, c) for s in (".tif", ".tiff") for d in (np.uint8, np.uint16, np.float32) for c in (1, 2, 3, 4, 5)],
)
def test_write_then_read_is_exact(tmp_path, suffix, dtype, channels):
    image = noise((8, 9, channels), dtype)
    images.write(tmp_path / f"x{suffix}", image)
    back = images.read(tmp_path / f"x{suffix}")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [(".png", np.float32, 1), (".png", np.uint8, 5), (".jpg", np.uint16, 1), ("", np.uint8, 1)],
)
def test_write_refuses_what_the_format_cannot_hold(tmp_path, suffix, dtype, channels):
    with pytest.raises(ValueError, match="cannot hold"):
        images.write(tmp_path / f"x{suffix}", noise((4, 4, channels), dtype))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_its_channels_and_a_flat_colour(tmp_path, channels):
    images.write(tmp_path / "x.jpg", np.full((16, 16, channels), 100, np.uint8))
    np.testing.assert_array_equal(images.read(tmp_path / "x.jpg"), np.full((16, 16, channels), 100))


def saved(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_palette_becomes_the_rgb_it_stands_for():
    indices = noise((8, 9)) % 4
    colours = noise((4, 3))
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(images.decode(saved(image, format="PNG")), colours[indices])


def test_palette_tiff_and_inverted_tiff(tmp_path):
    indices, colours = noise((8, 9)), noise((256, 3))
    tifffile.imwrite(tmp_path / "p.tif", indices, photometric="palette", colormap=colours.T.astype(np.uint16) * 257)
    np.testing.assert_array_equal(images.read(tmp_path / "p.tif"), colours[indices])
    tifffile.imwrite(tmp_path / "w.tif", indices, photometric="miniswhite")
    np.testing.assert_array_equal(images.read(tmp_path / "w.tif")[..., 0], 255 - indices)


def test_alpha_is_dropped_not_blended(tmp_path):
    for dtype, name in ((np.uint8, "x.png"), (np.uint16, "x.tif"), (np.uint8, "y.tif")):
        image = noise((8, 9, 4), dtype)
        if name == "x.png":
            (tmp_path / name).write_bytes(saved(Image.fromarray(image), format="PNG"))
        else:
            tifffile.imwrite(tmp_path / name, image, photometric="rgb", extrasamples=["unassalpha"])
        np.testing.assert_array_equal(images.read(tmp_path / name), image[..., :3])


def test_16_bit_alpha_png_keeps_16_bits():
    import imagecodecs

    for channels in (2, 4):
        image = noise((8, 9, channels), np.uint16)
        np.testing.assert_array_equal(images.decode(imagecodecs.png_encode(image)), image[..., :-1])


def test_pillows_own_16_bit_png():
    image = noise((8, 9), np.uint16)
    np.testing.assert_array_equal(images.decode(saved(Image.fromarray(image), format="PNG"))[..., 0], image)


def test_one_bit():
    bits = noise((8, 9)) > 127
    np.testing.assert_array_equal(images.decode(saved(Image.fromarray(bits), format="PNG"))[..., 0], bits * 255)
    np.testing.assert_array_equal(images.decode(saved(Image.fromarray(bits), format="TIFF"))[..., 0], bits * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, orientation):
    """As pillow turns them, of every format and depth; also where nothing but the numbers counts."""
    image, exif = noise((8, 5, 3)), Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.png").write_bytes(saved(Image.fromarray(image), format="PNG", exif=exif))
    (tmp_path / "x.jpg").write_bytes(saved(Image.fromarray(image), format="JPEG", exif=exif, quality=95))
    for name in ("x.png", "x.jpg"):
        with Image.open(tmp_path / name) as file:
            np.testing.assert_array_equal(images.read(tmp_path / name), np.asarray(ImageOps.exif_transpose(file)))
    with Image.open(tmp_path / "x.png") as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    for name, dtype in (("x.tif", np.uint8), ("deep.tif", np.uint16)):
        tifffile.imwrite(tmp_path / name, image.astype(dtype), photometric="rgb", extratags=[(274, 3, 1, orientation)])
        np.testing.assert_array_equal(images.read(tmp_path / name), expected)
        np.testing.assert_array_equal(images.classes(tmp_path / name), expected)
    deep = saved(Image.fromarray(image[..., 0].astype(np.uint16) * 257), format="PNG", exif=exif)
    np.testing.assert_array_equal(images.decode(deep)[..., 0], expected[..., 0].astype(np.uint16) * 257)


def test_an_axis_of_one(tmp_path):
    """As tifffile and imageio write a frame."""
    image = noise((20, 21, 3))
    for shape in ((1, 20, 21, 3), (1, 1, 20, 21, 3)):
        tifffile.imwrite(tmp_path / "x.tif", image.reshape(shape), photometric="rgb")
        np.testing.assert_array_equal(images.read(tmp_path / "x.tif"), image)
    for options in ({}, {"imagej": True}, {"ome": True, "metadata": {"axes": "ZYX"}}):
        tifffile.imwrite(tmp_path / "x.tif", image[None, ..., 0], **options)
        np.testing.assert_array_equal(images.read(tmp_path / "x.tif"), image[..., :1])
    tifffile.imwrite(tmp_path / "x.tif", image[..., :1])
    np.testing.assert_array_equal(images.read(tmp_path / "x.tif"), image[..., :1])


def test_numbers_of_label_maps_stay(tmp_path):
    """Few bits and palettes say which class; pillow stretches the one and colours the other."""
    classes = noise((8, 9)) % 4
    image = Image.fromarray(classes)
    image.putpalette(noise((4, 3)).tobytes())
    image.save(tmp_path / "x.png", bits=2)
    np.testing.assert_array_equal(images.classes(tmp_path / "x.png")[..., 0], classes)
    Image.fromarray(classes > 1).save(tmp_path / "x.png")
    np.testing.assert_array_equal(images.classes(tmp_path / "x.png")[..., 0], classes > 1)
    tifffile.imwrite(tmp_path / "x.tif", classes, bitspersample=4)
    np.testing.assert_array_equal(images.classes(tmp_path / "x.tif")[..., 0], classes)
    images.write(tmp_path / "y.tif", classes.astype(np.uint16))
    np.testing.assert_array_equal(images.classes(tmp_path / "y.tif")[..., 0], classes)


@pytest.mark.parametrize(
    ("value", "bounded", "words"),
    [(np.nan, False, "NaN"), (np.inf, False, "infinite"), (1000, True, "reach from 0 to 1000: scale"), (9, False, "")],
)
def test_floats_that_nothing_can_be_learned_from(value, bounded, words):
    image = np.zeros((4, 4, 1), np.float32)
    image[1, 2] = value
    if not words:
        assert images.checked(image, "x.tif", bounded) is image
        return
    with pytest.raises(images.Unreadable, match=rf"x\.tif: .*{words}"):
        images.checked(image, "x.tif", bounded)


@pytest.mark.parametrize("name", ["x.tif", "x.png", "deep.png"])
@pytest.mark.parametrize("mpp", [(0.25, 0.25), (0.5, 2.0), ()])
def test_the_size_of_a_pixel_is_written_and_read(tmp_path, name, mpp):
    image = noise((8, 9, 3), np.uint16 if "deep" in name else np.uint8)
    images.write(tmp_path / name, image, mpp)
    assert images.measured((tmp_path / name).read_bytes())[1] == pytest.approx(mpp, rel=1e-6)
    np.testing.assert_array_equal(images.read(tmp_path / name), image)


def test_sizes_of_a_pixel_that_others_write(tmp_path):
    """ImageJ names its unit beside numbers that have none; a resolution of a printer says nothing."""
    image, path = noise((8, 9)), tmp_path / "x.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert images.measured(path.read_bytes())[1] == (0.5, 0.25)
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "YX", "PhysicalSizeX": 300, "PhysicalSizeXUnit": "nm"})
    assert images.measured(path.read_bytes())[1] == pytest.approx((0.3, 0.3))
    both = {"PhysicalSizeX": 300, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.4, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "YX"} | both)
    assert images.measured(path.read_bytes())[1] == pytest.approx((0.4, 0.3))
    tifffile.imwrite(path, image, resolution=(72, 72), resolutionunit="INCH")
    assert images.measured(path.read_bytes())[1] == ()
    Image.fromarray(image).save(tmp_path / "x.jpg", dpi=(50800, 25400))
    assert images.measured((tmp_path / "x.jpg").read_bytes())[1] == (1.0, 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack", "planarconfig": "separate"},  # planes of one page
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"photometric": "minisblack", "metadata": None},  # a page per channel, nothing said
        {"photometric": "minisblack"},
    ],
)
def test_planar_tiff_becomes_channels_last(tmp_path, options):
    planes = noise((5, 8, 9), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", planes, **options)
    np.testing.assert_array_equal(images.read(tmp_path / "x.tif"), np.moveaxis(planes, 0, -1))


def test_channels_last_tiff_with_tifffiles_defaults(tmp_path):
    image = noise((20, 30, 5), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", image)
    np.testing.assert_array_equal(images.read(tmp_path / "x.tif"), image)


@pytest.mark.parametrize("options", [{"imagej": True, "metadata": {"axes": "ZYX"}}, {"photometric": "minisblack"}])
def test_a_volume_is_not_an_image(tmp_path, options):
    tifffile.imwrite(tmp_path / "x.tif", noise((20, 21, 22), np.uint16), **options)
    with pytest.raises(images.Unreadable, match="stack"):
        images.read(tmp_path / "x.tif")


FILES = {
    "x.png": noise((64, 64, 3)),
    "deep.png": noise((64, 64, 1), np.uint16),
    "x.jpg": noise((64, 64, 3)),
    "x.tif": noise((64, 64, 3)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9])
def test_truncated_files_are_unreadable(tmp_path, name, keep):
    path = tmp_path / name
    images.write(path, FILES[name])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(images.Unreadable, match=name) as caught:
        images.read(path)
    assert caught.value.path == str(path)
    assert caught.value.reason
    assert isinstance(caught.value, UserError)


def test_truncated_jpeg_inside_tiff(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise((64, 64, 3)), compression="jpeg", photometric="rgb")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(images.Unreadable, match="truncated"):
        images.read(path)


def test_other_unreadable_files(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(images.Unreadable, match="not a PNG, JPEG or TIFF"):
        images.read(tmp_path / "text.png")
    with pytest.raises(images.Unreadable, match="no such file"):
        images.read(tmp_path / "missing.png")
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 4), np.int32))
    with pytest.raises(images.Unreadable, match="int32"):
        images.read(tmp_path / "x.tif")


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=0, max_size=200), st.sampled_from([b"", b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]))
def test_no_bytes_raise_anything_else(data, magic):
    with pytest.raises(images.Unreadable):
        images.decode(magic + data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_floats_of_known_pixels_and_back(dtype):
    top = np.iinfo(dtype).max
    every = np.arange(top + 1, dtype=dtype)
    x = images.to_float(every)
    assert x.dtype == np.float32
    assert (x[0], x[(top + 1) // 2], x[top]) == (-1.0, 0.0, 1.0 - 2.0 / (top + 1))
    np.testing.assert_array_equal(images.from_float(x, dtype), every)


def test_from_float_rounds_and_clips():
    x = np.array([-9.0, -1.0 + 0.49 / 128, -1.0 + 0.51 / 128, 0.0, 1.0, 9.0], np.float32)
    np.testing.assert_array_equal(images.from_float(x), [0, 0, 1, 128, 255, 255])
    np.testing.assert_array_equal(images.from_float(x, np.float32), x)
    np.testing.assert_array_equal(images.to_float(x), x)


def test_reduce_by_hand():
    image = np.array([[0, 1, 7], [2, 3, 7], [250, 255, 7], [251, 255, 7], [9, 9, 9]], np.uint8)[..., None]
    np.testing.assert_array_equal(images.reduce(image, 2)[..., 0], [[2], [253]])  # 1.5 and 252.75
    np.testing.assert_array_equal(images.reduce(image.astype(np.float32), 2)[..., 0], [[1.5], [252.75]])
    np.testing.assert_array_equal(images.reduce(image, 1), image)
    with pytest.raises(UserError, match="cannot be reduced by 5"):
        images.reduce(image[:4], 5)
    deep = np.full((4, 4, 2), 65535, np.uint16)
    np.testing.assert_array_equal(images.reduce(deep, 4), deep[:1, :1])


def test_resize_keeps_depth_and_constants_and_matches_pillow_on_rgb():
    for dtype, value in ((np.uint8, 200), (np.uint16, 60000), (np.float32, -0.5)):
        out = images.resize(np.full((9, 7, 5), value, dtype), (4, 6))
        assert out.dtype == dtype
        np.testing.assert_array_equal(out, np.full((4, 6, 5), value, dtype))
    image = noise((12, 10, 3))
    expected = np.asarray(Image.fromarray(image).resize((5, 6), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(images.resize(image, (6, 5)), expected)


def test_resize_of_16_bits_does_not_wrap_where_bicubic_overshoots():
    step = np.zeros((16, 16, 1), np.uint16)
    step[:, 8:] = 65535
    out = images.resize(step, (40, 40))[..., 0].astype(int)
    assert (np.diff(out[0, 17:23]) >= 0).all()
    assert out[0, 0] == 0
    assert out[0, -1] == 65535


def test_grid_places_every_picture():
    cells = noise((5, 4, 3, 3))
    out = images.grid(cells, columns=2, gap=1)
    assert out.shape == (14, 7, 3)
    for i in range(5):
        y, x = i // 2 * 5, i % 2 * 4
        np.testing.assert_array_equal(out[y : y + 4, x : x + 3], cells[i])
    assert (out[4] == 255).all()  # the gap
    assert (out[10:, 4:] == 255).all()  # the empty sixth seat
    np.testing.assert_array_equal(images.strip(cells, gap=0), np.concatenate(list(cells), 1))


def test_pictures_show_any_depth_and_channels():
    np.testing.assert_array_equal(images.picture(np.array([[[0x1234, 0xFFFF]]], np.uint16)), [[[0x12]]])
    np.testing.assert_array_equal(images.picture(np.array([[[-1.0, 0.0, 0.5, 9.0]]], np.float32)), [[[0, 128, 192]]])


@pytest.mark.parametrize(("suffix", "tolerance"), [(".webp", 8), (".gif", 8)])
def test_animation_plays_its_frames(tmp_path, suffix, tolerance):
    levels = [0, 100, 200]
    frames = [np.full((16, 16, 3), v, np.uint8) for v in levels]
    images.animation(tmp_path / f"x{suffix}", frames, fps=20)
    with Image.open(tmp_path / f"x{suffix}") as movie:
        assert movie.n_frames == 3
        assert movie.info["loop"] == 0
        for i, level in enumerate(levels):
            movie.seek(i)
            assert abs(np.asarray(movie.convert("RGB")).astype(int) - level).max() <= tolerance
            movie.load()
            assert movie.info["duration"] == (1000 if i == 2 else 50)


def test_natural_order():
    names = ["a10.png", "a9.png", "b1.png", "a9b.png", "10.png", "9.png"]
    assert sorted(names, key=images.natural) == ["9.png", "10.png", "a9.png", "a9b.png", "a10.png", "b1.png"]


def test_volumes_are_reduced_along_each_axis_by_its_own():
    volume = RNG.integers(0, 256, (5, 6, 9, 2)).astype(np.uint8)
    small = images.reduce(volume, (2, 1, 3))
    assert small.shape == (2, 6, 3, 2)
    np.testing.assert_array_equal(small[1, 4, 2], np.rint(volume[2:4, 4, 6:9].mean((0, 1))))
    assert images.reduce(volume, (1, 1, 1)) is volume
    with pytest.raises(UserError, match="cannot be reduced by"):
        images.reduce(volume, (6, 1, 1))


def test_volumes_are_resized_plane_by_plane_then_through():
    """What does not change along an axis is resized as its planes are; constants stay; integers are rounded."""
    plane = RNG.random((6, 8, 1)).astype(np.float32)
    found = images.resize(np.stack([plane] * 4), (7, 3, 5))
    assert found.shape == (7, 3, 5, 1)
    np.testing.assert_allclose(found, np.stack([images.resize(plane, (3, 5))] * 7), atol=1e-6)
    turned = images.resize(np.stack([plane] * 4, 2), (3, 5, 7))
    np.testing.assert_allclose(turned[:, :, 3], images.resize(plane, (3, 5)), atol=1e-6)
    assert set(images.resize(np.full((4, 4, 4, 1), 77, np.int16), (3, 9, 2)).ravel()) == {77}


def test_nearest_takes_the_class_in_the_middle():
    classes = np.arange(6)[:, None, None] * 10 + np.arange(3)[None, :, None]
    np.testing.assert_array_equal(images.nearest(classes, (2, 3)), classes[[1, 4]])
    np.testing.assert_array_equal(images.nearest(classes, (6, 6)), classes.repeat(2, 1))
    assert images.nearest(classes, (6, 3)) is classes


def test_coarse_volumes_have_lost_what_is_finer():
    """Constants and what varies slowly stay, a checkerboard is grey; nothing is beyond the volume's own values."""
    assert {*images.coarse(np.full((8, 8, 8, 1), -0.3, np.float32), 4).ravel()} == {np.float32(-0.3)}
    i = np.indices((24, 24, 24))[..., None]
    inner = (slice(9, 15),) * 3  # where no end is in reach
    np.testing.assert_allclose(images.coarse(np.float32(i.sum(0) % 2), 12)[inner], 0.5, atol=1e-6)
    ramp = np.float32(i[0] + 2 * i[1] - i[2])
    np.testing.assert_allclose(images.coarse(ramp, 12)[inner], ramp[inner], atol=1e-4)
    noisy = RNG.random((8, 4, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(images.coarse(noisy, 8), noisy, atol=1e-6)
    low = images.coarse(noisy, 3)
    assert (low.min() >= noisy.min(), low.max() <= noisy.max(), low.std() < noisy.std()) == (True,) * 3


@pytest.mark.parametrize(("letter", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_deep_pixmaps_are_stretched_to_16_bits(letter, channels):
    """The most that a PGM or PPM counts to, 4095 here, is white; pillow would cut it down to 8 bits."""
    counts = np.array([0, 1, 2048, 4095, 4094, 7], ">u2").repeat(channels)
    image = images.decode(letter + b"\n# a comment\n3 2\n4095\n" + counts.tobytes())
    assert (image.dtype, image.shape) == (np.uint16, (2, 3, channels))
    assert image[..., -1].ravel().tolist() == [0, 16, 32776, 65535, 65519, 112]  # n 65535 / 4095
    with pytest.raises(UserError, match="cannot read image"):
        images.decode(letter + b" 3 2 4095 " + counts.tobytes()[:-1])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_no_image(kind, tmp_path):
    """The first is not taken for all; frames that are written apart in a TIFF neither."""
    frames = [Image.fromarray(noise((8, 8, 3)) // (i + 1)) for i in range(2)]
    with pytest.raises(UserError, match=r"2 frames, and an image is one|a stack of shape"):
        images.decode(saved(frames[0], format=kind, save_all=True, append_images=frames[1:]))
    assert images.decode(saved(frames[0], format=kind)).shape == (8, 8, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for frame in frames:
            file.write(np.asarray(frame), photometric="rgb")
    with pytest.raises(UserError, match="2 images of one size"):
        images.read(tmp_path / "x.tif")


OME = {"Å": (5000, 0.5), "pm": (5e5, 0.5), "mm": (5e-4, 0.5), "m": (5e-7, 0.5), "in": (2e-5, 0.508)}
OME |= {"thou": (0.02, 0.508), "pixel": (1, 0), "reference frame": (1, 0)}  # the size, and the same in micrometres


@pytest.mark.parametrize("unit", OME)
def test_units_of_ome(tmp_path, unit):
    """A pixel that is one pixel large is of no known size."""
    size, microns = OME[unit]
    names = {f"PhysicalSize{axis}": size for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    tifffile.imwrite(tmp_path / "x.tif", noise((4, 4)), ome=True, metadata={"axes": "YX"} | names)
    assert images.sized(tmp_path / "x.tif")[1] == pytest.approx((microns,) * 2 if microns else ())


@pytest.mark.parametrize(
    ("unit", "dots", "microns"),
    [("m", 2e6, 0.5), ("\\u00B5m", 2, 0.5), ("inch", 50800, 0.5), ("pixels", 1, 0), ("sec", 1, 0)],
)
def test_units_of_imagej(tmp_path, unit, dots, microns):
    tifffile.imwrite(tmp_path / "x.tif", noise((4, 4)), imagej=True, resolution=(dots, dots), metadata={"unit": unit})
    assert images.sized(tmp_path / "x.tif")[1] == pytest.approx((microns,) * 2 if microns else ())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_area_means_of_any_size(dtype):
    """Where sides are whole they are those of blocks; parts of a pixel count by their share."""
    pixels = (RNG.random((24, 36, 3)) * (1 if dtype == np.float32 else 250)).astype(dtype)
    same = np.testing.assert_array_equal if dtype != np.float32 else np.testing.assert_allclose
    same(images.area(pixels, (4, 8, 18, 12), (6, 4)), images.reduce(pixels[4:22, 8:20], 3))
    fine = pixels.repeat(4, 0).repeat(4, 1)  # a quarter of a pixel is whole here
    got = images.area(pixels, (1.25, 0.5, 22.5, 33), (18, 12))
    same(got, images.reduce(fine[5:95, 2:134], (5, 11)))
