"""Weight normalisation: direction and length of a kernel, apart."""

from functools import partial

import jax
import numpy as np
import pytest

from nca_gen.nn.weight_norm import WeightNorm

SHAPES = [(7, 5), pytest.param((3, 3, 3, 2, 5), marks=pytest.mark.slow)]


@partial(jax.jit, static_argnums=(0, 1))
def _init(shape, zero):
    return WeightNorm(shape, zero).init(jax.random.key(0))["params"]


def init(shape, zero=False):
    return jax.device_get(_init(shape, zero))


def effective(params):
    """Kernel and bias."""
    return WeightNorm(params["v"].shape).apply({"params": params})


_apply = jax.jit(effective)


def apply(params):
    return jax.device_get(_apply(params))


def length(kernel):
    return np.sqrt((np.asarray(kernel, np.float64) ** 2).sum(tuple(range(kernel.ndim - 1))))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gain_is_the_length_of_every_output_channel(shape):
    params = init(shape)
    gains = np.float32(np.arange(1, shape[-1] + 1) * np.where(np.arange(shape[-1]) % 2, -1, 1))
    kernel, bias = apply(params | {"g": gains})
    np.testing.assert_allclose(length(kernel), np.abs(gains), rtol=1e-5)
    np.testing.assert_array_equal(bias, params["bias"])
    # A negative gain turns the direction round.
    assert np.all(np.sign((kernel * params["v"]).sum(tuple(range(len(shape) - 1)))) == np.sign(gains))


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_length_of_v_means_nothing():
    params = init((3, 3, 4, 6))

    stretched = params | {"v": np.float32(17) * params["v"]}
    np.testing.assert_allclose(apply(stretched).kernel, apply(params).kernel, rtol=1e-5)
    weight = np.random.default_rng(1).standard_normal((3, 3, 4, 6)).astype(np.float32)
    pull = jax.jit(jax.grad(lambda params: (effective(params).kernel * weight).sum()))
    gradient = np.asarray(pull(params)["v"])
    along = (gradient * params["v"]).sum((0, 1, 2))
    np.testing.assert_allclose(along, np.zeros(6), atol=1e-5)
    assert np.abs(gradient).max() > 0.1


@pytest.mark.slow
def test_zero_is_the_zero_map_and_can_leave_it():
    params = init((4, 6), True)
    x = np.random.default_rng(1).standard_normal((10, 4)).astype(np.float32)

    def out(p):
        kernel, bias = effective(p)
        y = x @ kernel + bias
        return (y - 1.0).sum(), y

    gradient, y = jax.device_get(jax.jit(jax.grad(out, has_aux=True))(params))
    np.testing.assert_array_equal(y, np.zeros((10, 6)))
    # d/dg is the direction's word on the data, v/|v| . sum x; v itself is not moved while g = 0.
    direction = params["v"] / length(params["v"])
    np.testing.assert_allclose(gradient["g"], x.sum(0) @ direction, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(gradient["v"], np.zeros((4, 6)))
    np.testing.assert_allclose(gradient["bias"], np.full(6, 10.0))
