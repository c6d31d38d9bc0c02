"""Cells that fire as rows: there and back, each the transpose of the other, and room for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tiny

from nca_gen.ca import rows

FIRE = np.random.default_rng(0).random((3, 20)) < 0.3
MOST = int(FIRE.sum(1).max())


@pytest.mark.parametrize("m", [MOST, MOST + 4, 20])
def test_there_and_back(m):
    """What fires comes back, the rest is 0; and <take x, y> = <x, spread y>, in the gradients too."""
    x, y = tiny.images(1, 3, 20, 2), tiny.images(2, 3, m, 2)

    @jax.jit
    def both(x, y):
        there = rows.few(jnp.asarray(FIRE), m)
        taken, back = jax.vjp(lambda x: rows.take(x, there), x)
        cells, forth = jax.vjp(lambda y: rows.spread(y, there), y)
        return taken, cells, back(y)[0], forth(x)[0], rows.spread(taken, there)

    taken, cells, back, forth, again = both(x, y)
    np.testing.assert_array_equal(again, x * FIRE[..., None])
    np.testing.assert_array_equal(back, cells)
    assert np.vdot(x, cells) == pytest.approx(np.vdot(forth, y), abs=1e-5)
    filled = np.asarray(forth).any(-1)  # rows that are left over are none
    assert filled.sum() == FIRE.sum()
    np.testing.assert_array_equal(np.asarray(forth)[filled], np.asarray(taken)[filled])
    for group in range(3):
        np.testing.assert_array_equal(np.asarray(forth)[group][filled[group]], x[group][FIRE[group]])


@pytest.mark.slow
def test_rows_of_images():
    """A table by image; its gradient is the sum over the rows of each."""
    table, image = tiny.images(0, 2, 3, 4), np.array([[0, 0, 2, 1, 2], [1, 1, 1, 1, 0]])
    d, expected = tiny.images(1, 2, 5, 4), np.zeros((2, 3, 4))
    for group in range(2):
        np.add.at(expected[group], image[group], d[group])
    given, back = jax.vjp(lambda table: rows.of_images(table, jnp.asarray(image)), jnp.asarray(table))
    np.testing.assert_array_equal(given, np.take_along_axis(table, image[..., None], 1))
    np.testing.assert_allclose(back(jnp.asarray(d))[0], expected, atol=1e-6)


@pytest.mark.parametrize(("n", "rate"), [(1024, 0.5), (16384, 0.5), (4096, 0.9), (100, 0.1)])
def test_room_is_there(n, rate):
    """More fire once in 10^6 steps at the most, by the binomial distribution; and all is never too little."""
    assert scipy.stats.binom.sf(rows.room(n, rate), n, rate) < 1e-6
    assert (rows.room(n, 1.0), rows.room(9, 0.5)) == (n, 9)


def test_as_many_rows_as_the_prototype():
    """Mean and six standard deviations: of two and of sixteen images of 32 x 32, half of whose cells fire."""
    assert (rows.room(2 * 1024, 0.5), rows.room(16 * 1024, 0.5)) == (1024 + 136, 8192 + 384)


def test_a_group_stays_on_its_device():
    """Four devices: each has a group of what it is dealt; where that is not even, each image is one."""
    assert [rows.groups(n) for n in (1, 2, 6, 4, 8, 64)] == [1, 2, 6, 4, 4, 4]
