"""Patch FID: where the patches come from, in both protocols; the distance itself is tested in test_fid.py."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
import tifffile
from PIL import Image

from nca_gen.errors import UserError
from nca_gen.io import images, sets
from nca_gen.metrics import features, fid, pfid

RNG = np.random.default_rng(0)


def tissue(n, height, width):
    """Smooth images of 8 bits."""
    y, x = np.mgrid[:height, :width] / 20.0
    phase = RNG.uniform(0, 6, (n, 3, 1, 1, 1))
    rgb = np.arange(1, 4)
    waves = np.sin(y[..., None] * rgb / 2 + phase[:, 0]) + np.cos(x[..., None] + phase[:, 1] * rgb) + phase[:, 2] / 6
    return np.clip((waves + 2) * 51, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def simple(monkeypatch):
    """Six numbers of an image instead of a network: mean and deviation of its colours."""

    def extract(name, some, *, layers, weights=None, batch=32, progress=None):
        assert (name, layers) == ("inception", ("2048",))
        found = []
        for i in range(0, len(some), batch):
            x = some[i : i + batch].astype(np.float64)
            found.append(np.concatenate([x.mean((1, 2)), x.std((1, 2))], 1))
        return {"2048": np.concatenate(found).astype(np.float32)}

    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(features, "protocol", lambda name, weights=None: {"extractor": name})
    return extract


def slides(path, pixels, tile=64):
    path.mkdir(exist_ok=True)
    for i, image in enumerate(pixels):
        with tifffile.TiffWriter(path / f"{i}.tif") as tiff:
            for k in (1, 2, 4):
                tiff.write(images.reduce(image, k), tile=(tile, tile), photometric="rgb", compression="zlib")
    return sets.open(path)


def cut(some, n=40, patch=32, largest=200, protocol="urcdm", seed=3):
    return pfid.patches(some, n=n, patch=patch, largest=largest, protocol=protocol, seed=seed)


def in_8_bits(x):
    return images.from_float(x[:])


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["urcdm", "anyres"])
@pytest.mark.parametrize("kind", ["array", "folder", "slides"])
def test_identical_sets_have_identical_patches_and_are_at_0(tmp_path, simple, protocol, kind):
    pixels = tissue(3, 200, 240)
    if kind == "array":
        sides = [images.to_float(pixels)] * 2
    else:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for i, image in enumerate(pixels):
                images.write(tmp_path / name / f"{i}.png", image) if kind == "folder" else None

        def open_(name):
            return slides(tmp_path / name, pixels) if kind == "slides" else sets.open(tmp_path / name)

        sides = [open_("a"), open_("b")]
    one, two = (cut(s, 20, protocol=protocol) for s in sides)
    np.testing.assert_array_equal(in_8_bits(one), in_8_bits(two))
    assert one.digest == two.digest != cut(sides[0], 20, seed=4, protocol=protocol).digest
    scores = pfid.score(*sides, None, 0, protocol=protocol, n=20, patch=32)
    assert scores == {"pfid": pytest.approx(0, abs=1e-9)}
    other = images.to_float(tissue(3, 200, 240) // 2)
    assert pfid.score(other, sides[1], None, 0, protocol=protocol, n=20, patch=32)["pfid"] > 0.01


def test_urcdm_is_a_crop_brought_to_the_size_of_a_patch():
    """Written out: side log-uniform in whole pixels, place uniform in what it leaves, images in turn."""
    pixels, n = tissue(4, 160, 200), 30
    got = in_8_bits(cut(images.to_float(pixels), n, 32, 150))
    for i, (size, top, left) in enumerate(np.random.default_rng([3, 0]).random((n, 3))):
        side = round(np.exp(np.log(32) + size * np.log(150 / 32)))
        y, x = int(top * (161 - side)), int(left * (201 - side))
        crop = pixels[i * 4 // n, y : y + side, x : x + side]
        np.testing.assert_array_equal(got[i], images.resize(crop, (32, 32)) if side != 32 else crop)


def test_anyres_is_a_crop_of_the_whole_image_after_one_lanczos_resize():
    """Written out with Pillow; of the 8 bits a level or two may differ by rounding, in few pixels."""
    pixels, n = tissue(4, 160, 200), 30
    got = in_8_bits(cut(images.to_float(pixels), n, 32, 150, "anyres"))
    wrong = 0
    for i, (size, top, left) in enumerate(np.random.default_rng([3, 0]).random((n, 3))):
        new = round(32 + size * (150 - 32))
        whole = Image.fromarray(pixels[i * 4 // n]).resize((round(200 * new / 160), new), Image.Resampling.LANCZOS)
        y, x = int(top * (new - 31)), int(left * (whole.width - 31))
        difference = np.abs(got[i].astype(int) - np.asarray(whole)[y : y + 32, x : x + 32])
        assert difference.max() <= 2
        wrong += (difference > 0).mean() / n
    assert wrong < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["urcdm", "anyres"])
def test_slides_give_what_images_give(tmp_path, protocol):
    """Without a pyramid to the pixel; through a pyramid to the difference between two ways of taking pixels away."""
    pixels = tissue(2, 256, 320)
    whole = in_8_bits(cut(images.to_float(pixels), 40, 32, 256, protocol)).astype(int)
    (tmp_path / "flat").mkdir()
    for i, image in enumerate(pixels):
        tifffile.imwrite(tmp_path / "flat" / f"{i}.tif", image, tile=(64, 64), photometric="rgb")
    np.testing.assert_array_equal(in_8_bits(cut(sets.open(tmp_path / "flat"), 40, 32, 256, protocol)), whole)
    through = in_8_bits(cut(slides(tmp_path / "pyramid", pixels), 40, 32, 256, protocol))
    assert 0 < np.abs(through - whole).mean() < 1


@pytest.mark.parametrize("crop", [pfid.urcdm, pfid.anyres])
def test_boxes_lie_in_the_image_and_reach_all_of_it(crop):
    size, patch, largest = (500, 900), 64, 400
    top = 1 - 1e-12
    extremes = [(a, b, c) for a in (0.0, top) for b in (0.0, top) for c in (0.0, top)]
    boxes = np.array([crop(np.array(d), size, patch, largest) for d in [*extremes, *pfid.draws(2000, 0)]])
    assert boxes[:, :2].min() == 0
    assert (boxes[:, 0] + boxes[:, 2]).max() == pytest.approx(500)
    assert (boxes[:, 1] + boxes[:, 3]).max() == pytest.approx(900)
    assert (boxes[:, 2:].min(), boxes[:, 2:].max()) == pytest.approx(
        (64, 400) if crop is pfid.urcdm else (80, 500), rel=3e-3
    )


@pytest.mark.slow
def test_the_size_is_uniform_as_each_protocol_says():
    """Medians: the geometric mean of the ends; of the resized whole the arithmetic one."""
    d = pfid.draws(8001, 0)
    side = np.median([pfid.urcdm(u, (4000, 4000), 100, 4000)[2] for u in d])
    assert side == pytest.approx(np.sqrt(100 * 4000), rel=0.03)
    resized = np.median([4000 * 100 / pfid.anyres(u, (4000, 4000), 100, 4000)[2] for u in d])
    assert resized == pytest.approx((100 + 4000) / 2, rel=0.02)


def test_every_image_gives_an_equal_share_and_is_read_once():
    assert np.bincount(pfid.owners(50, 7)).tolist() == [8, 7, 7, 7, 7, 7, 7]
    assert np.bincount(pfid.owners(3, 5), minlength=5).tolist() == [1, 1, 0, 1, 0]
    pixels, read = tissue(5, 64, 64), []
    some = sets.Lazy(lambda at: read.extend(at) or pixels[at], pixels.shape, "x")
    patches = cut(some, 40, 16, 64)
    for i in range(0, 40, 7):
        patches[i : i + 7]
    assert read == [0, 1, 2, 3, 4]


def test_ddof_of_each_protocol(simple):
    """StyleGAN's statistics divide by n, those of the others by n - 1."""
    a, b = (images.to_float(tissue(2, 80, 80)) for _ in range(2))
    for protocol, ddof in (("urcdm", 1), ("anyres", 0)):
        x, y = (simple("inception", cut(s, 20, 32, 80, protocol, 5), layers=("2048",))["2048"] for s in (a, b))
        expected = fid.distance(fid.statistics(y), fid.statistics(x), ddof)["fid"]
        got = pfid.score(a, b, None, 5, protocol=protocol, n=20, patch=32)["pfid"]
        assert got == pytest.approx(expected, rel=1e-12)


