"""Samplers against closed forms, for data of which the best denoiser is known.

See :mod:`gaussian`; in continuous time and on the straight path: test_continuous.py.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import MEAN, VARIANCE, best, exact, point

from nca_gen import arrays
from nca_gen.diffusion import samplers
from nca_gen.diffusion.discrete import Process

STEPS = samplers.SAMPLERS


@partial(jax.jit, static_argnums=(0, 1, 2))
def run(step, process, denoiser, x, times, key):
    return samplers.sample(step, process, denoiser(process), samplers.begin(x, jnp.int32(0)), times, key)


@cache
def noise(n=64, seed=0):
    return samplers.initial_noise(arrays.keys(seed, 2), (n, n), 3)


@pytest.mark.parametrize("prediction", ["eps", *(pytest.param(p, marks=pytest.mark.slow) for p in ("x0", "v"))])
@pytest.mark.parametrize(("name", "steps"), [("ddpm", 1000), ("ddim", 1000), ("dpm_solver_pp", 300)])
@pytest.mark.slow
def test_moments_of_a_gaussian(name, steps, prediction):
    """Mean and deviation per channel, to four standard errors and the 2.5 % that finite steps cost."""
    process = Process("cosine", 1000, prediction)
    out = run(STEPS[name], process, best, noise(), process.times(steps), arrays.keys(1, 2))
    assert out.memory == steps
    x, std = np.asarray(out.x).reshape(-1, 3), np.sqrt(VARIANCE)
    assert np.all(np.abs(x.mean(0) - MEAN) < 4 * std / np.sqrt(len(x)) + 1e-3)
    np.testing.assert_allclose(x.std(0), std, rtol=4 / np.sqrt(2 * len(x)) + 0.025)
    # Still normal.
    z = (x - x.mean(0)) / x.std(0)
    assert np.all(np.abs((z**4).mean(0) - 3) < 4 * np.sqrt(96 / len(x)))


@pytest.mark.parametrize(("name", "steps"), [("ddim", 1000), ("dpm_solver_pp", 300)])
def test_every_noise_goes_where_the_flow_takes_it(name, steps):
    process = Process("cosine", 1000, "v")
    x = noise()
    out = run(STEPS[name], process, best, x, process.times(steps), arrays.keys(1, 2)).x
    distance = np.abs(out - exact(process, x, 999, -1)) / np.sqrt(VARIANCE)
    assert distance.max() < 0.05
    assert distance.mean() < 0.01


def error(step, n):
    """Largest relative distance from the solution of the ODE after ``n`` steps from t = 900 to t = 100."""
    process = Process("linear", 1000, "x0")
    times = np.linspace(900, 100, n + 1).astype(int)
    x = noise(8)
    truth = exact(process, x, 900, 100)
    got = run(step, process, best, x, times, arrays.keys(0, 2)).x
    return np.abs(got - truth).max() / np.abs(truth).max()


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm_solver_pp", 2)])
def test_order_of_convergence(name, order):
    """Half the step size, half the error for DDIM, a quarter for DPM-Solver++(2M)."""
    errors = np.array([error(STEPS[name], n) for n in (20, 40, 80)])
    rates = np.log2(errors[:-1] / errors[1:])
    assert np.all(np.abs(rates - order) < 0.3), (errors, rates)


def test_the_first_step_of_dpm_solver_is_ddim():
    process = Process("cosine", 100, "v")
    times, key = np.array([80, 35]), arrays.keys(0, 2)
    a, b = (run(step, process, best, noise(8), times, key).x for step in (samplers.ddim, samplers.dpm_solver_pp))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("u", "same"), [(0, True), (10, False)])
def test_the_step_into_zero_is_ddim(u, same):
    """With a slope to go by, and elsewhere one that is used."""
    process, (x, before, x0) = Process("linear", 1000, "x0"), (noise(8, seed) for seed in range(3))
    carry = samplers.begin(x)._replace(x0=before, gap=jnp.asarray(0.5))
    a, b = (
        step(process, carry, x0, jnp.asarray(52), jnp.asarray(u), jnp.zeros_like(x))
        for step in (samplers.ddim, samplers.dpm_solver_pp)
    )
    assert (np.abs(a - b).max() < 1e-5) == same


@pytest.mark.parametrize("name", STEPS)
def test_into_the_clean_end(name):
    """The last step, to t = -1, is the denoiser's word itself: no noise is added."""
    process = Process("cosine", 50, "eps")
    out = run(STEPS[name], process, best, noise(8), process.times(10), arrays.keys(0, 2))
    np.testing.assert_allclose(out.x, out.x0, atol=1e-6)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_point_mass_is_found_exactly(name, steps):
    process = Process("cosine", 50, "x0")
    x = run(STEPS[name], process, point, noise(8), process.times(steps), arrays.keys(0, 2)).x
    np.testing.assert_allclose(x, np.broadcast_to(MEAN, x.shape), atol=1e-6)


