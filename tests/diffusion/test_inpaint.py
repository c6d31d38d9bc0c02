"""Wrappers that sample a part of an image: what the denoiser is shown, and where it goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.diffusion import inpaint
from nca_gen.diffusion.discrete import Process

D = Process("cosine", 60, "v")
KEY = arrays.keys(0, 2)
X0 = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
AT = arrays.coords((32, 32))
noised = jax.jit(inpaint.noised, static_argnums=0)


@pytest.mark.parametrize("t", [5, 50])
def test_noised_pixels_have_the_level_of_the_rest(t):
    """abar_t is what is left of x0, and what is beside it is standard normal noise, 6144 values of it."""
    x = noised(D, X0, jnp.array([t]), KEY, AT)
    a = np.sqrt(D.abar[t])
    eps = (x - a * X0) / np.sqrt(1 - D.abar[t])
    assert abs(eps.mean()) < 0.05
    assert eps.std() == pytest.approx(1, abs=0.04)
    assert abs(float((eps * X0).mean())) < 0.03


def test_the_noise_of_known_pixels_is_fresh_and_its_own():
    """Another level has another key, hence other noise; nor is it that of the sampler's step."""
    t = jnp.array([50])

    def noise(key):
        return noised(D, X0 - X0, t, key, AT)

    sampler = jax.jit(lambda key: arrays.cell_normal(key, -1, AT, 3))(KEY)
    here, there = noise(KEY), noise(arrays.fold(KEY, 1))
    for other in (there, sampler):
        assert abs(np.corrcoef(here.ravel(), other.ravel())[0, 1]) < 0.06


def test_the_noise_of_known_pixels_belongs_to_coordinates():
    t, at = jnp.array([50]), arrays.coords((4, 7), (3, 20))
    tile = noised(D, X0[:, 3:7, 20:27], t, KEY, at)
    np.testing.assert_allclose(tile, noised(D, X0, t, KEY, AT)[:, 3:7, 20:27], atol=1e-6)


def test_clean_pixels_are_shown_as_they_are():
    assert inpaint.clean(D, X0, jnp.array([50]), KEY, AT) is X0
    assert {"noised": inpaint.noised, "clean": inpaint.clean} == inpaint.KNOWN


def test_the_denoiser_sees_the_hole_and_what_is_known():
    x, hole = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([False, True, False])

    def seen(x, t, memory, key):
        return (x, memory + 1)

    def known(t, key):
        return t + jnp.array([[10.0, 20.0, 30.0]])

    got, memory = inpaint.replaced(seen, hole, known)(x, jnp.array([5.0]), 7, KEY)
    np.testing.assert_array_equal(got, [[15, 2, 35]])
    assert memory == 8


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [4.0, 8.0]), (0.25, [3.25, 6.5]), (1.0, [1.0, 2.0])])
def test_blending(weight, expected):
    def step(process, carry):
        return carry

    got = inpaint.blended(step, jnp.array([[[1.0, 2.0]]]), weight)(None, jnp.array([[[4.0, 8.0]]]))
    np.testing.assert_allclose(got, [[expected]])
