"""The learned variance: an independent numpy, and Gaussian data, of which the best mean and variance are known."""

import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.diffusion import samplers, variance
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import noised

LINEAR = Process("linear", 1000)
S = 0.3  # the variance of the data, whose mean is 0


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def in_bits(process, x0, x, eps, v, t):
    """One image of one pixel after the other, as the papers word it."""
    total = []
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for i, step in enumerate(t):
        before = abar[step - 1] if step else 1.0
        beta = 1 - abar[step] / before

        def tilde(n):
            return (1 - abar[n - 1]) / (1 - abar[n]) * (1 - abar[n] / abar[n - 1])

        low, high = math.log(tilde(max(step, 1))), math.log(beta)

        def mean(clean, x, a=abar[step], b=before, beta=beta):
            return math.sqrt(b) * beta / (1 - a) * clean + math.sqrt(1 - beta) * (1 - b) / (1 - a) * x

        for p in np.ndindex(x0.shape[1:]):
            guess = (x[i][p] - math.sqrt(1 - abar[step]) * eps[i][p]) / math.sqrt(abar[step])
            f = (v[i][p] + 1) / 2
            deviation = math.exp((f * high + (1 - f) * low) / 2)
            if step:
                q, sigma = mean(x0[i][p], x[i][p]), math.exp(low / 2)
                distance = (sigma**2 + (q - mean(guess, x[i][p])) ** 2) / deviation**2
                total.append(math.log(deviation / sigma) + (distance - 1) / 2)
            else:

                def cdf(y, g=guess, d=deviation):
                    return 0.5 * (1 + math.erf((y - g) / d / math.sqrt(2)))

                total.append(-math.log(max(cdf(x0[i][p] + 1 / 255) - cdf(x0[i][p] - 1 / 255), 1e-12)))
    return np.mean(total) / math.log(2)


@pytest.mark.slow
def test_bits_by_hand():
    x0, eps, said = np.tanh(normal(5, 2, 3, 2)), normal(5, 2, 3, 2, seed=1), normal(5, 2, 3, 2, seed=2)
    v, t = 0.7 * normal(5, 2, 3, 2, seed=3), np.array([0, 1, 40, 500, 999])
    said = eps + 0.1 * said
    x = np.asarray(jax.jit(partial(noised, LINEAR))(np.float32(x0), np.float32(eps), t))
    given, bits = [*np.float32((x0, x, said, v)), t], jax.jit(partial(variance.bits, LINEAR))
    got = float(bits(*given))
    assert got == pytest.approx(in_bits(LINEAR, x0, x, said, v, t), rel=2e-4)
    one = [float(bits(*(y[i : i + 1] for y in given))) for i in range(5)]
    assert got == pytest.approx(np.mean(one), rel=1e-4)


@pytest.mark.slow
def test_bits_teach_the_variance_alone():
    x0, said, v = np.float32([normal(2, 4, 4, 1, seed=i) for i in range(3)])
    of = jax.jit(jax.grad(lambda said, v, x0, t: variance.bits(LINEAR, x0, x0 + 0.1, said, v, t), (0, 1)))
    to_said, to_v = jax.device_get(of(said, v, x0, np.array([0, 300])))
    assert not np.any(to_said)
    assert np.all(np.isfinite(to_v))
    assert np.any(to_v[1])


def best_v(t, u):
    """Where the step from t to u has the variance of x_u given x_t alone: beta~ and what is not known of x0."""

    def abar(n):
        return LINEAR.abar[n] if n >= 0 else 1.0

    beta = 1 - abar(t) / abar(u)
    tilde = (1 - abar(u)) / (1 - abar(t)) * beta
    unknown = S * (1 - abar(t)) / (abar(t) * S + 1 - abar(t))
    share = np.sqrt(abar(u)) * beta / (1 - abar(t))
    return 2 * (np.log(tilde + share**2 * unknown) - np.log(tilde)) / (np.log(beta) - np.log(tilde)) - 1


