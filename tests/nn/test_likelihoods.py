"""Likelihoods of pixels: whatever is stored has a probability, all of them together 1; closed forms by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import logistic

from nca_gen.nn.likelihoods import HALF, LEAST, Bernoulli, Logistics

VALUES = np.float32(np.arange(256) / 128 - 1)
RNG = np.random.default_rng(0)


def log_prob(likelihood, outputs, image):
    return np.asarray(jax.jit(likelihood.log_prob)(np.float32(outputs), np.float32(image)), np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("log_scale", [-99.0, LEAST, -3.0, 0.0, 5.0, 99.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.123, 127 / 128, 8.0])
def test_the_256_values_have_a_probability_of_1(mean, log_scale):
    """Also where all of a component lies beyond them; three components, of which two are elsewhere."""
    outputs = np.array([0.5, -0.3, 0.1, mean, 0.4, -0.2, log_scale, -2.0, -1.0])
    p = np.exp(log_prob(Logistics(1, 3), np.broadcast_to(outputs, (256, 9)), VALUES[:, None]))
    assert p.sum() == pytest.approx(1, abs=2e-5)
    alone = log_prob(Logistics(1, 1), np.broadcast_to(outputs[[0, 3, 6]], (256, 3)), VALUES[:, None])
    assert np.exp(alone).sum() == pytest.approx(1, abs=2e-5)
    assert np.isfinite(alone).all()


@pytest.mark.slow
def test_two_channels_have_a_probability_of_1_together():
    """The second knows the first."""
    pairs = np.stack(np.meshgrid(VALUES, VALUES), -1).reshape(-1, 2)
    outputs = np.array([0.2, -0.4, 0.3, -0.5, -0.1, 0.6, -2.0, -1.0, -1.5, -2.5, 0.9, -1.3])
    p = np.exp(log_prob(Logistics(2, 2), np.broadcast_to(outputs, (len(pairs), 12)), pairs))
    assert p.sum() == pytest.approx(1, abs=2e-5)


@pytest.mark.slow
def test_colours_by_hand():
    """From distribution functions in float64; values at both ends have the tails."""
    means, scales, slopes = np.array([0.1, -0.3, 0.2]), np.exp([-2.0, -1.0, -3.0]), np.array([0.5, -0.8, 0.3])
    image = np.concatenate([[[0, 127, 255], [255, 0, 0]], RNG.integers(0, 256, (6, 3))]) / 128 - 1
    c = np.tanh(slopes)
    located = means + np.stack([0 * image[:, 0], c[0] * image[:, 0], c[1] * image[:, 0] + c[2] * image[:, 1]], -1)
    upper = np.where(image == 127 / 128, np.inf, image + 1 / 256)
    lower = np.where(image == -1, -np.inf, image - 1 / 256)
    expected = np.log(logistic.cdf(upper, located, scales) - logistic.cdf(lower, located, scales)).sum(-1)
    outputs = np.concatenate([[7.0], means, np.log(scales), slopes])  # the logit of the only component says nothing
    assert Logistics(3, 1).size == len(outputs) == 10
    found = log_prob(Logistics(3, 1), np.broadcast_to(outputs, (8, 10)), image)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert HALF == 1 / 256


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "slope"), [(8.0, -1.0), (-8.0, 1.0)])
def test_far_away_a_gradient_stays(mean, slope):
    """Both distribution functions are equal there in float32; the mass is that of an exponential tail."""
    value, far = jnp.zeros(1), lambda mean: jnp.stack([0.0, mean, -4.0])
    p, found = jax.jit(jax.value_and_grad(lambda mean: Logistics(1, 1).log_prob(far(mean), value)))(mean)
    scale = np.exp(-4.0)
    assert float(found) == pytest.approx(slope / scale, rel=1e-5)
    assert float(p) == pytest.approx(-(8 - HALF) / scale + np.log1p(-np.exp(-2 * HALF / scale)), rel=1e-5)


@pytest.mark.slow
def test_the_mean_of_narrow_components():
    """Colours one after the other: each by the clipped mean of those before, the components by weight."""
    one = np.array([0.9, 0.5, -0.2, -6, -6, -6, 0.4, -0.1, 0.3])
    other = np.array([-0.4, 2.0, 0.1, -6, -6, -6, -0.2, 0.6, 0.5])
    logits = np.array([0.3, -0.5])
    outputs = np.concatenate([logits, *(np.concatenate([x[i : i + 3] for x in (one, other)]) for i in (0, 3, 6))])
    expected = []
    for x in (one, other):
        c = np.tanh(x[6:])
        red = np.clip(x[0], -1, 1)
        green = np.clip(x[1] + c[0] * red, -1, 1)
        expected.append([red, green, np.clip(x[2] + c[1] * red + c[2] * green, -1, 1)])
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(jax.jit(Logistics(3, 2).mean)(np.float32(outputs)), p @ expected, rtol=1e-5)


def test_bernoulli_by_hand():
    """Of both kinds of values; channels are independent, and grey is white from the middle on."""
    logits, image = RNG.normal(0, 3, (5, 2)), np.array([[-1, 127 / 128], [0, -1 / 128], [-1, -1], [0.5, 0], [0, 0]])
    p = expit(logits)
    expected = np.log(np.where(image >= 0, p, 1 - p)).sum(-1)
    np.testing.assert_allclose(log_prob(Bernoulli(2), logits, image), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(Bernoulli(2).mean)(np.float32(logits)), 2 * p - 1, atol=1e-6)
