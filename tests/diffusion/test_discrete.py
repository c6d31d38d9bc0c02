"""The forward process, its levels and its times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import levels
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_gen.diffusion import process
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.predictions import PREDICTIONS
from nca_gen.diffusion.schedules import SCHEDULES
from nca_gen.errors import UserError

noised, target, x0_of = (jax.jit(f, static_argnums=0) for f in (process.noised, process.target, process.x0_of))


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_keep_their_digits(schedule):
    """a and s of every t, to float32's last digits, also where 1 - abar is 1e-4; t = -1 is the clean image."""
    abar = SCHEDULES[schedule](300)
    a, s = levels(Process(schedule, 300), np.arange(-1, 300))
    np.testing.assert_allclose(a, np.sqrt(np.append(1.0, abar)), rtol=1e-7)
    np.testing.assert_allclose(s, np.sqrt(1 - np.append(1.0, abar)), rtol=1e-7)
    assert (a[0], s[0]) == (1.0, 0.0)


def test_every_image_at_its_own_time():
    x0, eps = normal(2, 3, 4, 5, 2)
    x = np.asarray(noised(Process("linear", 10), x0, eps, np.array([0, 9, 4])))
    for i, t in enumerate((0, 9, 4)):
        abar = np.prod(1 - np.linspace(1e-4, 0.02, 10)[: t + 1])
        np.testing.assert_allclose(x[i], np.sqrt(abar) * x0[i] + np.sqrt(1 - abar) * eps[i], atol=1e-6)


def test_steps_of_the_chain_compose():
    """x_t drawn step by step with beta_1 .. beta_t has the moments that x_t drawn at once has."""
    this = Process("cosine", 12)
    abar = this.abar
    mean, variance = 1.0, 0.0
    for t in range(12):
        alpha = abar[t] / (abar[t - 1] if t else 1.0)
        mean, variance = np.sqrt(alpha) * mean, alpha * variance + 1 - alpha
    eps = normal(1, 256, 256, 4)
    x = np.asarray(noised(this, np.full_like(eps, 3), eps, np.array([11])))
    assert abs(float(x.mean()) - 3 * mean) < 4 * np.sqrt(variance / x.size)
    assert float(x.var()) == pytest.approx(variance, rel=4 * np.sqrt(2 / x.size))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_and_x0_invert_each_other(prediction):
    this, (x0, eps), t = Process("cosine", 300, prediction), normal(2, 4, 6, 3), np.array([0, 20, 150, 250])
    x = noised(this, x0, eps, t)
    np.testing.assert_allclose(x0_of(this, target(this, x0, eps, t), x, t), x0, atol=1e-4)


def test_networks_and_noise_are_told_the_index():
    this, t = Process("cosine", 300), np.int32([0, 7, 299])
    told, tag, weight = jax.jit(lambda t: (this.told(t), this.tag(t), this.weight(t)))(t)
    np.testing.assert_array_equal(told, t)
    np.testing.assert_array_equal(tag, t)
    assert tag.dtype == jnp.uint32
    np.testing.assert_array_equal(weight, 1)
    assert this.span == 300


def test_one_time_for_all_images():
    """A time of shape [1] serves a whole batch."""
    this = Process("cosine", 20, "v")
    x0, eps = np.ones((3, 4, 4, 1), np.float32), np.full((3, 4, 4, 1), 2, np.float32)
    for f in (noised, target, x0_of):
        np.testing.assert_array_equal(f(this, x0, eps, np.array([7])), f(this, x0, eps, np.array([7, 7, 7])))


@pytest.mark.slow
@given(st.integers(1, 1000), st.data())
@settings(deadline=None, max_examples=200)
def test_respaced_times_descend_evenly(T, data):
    """From T - 1 to 0 and to the clean image, never the same twice, gaps equal to within rounding."""
    steps = data.draw(st.integers(1, T))
    times = Process("linear", T).times(steps)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (T - 1, -1)
    gaps = -np.diff(times)
    assert gaps.min() >= 1
    if steps > 1:
        assert times[-2] == 0
        assert np.all(np.abs(gaps[:-1] - (T - 1) / (steps - 1)) <= 1)


def test_all_steps_are_all_times():
    np.testing.assert_array_equal(Process("cosine", 300).times(300), np.arange(299, -2, -1))


@pytest.mark.parametrize("steps", [0, -1, 301])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(UserError, match="1 to 300 steps"):
        Process().times(steps)


@pytest.mark.parametrize(
    ("field", "word", "hint"), [("schedule", "cosin", "did you mean cosine"), ("prediction", "epsilon", "eps")]
)
def test_unknown_names(field, word, hint):
    with pytest.raises(UserError, match=f"diffusion.{field}.*{hint}"):
        Process(**{field: word})


def test_a_diffusion_is_a_static_argument():
    """Equal settings are equal and hash alike, so compiled code is shared."""
    count = jax.jit(lambda d, t: d.levels(t)[0], static_argnums=0)
    count(Process("linear", 20), np.arange(3))
    count(Process("linear", 20), np.arange(3))
    assert count._cache_size() == 1
