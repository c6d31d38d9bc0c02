"""Windows of pyramids against whole arrays, at every level, in every kind of pyramid."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from nca_gen.errors import UserError
from nca_gen.io import images, sets, slides, space

RNG = np.random.default_rng(0)


def tissue(height=520, width=700, channels=3, top=255):
    """Smooth structure and some noise."""
    y, x = np.mgrid[:height, :width] / 30.0
    wave = np.stack([np.sin(y + c) * np.cos(x * (c + 1) / 2) for c in range(channels)], -1)
    return np.clip((wave + 1.2) * top / 2.4 + RNG.normal(0, top / 100, wave.shape), 0, top)


def write(path, pixels, how="pages", compression="zlib", tile=64):
    """A slide of three levels, each the 2 x 2 mean of the one before; or of one ("flat")."""
    levels = [pixels]
    while len(levels) < 3 and how != "flat":
        levels.append(images.reduce(levels[-1], 2))
    photometric = "rgb" if pixels.shape[-1] >= 3 else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if pixels.shape[-1] == 4 else {}
    options = dict(tile=(tile, tile), photometric=photometric, compression=compression) | extra
    levels = [level[..., 0] if level.shape[-1] == 1 else level for level in levels]
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(levels[0], subifds=2 if how == "subifds" else 0, **options)
        tiff.write(np.zeros((40, 60, 3), np.uint8), photometric="rgb") if how == "pages" else None  # a thumbnail
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **options)
    return levels


@pytest.fixture
def slide(tmp_path):
    levels = write(tmp_path / "a.tif", tissue().astype(np.uint8))
    return sets.open(tmp_path), levels


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pages", "subifds", "flat"])
@pytest.mark.parametrize("compression", ["zlib", "jpeg", "jpeg2000"])
def test_windows_are_those_of_the_whole_image(tmp_path, how, compression):
    """Lossless ones are the pixels; of the others tifffile decodes the whole page."""
    write(tmp_path / "a.svs", tissue().astype(np.uint8), how, compression)
    found = sets.open(tmp_path)
    pixels = tifffile.imread(tmp_path / "a.svs", key=0)
    assert (found.sizes, found.channels, len(found)) == (((520, 700),), 3, 1)
    assert len(found.slides[0].levels) == (1 if how == "flat" else 3)
    assert len(found.notes) == (how == "flat")
    for top, left, h, w in ((0, 0, 520, 700), (64, 128, 64, 64), (63, 1, 130, 77), (500, 690, 20, 10)):
        np.testing.assert_array_equal(
            found.window(0, (top, left, h, w), (h, w)), pixels[top : top + h, left : left + w]
        )


@pytest.mark.slow
def test_the_smallest_level_that_has_enough_pixels_is_read(slide, monkeypatch):
    found, levels = slide
    read = []
    true = slides._read
    monkeypatch.setattr(slides, "_read", lambda *a: read.append(a[1].height) or true(*a))
    for i, (box, size) in enumerate(
        [
            ((0, 0, 256, 256), (256, 256)),
            ((0, 0, 256, 256), (200, 200)),
            ((64, 128, 256, 256), (128, 128)),
            ((64, 128, 256, 384), (100, 150)),
            ((0, 4, 512, 512), (128, 128)),
        ]
    ):
        got = found.window(0, box, size)
        level = levels[[0, 0, 1, 1, 2][i]]
        assert read[-1] == level.shape[0]
        k = 2 ** [0, 0, 1, 1, 2][i]
        top, left, h, w = (int(b) // k for b in box)
        cut = level[top : top + h, left : left + w]
        expected = images.resize(cut, size) if cut.shape[:2] != size else cut
        np.testing.assert_array_equal(got, expected)


def test_nothing_outside_the_box_is_seen_when_cropped_first(tmp_path):
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[64:192, 64:192] = 0
    write(tmp_path / "a.tif", pixels, "flat")
    found = sets.open(tmp_path)
    box = (64, 64, 128, 128)
    assert found.window(0, box, (32, 32)).max() == 0
    assert found.window(0, box, (32, 32), "lanczos", inside=False)[0].max() > 0


@pytest.mark.parametrize("kernel", ["lanczos", "bicubic", "box"])
def test_a_window_of_the_resized_whole(tmp_path, kernel):
    """Resizing all and cutting out is what a window with its margin gives; 1 of 256 levels of rounding at most."""
    pixels = tissue(300, 400).astype(np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize((173, 130), Image.Resampling[kernel.upper()]))
    write(tmp_path / "a.tif", pixels, "flat")
    found = sets.open(tmp_path)
    areas = []

    def read(y, x, h, w):
        areas.append(h * w)
        return pixels[y : y + h, x : x + w]

    for top, left in ((0, 0), (66, 109), (31, 17)):
        box = (top * 300 / 130, left * 400 / 173, 64 * 300 / 130, 64 * 400 / 173)
        got = found.window(0, box, (64, 64), kernel, inside=False)
        cut = whole[top : top + 64, left : left + 64]
        assert np.abs(got.astype(int) - cut).max() <= 1
        assert (got != cut).mean() < 0.01
        np.testing.assert_array_equal(slides.resample(read, (300, 400), box, (64, 64), kernel, False), got)
    assert max(areas) < 0.5 * 300 * 400


@pytest.mark.slow
def test_large_windows_without_a_pyramid_are_reduced_in_bands(tmp_path, monkeypatch):
    pixels = tissue(640, 960).astype(np.uint8)
    write(tmp_path / "a.tif", pixels, "flat")
    found = sets.open(tmp_path)
    monkeypatch.setattr(slides, "LIMIT", 2**16)
    got = found.window(0, (0, 0, 640, 960), (160, 240), "box")
    np.testing.assert_array_equal(got, images.reduce(pixels, 4))
    got = found.window(0, (80, 40, 480, 640), (100, 120))
    expected = images.resize(images.reduce(pixels[80:560, 40:680], 3), (100, 120))
    assert np.abs(got.astype(int) - expected).mean() < 2


def test_memory_is_that_of_the_window(tmp_path):
    """A flat slide of 48 MB; a window of all of it, and one of a few pixels."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4096, 4096, 3), np.uint8), tile=(256, 256), compression="zlib")
    found = sets.open(tmp_path)
    tracemalloc.start()
    found.window(0, (100, 100, 300, 300), (256, 256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_and_depths(tmp_path, channels):
    """Alpha is no channel; 16 bits are kept, and said to be rounded for networks."""
    pixels = tissue(256, 256, channels, 65535).astype(np.uint16)
    write(tmp_path / "a.tif", pixels, "flat")
    found = sets.open(tmp_path)
    assert found.channels == min(channels, 3)
    got = found.window(0, (0, 0, 100, 90), (100, 90))
    np.testing.assert_array_equal(got, pixels[:100, :90, :3])
    assert "16-bit" in found.notes[-1]
    assert found.window(0, (0, 0, 256, 256), (100, 100)).dtype == np.uint16


def test_few_bits_in_many_are_told(tmp_path):
    write(tmp_path / "a.tif", tissue(256, 256, 1, 4000).astype(np.uint16))
    assert "of 16 bits and end at" in sets.open(tmp_path).notes[-2]


def test_missing_tiles_are_white(slide):
    found, _ = slide
    only = found.slides[0]
    level = only.levels[0]._replace(counts=[0] * len(only.levels[0].counts))
    emptied = slides.Slides((only._replace(levels=(level,)),), "")
    assert emptied.window(0, (10, 10, 100, 100), (50, 50)).min() == 255


def test_slides_that_cannot_be_read(tmp_path):
    write(tmp_path / "a.svs", tissue().astype(np.uint8))
    data = (tmp_path / "a.svs").read_bytes()
    (tmp_path / "b.svs").write_bytes(data[: len(data) // 2])
    tifffile.imwrite(tmp_path / "c.svs", np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    (tmp_path / "d.svs").write_bytes(b"")
    found = sets.open(tmp_path)
    assert len(found) == 1
    for words in ("3 of 4 files cannot be read", "b.svs: ", "c.svs: its first page is not tiled", "d.svs: "):
        assert words in found.notes[0]
    with pytest.raises(UserError, match="3 of 4"):
        sets.open(tmp_path, strict=True)
    write(tmp_path / "e.svs", tissue(128, 128, 1).astype(np.uint8))
    with pytest.raises(UserError, match=r"a\.svs has 3 channels of uint8, .*e\.svs has 1 channels"):
        sets.open(tmp_path)


def test_digest(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.svs", np.zeros((128, 128, 3), np.uint8), "flat")
    a, b = (sets.digest(sets.open(tmp_path / name)) for name in ("a", "b"))
    assert a == b
    write(tmp_path / "b" / "x.svs", np.ones((128, 128, 3), np.uint8), "flat")
    assert sets.digest(sets.open(tmp_path / "b")) != a


def test_scales_of_a_level_and_of_all_levels_are_multiplied():
    """OME-NGFF 0.4: those of the multiscale image are applied after those of its first level."""
    axes = [{"name": "c"}, {"name": "y", "unit": "micrometer"}, {"name": "x", "unit": "nanometer"}]
    each = [{"type": "scale", "scale": [1, 2, 500]}, {"type": "translation", "translation": [0, 9, 9]}]
    assert space.of_axes(axes, [*each, {"type": "scale", "scale": [1, 0.25, 2]}]) == {"y": 0.5, "x": 1.0}
