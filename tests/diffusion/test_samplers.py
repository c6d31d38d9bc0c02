"""Samplers against closed forms, for data of which the best denoiser is known.

See :mod:`gaussian`; in continuous time and on the straight path: test_continuous.py.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import MEAN, VARIANCE, best, exact, levels, point

from nca_gen import arrays
from nca_gen.diffusion import samplers
from nca_gen.diffusion.discrete import Process

STEPS = samplers.SAMPLERS


@partial(jax.jit, static_argnums=(0, 1, 2))
def go(step, process, denoiser, carry, times, key, at=None):
    return samplers.sample(step, process, denoiser(process), carry, times, key, at)


def run(step, process, denoiser, x, times, key):
    return go(step, process, denoiser, samplers.begin(x, jnp.int32(0)), times, key)


keys = cache(arrays.keys)


@cache
def noise(n=64, seed=0):
    return samplers.initial_noise(keys(seed, 2), (n, n), 3)


@cache
def drawn(name, steps, prediction, n):
    """With the best denoiser."""
    process = Process("cosine", 1000, prediction)
    return jax.device_get(run(STEPS[name], process, best, noise(n), process.times(steps), keys(1, 2)))


MANY = [pytest.param("ddpm", 500, marks=pytest.mark.slow), ("ddim", 1000), ("dpm_solver_pp", 300)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), MANY)
def test_moments_of_a_gaussian(name, steps):
    """Mean and deviation per channel, to four standard errors and the 2.5 % that finite steps cost."""
    out = drawn(name, steps, "v", 64)
    assert out.memory == steps
    x, std = out.x.reshape(-1, 3), np.sqrt(VARIANCE)
    assert np.all(np.abs(x.mean(0) - MEAN) < 4 * std / np.sqrt(len(x)) + 1e-3)
    np.testing.assert_allclose(x.std(0), std, rtol=4 / np.sqrt(2 * len(x)) + 0.025)
    # Still normal.
    z = (x - x.mean(0)) / x.std(0)
    assert np.all(np.abs((z**4).mean(0) - 3) < 4 * np.sqrt(96 / len(x)))


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["eps", "x0"])
@pytest.mark.parametrize(("name", "steps"), MANY)
def test_samples_do_not_depend_on_what_is_predicted(name, steps, prediction):
    """They are those of v, whose moments are right."""
    np.testing.assert_allclose(drawn(name, steps, prediction, 8).x, drawn(name, steps, "v", 8).x, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), MANY[1:])
def test_every_noise_goes_where_the_flow_takes_it(name, steps):
    truth = exact(Process("cosine", 1000, "v"), noise(), 999, -1)
    distance = np.abs(drawn(name, steps, "v", 64).x - truth) / np.sqrt(VARIANCE)
    assert distance.max() < 0.05
    assert distance.mean() < 0.01


def error(step, n):
    """Largest relative distance from the solution of the ODE after ``n`` steps from t = 900 to t = 100."""
    process = Process("linear", 1000, "x0")
    times, carry = np.linspace(900, 100, n + 1).astype(int), samplers.begin(noise(8), jnp.int32(0))
    for start in range(0, n, 20):  # in pieces of one compilation
        carry = go(step, process, best, carry, times[start : start + 21], keys(0, 2))
    truth = exact(process, noise(8), 900, 100)
    return np.abs(carry.x - truth).max() / np.abs(truth).max()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm_solver_pp", 2)])
def test_order_of_convergence(name, order):
    """Half the step size, half the error for DDIM, a quarter for DPM-Solver++(2M)."""
    errors = np.array([error(STEPS[name], n) for n in (20, 40, 80)])
    rates = np.log2(errors[:-1] / errors[1:])
    assert np.all(np.abs(rates - order) < 0.3), (errors, rates)


@pytest.mark.slow
def test_the_first_step_of_dpm_solver_is_ddim():
    process = Process("cosine", 100, "v")
    times, key = np.array([80, 35]), keys(0, 2)
    a, b = (run(step, process, best, noise(8), times, key).x for step in (samplers.ddim, samplers.dpm_solver_pp))
    np.testing.assert_allclose(a, b, atol=1e-5)


one = jax.jit(lambda step, *given: step(*given), static_argnums=(0, 1))


@pytest.mark.parametrize(("u", "same"), [(0, True), (10, False)])
def test_the_step_into_zero_is_ddim(u, same):
    """With a slope to go by, and elsewhere one that is used."""
    process, (x, before, x0) = Process("linear", 1000, "x0"), (noise(8, seed) for seed in range(3))
    carry = samplers.begin(x)._replace(x0=before, gap=jax.device_put(np.float32(0.5)))
    a, b = (np.asarray(one(step, process, carry, x0, 52, u, x)) for step in (samplers.ddim, samplers.dpm_solver_pp))
    assert (np.abs(a - b).max() < 1e-5) == same


SHORT = Process("cosine", 60, "v")


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_into_the_clean_end(name):
    """The last step, to t = -1, is the denoiser's word itself: no noise is added."""
    out = run(STEPS[name], SHORT, best, noise(8), SHORT.times(12), keys(3, 2))
    np.testing.assert_allclose(out.x, out.x0, atol=1e-6)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_point_mass_is_found_exactly(name, steps):
    process = Process("cosine", 50, "x0")
    x = run(STEPS[name], process, point, noise(8), process.times(steps), keys(0, 2)).x
    np.testing.assert_allclose(x, np.broadcast_to(MEAN, x.shape), atol=1e-6)