def test_what_is_known_of_real_patches_is_kept(simple, monkeypatch):
    """Features of the real patches are taken once; of other patches, a layer or a network anew."""
    a, b = (images.to_float(tissue(2, 80, 80)) for _ in range(2))
    seen, extract = [], features.extract
    monkeypatch.setattr(features, "extract", lambda *x, **how: seen.append(len(x[1])) or extract(*x, **how))
    first, again = (pfid.score(a, b, None, 5, n=20, patch=32) for _ in range(2))
    assert first == again
    assert seen == [20, 20, 20]
    pfid.score(a, b, None, 6, n=20, patch=32)
    pfid.score(a, b, None, 5, n=10, patch=32)
    assert seen[3:] == [20, 20, 10, 10]


def test_sets_of_unlike_sizes_share_the_smallest_side(simple):
    a, b = images.to_float(tissue(2, 80, 120)), images.to_float(tissue(3, 90, 64))
    assert np.isfinite(pfid.score(a, b, None, 0, n=20, patch=64)["pfid"])
    with pytest.raises(UserError, match=r"patches of 65 pixels, and the smallest slide has a side of 64: .*patch=32"):
        pfid.score(a, b, None, 0, n=20, patch=65)


def test_the_largest_crop_may_be_stated(simple):
    """One for all sets that are compared: that of the smallest of them. It lies between a patch and the slides."""
    large, other, small = tissue(2, 200, 200), tissue(2, 200, 200), tissue(2, 120, 120)
    how = {"n": 20, "patch": 32}
    stated = pfid.score(other, large, None, 3, largest=120, **how)
    few = fid.distance(
        *(pfid.statistics(cut(x, 20, largest=120), name="inception", layer="2048") for x in (large, other))
    )
    assert stated["pfid"] == pytest.approx(few["fid"])
    assert pfid.score(small, large, None, 3, largest=120, **how) == pfid.score(small, large, None, 3, **how)
    for wrong in (16, 201):
        with pytest.raises(UserError, match=f"pfid:largest={wrong} lies between the side of a patch, 32, and .* 200"):
            pfid.score(other, large, None, 3, largest=wrong, **how)


