"""Sliced Wasserstein distance: closed forms, invariances, and a second implementation written with loops."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import norm, wasserstein_distance

from nca_gen import judge
from nca_gen.errors import UserError
from nca_gen.io import images as pixels
from nca_gen.io import sets
from nca_gen.metrics import swd


def random_images(seed: int, n: int, height: int, width: int, channels: int) -> np.ndarray:
    """Noise with some coarse structure, so that the levels of a pyramid differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-0.5, 0.5, (n, -(-height // 8), -(-width // 8), channels)).repeat(8, 1).repeat(8, 2)
    return (coarse[:, :height, :width] + rng.normal(0, 0.1, (n, height, width, channels))).astype(np.float32)


def unit(rng: np.random.Generator, n: int, dimensions: int) -> np.ndarray:
    d = rng.standard_normal((n, dimensions))
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def test_in_one_dimension_it_is_the_distance_of_two_normal_distributions():
    """W1(N(0,1), N(m,1)) = m, and W1(N(0,1), N(0,s)) = (s - 1) E|N(0,1)| = (s - 1) sqrt(2 / pi)."""
    z = norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    either = np.array([[1.0], [-1.0]])
    assert swd.sliced(z, z[::-1] + 0.7, either) == pytest.approx(0.7, rel=1e-12)
    assert swd.sliced(z, 3 * z, either) == pytest.approx(2 * math.sqrt(2 / math.pi), rel=1e-3)


def test_a_shift_in_many_dimensions_has_the_mean_length_of_its_projection():
    """E |m . u| over the sphere is |m| Gamma(D/2) / (sqrt(pi) Gamma((D+1)/2))."""
    dimensions, rng = 12, np.random.default_rng(0)
    points, shift = rng.standard_normal((50, dimensions)), np.linspace(-1, 1, dimensions)
    directions = unit(rng, 20_000, dimensions)
    cosine = math.gamma(dimensions / 2) / (math.sqrt(math.pi) * math.gamma((dimensions + 1) / 2))
    assert swd.sliced(points, points + shift, directions) == pytest.approx(np.abs(directions @ shift).mean(), rel=1e-12)
    assert swd.sliced(points, points + shift, directions) == pytest.approx(np.linalg.norm(shift) * cosine, rel=0.02)


def test_every_direction_agrees_with_scipy():
    rng = np.random.default_rng(1)
    a, b, directions = rng.standard_normal((200, 5)), rng.gamma(2.0, size=(200, 5)), unit(rng, 7, 5)
    expected = np.mean([wasserstein_distance(a @ d, b @ d) for d in directions])
    assert swd.sliced(a, b, directions) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (70, 33), (131, 64)])
def test_the_pyramid_gives_the_image_back(size):
    """8-bit images and binomial weights are dyadic: in float64 nothing is rounded, so not a bit may be lost."""
    images = np.random.default_rng(2).integers(0, 256, (2, *size, 2)) / 128 - 1
    levels = swd.pyramid(images)
    back = levels.pop()
    while levels:
        level = levels.pop()
        back = level + swd.up(back, *level.shape[1:3])
    np.testing.assert_array_equal(back, images)


