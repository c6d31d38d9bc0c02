"""Continuous time: published levels, the straight path, and the samplers on data of which all is known."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import MEAN, VARIANCE, best, exact, levels, point

from nca_gen import arrays
from nca_gen.diffusion import discrete, guidance, process, samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.continuous import Process
from nca_gen.errors import UserError

T = np.float32([1e-3, 0.2, 0.5, 0.9, 1.0])
COSINE, LINEAR, STRAIGHT = Process("cosine", "v"), Process("linear", "eps"), Process("straight", "velocity")
ALL = [COSINE, LINEAR, STRAIGHT]


@partial(jax.jit, static_argnums=(0, 1))
def _at(this, what, t):
    return getattr(this, what)(t)


def at(this, what, t):
    """What the process says of the times ``t``: its method ``what``, in numpy."""
    return np.asarray(_at(this, what, np.float32(t)))


@pytest.mark.slow
def test_published_levels():
    """URCDM's noise augmentation at t = 0.2; the cosine is Nichol & Dhariwal's; both to their clipped ends."""
    a, s = levels(LINEAR, np.float32([0.2]))
    np.testing.assert_allclose([a[0], s[0]], [0.818690, 0.574236], atol=2e-6)
    angle = (np.float64(T) + 0.008) / 1.008 * np.pi / 2
    a, s = levels(COSINE, T)
    np.testing.assert_allclose(a[:-1], np.cos(angle[:-1]), rtol=1e-5)
    np.testing.assert_allclose(s[:-1], np.sin(angle[:-1]), rtol=1e-5)
    np.testing.assert_allclose(at(COSINE, "log_snr", T)[-1], -20)
    np.testing.assert_allclose(at(Process(ends=(-5.0, 2.0)), "log_snr", T)[[0, -1]], [2, -5])


def test_a_table_of_a_thousand_is_the_same_cosine():
    """Index i of a thousand is t = (i + 1) / 1000, but for the signal that is lost at t = 0."""
    t = np.array([9, 499, 899])
    abar = discrete.Process("cosine", 1000).abar[t]
    a, _ = levels(COSINE, np.float32((t + 1) / 1000))
    np.testing.assert_allclose(np.square(a) / np.cos(0.008 / 1.008 * np.pi / 2) ** 2, abar, rtol=1e-4)


@pytest.mark.parametrize("this", ALL)
def test_levels(this):
    """Noise grows with t, from none at the clean end on; log a^2 / s^2 is what :meth:`log_snr` says."""
    a, s = levels(this, np.float32([0, *T]))
    assert (a[0], s[0]) == (1.0, 0.0)
    assert np.all(np.diff(s) >= 0)
    assert np.all(np.diff(a) < 0)
    middle = slice(2, 5)
    np.testing.assert_allclose(2 * np.log(a[middle] / s[middle]), at(this, "log_snr", T)[1:4], rtol=1e-4, atol=1e-5)
    one = a + s if this is STRAIGHT else a**2 + s**2
    np.testing.assert_allclose(one, 1, atol=1e-6)


@pytest.mark.parametrize("this", [COSINE, LINEAR])
def test_the_posterior_as_imagen_has_it(this):
    """With c = -expm1(log-SNR(t) - log-SNR(u)): mean a_u (x (1 - c) / a_t + c x0), variance s_u^2 c; in float64."""
    (t, u), x, x0 = np.float32([0.7, 0.4]), np.float64(0.3), np.float64(-1.2)
    (a, _), (a_u, s_u) = (np.float64(levels(this, v)) for v in (t, u))
    c = -np.expm1(np.float64(at(this, "log_snr", t)) - at(this, "log_snr", u))
    given = [np.full((1, 1, 1), v, np.float32) for v in (x, x0)]
    mean, deviation = jax.jit(partial(process.posterior, this))(*given, t, u)
    assert mean.item() == pytest.approx(a_u * (x * (1 - c) / a + c * x0), rel=1e-4)
    assert float(deviation) ** 2 == pytest.approx(s_u**2 * c, rel=1e-4)


@pytest.mark.parametrize("this", [*ALL, discrete.Process("linear", 300)])
def test_noise_is_added_again_exactly(this):
    """q(x_t | x_u) after q(x_u | x0) is q(x_t | x0): means multiply, variances add up."""
    t, u = np.int32([250, 60]) if this.span == 300 else np.float32([0.8, 0.3])
    (a, s), (a_u, s_u) = levels(this, t), levels(this, u)
    r, beta = jax.device_get(jax.jit(partial(process.jump, this))(t, u))
    assert float(r * a_u) == pytest.approx(float(a), rel=1e-5)
    assert float((r * s_u) ** 2 + beta) == pytest.approx(float(s**2), rel=1e-5)


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, 0))
def _linear(this, t, u):
    """Of the step down from t to u and of the one back: the factors of what they add up, all in one row."""
    one, none = jnp.ones((1, 1)), jnp.zeros((1, 1))
    of_x, deviation = process.posterior(this, one, none, t, u)
    of_x0, _ = process.posterior(this, none, one, t, u)
    again = [process.renoise(this, *given, t, u) for given in ((one, none), (none, one))]
    little = process.renoise(this, none, one, t, u, published=True)
    return [jnp.ravel(v)[0] for v in (of_x, of_x0, deviation, *again, little, *this.levels(t), *this.levels(u))]


def linear(this, t, u):
    return np.float64(_linear(this, *(jnp.asarray(v) for v in (t, u))))


PAIRS = np.float32([[1, 1, 0.8, 0.501, 2e-3, 1e-3, 0.5], [0.999, 1e-3, 0.3, 0.5, 1e-3, 0, 0]])
TABLES = [discrete.Process("linear", 1000), discrete.Process("cosine", 1000)]


@pytest.mark.slow
@pytest.mark.parametrize(("this", "pairs"), [*((this, PAIRS) for this in ALL), *((this, None) for this in TABLES)])
def test_down_and_back_is_the_same_distribution(this, pairs):
    """Of the moments of q(x_t | x0), to either end of time and between neighbours: a step of the posterior gives those
    of q(x_u | x0), and noise that is added again those of q(x_t | x0)."""
    pairs = np.round(1000 * PAIRS).astype(np.int32) - 1 if pairs is None else pairs
    of_x, of_x0, down, r, back, _, a, s, a_u, s_u = linear(this, *pairs)
    mean, variance = of_x * a + of_x0, (of_x * s) ** 2 + down**2
    np.testing.assert_allclose(mean, a_u, rtol=1e-5)
    np.testing.assert_allclose(variance, s_u**2, rtol=2e-5)
    np.testing.assert_allclose(r * mean, a, rtol=1e-5)
    np.testing.assert_allclose(r**2 * variance + back**2, s**2, rtol=2e-5)


@pytest.mark.slow
def test_noise_between_neighbours_keeps_its_digits():
    """In float32, of all 999 pairs of a table of a thousand, against float64: 1 - abar_t / abar_u."""
    this = discrete.Process("linear", 1000)
    back = linear(this, np.arange(1, 1000), np.arange(999))[4]
    np.testing.assert_allclose(back**2, 1 - this.abar[1:] / this.abar[:-1], rtol=1e-3)


@pytest.mark.slow
def test_published_noise_is_too_little():
    """Of URCDM's 1024 and 256 steps: 26 times in the middle of the cosine, 7 times at the noisy end of the linear."""
    for this, steps, t, times in ((COSINE, 1024, 0.5, 25.6), (LINEAR, 256, 1.0, 7.16)):
        row = linear(this, np.float32([t]), np.float32([t - 1 / steps]))
        assert row[4] / row[5] == pytest.approx(times, rel=5e-3)


