"""Fire masks: the rate, one draw a cell, keyed by coordinates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.ca.fire import fires


@partial(jax.jit, static_argnums=(1, 3))
def masks(key, n, at, rate):
    fire = fires(key, n, at, rate)
    return jnp.stack([fire(jnp.int32(age)) for age in range(n)])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_kept(rate):
    m = masks(arrays.keys(0, 2), 4, arrays.coords((64, 64)), rate)
    assert m.shape == (4, 2, 64, 64, 1)  # one draw for all channels
    assert abs(m.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / m.size)
    # Every age and sample has a mask of its own: two agree where both or neither fire.
    flat = m.reshape(8, -1)
    for i in range(8):
        for j in range(i):
            agree = rate**2 + (1 - rate) ** 2
            assert abs((flat[i] == flat[j]).mean() - agree) < 4 * np.sqrt(agree * (1 - agree) / flat.shape[1])


def test_a_mask_is_the_uniform_below_the_rate():
    key, at = arrays.keys(4, 2), arrays.coords((5, 6))
    uniform = jax.jit(lambda age: arrays.cell_uniform(key, age, at, 1))
    np.testing.assert_array_equal(masks(key, 3, at, 0.3), np.stack([uniform(age) < 0.3 for age in range(3)]))


def test_a_mask_belongs_to_coordinates():
    key = arrays.keys(0, 2)
    whole = masks(key, 3, arrays.coords((20, 13)), 0.5)
    tile = masks(key, 3, arrays.coords((4, 5), (9, 8)), 0.5)
    np.testing.assert_array_equal(tile, whole[:, :, 9:13, 8:13])


def test_a_mask_does_not_depend_on_how_many_are_drawn():
    key, at = arrays.keys(0, 2), arrays.coords((6, 6))
    np.testing.assert_array_equal(masks(key, 3, at, 0.5), masks(key, 7, at, 0.5)[:3])


def test_at_rate_one_all_fire():
    assert np.all(masks(arrays.keys(0, 2), 3, arrays.coords((4, 4)), 1.0))


def test_at_rate_zero_none_fires():
    assert not np.any(masks(arrays.keys(0, 2), 3, arrays.coords((16, 16)), 0.0))