def test_down_and_up_against_a_convolution_written_out():
    """The 5x5 binomial kernel over reflected borders, pixel by pixel; up spreads four times the weight over zeros."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256

    def blurred(x):
        p, (height, width) = np.pad(x, 2, mode="reflect"), x.shape
        return np.array([[(p[i : i + 5, j : j + 5] * kernel).sum() for j in range(width)] for i in range(height)])

    x = np.random.default_rng(3).standard_normal((17, 20))
    np.testing.assert_allclose(swd.down(x[None, ..., None])[0, ..., 0], blurred(x)[::2, ::2], atol=1e-14)
    small, zeros = x[:9, :10], np.zeros((17, 20))
    zeros[::2, ::2] = small
    np.testing.assert_allclose(swd.up(small[None, ..., None], 17, 20)[0, ..., 0], 4 * blurred(zeros), atol=1e-14)


def test_levels_go_down_to_16_pixels():

    def levels(*size):
        return [level.shape[1:3] for level in swd.pyramid(np.zeros((1, *size, 1)))]

    assert levels(64, 64) == [(64, 64), (32, 32), (16, 16)]
    assert levels(16, 40) == [(16, 40)]
    assert levels(31, 31) == [(31, 31), (16, 16)]
    assert levels(30, 30) == [(30, 30)]  # half of it would be 15
    with pytest.raises(UserError, match="at least 16 pixels a side, not 15 x 64"):
        swd.statistics(np.zeros((1, 15, 64, 3), np.float32), 0)


def test_patches_are_taken_evenly_from_images_and_places(monkeypatch):
    """Pixels that say where they come from: every patch is a true neighbourhood, every image has its share."""
    monkeypatch.setattr(swd, "_scaled", lambda patches: patches.reshape(len(patches), -1))
    image, y, x = np.meshgrid(np.arange(4), np.arange(16), np.arange(20), indexing="ij")
    images = np.stack([image * 1000.0 + y, x * 1.0], -1).astype(np.float32)
    (patches,) = swd.statistics(images, 0).values()
    patches = patches.reshape(swd.PATCHES, 2, 7, 7)
    top, left = patches[:, 0, 0, 0], patches[:, 1, 0, 0]
    np.testing.assert_array_equal(patches[:, 0], top[:, None, None] + np.arange(7)[:, None] + np.zeros(7))
    np.testing.assert_array_equal(patches[:, 1], left[:, None, None] + np.arange(7) + np.zeros((7, 1)))
    assert np.unique(top // 1000, return_counts=True)[1].tolist() == [swd.PATCHES // 4] * 4
    counts = np.unique(top % 1000 * 20 + left, return_counts=True)[1]
    assert len(counts) == 10 * 14  # all places of a 16 x 20 image
    assert abs(counts - swd.PATCHES / 140).max() < 6 * math.sqrt(swd.PATCHES / 140)


@pytest.mark.slow
def test_against_all_patches_and_loops():
    """A second implementation without draws: all patches of all levels, and the quantiles of their projections."""

    def blurred(x):
        p = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
        w = np.array([1, 4, 6, 4, 1]) / 16
        return sum(w[i] * w[j] * p[:, i : i + 32, j : j + 32] for i in range(5) for j in range(5))

    def all_patches(level):
        places = range(level.shape[1] - 6)
        found = np.concatenate([level[:, i : i + 7, j : j + 7] for i in places for j in places])
        return ((found - found.mean((0, 1, 2))) / found.std((0, 1, 2))).reshape(-1, 98)

    def levels(images):
        x = images.astype(np.float64)
        small, spread = blurred(x)[:, ::2, ::2], np.zeros_like(x)
        spread[:, ::2, ::2] = small
        return {32: all_patches(x - 4 * blurred(spread)), 16: all_patches(small)}

    real = random_images(4, 6, 32, 32, 2)
    generated = np.clip(random_images(5, 6, 32, 32, 2), -0.2, 0.6) ** 3
    a, b, directions = levels(real), levels(generated), unit(np.random.default_rng(6), 200, 98)

    def distance(n):
        quantiles = (np.sort(patches[n] @ directions.T, 0) for patches in (a, b))
        return 1000 * np.abs(np.subtract(*quantiles)).mean()

    expected = {f"swd_{n}": distance(n) for n in (32, 16)}
    got = swd.score(generated, real, None, seed=7)
    for name, value in expected.items():
        assert value > 60  # there is something to measure
        assert got[name] == pytest.approx(value, rel=0.12)
    assert got["swd"] == pytest.approx((got["swd_32"] + got["swd_16"]) / 2)


@pytest.mark.slow
def test_zero_to_itself_whatever_the_order():
    images, other = random_images(8, 7, 17, 16, 3), random_images(9, 5, 17, 16, 3)
    score = partial(swd.score, train=None, patches=1000)
    assert set(score(images[[3, 0, 6, 2, 1, 5, 4]], images, seed=0).values()) == {0.0}
    assert score(other[::-1], images, seed=1) == score(other, images[::-1], seed=1)


def test_scaling_takes_out_colour_and_contrast():
    patches = np.random.default_rng(16).normal(size=(40, 3, 7, 7))
    tinted = patches * np.array([2.0, 0.5, 30.0])[:, None, None] + np.array([-1.0, 0.3, 4.0])[:, None, None]
    np.testing.assert_allclose(swd._scaled(tinted), swd._scaled(patches), atol=1e-6)


@pytest.mark.slow
def test_sets_of_different_size_and_seeds():
    """More images of one source come closer to it; the seed fixes the number and hardly moves it."""
    score = partial(swd.score, train=None, patches=4000)
    real, many, few = (random_images(seed, n, 16, 16, 1) for seed, n in ((10, 60), (11, 55), (12, 3)))
    near, again, other = (score(many, real, seed=s)["swd"] for s in (0, 0, 1))
    assert near == again != other == pytest.approx(near, rel=0.25)
    assert score(few, real, seed=0)["swd"] > 2 * near
    noise = np.random.default_rng(13).normal(size=(55, 16, 16, 1)).astype(np.float32)
    assert score(noise, real, seed=0)["swd"] > 3 * near


def test_more_patches_of_the_same_images_are_nearer():
    """Two draws of n patches each are 1 / sqrt(n) apart: a touch of brightness draws others, and is scaled away."""
    images = random_images(18, 6, 32, 32, 1)
    few, many = (swd.score(images + 1e-3, images, None, seed=0, patches=n)["swd"] for n in (100, 10_000))
    assert many > 5
    assert few == pytest.approx(10 * many, rel=0.3)
    with pytest.raises(UserError, match="patches"):
        judge.judge(["swd:patches=0"], images, images, None, 0)


@pytest.mark.slow
def test_a_blur_is_seen_on_the_level_that_it_empties():
    sharp = random_images(14, 12, 64, 64, 1)
    scores = swd.score(swd.up(swd.down(sharp), 64, 64), sharp, None, seed=0, patches=4000)
    assert scores["swd_64"] > 3 * max(scores["swd_32"], scores["swd_16"])


@pytest.mark.slow
def test_flat_images_give_a_number():
    """No division by a deviation of zero: all mass at 0 is E|z| = sqrt(2 / pi) from N(0, 1) along any direction."""
    noise = np.random.default_rng(15).normal(size=(30, 16, 16, 1)).astype(np.float32)
    flat = np.full((4, 16, 16, 1), 0.3, np.float32)
    assert swd.score(flat, noise, None, seed=0)["swd"] == pytest.approx(1000 * math.sqrt(2 / math.pi), rel=0.02)
    with pytest.raises(ValueError, match="one size"):
        swd.distance({32: np.zeros((5, 49)), 16: np.zeros((5, 49))}, {16: np.zeros((5, 49))}, seed=0)


def test_images_that_are_read_give_what_arrays_give():
    """To the last digit; each is read twice."""
    x, read = np.random.default_rng(17).integers(0, 256, (9, 16, 20, 3)).astype(np.uint8), []
    found = swd.statistics(sets.Lazy(lambda at: read.extend(at) or x[at], x.shape, ""), 0, 500)
    np.testing.assert_array_equal(found[16], swd.statistics(pixels.to_float(x), 0, 500)[16])
    assert sorted(read) == sorted([*range(9)] * 2)
