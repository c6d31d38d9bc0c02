"""Strips: the same field, however it is cut."""

from functools import partial

import jax
import numpy as np
import pytest
import tiny

from nca_gen.ca.strips import in_strips

X = tiny.images(0, 2, 5, 11 + 2, 3)  # with a halo along the last axis
LEVEL, BIAS = tiny.images(1, 2, 5, 11, 1), tiny.images(2, 2, 1, 1, 3)


def blur(x, level, bias, scale):
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] - x[:, :, 2:]) * level + bias * scale


@pytest.mark.parametrize("cells", [0, 1, 30, 50, 109, 110, 10_000])
def test_any_width(cells):
    """One column at a time; 4 strips of 3, 3 of 4 and 2 of 6, of which the last repeats one; and all."""
    args = X, LEVEL, BIAS, np.float32(2)
    np.testing.assert_allclose(jax.jit(partial(in_strips, blur, cells))(*args), blur(*args), atol=1e-6)


@pytest.mark.parametrize(("cells", "used"), [(5, 10), (20, 20), (59, 40), (100, 60)])
def test_no_more_than_asked_for(cells, used):
    """The pieces that are worked on have at most so many cells, though never less than a column of 10."""
    seen = []
    jax.eval_shape(partial(in_strips, lambda x: seen.append(x.shape) or x, cells), LEVEL)
    assert seen[0] == LEVEL.shape  # its shape alone is asked for
    assert {int(np.prod(s)) for s in seen[1:]} == {used}


def test_a_line():
    x = tiny.images(0, 1, 9, 2)
    np.testing.assert_array_equal(jax.jit(partial(in_strips, lambda x: 2 * x, 4))(x), 2 * x)