def test_the_straight_path():
    """Half-way lies the mean of image and noise; its velocity is noise less image, whatever the time."""
    x0, eps = np.full((2, 3, 3, 1), 2, np.float32), np.full((2, 3, 3, 1), -4, np.float32)

    @jax.jit
    def path(x0, eps, t):
        x, u = process.noised(STRAIGHT, x0, eps, t), process.target(STRAIGHT, x0, eps, t)
        return x, u, process.x0_of(STRAIGHT, u, x, t)

    for t in ([0.5, 0.25], [0.1, 0.1], [1, 1]):
        x, u, back = path(x0, eps, np.float32(t))
        np.testing.assert_allclose(np.ravel(x)[::9], 2 - 6 * np.float32(t), rtol=1e-6)
        np.testing.assert_allclose(u, -6)
        np.testing.assert_allclose(back, x0, atol=1e-6)


def test_ddim_on_the_straight_path_is_euler():
    """x_u = x_t + (u - t) times the velocity."""
    x, u = (np.random.default_rng(i).standard_normal((1, 4, 4, 2)).astype(np.float32) for i in (0, 1))
    t, there = np.float32([0.7, 0.45])

    @jax.jit
    def step(x, u, t, there):
        x0 = process.x0_of(STRAIGHT, u, x, t[None])
        return samplers.ddim(STRAIGHT, samplers.begin(x), x0, t, there, None)

    got = step(x, u, t, there)
    np.testing.assert_allclose(got, x + (there - t) * u, atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_what_does_not_fit_the_straight_path(prediction):
    with pytest.raises(UserError, match=rf"diffusion\.prediction={prediction} .* choose one of x0, velocity"):
        Process("straight", prediction)


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"schedule": "cosin"}, r"diffusion\.schedule 'cosin'; did you mean cosine"),
        ({"prediction": "velocit"}, r"diffusion\.prediction .* did you mean velocity"),
        ({"clock": "tim"}, r"diffusion\.clock 'tim'; did you mean time"),
        ({"ends": (3.0, -3.0)}, r"diffusion\.ends"),
    ],
)
def test_what_a_user_can_mend(fields, hint):
    with pytest.raises(UserError, match=hint):
        Process(**fields)
    with pytest.raises(UserError, match="at least 1"):
        COSINE.times(0)


