"""Frechet radiomic distance: the number of the reference package on its own features, and what the paper changes."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.io import images as pixels
from nca_gen.io import volumes
from nca_gen.metrics import frd
from nca_gen.metrics.notes import collecting


def textures(seeds, height=33, width=31):
    """8 bits, elementwise from RandomState: the same numbers everywhere."""
    pictures = []
    for seed in seeds:
        z = np.random.RandomState(seed).standard_normal((height, width))
        z = z + np.roll(z, 1, 0) + np.roll(z, 1, 1) + np.roll(z, (1, 1), (0, 1))
        pictures.append(np.clip(128 + 30 * z, 0, 255).astype(np.uint8))
    return np.stack(pictures)[..., None]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def two():
    """Ten textures, and eight that are smoother from row to row."""
    smooth = textures(range(30, 38)).astype(float)
    smooth = ((smooth + np.roll(smooth, 1, 1)) / 2).astype(np.uint8)
    return pixels.to_float(textures(range(10, 20))), pixels.to_float(smooth)


@pytest.mark.slow
def test_the_number_of_the_package(two):
    """frd-score 1.0.1 with pyradiomics-bhklab 3.1.4 on PNG files of these: 398 columns, 6 of them constant."""
    real, generated = two
    with collecting() as notes:
        scores = frd.score(generated, real, None, 0, protocol="package")
    assert frd.statistics(real[:1], "package").shape == (1, 398)
    assert scores["frd_squared"] == pytest.approx(994.4555931179939, rel=1e-5)
    assert scores["frd"] == pytest.approx(6.902195444826481, rel=1e-6)
    assert any("392 features" in note for note in notes)


@pytest.mark.slow
def test_the_paper_has_laplacians_and_the_log_of_the_distance(two):
    real, generated = two
    features = frd.statistics(real[:3])
    assert features.shape == (3, 9 * 77)
    with collecting():
        scores = frd.distance(features, frd.statistics(generated[:3]))
    assert scores["frd"] == pytest.approx(np.log(np.sqrt(scores["frd_squared"])))


def test_moments_in_closed_form():
    """One column: real 0 and 2, mean 1, deviation 1; generated 5 and 9: 4 and 8, mean 6 and sd 2 sqrt 2."""
    real, generated = np.array([[0.0, 3.0], [2.0, 3.0]]), np.array([[5.0, 3.0], [9.0, 4.0]])
    with collecting():
        scores = frd.distance(real, generated)
    assert scores["frd_squared"] == pytest.approx(6**2 + (2 * np.sqrt(2) - np.sqrt(2)) ** 2)
    assert scores["frd_ood"] == 1.0
    with collecting():
        same = frd.distance(real, real)
    assert same == {"frd": -np.inf, "frd_squared": 0, "frd_ood": 0}


def test_colours_are_grey_as_itk_weighs_them():
    """A pixel of (10, 200, 30): 147.368, read by SimpleITK 2.5.7 as a float."""
    image = pixels.to_float(np.array([10, 200, 30], np.uint8).reshape(1, 1, 3))
    assert frd.grey(image).item() == pytest.approx(147.368, rel=1e-6)


@pytest.mark.slow
def test_features_of_real_images_are_kept(two, monkeypatch):
    real, generated = two
    seen, statistics = [], frd.statistics
    monkeypatch.setattr(frd, "statistics", lambda x, *how: seen.append(len(x)) or statistics(x, *how))
    with collecting():
        scores = [frd.score(generated[:2], real[:3], None, 0) for _ in range(2)]
    assert scores[0] == scores[1]
    assert seen == [3, 2, 2]


@pytest.mark.slow
def test_a_flat_image_is_left_out_and_said(two):
    real, _ = two
    some = np.concatenate([real[:2], np.zeros_like(real[:1])])
    with collecting() as notes:
        assert frd.score(some, real[:2], None, 0)["frd_squared"] == pytest.approx(0, abs=1e-6)
    assert any("1 of 3 generated images are of one grey" in note for note in notes)
    with collecting(), pytest.raises(UserError, match="at least 2 generated images but got 1"):
        frd.score(some[1:], real[:2], None, 0)


@pytest.mark.slow
def test_volumes_of_any_size_by_the_spacing_of_their_files():
    """Two millimetres a cell are not resampled; half of that is halved: the same as told by hand."""
    rng = np.random.default_rng(0)
    each = [rng.uniform(-1, 1, (8, 9 + i, 10, 1)).astype(np.float32) for i in range(2)]
    shapes = tuple(x.shape for x in each)
    coarse = volumes.Volumes(each.__getitem__, shapes, "", ("a", "b"), (), ((2000.0,) * 3,) * 2)
    features = frd.statistics(coarse)
    assert features.shape == (2, (1 + 8 + 4) * 77)
    np.testing.assert_array_equal(features, [[*frd.described(frd.grey(x), spacing=2.0).values()] for x in each])


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((2, 6, 9, 1)), {}, "at least 8 x 8 pixels, not 6 x 9"),
        (np.zeros((2, 9, 9, 2)), {}, "1 or 3 channels, and the images have 2"),
        (np.zeros((2, 9, 9, 1)), {"protocol": "papier"}, "unknown protocol of frd 'papier'; did you mean paper"),
    ],
)
def test_what_cannot_be_scored(image, options, message):
    with pytest.raises(UserError, match=message):
        frd.score(image.astype(np.float32), image.astype(np.float32), None, 0, **options)
