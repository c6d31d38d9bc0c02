"""What a file says about colour: the same picture as an image and as a slide, or a refusal that says what it is."""

from __future__ import annotations

import re

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from nca_gen.io import colour, images, slides

RNG = np.random.default_rng(0)


def noise(shape, top=256, dtype=np.uint8):
    return RNG.integers(0, top, shape).astype(dtype)


GREY, RGB, INKS = noise((48, 40)), noise((48, 40, 3)), noise((48, 40, 4))
DEEP = noise((48, 40), 65536, np.uint16)
ALPHA = noise((48, 40, 1)) // 2 + 128
PALETTE = noise((3, 256), 65536, np.uint16)
LUMA = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
OF_LUMA, OF_INKS = (np.asarray(Image.fromarray(x, m).convert("RGB")) for x, m in ((LUMA, "YCbCr"), (INKS, "CMYK")))

# stored, how, seen, by how much decoders may differ
TABLE = {
    "black is zero": (GREY, {"photometric": "minisblack"}, GREY, 0),
    "white is zero": (GREY, {"photometric": "miniswhite"}, 255 - GREY, 0),
    "white is zero, 16 bits": (DEEP, {"photometric": "miniswhite"}, 65535 - DEEP, 0),
    "4 bits": (GREY % 16, {"bitspersample": 4}, GREY % 16 * 17, 0),
    "4 bits, white is zero": (GREY % 16, {"bitspersample": 4, "photometric": "miniswhite"}, 255 - GREY % 16 * 17, 0),
    "1 bit, white is zero": (GREY > 99, {}, np.where(GREY > 99, 0, 255), 0),
    "12 bits": (DEEP % 4096, {"bitspersample": 12}, np.rint(DEEP % 4096 * (65535 / 4095)), 0),
    "palette": (GREY, {"photometric": "palette", "colormap": PALETTE}, (PALETTE >> 8).T[GREY], 0),
    "palette of 8 bits": (GREY, {"photometric": "palette", "colormap": PALETTE >> 8}, (PALETTE >> 8).T[GREY], 0),
    "inks": (INKS, {"photometric": "separated"}, OF_INKS, 0),
    "inks and alpha": (
        np.dstack([INKS, GREY]),
        {"photometric": "separated", "extrasamples": ["unassalpha"]},
        OF_INKS,
        0,
    ),
    "luma": (LUMA, {"photometric": "ycbcr", "subsampling": (1, 1)}, OF_LUMA, 1),
    "luma, deflated": (LUMA, {"photometric": "ycbcr", "compression": "zlib"}, OF_LUMA, 1),
    "two channels": (RGB[..., :2], {"planarconfig": "contig", "photometric": "minisblack"}, RGB[..., :2], 0),
    "five channels": (np.dstack([RGB, RGB[..., :2]]), {"planarconfig": "contig", "photometric": "minisblack"}, None, 0),
    "grey and alpha": (RGB[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, RGB[..., :1], 0),
    "multiplied by alpha": (
        np.dstack([np.rint(RGB // 16 * 17 * (ALPHA / 255)), ALPHA]).astype(np.uint8),
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        RGB // 16 * 17,
        2,
    ),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("tile", [None, (16, 32)])
def test_the_table(tmp_path, name, tile):
    stored, how, seen, off = TABLE[name]
    seen = np.atleast_3d(stored if seen is None else seen)
    tifffile.imwrite(tmp_path / "x.tif", stored, tile=tile, metadata=None, **how)
    found = [images.read(tmp_path / "x.tif")]
    if tile:
        slide = slides.open_slide(tmp_path / "x.tif")
        assert (slide.channels, slide.dtype) == (seen.shape[-1], found[0].dtype)
        found += [slide.read(slide.levels[0], 0, 0, 48, 40), slides.window(slide, (5, 9, 30, 20), (30, 20))]
        assert np.abs(found.pop().astype(int) - seen[5:35, 9:29]).max() <= off
    for pixels in found:
        assert pixels.shape == seen.shape
        assert np.abs(pixels.astype(int) - seen).max() <= off


REFUSED = {
    "L\\*a\\*b": (RGB, {"photometric": "cielab"}),
    "colour filters": (GREY, {"photometric": "cfa"}),
    "linear raw": (RGB, {"photometric": "linear_raw"}),
    "zero is white as float32": (GREY.astype(np.float32), {"photometric": "miniswhite"}),
    "inks as float32": (INKS.astype(np.float32), {"photometric": "separated"}),
    "6 inks": (np.dstack([INKS, INKS[..., :2]]), {"photometric": "separated", "planarconfig": "contig"}),
    "4 inks, and not CMYK": (INKS, {"photometric": "separated", "extratags": [(332, 3, 1, 2)]}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals_say_what_it_is(tmp_path, words):
    stored, how = REFUSED[words]
    tifffile.imwrite(tmp_path / "x.tif", stored, tile=(16, 32), metadata=None, **how)
    for read in (images.read, slides.open_slide):
        with pytest.raises(images.Unreadable, match=re.compile(words, re.IGNORECASE)):
            read(tmp_path / "x.tif")


def test_inks_of_16_bits():
    """In closed form: white is no ink at all, black ink is black, and half of an ink takes half of its colour."""
    inks = np.array([[0, 0, 0, 0], [9, 9, 9, 65535], [32768, 0, 65535, 0], [32768, 0, 0, 32768]], np.uint16)
    expected = [[65535] * 3, [0] * 3, [32767, 65535, 0], [16383, 32767, 32767]]
    np.testing.assert_array_equal(colour.of_inks(inks), expected)


def test_luma_in_closed_form():
    """Red, green and blue by their parts in luma; codes of a video, whose black is 16 and white 235."""
    red = np.array([[76.245, 128 - 0.168736 * 255, 255.5]])
    assert np.abs(colour.rgb(np.rint(red).clip(0, 255).astype(np.uint8)).astype(int) - [255, 0, 0]).max() <= 1
    ends = (16, 235, 128, 240, 128, 240)
    codes = np.array([[16, 128, 128], [235, 128, 128], [126, 128, 128]], np.uint8)
    np.testing.assert_array_equal(colour.rgb(codes, reference=ends), [[0] * 3, [255] * 3, [128] * 3])
    np.testing.assert_array_equal(colour.rgb(np.array([[9, 32768, 32768]], np.uint16)), [[9] * 3])


def codestream(planes):
    """JPEG 2000 of components of several sizes, lossless: the packets of each, one behind the other."""
    one = [imagecodecs.jpeg2k_encode(p, level=0, codecformat="j2k", resolutions=1, mct=False) for p in planes]
    y, sot = one[0], one[0].index(b"\xff\x90")
    sizes = [p.shape for p in planes]
    parts = b"".join(bytes([7, sizes[0][1] // w, sizes[0][0] // h]) for h, w in sizes)
    size = int.from_bytes(y[4:6], "big")
    head = y[:4] + (size + 6).to_bytes(2, "big") + y[6:40] + (3).to_bytes(2, "big") + parts + y[4 + size : sot]
    packets = b"".join(s[s.index(b"\xff\x93") + 2 : -2] for s in one)
    tile = y[sot : sot + 6] + (14 + len(packets)).to_bytes(4, "big") + y[sot + 10 : sot + 12] + b"\xff\x93" + packets
    return head + tile + b"\xff\xd9"


@pytest.mark.parametrize("compression", [33003, 34712])
@pytest.mark.parametrize("coarse", [False, True])
def test_luma_in_jpeg_2000(tmp_path, compression, coarse):
    """Aperio's 33003, and any that says so; the decoder itself converts chroma that is coarser than luma."""
    wide = LUMA.repeat(2, 1)[:32, :32]  # two columns of one colour
    cut = [wide[..., 0], *(wide[:, :: 1 + coarse, i] for i in (1, 2))]
    data = codestream(cut)
    if not coarse:
        np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(data), wide)
    said = "rgb" if compression == 33003 else "ycbcr"
    how = {"photometric": said, "tile": (32, 32), "shape": wide.shape, "dtype": np.uint8, "metadata": None}
    tifffile.imwrite(tmp_path / "x.svs", iter([data]), compression=compression, **how)
    expected = np.asarray(Image.fromarray(wide, "YCbCr").convert("RGB")).astype(int)
    slide = slides.open_slide(tmp_path / "x.svs")
    for seen in (images.read(tmp_path / "x.svs"), slide.read(slide.levels[0], 0, 0, 32, 32)):
        assert np.abs(seen - expected).max() <= 1


def test_nothing_said_is_grey(tmp_path):
    """A file without the tag; tifffile's default would have its zero white."""
    tifffile.imwrite(tmp_path / "x.tif", GREY, metadata=None)
    data = (tmp_path / "x.tif").read_bytes()
    at = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")  # tag 262
    (tmp_path / "x.tif").write_bytes(data[:at] + b"\x0c\x01" + data[at + 2 :])  # becomes one that means nothing here
    np.testing.assert_array_equal(images.read(tmp_path / "x.tif")[..., 0], GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_slides_are_upright(tmp_path, orientation):
    """All windows are those of the image as it is seen, of every level."""
    how = {"tile": (16, 32), "photometric": "rgb", "metadata": None, "extratags": [(274, 3, 1, orientation)]}
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(RGB, **how)
        file.write(images.reduce(RGB, 2), subfiletype=1, **how)
    slide, seen = slides.open_slide(tmp_path / "x.tif"), images.upright(RGB, orientation)
    for level, whole in zip(slide.levels, (seen, images.upright(images.reduce(RGB, 2), orientation)), strict=True):
        assert (level.height, level.width) == whole.shape[:2]
        np.testing.assert_array_equal(slide.read(level, 3, 5, 11, 13), whole[3:14, 5:18])
    np.testing.assert_array_equal(slides.window(slide, (9, 7, 20, 30), (20, 30)), seen[9:29, 7:37])
