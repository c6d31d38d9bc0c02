"""Wrappers that sample a part of an image: what the denoiser is shown, and where it goes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import levels

from nca_gen import arrays
from nca_gen.diffusion import continuous, inpaint, samplers
from nca_gen.diffusion.discrete import Process
from nca_gen.errors import UserError

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


def test_the_order_of_repaint():
    """By hand; 2410 calls for the 250 steps of the paper, jumps of 10 ten times: 250 + 9 * 24 * 10."""
    number, visit = inpaint.path(6, 2, 2)
    np.testing.assert_array_equal(number, [0, 1, 2, 1, 2, 3, 4, 3, 4, 5])
    np.testing.assert_array_equal(visit, [0, 0, 0, 1, 1, 0, 0, 1, 1, 0])
    number, visit = inpaint.path(3, 3, 1)  # algorithm 1, U = 3
    np.testing.assert_array_equal(number, [0, 0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(visit, [0, 1, 2, 0, 1, 2, 0])
    assert len(inpaint.path(250, 10, 10)[0]) == 2410
    for jump in (1, 10):
        number, visit = inpaint.path(4, 1, jump)
        np.testing.assert_array_equal([number, visit], [[0, 1, 2, 3], [0] * 4])
    pairs = {*zip(*inpaint.path(23, 4, 3), strict=True)}
    assert len(pairs) == 23 + 3 * 3 * 7  # no visit twice, so no noise twice


@pytest.mark.parametrize(("steps", "cure"), [(4, "set it to 3 at the most"), (1, "set config.generate.resample=1")])
def test_a_jump_longer_than_sampling(steps, cure):
    with pytest.raises(UserError, match=cure):
        inpaint.path(steps, 2, 4)


NEAR, SHOWN = 0.9, 1.5  # correlation of two pixels, N(0, 1) each; what the one that is known shows


@partial(jax.jit, static_argnums=(0, 1))
def _painted(process, again, key):
    """The unknown pixels of 1024 pairs a key, by the best denoiser; ``again``: resample and jump, () is plain."""
    at, hole = arrays.coords((32, 32)), jnp.array([True, False])
    x0 = jnp.broadcast_to(jnp.array([0, SHOWN]), (len(key), 32, 32, 2))

    def best(x, t, memory, key):
        a, s = (v[:, None, None, None] for v in process.levels(t))
        # Sum and difference of a pair are independent, of variance 2 (1 + NEAR) and 2 (1 - NEAR).
        parts = (1 + NEAR, x[..., :1] + x[..., 1:]), (1 - NEAR, x[..., :1] - x[..., 1:])
        total, difference = (a * v * part / (a**2 * v + s**2) for v, part in parts)
        clean = jnp.concatenate([total + difference, total - difference], -1) / 2
        return process.predict.target(clean, (x - a * clean) / s, a, s), memory

    denoise = inpaint.replaced(best, hole, lambda t, k: inpaint.noised(process, x0, t, k, at))
    start = samplers.begin(samplers.initial_noise(key, (32, 32), 2))
    given = samplers.ddpm, process, denoise, start, process.times(30), key, at
    return (inpaint.resampled(*given, *again) if again else samplers.sample(*given)).x[..., 0]


def moments(process, steps, resample, jump):
    """Mean and variance of the unknown pixel, in float64: every step is linear, and its noise is fresh."""
    a, s = np.float64(levels(process, process.times(steps)))
    covariance = np.array([[1, NEAR], [NEAR, 1]])
    mean, variance, now = 0.0, 1.0, 0
    for t in inpaint.path(steps, resample, jump)[0]:
        if t < now:
            r = a[t] / a[now]
            mean, variance = r * mean, r**2 * variance + s[t] ** 2 - (r * s[now]) ** 2
        own, other = np.linalg.solve(a[t] ** 2 * covariance + s[t] ** 2 * np.eye(2), a[t] * covariance[0])
        now = t + 1
        r = a[t] / a[now]
        beta = s[t] ** 2 - (r * s[now]) ** 2
        keep, take = r * s[now] ** 2 / s[t] ** 2, a[now] * beta / s[t] ** 2  # of the posterior
        mean = (keep + take * own) * mean + take * other * a[t] * SHOWN
        variance = (keep + take * own) ** 2 * variance + (take * other * s[t]) ** 2 + (s[now] / s[t]) ** 2 * beta
    return mean, variance


@pytest.mark.slow
@pytest.mark.parametrize("this", [D, continuous.Process("cosine", "v")])
def test_resampling_comes_near_what_the_known_pixel_says(this):
    """The unknown pixel should be N(NEAR SHOWN, 1 - NEAR^2). Both of its moments are less wrong when 2 steps on end are
    taken 3 times, and what was sampled has the moments of :func:`moments`, to four standard errors."""
    wrong = []
    for again in ((), (3, 2)):
        x = np.asarray(_painted(this, again, KEY)).ravel()
        mean, variance = moments(this, 30, *(again or (1, 1)))
        assert abs(x.mean() - mean) < 4 * np.sqrt(variance / len(x))
        assert abs(x.var() - variance) < 4 * variance * np.sqrt(2 / len(x))
        wrong.append(np.abs([x.mean() - NEAR * SHOWN, x.var() - (1 - NEAR**2)]))
    assert np.all(wrong[1] < wrong[0] * [0.4, 0.5]), wrong


def test_as_often_as_the_paper():
    """250 steps, 10 on end 10 times: errors of 0.41 and 0.115 become 0.03 and 0.01; and a visit more is always less."""
    this = continuous.Process("cosine", "v")
    wrong = [np.subtract(moments(this, 250, n, 10), [NEAR * SHOWN, 1 - NEAR**2]) for n in (1, 2, 4, 10)]
    np.testing.assert_allclose(wrong[0], [-0.414, 0.115], atol=1e-3)
    np.testing.assert_allclose(wrong[-1], [-0.033, -0.006], atol=1e-3)
    assert np.all(np.diff(np.abs(wrong), axis=0) < 0)


@pytest.mark.slow
def test_resampling_once_is_sampling():
    """The first visit to a step has the noise of a sampler."""
    np.testing.assert_allclose(_painted(D, (1, 4), KEY), _painted(D, (), KEY), atol=1e-5)
