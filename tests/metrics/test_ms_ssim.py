"""Multi-scale SSIM: closed forms, and digits of torchmetrics on the same images (peers/test_ms_ssim.py)."""

from __future__ import annotations

import numpy as np
import pytest
from image_pairs import MS_SSIM, images, pairs

from nca_gen.errors import UserError
from nca_gen.metrics import ms_ssim
from nca_gen.metrics.notes import collecting


@pytest.mark.parametrize("shape", MS_SSIM)
def test_digits_of_torchmetrics(shape):
    np.testing.assert_allclose(ms_ssim.similarity(*pairs(*shape)), MS_SSIM[shape], rtol=1e-7)


@pytest.mark.parametrize("size", [11, 40, 176])
def test_equal_images_are_at_1_and_it_is_symmetric(size):
    a, b = pairs(2, size, size, 3)
    np.testing.assert_array_equal(ms_ssim.similarity(a, a), 1)
    np.testing.assert_allclose(ms_ssim.similarity(a, b), ms_ssim.similarity(b, a), rtol=1e-12)


def test_flat_images_in_closed_form():
    """No contrast: what is left is luminance on the coarsest scale, to the power of its weight."""
    a, b = (np.full((1, 176, 176, 1), v, np.float32) for v in (40, 200))
    c = (0.01 * 255) ** 2
    luminance = (2 * 40 * 200 + c) / (40**2 + 200**2 + c)
    assert ms_ssim.similarity(a, b).item() == pytest.approx(luminance**0.1333, rel=1e-9)


def test_an_image_and_its_negative_are_at_0():
    a, _ = pairs(2, 60, 60, 1)
    assert ms_ssim.similarity(a, 255 - a).tolist() == [0, 0]


def test_scales():
    assert [ms_ssim.scales(n, 300) for n in (11, 21, 22, 43, 44, 87, 88, 175, 176, 5000)] == [
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
    ]
    with pytest.raises(UserError, match="11 pixels a side or more, not 300 x 10"):
        ms_ssim.scales(300, 10)


def test_fewer_scales_are_noted():
    a = (images(0, 3, 40, 40, 1) / 128 - 1).astype(np.float32)
    with collecting() as notes:
        ms_ssim.score(a, a, None, 0)
    assert notes == ["ms_ssim of images of 40 x 40 pixels has 2 of 5 scales: compare at equal sizes only"]
    big = np.zeros((2, 176, 176, 1), np.float32)
    with collecting() as notes:
        assert ms_ssim.score(big, big, None, 0)["ms_ssim"] == 1
    assert notes == []


@pytest.mark.filterwarnings("ignore:ms_ssim of images")
def test_a_set_of_copies_is_at_1_and_a_mixed_one_at_its_share_of_them():
    """Of all pairs of 2 + 2 copies a third are copies; every pair counts once where there are few."""
    a = (images(3, 2, 24, 24, 3) / 128 - 1).astype(np.float32)
    twice = np.repeat(a, 2, 0)
    between = ms_ssim.similarity(*((x[None] + 1) * 128 for x in a)).item()
    scores = ms_ssim.score(twice, a, None, 0)
    assert scores["ms_ssim"] == pytest.approx((2 + 4 * between) / 6, rel=1e-12)
    assert scores["ms_ssim_real"] == pytest.approx(between, rel=1e-12)
    assert scores["ms_ssim_low"] < scores["ms_ssim"] < scores["ms_ssim_high"]
    assert ms_ssim.score(np.repeat(a[:1], 5, 0), a, None, 0)["ms_ssim"] == 1


@pytest.mark.filterwarnings("ignore:ms_ssim of images")
def test_random_pairs_are_of_different_images_and_fixed_by_the_seed():
    a = (images(4, 30, 12, 12, 1) / 128 - 1).astype(np.float32)
    every, some, again, other = (ms_ssim.statistics(a, s, p) for s, p in ((0, 435), (0, 200), (0, 200), (1, 200)))
    assert (len(every), len(some)) == (435, 200)
    np.testing.assert_array_equal(some, again)
    assert not np.array_equal(some, other)
    assert set(np.round(some, 9)) <= set(np.round(every, 9))  # none with itself
    assert some.mean() == pytest.approx(every.mean(), abs=4 * every.std() / np.sqrt(200))
    with pytest.raises(UserError, match="the set has 1: give at least 2"):
        ms_ssim.statistics(a[:1], 0)
