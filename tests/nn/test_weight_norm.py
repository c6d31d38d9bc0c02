"""Weight normalisation: direction and length of a kernel, apart."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.nn.weight_norm import WeightNorm

SHAPES = [(7, 5), pytest.param((3, 3, 3, 2, 5), marks=pytest.mark.slow)]


@partial(jax.jit, static_argnums=(0, 1))
def init(shape, zero=False):
    return WeightNorm(shape, zero).init(jax.random.key(0))["params"]


@jax.jit
def apply(params):
    return WeightNorm(params["v"].shape).apply({"params": params})


def length(kernel):
    return np.sqrt((np.asarray(kernel, np.float64) ** 2).sum(tuple(range(kernel.ndim - 1))))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gain_is_the_length_of_every_output_channel(shape):
    params = init(shape)
    gains = jnp.arange(1.0, shape[-1] + 1) * jnp.where(jnp.arange(shape[-1]) % 2, -1, 1)
    kernel, bias = apply(params | {"g": gains})
    np.testing.assert_allclose(length(kernel), np.abs(gains), rtol=1e-5)
    np.testing.assert_array_equal(bias, params["bias"])
    # A negative gain turns the direction round.
    assert np.all(np.sign((kernel * params["v"]).sum(tuple(range(len(shape) - 1)))) == np.sign(gains))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_starts_as_torch_does(shape):
    """kernel = v, uniform in +-1/sqrt(fan in), the bias alike."""
    params = init((*shape[:-1], 2000))
    kernel, bias = apply(params)
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    np.testing.assert_allclose(kernel, params["v"], atol=1e-6)
    for x in (kernel, bias):
        assert np.abs(x).max() <= bound * (1 + 1e-6)
        assert abs(np.std(x) - bound / np.sqrt(3)) < 0.05 * bound  # the deviation of a uniform
    assert sum(x.size for x in jax.tree.leaves(params)) == 2000 * (np.prod(shape[:-1]) + 2)


def test_the_length_of_v_means_nothing():
    params = init((3, 3, 4, 6))

    def effective(v):
        return apply(params | {"v": v}).kernel

    np.testing.assert_allclose(effective(17.0 * params["v"]), effective(params["v"]), rtol=1e-5)
    weight = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))
    gradient = jax.grad(lambda v: (effective(v) * weight).sum())(params["v"])
    along = (gradient * params["v"]).sum((0, 1, 2))
    np.testing.assert_allclose(along, np.zeros(6), atol=1e-5)
    assert float(jnp.abs(gradient).max()) > 0.1


def test_zero_is_the_zero_map_and_can_leave_it():
    params = init((4, 6), True)
    x = jax.random.normal(jax.random.key(1), (10, 4))

    def out(p):
        return x @ apply(p).kernel + apply(p).bias

    np.testing.assert_array_equal(out(params), np.zeros((10, 6)))
    gradient = jax.grad(lambda p: (out(p) - 1.0).sum())(params)
    # d/dg is the direction's word on the data, v/|v| . sum x; v itself is not moved while g = 0.
    direction = np.asarray(params["v"]) / length(params["v"])
    np.testing.assert_allclose(gradient["g"], np.asarray(x.sum(0)) @ direction, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(gradient["v"], np.zeros((4, 6)))
    np.testing.assert_allclose(gradient["bias"], np.full(6, 10.0))
