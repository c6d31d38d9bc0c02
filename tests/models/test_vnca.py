"""VNCA: published counts; the rule in plain numpy; growth of cells whose growth is known; what it refuses."""

from dataclasses import replace
from functools import partial

import doubling
import jax
import numpy as np
import pytest
import seeded
import tiny

from nca_gen import arrays
from nca_gen.errors import UserError
from nca_gen.models.vnca import Model, change
from nca_gen.pipelines.decode import decoded

SMALL = doubling.SMALL
SIZES = {"encoder": 8_550_208, "rule": 1_182_208}
DIGITS = {  # of the twin in torch: mean, deviation and an ordered sum
    "mean": (-0.0155642, 0.5383756, -0.07228373),
    "logvar": (0.1883122, 0.5625028, -0.2077665),
    "cells": (-0.06347733, 0.8236077, 0.9185963),
    "log_likelihood": (-339.2904, 22.14863, -362.3414),
}


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_parameters_of_the_published_network():
    found = tiny.shapes(Model())
    assert {side: count(tree) for side, tree in found.items()} == SIZES
    assert count(found) == 9_732_416
    assert Model().factor == 64


def plain(state, w):
    """A step in numpy, from the words of the paper, in float64, cell by cell."""
    w = jax.tree.map(lambda x: np.asarray(x, np.float64), w)
    elu = lambda x: np.where(x > 0, x, np.expm1(x))
    n, height, width, _ = state.shape
    framed = np.pad(state.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.empty_like(state, np.float64)
    for b, y, x in np.ndindex(n, height, width):
        h = np.einsum("ijc,ijcd->d", framed[b, y : y + 3, x : x + 3], w["perceive"]["kernel"]) + w["perceive"]["bias"]
        for layer in w["residual"].values():
            first, second = layer["first"], layer["second"]
            h = h + elu(h @ first["kernel"] + first["bias"]) @ second["kernel"] + second["bias"]
        out[b, y, x] = h @ w["last"]["kernel"] + w["last"]["bias"]
    return out


def test_the_rule_is_that_of_the_paper():
    state, w = tiny.images(0, 2, 4, 5, 12), doubling.params()["rule"]
    np.testing.assert_allclose(jax.jit(change)(state, w), plain(state, w), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_cells_double_as_they_are():
    """A rule that changes nothing, as at the start: z in every cell, and each z of a grid in its own square."""
    z = tiny.images(1, 2, 1, 2, 12)
    params = {"rule": tiny.born(SMALL)["rule"]}
    grown = jax.jit(SMALL.outputs)(params, z)
    np.testing.assert_array_equal(grown, z.repeat(4, 1).repeat(4, 2))


@pytest.mark.slow
def test_as_many_steps_as_published():
    """A rule that adds one: eight steps before the first of five doublings, and after each."""
    model = Model(latent=10, hidden=1, residuals=0, widths=(1,), doublings=5)
    rule = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), tiny.shapes(model)["rule"])
    rule["last"]["bias"] += 1
    grown = jax.jit(model.outputs)({"rule": rule}, np.zeros((1, 1, 1, 10), np.float32))
    np.testing.assert_array_equal(grown, np.full((1, 64, 64, 10), 48))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["step", "nested"])
def test_what_is_computed_again_is_the_same(remat):
    params, z, image = doubling.params(), doubling.noise(), doubling.image()

    def slopes(model):
        bound = lambda params: model.log_likelihood(model.outputs(params, z), image).sum()
        return jax.jit(jax.value_and_grad(bound))({"rule": params["rule"]})

    (value, grads), (expected, plainly) = (slopes(replace(SMALL, remat=word)) for word in (remat, "none"))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(plainly))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6 * largest), grads, plainly)


@pytest.mark.slow
def test_the_start_is_torchs():
    """Uniform within 1 / sqrt(inputs), kernels and biases, but for the last map."""
    params = tiny.born(Model(latent=64, hidden=64, residuals=1, widths=(16, 32), doublings=2))
    for w in (*params["encoder"].values(), params["rule"]["perceive"], *params["rule"]["residual"]["layer0"].values()):
        bound = np.prod(w["kernel"].shape[:-1]) ** -0.5
        assert max(np.abs(w["kernel"]).max(), np.abs(w["bias"]).max()) <= bound
        assert np.std(w["kernel"]) == pytest.approx(bound / np.sqrt(3), rel=0.06)
    assert not any(np.any(x) for x in params["rule"]["last"].values())


@pytest.mark.slow
def test_what_the_twin_in_torch_says():
    """The digits of peers/torch_vnca.py with the same weights, which are compared in full where torch is there."""
    params, image = doubling.params(), doubling.image()
    mean, logvar = jax.jit(SMALL.encode)(params, image)
    cells = jax.jit(SMALL.outputs)(params, doubling.noise())
    likelihood = jax.jit(SMALL.log_likelihood)(cells, image)
    found = {"mean": mean, "logvar": logvar, "cells": cells, "log_likelihood": likelihood}
    seeded.agree(jax.tree.map(np.asarray, found), DIGITS)


@pytest.mark.slow
def test_a_picture_is_of_its_key_alone():
    params, key = doubling.params(), arrays.keys(5, 3)
    drawn = decoded(SMALL, params, key, (1, 1))
    np.testing.assert_array_equal(drawn, decoded(SMALL, params, arrays.keys(5, 3), (1, 1)))
    np.testing.assert_allclose(decoded(SMALL, params, key[2:], (1, 1)), drawn[2:], atol=1e-5)
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1


@pytest.mark.slow
def test_half_precision_is_near():
    params, z = doubling.params(), doubling.noise()
    whole, half = (jax.jit(replace(SMALL, dtype=dtype).outputs)(params, z) for dtype in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.05 * np.abs(whole).max()


def test_grey_and_black_and_white():
    """As many numbers of a cell as the likelihood of its pixel takes."""
    assert Model(image_channels=1, mixtures=5).distribution.size == 15
    assert Model(likelihood="bernoulli", image_channels=1).distribution.size == 1
    assert Model(mixtures=3).distribution.size == 30


def test_what_a_user_can_mend():
    with pytest.raises(UserError, match=r"config\.model\.latent=9 .* 10 numbers"):
        Model(latent=9)
    with pytest.raises(UserError, match=r"config\.model\.widths are of 4 convolutions, which halve 4 pixels"):
        Model(widths=(4, 4, 4, 4), doublings=1)
    with pytest.raises(UserError, match=r"images are 4 x 8, and this network encodes 4 x 4: set config\.data\.patch"):
        jax.eval_shape(SMALL.encode, tiny.shapes(SMALL), jax.ShapeDtypeStruct((1, 4, 8, 3), np.float32))
