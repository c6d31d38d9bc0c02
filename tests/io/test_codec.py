"""Codec and quality are those by which a file was written."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from nca_gen.io import codec, sets

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


def saved(form, **how):
    file = io.BytesIO()
    Image.fromarray(how.pop("pixels", PIXELS)).save(file, form, **how)
    return file.getvalue()


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 90, 95, 100])
@pytest.mark.parametrize(("subsampling", "chroma"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_the_quality_by_which_a_jpeg_was_written(quality, subsampling, chroma):
    data = saved("JPEG", quality=quality, subsampling=subsampling)
    assert codec.of(data) == f"JPEG quality {quality}, {chroma}"
    assert codec.of(saved("JPEG", quality=quality, subsampling=subsampling, progressive=True)) == codec.of(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (saved("JPEG", quality=80, pixels=PIXELS[..., 0]), "JPEG quality 80"),
        (saved("JPEG", qtables=[[17, *[20] * 63]] * 2, subsampling=0), "JPEG quality about 87, 4:4:4"),
        (saved("PNG"), "PNG"),
        (saved("BMP"), "BMP"),
        (saved("GIF"), "GIF"),
        (saved("WEBP", lossless=True), "WebP, lossless"),
        (saved("WEBP", quality=80), "WebP, lossy"),
        (saved("TIFF"), "TIFF"),
        (saved("TIFF", compression="tiff_lzw"), "TIFF, lzw"),
        (saved("TIFF", compression="tiff_adobe_deflate"), "TIFF, deflate"),
        (b"", ""),
        (b"\xff\xd8\xff", "JPEG"),
        (b"II*\0", "TIFF"),
    ],
)
def test_files_of_other_codecs(data, name):
    assert codec.of(data) == name
    assert codec.lossy(name) == ("JPEG" in name or "lossy" in name)


@pytest.mark.parametrize("quality", [70, 90])
def test_the_quality_of_a_slide(tmp_path, quality):
    """Tiles of JPEG in TIFF, with tables of their own or with one for all."""
    path = tmp_path / "x.tif"
    how = {"compression": "jpeg", "compressionargs": {"level": quality}, "tile": (16, 16), "photometric": "rgb"}
    tifffile.imwrite(path, PIXELS, **how)
    assert codec.of_file(path).startswith(f"TIFF, JPEG quality {quality}")
    assert codec.of_file(tmp_path / "missing.tif") == ""


def test_a_set_says_what_its_files_are(tmp_path):
    for i, data in enumerate([saved("PNG")] * 3 + [saved("JPEG", quality=60)] * 2):
        (tmp_path / f"{i}.{'png' if data[1:4] == b'PNG' else 'jpg'}").write_bytes(data)
    assert sets.codec(sets.open(tmp_path)) == "PNG (3 of 5), JPEG quality 60, 4:2:0 (2 of 5)"
    (tmp_path / "3.jpg").unlink()
    (tmp_path / "4.jpg").unlink()
    assert sets.codec(sets.open(tmp_path)) == "PNG"
    assert sets.codec(np.zeros((1, 8, 8, 3), np.float32)) == ""
    assert codec.summary(["a", "b", "c", "d", "d"]) == "d (2 of 5), a (1 of 5), b (1 of 5) and 1 more"
