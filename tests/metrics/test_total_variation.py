"""Total variation in closed form."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.io import sets, volumes
from nca_gen.metrics import total_variation

D, H, W = 5, 6, 8


def grey(levels):
    """A uint8 volume in the units of a set."""
    return (np.asarray(levels, np.float32) / 128 - 1)[None, ..., None]


def headline(levels, **how):
    return total_variation.score(grey(levels), grey(levels), None, 0, **how)["total_variation"]


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_ramp_rises_once_along_every_line(axis, norm):
    """From 0 to 1 along an axis: one for every line along it, in either norm and whatever the number of steps."""
    n = (D, H, W)[axis]
    ramp = np.linspace(0, 255, n).reshape([-1 if a == axis else 1 for a in range(3)]) * np.ones((D, H, W))
    assert headline(ramp, norm=norm) == pytest.approx(D * H * W / n, rel=1e-6)


def test_a_checkerboard_changes_at_every_face():
    """Every pair of neighbours differs by 1. Isotropic: sqrt of the number of axes on which a cell has a next one."""
    board = 255 * (np.indices((D, H, W)).sum(0) % 2)
    faces = (D - 1) * H * W + D * (H - 1) * W + D * H * (W - 1)
    assert headline(board) == pytest.approx(faces, rel=1e-6)
    z, y, x = np.indices((D, H, W))
    axes = (z < D - 1).astype(int) + (y < H - 1) + (x < W - 1)
    assert headline(board, norm="l2") == pytest.approx(np.sqrt(axes).sum(), rel=1e-6)


def test_a_box_has_its_surface():
    box = np.zeros((D, H, W))
    box[1:3, 2:5, 3:7] = 255
    assert headline(box) == pytest.approx(2 * (2 * 3 + 3 * 4 + 2 * 4), rel=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_blocks_do_not_change_it(norm):
    volume = np.random.default_rng(0).uniform(-1, 1, (7, 4, 5, 2)).astype(np.float32)
    whole = total_variation.variation(volume, norm, 7)
    for planes in (1, 2, 3, 6):
        assert total_variation.variation(volume, norm, planes) == pytest.approx(whole, rel=1e-13)


def test_relative_is_per_voxel_and_hides_no_size(tmp_path):
    """Twice the contrast is twice the variation, in volumes of another size too."""
    rng = np.random.default_rng(1)

    def noise(n, width):
        return rng.integers(0, width, (n, n, n)).astype(np.uint8)

    for name, items in (("real", [noise(24, 100), noise(28, 100)]), ("generated", [noise(20, 200)])):
        (tmp_path / name).mkdir()
        for i, volume in enumerate(items):
            volumes.write(tmp_path / name / f"{i}.nii.gz", volume)
    real, generated = (sets.open(tmp_path / name) for name in ("real", "generated"))
    scores = total_variation.score(generated, real, None, 0)
    assert scores["total_variation_relative"] == pytest.approx(2, rel=0.02)
    assert scores["total_variation_real"] == pytest.approx((24**3 + 28**3) / 2 * 3 * 100 / 3 / 255, rel=0.06)
    assert total_variation.score(real, real, None, 0)["total_variation_relative"] == 1


def test_mean_deviation_and_interval_are_those_over_volumes():
    some = np.concatenate([grey(np.full((D, H, W), 0) + 255 * (np.arange(D) < k)[:, None, None]) for k in (1, 0, 2)])
    scores = total_variation.score(some, some, None, 0)
    faces = np.array([1, 0, 1]) * H * W
    assert scores["total_variation"] == pytest.approx(faces.mean(), rel=1e-6)
    assert scores["total_variation_std"] == pytest.approx(faces.std(), rel=1e-6)
    assert scores["total_variation_low"] < faces.mean() < scores["total_variation_high"]


def test_edge_cases():
    flat = grey(np.zeros((D, H, W)))
    scores = total_variation.score(flat, flat, None, 0)
    assert scores["total_variation"] == 0
    assert np.isnan(scores["total_variation_relative"])
    with pytest.raises(UserError, match="0 generated and 1 real"):
        total_variation.score(flat[:0], flat, None, 0)
    with pytest.raises(UserError, match="l1 and l2, not 'tv'"):
        total_variation.score(flat, flat, None, 0, norm="tv")


def test_memory_is_a_few_blocks():
    """16 MB of float32: in one piece its differences would be 130 MB."""
    volume = np.zeros((256, 128, 128, 1), np.float32)
    tracemalloc.start()
    total_variation.variation(volume, "l1", 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