def test_ddim_of_a_point_mass_keeps_its_noise():
    """On the way x_t = a m + s z with the z of the start, however long the steps are."""
    process = Process("linear", 1000, "x0")
    x, times = noise(8), np.array([999, 600, 210, 40])
    (a, s), (a_u, s_u) = (tuple(map(float, process.levels(jnp.array(t)))) for t in (999, 40))
    out = run(samplers.ddim, process, point, x, times, arrays.keys(0, 2)).x
    np.testing.assert_allclose(out, a_u * MEAN + s_u * (x - a * MEAN) / s, atol=1e-5)


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
    carry = samplers.begin(jnp.asarray(x))
    step = jax.jit(samplers.ddpm, static_argnums=0)
    got = step(process, carry, jnp.asarray(x0), jnp.array(t), jnp.array(t - 1), jnp.asarray(z))
    np.testing.assert_allclose(got, expected, atol=3e-5)


def test_ddpm_jumps_are_the_marginals_of_its_steps():
    """With x0 known, going from t to u at once or by way of w draws from one and the same normal distribution."""
    process = Process("linear", 300)
    t, w, u = 250, 160, 60
    step = jax.jit(samplers.ddpm, static_argnums=0)

    def moments(t, u):
        """x_u = A x_t + B x0 + C z, read off by one-hot inputs."""
        one, none = jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1))

        def at(x, x0, z):
            return float(step(process, samplers.begin(x), x0, jnp.array(t), jnp.array(u), z).item())

        return at(one, none, none), at(none, one, none), at(none, none, one)

    (a, b, c), (a1, b1, c1), (a2, b2, c2) = moments(t, u), moments(t, w), moments(w, u)
    assert a == pytest.approx(a2 * a1, rel=1e-4)
    assert b == pytest.approx(a2 * b1 + b2, rel=1e-4)
    assert c**2 == pytest.approx((a2 * c1) ** 2 + c2**2, rel=1e-4)


@pytest.mark.parametrize("name", ["ddpm", "dpm_solver_pp", pytest.param("ddim", marks=pytest.mark.slow)])
def test_a_run_cut_in_pieces_is_one_run(name):
    """Bit for bit, noise, memory and the memory of a multistep solver included."""
    process, key = Process("cosine", 60, "v"), arrays.keys(3, 2)
    times = process.times(12)
    one = run(STEPS[name], process, best, noise(8), times, key)
    piece = jax.jit(lambda carry, times: samplers.sample(STEPS[name], process, best(process), carry, times, key))
    carry = samplers.begin(noise(8), jnp.int32(0))
    for start, stop in ((0, 1), (1, 5), (5, 12)):
        carry = piece(carry, times[start : stop + 1])
    for whole, pieces in zip(jax.tree.leaves(one), jax.tree.leaves(carry), strict=True):
        np.testing.assert_array_equal(whole, pieces)


def test_noise_is_named_by_time_and_place():
    """A tile at its coordinates is sampled as the region of the whole: this denoiser looks at one cell only."""
    process, key = Process("cosine", 60, "x0"), arrays.keys(3, 2)
    times, at = process.times(8), arrays.coords((5, 6), (2, 1))
    whole = run(samplers.ddpm, process, best, noise(8), times, key).x
    start = samplers.begin(samplers.initial_noise(arrays.keys(0, 2), (5, 6), 3, at), jnp.int32(0))
    tile = jax.jit(lambda c: samplers.sample(samplers.ddpm, process, best(process), c, times, key, at))(start).x
    np.testing.assert_allclose(tile, whole[:, 2:7, 1:7], atol=1e-6)


def test_the_start_is_unlike_the_noise_of_any_step():
    key, at, draw = arrays.keys(0, 2), arrays.coords((64, 64)), jax.jit(arrays.cell_normal, static_argnums=3)
    start = np.asarray(noise(64)).ravel()
    for t in (0, 1, 299):
        step = np.asarray(draw(arrays.fold(key, t), -1, at, 3)).ravel()
        assert abs(np.corrcoef(start, step)[0, 1]) < 4 / np.sqrt(start.size)


@pytest.mark.parametrize("shape", [(30,), (4, 5, 6)])
def test_volumes_and_signals(shape):
    """Any number of dimensions: the point mass again, in one and in three."""
    process = Process("cosine", 50, "x0")
    x = samplers.initial_noise(arrays.keys(0, 2), shape, 3)
    end = run(samplers.ddim, process, point, x, process.times(5), arrays.keys(0, 2)).x
    np.testing.assert_allclose(end, np.broadcast_to(MEAN, x.shape), atol=1e-6)