def test_ddim_of_a_point_mass_keeps_its_noise():
    """On the way x_t = a m + s z with the z of the start, however long the steps are."""
    process = Process("linear", 1000, "x0")
    x, times = noise(8), np.array([999, 600, 210, 40])
    (a, s), (a_u, s_u) = (levels(process, t) for t in (999, 40))
    out = run(samplers.ddim, process, point, x, times, keys(0, 2)).x
    np.testing.assert_allclose(out, a_u * MEAN + s_u * (np.asarray(x) - a * MEAN) / s, atol=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("t", [1, 7, 150, 250, 299])
def test_ddpm_is_the_textbook_posterior(schedule, t):
    """Ho et al. 2020, eq. 6 and 7, for neighbouring t, from the betas in float64."""
    process = Process(schedule, 300)
    abar, before = process.abar[t], process.abar[t - 1]
    beta = 1 - abar / before
    rng = np.random.default_rng(0)
    x, x0, z = (rng.standard_normal((2, 4, 4, 3)).astype(np.float32) for _ in range(3))
    mean = np.sqrt(before) * beta / (1 - abar) * x0 + np.sqrt(1 - beta) * (1 - before) / (1 - abar) * x
    expected = mean + np.sqrt((1 - before) / (1 - abar) * beta) * z
    got = one(samplers.ddpm, process, samplers.begin(jax.device_put(x)), x0, t, t - 1, z)
    np.testing.assert_allclose(got, expected, atol=3e-5)


def test_ddpm_jumps_are_the_marginals_of_its_steps():
    """With x0 known, going from t to u at once or by way of w draws from one and the same normal distribution."""
    process = Process("linear", 300)
    t, w, u = 250, 160, 60

    def moments(t, u):
        """x_u = A x_t + B x0 + C z, read off by one-hot inputs."""
        x, x0, z = jax.device_put(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1, 1))
        return np.float64(one(samplers.ddpm, process, samplers.begin(x), x0, t, u, z)).ravel()

    (a, b, c), (a1, b1, c1), (a2, b2, c2) = moments(t, u), moments(t, w), moments(w, u)
    assert a == pytest.approx(a2 * a1, rel=1e-4)
    assert b == pytest.approx(a2 * b1 + b2, rel=1e-4)
    assert c**2 == pytest.approx((a2 * c1) ** 2 + c2**2, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_run_cut_in_pieces_is_one_run(name):
    """Bit for bit, noise, memory and the memory of a multistep solver included."""
    times = SHORT.times(12)
    whole = run(STEPS[name], SHORT, best, noise(8), times, keys(3, 2))
    carry = samplers.begin(noise(8), jnp.int32(0))
    for start in (0, 4, 8):
        carry = go(STEPS[name], SHORT, best, carry, times[start : start + 5], keys(3, 2))
    jax.tree.map(np.testing.assert_array_equal, whole, carry)


@pytest.mark.slow
def test_noise_is_named_by_time_and_place():
    """A tile at its coordinates is sampled as the region of the whole: this denoiser looks at one cell only."""
    times, at = SHORT.times(12), arrays.coords((5, 6), (2, 1))
    whole = run(samplers.ddpm, SHORT, best, noise(8), times, keys(3, 2)).x
    start = samplers.begin(samplers.initial_noise(keys(0, 2), (5, 6), 3, at), jnp.int32(0))
    tile = go(samplers.ddpm, SHORT, best, start, times, keys(3, 2), at).x
    np.testing.assert_allclose(tile, np.asarray(whole)[:, 2:7, 1:7], atol=1e-6)


@pytest.mark.slow
def test_the_start_is_unlike_the_noise_of_any_step():
    draw = jax.jit(lambda t: arrays.cell_normal(arrays.fold(keys(0, 2), t), -1, arrays.coords((64, 64)), 3))
    start = np.asarray(noise(64)).ravel()
    for t in (0, 1, 299):
        step = np.asarray(draw(t)).ravel()
        assert abs(np.corrcoef(start, step)[0, 1]) < 4 / np.sqrt(start.size)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(30,), (4, 5, 6)])
def test_volumes_and_signals(shape):
    """Any number of dimensions: the point mass again, in one and in three."""
    process = Process("cosine", 50, "x0")
    x = samplers.initial_noise(keys(0, 2), shape, 3)
    end = run(samplers.ddim, process, point, x, process.times(5), keys(0, 2)).x
    np.testing.assert_allclose(end, np.broadcast_to(MEAN, x.shape), atol=1e-6)