CLEAN, NOISE = np.float32(np.sqrt(S) * normal(1, 256, 256, 1)), np.float32(normal(1, 256, 256, 1, seed=1))


@jax.jit
@jax.grad
def slope_of_the_bound(v, t):
    """By one variance for all pixels, where the network says E[eps | x_t]."""
    x0, x = jnp.asarray(CLEAN), noised(LINEAR, jnp.asarray(CLEAN), jnp.asarray(NOISE), t)
    a, s = LINEAR.levels(t)
    return variance.bits(LINEAR, x0, x, s * x / (a**2 * S + s**2), jnp.full(x.shape, v), t)


@pytest.mark.slow
@pytest.mark.parametrize("t", [3, 60, 700])
def test_the_bound_is_least_at_the_best_variance(t):
    """With the best eps there is no other stationary point than v*, and it lies within (-1, 1)."""
    v = best_v(t, t - 1)
    assert -1 < v < 1
    less, least, more = (float(slope_of_the_bound(y, np.array([t]))) for y in (v - 0.3, v, v + 0.3))
    assert less < 0 < more
    assert abs(least) < 0.1 * more


@pytest.mark.slow
def test_few_steps_of_the_best_variance_are_enough():
    """Of a normal distribution the steps back are normal: mean and variance known, five steps sample it exactly."""
    times = LINEAR.times(5)
    table = np.zeros(1000, np.float32)
    for t, u in pairwise(times[:-1]):
        table[t] = best_v(t, u)

    def denoise(x, t, memory, key, learned):
        a, s = (level[:, None, None, None] for level in LINEAR.levels(t))
        said = s * x / (a**2 * S + s**2)
        v = jnp.broadcast_to(jnp.asarray(table)[t][:, None, None, None], x.shape)
        return jnp.concatenate([said, v], -1) if learned else said, memory

    @jax.jit
    def spread():
        start = samplers.begin(samplers.initial_noise(arrays.keys(0, 4), (64, 64), 1))

        def end(learned):
            said = partial(denoise, learned=learned)
            return samplers.sample(samplers.ddpm, LINEAR, said, start, times, arrays.keys(1, 4)).x.std()

        return end(True), end(False)

    learned, least = map(float, spread())
    assert learned == pytest.approx(np.sqrt(S), rel=4 / np.sqrt(2 * 4 * 64**2))
    assert least < 0.9 * np.sqrt(S)  # with beta~ they fall short


@jax.jit
def ddpm(x, *given):
    return samplers.ddpm(LINEAR, samplers.begin(x), *given)


@pytest.mark.parametrize("v", [None, -1.0])
def test_the_least_variance_is_the_plain_step(v):
    x, x0, noise = np.float32([normal(1, 4, 4, 2, seed=i) for i in range(3)])
    plain = ddpm(x, x0, 400, 300, noise)
    got = ddpm(x, x0, 400, 300, noise, None if v is None else np.full_like(x, v))
    np.testing.assert_allclose(got, plain, atol=1e-6)


def test_the_greatest_is_beta_and_the_clean_end_has_none():
    x = np.zeros((1, 2, 2, 1), np.float32)

    def step(t, u, v):
        return ddpm(x, x, t, u, x + 1, x + np.float32(v))

    beta = 1 - LINEAR.abar[400] / LINEAR.abar[300]
    np.testing.assert_allclose(step(400, 300, 1.0), np.sqrt(beta), rtol=1e-5)
    np.testing.assert_array_equal(step(0, -1, 3.0), 0)


def test_a_network_without_a_variance():
    said = jax.device_put(np.ones((1, 2, 2, 3), np.float32))
    assert variance.parted(said, 3) == (said, None)


def test_respaced_as_published():
    """250 of 1000: original indices round(k * 999 / 249), and no others."""
    times = LINEAR.times(250)
    assert times[:-1][::-1].tolist() == [round(k * 999 / 249) for k in range(250)]
    assert times[-1] == -1
