"""Slices of volumes: which planes each name stands for; the distance itself is tested in test_fid.py."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.io import sets, volumes
from nca_gen.metrics import features, fid, slice_fid
from nca_gen.metrics.notes import collecting

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 256, (3, 4, 5, 6)).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def simple(monkeypatch):
    """Four numbers of a plane instead of a network."""

    def extract(name, images, *, layers, weights=None, batch=32, progress=None):
        x = images[:].astype(np.float64)
        edge = x[:, 0].mean((1, 2)), x[:, :, 0].mean((1, 2))
        return {layers[0]: np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), *edge], 1).astype(np.float32)}

    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(features, "protocol", lambda name, weights=None: {"extractor": name})
    return extract


def folder(path, voxels=VOXELS):
    path.mkdir()
    for i, volume in enumerate(voxels):
        volumes.write(path / f"{i}.npy", volume)
    return sets.open(path)


def test_the_planes_of_each_name(tmp_path):
    found, x = folder(tmp_path / "x"), VOXELS[..., None] / np.float32(128) - 1
    planes = {
        "intra": [x[i, d] for i in range(3) for d in range(4)],  # H x W
        "inter_h": [x[i, :, h] for i in range(3) for h in range(5)],  # D x W
        "inter_w": [x[i, :, :, w] for i in range(3) for w in range(6)],  # D x H
    }
    for name, expected in planes.items():
        got = slice_fid.slices(found, slice_fid.AXES[name])
        assert got.shape == np.shape(expected)
        np.testing.assert_array_equal(got[:], expected)
        np.testing.assert_array_equal(got[[7, 0]], [expected[7], expected[0]])
        np.testing.assert_array_equal(slice_fid.slices(x, slice_fid.AXES[name])[:], expected)  # an array will do
    assert len({slice_fid.slices(found, axis).digest for axis in range(3)}) == 3


def test_a_volume_is_read_once():
    read = []
    some = volumes.Volumes(
        lambda i: read.append(i) or np.zeros((4, 5, 6, 1), np.float32), ((4, 5, 6, 1),) * 3, "", ("",) * 3
    )
    planes = slice_fid.slices(some, 2)
    for block in sets.blocks(planes, 4 * 5 * 4):
        assert len(block) <= 4
    assert read == [0, 1, 2]


def test_parts_and_headline(simple):
    x, y = (RNG.uniform(-1, 1, (2, 9, 8, 7, 1)).astype(np.float32) for _ in range(2))
    scores = slice_fid.score(x, y, None, 0)
    for name, axis in slice_fid.AXES.items():
        a, b = (fid.statistics(simple("", slice_fid.slices(v, axis), layers=("2048",))["2048"]) for v in (x, y))
        assert scores[f"slice_fid_{name}"] == pytest.approx(fid.distance(b, a)["fid"], rel=1e-12)
    inter = (scores["slice_fid_inter_h"] + scores["slice_fid_inter_w"]) / 2
    assert scores["slice_fid_inter"] == inter
    assert scores["slice_fid"] == (scores["slice_fid_intra"] + inter) / 2
    assert max(slice_fid.score(x, x, None, 0).values()) == pytest.approx(0, abs=1e-9)


def test_a_shuffle_of_slices_is_seen_only_across_them(simple):
    """The slices are the same ones, so intra is 0; the planes that contain D are not."""
    smooth = np.linspace(-1, 1, 16)[:, None, None] ** 3 + RNG.uniform(-0.2, 0.2, (2, 1, 12, 10))
    smooth = np.clip(smooth, -1, 1)[..., None].astype(np.float32)
    scores = slice_fid.score(smooth[:, RNG.permutation(16)], smooth, None, 0)
    assert scores["slice_fid_intra"] == pytest.approx(0, abs=1e-9)
    assert min(scores["slice_fid_inter_h"], scores["slice_fid_inter_w"]) > 1e-3


def test_sizes(tmp_path, simple):
    x = VOXELS[..., None] / np.float32(128) - 1
    with collecting() as notes:
        slice_fid.score(x[:, :, :, :5], x, None, 0)
    assert any("4 x 5 x 5 and real ones 4 x 5 x 6" in note for note in notes)
    with pytest.raises(UserError, match="0 generated and 3 real"):
        slice_fid.score(x[:0], x, None, 0)


def test_volumes_of_several_sizes_by_plane(tmp_path, simple):
    """Statistics of planes of all sizes are those of each size merged, and a note says so."""
    uneven = [VOXELS[0], VOXELS[1, :3], VOXELS[2]]
    mixed, x = folder(tmp_path / "x", uneven), [v[..., None] / np.float32(128) - 1 for v in uneven]
    with collecting() as notes:
        assert max(slice_fid.score(mixed, mixed, None, 0).values()) == pytest.approx(0, abs=1e-9)
    assert any("3 x 5 x 6, 4 x 5 x 6" in note for note in notes)
    got = slice_fid.statistics(mixed)
    assert [got[name].n for name in slice_fid.AXES] == [4 + 3 + 4, 3 * 5, 3 * 6]
    rows = [simple("", slice_fid.slices(v[None], 1), layers=("2048",))["2048"] for v in x]
    whole = fid.statistics(np.concatenate(rows))
    np.testing.assert_allclose(got["inter_h"].mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(got["inter_h"].scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_what_is_known_of_real_slices_is_kept(simple, monkeypatch):
    x, y = (RNG.uniform(-1, 1, (2, 9, 8, 7, 1)).astype(np.float32) for _ in range(2))
    seen, extract = [], features.extract
    monkeypatch.setattr(features, "extract", lambda *a, **how: seen.append(len(a)) or extract(*a, **how))
    assert slice_fid.score(x, y, None, 0) == slice_fid.score(x, y, None, 0)
    assert len(seen) == 3 + 3 + 3
