"""Newborn cells."""

import jax.numpy as jnp
import numpy as np

from nca_gen.ca.seed import seed


def test_newborn_cells_know_the_image_and_nothing_else():
    image = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 3)).astype(np.float32)
    cells = seed(jnp.asarray(image), out=2, hidden=7)
    np.testing.assert_array_equal(cells.image, image)
    np.testing.assert_array_equal(cells.out, np.zeros((2, 3, 4, 5, 2)))
    np.testing.assert_array_equal(cells.hidden, np.zeros((2, 3, 4, 5, 7)))
    assert cells.age == 0
