"""Enlargement: the old pixels stay, the new ones are painted, twice is twice in a row."""

from functools import partial

import blur
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from painting import PROCESS, params, part, settings

from nca_gen import arrays
from nca_gen.diffusion import samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import noised, x0_of
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import inpaint, upscale

MODEL = blur.Model(halo=2)
PARAMS, PART = params(MODEL), part(MODEL)
HOW = settings()
KEY = arrays.keys(1, 1)
IMAGE = np.random.default_rng(0).uniform(-1, 1, (6, 5, 3)).astype(np.float32)
slow = partial(pytest.param, marks=pytest.mark.slow)


def enlarge(factor=2, given=HOW, **how):
    return upscale.enlarge(PART, KEY, IMAGE, factor, given, **how)


def test_doubled():
    image, new = upscale.doubled(np.array([[[1.0], [2.0]]], np.float32))
    np.testing.assert_array_equal(image[..., 0], [[1, 1, 2, 2], [1, 1, 2, 2]])
    np.testing.assert_array_equal(new, [[False, True, False, True], [True, True, True, True]])


@pytest.mark.slow
def test_the_old_pixels_stay_bit_for_bit():
    large = enlarge()
    np.testing.assert_array_equal(large[::2, ::2], IMAGE)
    assert np.abs(large - upscale.doubled(IMAGE)[0])[1::2, 1::2].max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("factor", [4, 8])
def test_four_times_is_twice_twice(factor):
    large = enlarge(factor)
    assert large.shape == (6 * factor, 5 * factor, 3)
    np.testing.assert_array_equal(large[::2, ::2], enlarge(factor // 2))


def test_where_it_begins():
    """From 0.9 of 12 timesteps, of 0 .. 11 those below 10.8: 11 is left out. One DDIM step to the clean end."""
    np.testing.assert_array_equal(inpaint.levels(PROCESS, PROCESS.times(12), 0.9), [*range(10, -2, -1)])
    np.testing.assert_array_equal(inpaint.levels(PROCESS, PROCESS.times(12), 1.0), [*range(11, -2, -1)])
    np.testing.assert_array_equal(inpaint.levels(PROCESS, PROCESS.times(4), 0.5), [4, 0, -1])
    np.testing.assert_array_equal(inpaint.levels(PROCESS, PROCESS.times(4), 0.0), [0, -1])


@pytest.mark.slow
def test_one_step_by_hand():
    """At t = 0: the enlarged image with the noise of the first level, one call, one step, 2 % of the image."""
    image, new = upscale.doubled(IMAGE)
    key, t = arrays.fold(KEY, 0), jnp.array([0])
    x = jax.jit(noised, static_argnums=0)(PROCESS, image[None], samplers.initial_noise(key, (12, 10), 3), t)

    @jax.jit
    def implied(x):
        said, _ = MODEL.apply(PARAMS, jnp.where(new[..., None], x, image), t, None, (), arrays.fold(key, 0))
        return x0_of(PROCESS, said, x, t)[0]

    expected = 0.98 * implied(x) + 0.02 * image
    mine = enlarge(2, settings(sampler="ddim", steps=12, clip="none"), noise=0.05, known="clean")
    np.testing.assert_allclose(mine, np.where(new[..., None], expected, image), atol=1e-5)


@pytest.mark.slow
def test_nothing_but_the_image_blended_in():
    np.testing.assert_allclose(enlarge(blend=1.0), upscale.doubled(IMAGE)[0], atol=1e-6)


@pytest.mark.slow
def test_blocks_of_pixels():
    """Every cell of 2 x 2 pixels holds an old one."""
    model = blur.Model(channels=12, halo=2)
    large = upscale.enlarge(part(model, codec=Codec(std=(0.5,), block=2)), KEY, IMAGE, 2, HOW)
    np.testing.assert_array_equal(large[::2, ::2], IMAGE)
    assert large.shape == (12, 10, 3)


@pytest.mark.parametrize("factor", [-2, 0, 1, 3, 6])
def test_other_factors_are_refused(factor):
    with pytest.raises(UserError, match=f"factor={factor}: pictures are enlarged by 2, 4, 8"):
        enlarge(factor)


@pytest.mark.slow
def test_files(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    images.write(tmp_path / "in.png", stored)
    (folder := tmp_path / "out").mkdir()
    lines = upscale.Pipeline({"model": PART}, str(tmp_path / "in.png"), samples=2).write(folder)
    assert "2 enlargements to 12 x 10 pixels" in lines[0]
    assert sorted(f.name for f in folder.iterdir()) == ["00000.png", "00001.png", "comparison.png", "input.png"]
    first, second = (images.read(folder / f"0000{i}.png") for i in range(2))
    np.testing.assert_array_equal(first[::2, ::2], stored)
    assert (first != second).mean() > 0.5
    assert images.read(folder / "comparison.png").shape == (12, 3 * 10 + 2 * 2, 3)
