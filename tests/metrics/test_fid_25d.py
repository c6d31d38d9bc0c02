"""FID-2.5D: which slices, in which units. The distance is tested in test_fid.py, the network in test_resnet.py."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen import judge
from nca_gen.errors import UserError
from nca_gen.io import sets, volumes
from nca_gen.metrics import features, fid, fid_25d
from nca_gen.metrics.notes import collecting

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty one, and no weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NCA_GEN_WEIGHTS", str(tmp_path))


@pytest.fixture
def simple(monkeypatch):
    """Four numbers of a slice instead of a network; and what the network was shown."""
    shown = []

    def extract(name, images, *, layers, weights=None, batch=32, progress=None, pixels=None):
        x = pixels(images[:]).astype(np.float64)
        shown.append(x)
        edge = x[:, 0].mean((1, 2)), x[:, :, 0].mean((1, 2))
        return {layers[0]: np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), *edge], 1).astype(np.float32)}

    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(features, "protocol", lambda name, weights=None: {"extractor": name})
    return shown


def volume(*shape):
    return RNG.uniform(-1, 1, (*shape, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "slices"),
    [(512, (153, 358)), (10, (3, 7)), (100, (30, 70)), (3, (0, 2)), (2, (0, 1)), (1, (0, 0))],
)
def test_the_central_two_fifths(n, slices):
    """Both ends cut off to whole numbers: of 512 slices 153.6 to 358.4."""
    assert fid_25d.window(n) == slices
    assert fid_25d.window(n, 1.0) == (0, n)


def test_planes_of_the_body():
    """[D, H, W] is head, front, right; a plane has its axes in the order right, front, head."""
    d, h, w = np.meshgrid(np.arange(10), np.arange(20), np.arange(30), indexing="ij")
    x = (100.0 * d + 10 * h + w)[..., None]
    expected = {
        "xy": np.array([x[i].transpose(1, 0, 2) for i in range(3, 7)]),  # [W, H] for every D
        "yz": np.array([x[:, :, i].transpose(1, 0, 2) for i in range(9, 21)]),  # [H, D] for every W
        "zx": np.array([x[:, i].transpose(1, 0, 2) for i in range(6, 14)]),  # [W, D] for every H
    }
    for plane, some in expected.items():
        got = fid_25d.stack(x.astype(np.float32), plane)
        np.testing.assert_allclose(got, (some - some.min()) / (some.max() - some.min()), atol=1e-6)
        assert (got.min(), got.max()) == (0, 1)


def test_a_stack_is_stretched_by_its_own_slices_alone():
    """What lies outside of the central slices, however bright, does not darken them; a flat stack is black."""
    x = volume(10, 10, 10)
    y = x.copy()
    y[[0, -1]] = 50
    np.testing.assert_array_equal(fid_25d.stack(x, "xy"), fid_25d.stack(y, "xy"))
    assert np.median(fid_25d.stack(y, "yz")) < np.median(fid_25d.stack(x, "yz")) / 10
    np.testing.assert_allclose(fid_25d.stack(3 * x + 7, "zx"), fid_25d.stack(x, "zx"), atol=1e-6)
    np.testing.assert_array_equal(fid_25d.stack(0 * x + 3, "xy"), 0)


def test_a_linear_ramp_in_other_voxels():
    """Resampling is exact for what is linear: at 1 mm the ramp over 0.5 mm has every second value, over 2 mm also the
    means; the first voxels coincide, and the length is that between the middles of the first and the last."""
    d, h, w = np.meshgrid(np.arange(9.0), np.arange(5.0), np.arange(4.0), indexing="ij")
    x = (d + 20 * h + 300 * w)[..., None].astype(np.float32)
    got = fid_25d.resampled(x, (500, 2000, 1000))
    i, j, k = np.meshgrid(np.arange(0, 9, 2.0), np.arange(0, 4.5, 0.5), np.arange(4.0), indexing="ij")
    np.testing.assert_allclose(got[..., 0], i + 20 * j + 300 * k)
    np.testing.assert_array_equal(fid_25d.resampled(x, ()), x)
    np.testing.assert_array_equal(fid_25d.resampled(x, (500.0,) * 3, 0.5), x)
    assert fid_25d.side(400, 15, 1) == 7  # 399 gaps of 15 micrometres are 5.985 mm


def test_padding_and_cropping_around_the_middle():
    x = np.arange(5.0, dtype=np.float32).reshape(5, 1, 1, 1) * np.ones((1, 4, 3, 1), np.float32)
    got = fid_25d.fitted(x, (3, 7, 3))
    assert got.shape == (3, 7, 3, 1)
    np.testing.assert_array_equal(got[:, 1:5, 0, 0], np.repeat([[1], [2], [3]], 4, 1))
    np.testing.assert_array_equal(got[:, [0, 5, 6]], -1)  # black; the odd row goes behind
    np.testing.assert_array_equal(fid_25d.fitted(x[:4], (2, 4, 3))[:, 0, 0, 0], [1, 2])


def test_parts_and_headline(simple):
    x, y = (RNG.uniform(-1, 1, (2, 40, 35, 33, 1)).astype(np.float32) for _ in range(2))
    with collecting() as notes:
        scores = fid_25d.score(x, y, None, 0)
        assert max(fid_25d.score(x, x, None, 0).values()) == pytest.approx(0, abs=1e-6)
    assert len(notes) == 2
    assert all("2 of 2" in note and "tell no size" in note for note in notes)
    planes = [scores[f"fid_25d_{plane}"] for plane in ("xy", "yz", "zx")]
    assert scores["fid_25d"] == pytest.approx(np.mean(planes), rel=1e-12)

    def moments(x):
        slices = np.concatenate([fid_25d.stack(v, "zx") for v in x]).astype(np.float64) * 255
        edge = slices[:, 0].mean((1, 2)), slices[:, :, 0].mean((1, 2))
        return fid.statistics(np.stack([slices.mean((1, 2, 3)), slices.std((1, 2, 3)), *edge], 1).astype(np.float32))

    assert scores["fid_25d_zx"] == pytest.approx(fid.distance(moments(y), moments(x))["fid"], rel=1e-4)


def test_a_gain_and_an_offset_are_not_seen(simple):
    """Each stack is stretched: half the contrast is the same volume."""
    x = RNG.uniform(-1, 1, (2, 40, 35, 33, 1)).astype(np.float32)
    with collecting():
        assert fid_25d.score(0.5 * x + 0.25, x, None, 0)["fid_25d"] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_volumes_of_other_voxels_meet_at_one_millimetre(tmp_path, simple):
    """A linear volume stored at 0.5 mm and at 1 mm is the same, as far as both reach; and so the distance is 0."""
    for name, mm in (("fine", 0.5), ("coarse", 1.0)):
        (tmp_path / name).mkdir()
        for i in range(2):
            n = int(40 / mm) + 1
            axes = np.meshgrid(*[np.linspace(0, 1, n)] * 3, indexing="ij")
            ramp = (axes[0] + (1 + i) * axes[1] + 2 * axes[2]).astype(np.float32)
            volumes.write(tmp_path / name / f"{i}.nii.gz", ramp[..., None], (mm * 1000,) * 3)
    fine, coarse = (sets.open(tmp_path / name) for name in ("fine", "coarse"))
    assert fid_25d.largest(fine) == fid_25d.largest(coarse) == (41, 41, 41)
    with collecting() as notes:
        scores = fid_25d.score(fine, coarse, None, 0)
    assert notes == []
    assert max(scores.values()) == pytest.approx(0, abs=1e-3)
    assert {x.shape for x in simple} == {(2 * 16, 41, 41, 3)}


def test_what_cannot_be_scored(simple):
    x = RNG.uniform(-1, 1, (2, 8, 8, 8, 1)).astype(np.float32)
    with collecting() as notes:
        fid_25d.score(x, x, None, 0, mm=0.5)
    assert any("8 x 8 x 8, too small" in note for note in notes)
    with pytest.raises(UserError, match="0 generated and 2 real"):
        fid_25d.score(x[:0], x, None, 0)
    with collecting(), pytest.raises(UserError, match="1 or 3 channels, and the volumes have 2"):
        fid_25d.score(x.repeat(2, -1), x, None, 0)
    with collecting(), pytest.raises(UserError, match=r"\(1, 8, 8\) leaves no slice across xy"):
        fid_25d.score(x, x, None, 0, shape=(1, 8, 8))


def test_one_line_says_what_is_missing():
    with pytest.raises(UserError, match=r"no RadImageNet-ResNet50_notop\.pth .* download .*radimagenet_resnet50"):
        judge.judge(["fid_25d"], np.zeros((2, 4, 4, 4, 1)), np.zeros((2, 4, 4, 4, 1)), None, 0, "volumes")


@pytest.mark.slow
def test_with_random_weights_it_has_another_name():
    """The network sees the stack of a plane, blue first, less the means: by hand the same features."""
    x, y = (RNG.uniform(-1, 1, (2, 10, 12, 11, 1)).astype(np.float32) for _ in range(2))
    label = "frechet_25d@radimagenet-random"
    facts = judge.judge(["fid_25d@radimagenet-random"], x, y, None, 0, "volumes")
    assert [*facts["scores"]] == [label, *(f"{label}_{plane}" for plane in fid_25d.PLANES)]
    assert facts["networks"]["radimagenet-random"]["weights"] == "random, seed 0"
    shown = fid_25d.coloured(np.concatenate([fid_25d.stack(v, "yz") for v in y]))
    by_hand = features.loaded("radimagenet-random", layers=("pool",))(np.concatenate([shown] * 2))["pool"][: len(shown)]
    got = fid_25d.of_plane(y, "yz", (10, 12, 11), 1.0, 0.4, name="radimagenet-random", layer="pool")
    np.testing.assert_allclose(got.mean, fid.statistics(np.asarray(by_hand)).mean, rtol=1e-4, atol=1e-4)
