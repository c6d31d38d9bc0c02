"""Convolutions of volumes by those of slices: XLA's own, to the rounding of sums."""

import jax
import numpy as np
import pytest
import tiny

from nca_gen.nn import convolution as module
from nca_gen.nn.convolution import convolution

AXES = ("NDHWC", "DHWIO", "NDHWC")


@pytest.mark.parametrize(
    ("taps", "strides", "padding"),
    [
        ((3, 3, 3), (1, 1, 1), [(1, 1)] * 3),
        ((3, 1, 2), (1, 2, 1), [(0, 2), (1, 0), (3, 1)]),
        ((4, 4, 4), (2, 2, 2), "VALID"),
        ((2, 3, 3), (3, 1, 2), "SAME"),
        ((1, 1, 1), (1, 1, 1), "SAME"),
    ],
)
def test_values_and_gradients_are_xla_s(taps, strides, padding):
    """Of sides that differ, to another number of channels."""
    x, kernel = tiny.images(0, 2, 7, 5, 6, 3), tiny.images(1, *taps, 3, 4)
    assert len(jax.make_jaxpr(lambda x, k: convolution(x, k, strides, padding))(x, kernel).eqns) > 1

    def both(way):
        def loss(x, kernel):
            y = way(x, kernel)
            return (y * np.cos(np.arange(y.size)).reshape(y.shape)).sum(), y

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)

    theirs = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=AXES)
    mine, expected = jax.jit(lambda: (both(lambda x, k: convolution(x, k, strides, padding)), both(theirs)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), mine, expected)


@pytest.mark.parametrize("case", ["large", "heavy", "grouped", "image"])
def test_others_are_left_to_xla(case, monkeypatch):
    """One operation: a volume or a kernel that is large, channels that do not hear all others, and images."""
    if case == "large":
        monkeypatch.setattr(module, "FEW", 7 * 5 * 6 * 4 * 3 - 1)
    if case == "heavy":
        monkeypatch.setattr(module, "LIGHT", 3**3 * 4 * 4 - 1)
    groups = 2 if case == "grouped" else 1
    n = 2 if case == "image" else 3
    x, kernel = tiny.images(0, 2, *(7, 5, 6)[:n], 4), tiny.images(1, *(3,) * n, 4 // groups, 4)
    run = lambda x, kernel: convolution(x, kernel, (1,) * n, "SAME", feature_group_count=groups)
    (equation,) = jax.make_jaxpr(run)(x, kernel).eqns
    assert equation.primitive.name == "conv_general_dilated"