def test_what_networks_read():
    np.testing.assert_allclose(at(COSINE, "told", T), 1000 * T)
    by_snr = Process("linear", clock="log_snr")
    np.testing.assert_array_equal(at(by_snr, "told", T), at(by_snr, "log_snr", T))
    assert (COSINE.span, by_snr.span) == (1000, 20)


def test_a_time_names_its_randomness():
    """Equal for equal times, different for neighbouring floats; in a batch and alone."""
    t = np.linspace(0, 1, 1001, dtype=np.float32)[1:]
    t = np.concatenate([t, np.nextafter(t, np.float32(2))])
    tags = at(COSINE, "tag", t)
    assert len(np.unique(tags)) == len(t)
    assert tags[7] == at(COSINE, "tag", t[7])


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "velocity"])
def test_min_snr_weighs_the_error_of_x0(prediction):
    """Hang et al. 2023: min(SNR, 5) times its square, whatever is predicted; min(SNR, 5) / SNR for the noise."""
    this = Process("linear", prediction, gamma=5.0)
    t = np.float32([0.1, 0.5, 0.9])
    a, s = np.float64(levels(this, t))
    least = np.minimum((a / s) ** 2, 5)
    closed = {"eps": least / (a / s) ** 2, "x0": least, "v": least / ((a / s) ** 2 + 1)}
    if prediction in closed:
        np.testing.assert_allclose(at(this, "weight", t), closed[prediction], rtol=1e-4)
    x = np.zeros((3, 2, 1), np.float32)  # an error of 1 in what is predicted is this one of x0
    there, here = (np.asarray(jax.jit(partial(process.x0_of, this))(said, x, t)) for said in (x + 1, x))
    np.testing.assert_allclose(at(this, "weight", t), least * np.square((there - here)[:, 0, 0]), rtol=1e-4)
    np.testing.assert_array_equal(at(Process("linear", prediction), "weight", t), 1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def piece(step, this, denoiser, carry, times, key):
    return samplers.sample(step, this, denoiser(this), carry, times, key)


keys = cache(arrays.keys)


@cache
def noise():
    return samplers.initial_noise(keys(0, 2), (32, 32), 3)


def run(name, this, denoiser, times):
    start = samplers.begin(noise(), jnp.int32(0))
    return jax.device_get(piece(samplers.SAMPLERS[name], this, denoiser, start, times, keys(1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("this", ALL)
@pytest.mark.parametrize(("name", "steps"), [("ddim", 1000), ("dpm_solver_pp", 300)])
def test_every_noise_goes_where_the_flow_takes_it(this, name, steps):
    out = run(name, this, best, this.times(steps))
    assert out.memory == steps
    distance = np.abs(out.x - exact(this, noise(), np.float32(1), np.float32(0))) / np.sqrt(VARIANCE)
    assert distance.max() < 0.06
    assert distance.mean() < 0.015


@pytest.mark.slow
@pytest.mark.parametrize("this", ALL)
def test_moments_of_a_gaussian(this):
    """Of ancestral sampling: mean and deviation per channel, to four standard errors and 2.5 % for finite steps."""
    x = run("ddpm", this, best, this.times(400)).x.reshape(-1, 3)
    std = np.sqrt(VARIANCE)
    assert np.all(np.abs(x.mean(0) - MEAN) < 4 * std / np.sqrt(len(x)) + 2e-3)
    np.testing.assert_allclose(x.std(0), std, rtol=4 / np.sqrt(2 * len(x)) + 0.025)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm_solver_pp", 2)])
def test_order_of_convergence(name, order):
    """Half the step size, half the error for DDIM, a quarter for DPM-Solver++(2M); in pieces of one compilation."""
    errors = []
    for n in (10, 20, 40):
        carry, times = samplers.begin(noise(), jnp.int32(0)), np.linspace(0.9, 0.2, n + 1, dtype=np.float32)
        for start in range(0, n, 10):
            carry = piece(samplers.SAMPLERS[name], COSINE, best, carry, times[start : start + 11], keys(1, 2))
        truth = exact(COSINE, noise(), times[0], times[-1])
        errors.append(np.abs(carry.x - truth).max() / np.abs(truth).max())
    rates = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(rates - order) < 0.35), (errors, rates)


@pytest.mark.slow
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_into_the_clean_end(name):
    """A point mass is found exactly, from pure noise on the straight path too, where nothing of the image is left."""
    x = run(name, STRAIGHT, point, STRAIGHT.times(3)).x
    np.testing.assert_allclose(x, np.broadcast_to(MEAN, x.shape), atol=1e-6)


def test_clipping_on_the_straight_path():
    """The velocity that is left implies the clipped image."""
    x, t = np.asarray(noise())[:, :4, :4], np.float32([0.6, 0.6])
    x0 = 3 * x

    @jax.jit
    def clipped(velocity, x, t):
        denoise = guidance.constrained(lambda *_: (velocity, ()), STRAIGHT, Codec(), guidance.static_range)
        return process.x0_of(STRAIGHT, denoise(x, t, (), keys(1, 2))[0], x, t)

    np.testing.assert_allclose(clipped((x - x0) / np.float32(0.6), x, t), np.clip(x0, -1, 1), atol=1e-5)
