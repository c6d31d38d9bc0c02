"""Fire masks: the rate, one draw a cell, keyed by coordinates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.ca.fire import fires


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _masks(key, n, shape, rate, origin):
    return jax.lax.map(fires(key, n, arrays.coords(shape, origin), rate), jnp.arange(n))


def masks(key, n, shape, rate, origin=None):
    """Of all ages."""
    return np.asarray(_masks(key, n, shape, rate, origin))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_kept(rate):
    m = masks(arrays.keys(0, 2), 4, (64, 64), rate)
    assert m.shape == (4, 2, 64, 64, 1)  # one draw for all channels
    assert abs(m.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / m.size)
    # Every age and sample has a mask of its own: two agree where both or neither fire.
    flat = m.reshape(8, -1)
    for i in range(8):
        for j in range(i):
            agree = rate**2 + (1 - rate) ** 2
            assert abs((flat[i] == flat[j]).mean() - agree) < 4 * np.sqrt(agree * (1 - agree) / flat.shape[1])


@pytest.mark.slow
def test_a_mask_is_the_uniform_below_the_rate():
    key = arrays.keys(4, 2)
    uniform = jax.jit(lambda age: arrays.cell_uniform(key, age, arrays.coords((5, 6)), 1))
    expected = np.stack([np.asarray(uniform(age)) < np.float32(0.3) for age in range(3)])
    np.testing.assert_array_equal(masks(key, 3, (5, 6), 0.3), expected)


@pytest.mark.slow
def test_a_mask_belongs_to_coordinates():
    key = arrays.keys(0, 2)
    whole = masks(key, 3, (20, 13), 0.5)
    tile = masks(key, 3, (4, 5), 0.5, (9, 8))
    np.testing.assert_array_equal(tile, whole[:, :, 9:13, 8:13])


@pytest.mark.slow
def test_a_mask_does_not_depend_on_how_many_are_drawn():
    key = arrays.keys(0, 2)
    np.testing.assert_array_equal(masks(key, 3, (6, 6), 0.5), masks(key, 7, (6, 6), 0.5)[:3])


def test_at_rate_one_all_fire():
    assert np.all(masks(arrays.keys(0, 2), 3, (4, 4), 1.0))


@pytest.mark.slow
def test_at_rate_zero_none_fires():
    assert not np.any(masks(arrays.keys(0, 2), 3, (16, 16), 0.0))
