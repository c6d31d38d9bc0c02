"""Wrappers that sample a part of an image: what the denoiser is shown, and where it goes."""

from functools import partial

import jax
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.diffusion import inpaint
from nca_gen.diffusion.discrete import Process

D = Process("cosine", 60, "v")
KEY = arrays.keys(0, 2)
X0 = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


@partial(jax.jit, static_argnums=3)
def _noised(x0, t, key, origin):
    return inpaint.noised(D, x0, t, key, arrays.coords(x0.shape[1:3], origin))


def noised(x0, t, key=KEY, origin=None):
    return np.asarray(_noised(x0, np.array([t]), key, origin))


@pytest.mark.parametrize("t", [5, 50])
def test_noised_pixels_have_the_level_of_the_rest(t):
    """abar_t is what is left of x0, and what is beside it is standard normal noise, 6144 values of it."""
    x = noised(X0, t)
    a = np.sqrt(D.abar[t])
    eps = (x - a * X0) / np.sqrt(1 - D.abar[t])
    assert abs(eps.mean()) < 0.05
    assert eps.std() == pytest.approx(1, abs=0.04)
    assert abs(float((eps * X0).mean())) < 0.03


def test_the_noise_of_known_pixels_is_fresh_and_its_own():
    """Another level has another key, hence other noise; nor is it that of the sampler's step."""
    sampler = np.asarray(jax.jit(lambda key: arrays.cell_normal(key, -1, arrays.coords((32, 32)), 3))(KEY))
    here, there = noised(0 * X0, 50), noised(0 * X0, 50, arrays.fold(KEY, 1))
    for other in (there, sampler):
        assert abs(np.corrcoef(here.ravel(), other.ravel())[0, 1]) < 0.06


def test_the_noise_of_known_pixels_belongs_to_coordinates():
    tile = noised(X0[:, 3:7, 20:27], 50, origin=(3, 20))
    np.testing.assert_allclose(tile, noised(X0, 50)[:, 3:7, 20:27], atol=1e-6)


def test_clean_pixels_are_shown_as_they_are():
    x0 = jax.device_put(X0)
    assert inpaint.clean(D, x0, jax.device_put(np.array([50])), KEY, ()) is x0
    assert {"noised": inpaint.noised, "clean": inpaint.clean} == inpaint.KNOWN


def test_the_denoiser_sees_the_hole_and_what_is_known():
    x, hole = np.float32([[1, 2, 3]]), np.array([False, True, False])

    def seen(x, t, memory, key):
        return (x, memory + 1)

    def known(t, key):
        return t + np.float32([[10, 20, 30]])

    got, memory = jax.jit(lambda *given: inpaint.replaced(seen, given[0], known)(*given[1:]))(
        hole, x, np.float32([5]), 7, KEY
    )
    np.testing.assert_array_equal(got, [[15, 2, 35]])
    assert memory == 8


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [4.0, 8.0]), (0.25, [3.25, 6.5]), (1.0, [1.0, 2.0])])
def test_blending(weight, expected):
    def step(process, carry):
        return carry

    blend = jax.jit(lambda x0, x: inpaint.blended(step, x0, weight)(None, x))
    got = blend(np.float32([[[1, 2]]]), np.float32([[[4, 8]]]))
    np.testing.assert_allclose(got, [[expected]])