def test_defaults_are_the_published_ones():
    assert (pfid.PROTOCOLS["urcdm"].patch, pfid.PROTOCOLS["anyres"].patch, pfid.PATCHES) == (1024, 256, 50_000)
    small = np.zeros((1, 300, 300, 3), np.float32)
    with pytest.raises(UserError, match="patches of 1024 pixels"):
        pfid.score(small, small, None, 0)
    with pytest.raises(UserError, match="unknown protocol of pfid 'anyress'; did you mean anyres"):
        pfid.score(small, small, None, 0, protocol="anyress")
    with pytest.raises(UserError, match="0 generated and 1 real"):
        pfid.score(small[:0], small, None, 0)


class Means(nn.Module):
    """The mean of every channel."""

    @nn.compact
    def __call__(self, x):
        return {"2048": x.mean((1, 2))}


@pytest.mark.filterwarnings("ignore:.*mostly bias")
def test_with_a_network(monkeypatch):
    row = features.Extractor(Means, ("2048",), 8, inputs=lambda x: x, resize="none", normalisation="none")
    monkeypatch.setitem(features.EXTRACTORS, "inception-random", row)
    pixels = images.to_float(tissue(2, 128, 128))
    how = dict(n=8, patch=64, extractor="inception-random", batch=4)
    assert pfid.score(pixels, pixels, None, 0, **how)["pfid"] == pytest.approx(0, abs=1e-3)
    assert pfid.score(-pixels, pixels, None, 0, **how)["pfid"] > 1
