"""Cells without their state: a box a sample, in any number of dimensions."""

import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.ca.damage import box, damaged


@pytest.mark.slow
def test_a_box_a_sample():
    cells = np.ones((2, 4, 5, 6, 3), np.float32)
    expected = cells.copy()
    expected[0, 1:3, 0:2, 3:6] = 0
    expected[1, 0:2, 3:5, 0:3] = 0
    corner = jnp.array([[1, 0, 3], [0, 3, 0]])
    np.testing.assert_array_equal(damaged(jnp.asarray(cells), corner, (2, 2, 3)), expected)
    np.testing.assert_array_equal(box((4, 5, 6), corner, (2, 2, 3)), expected[..., :1] == 0)
