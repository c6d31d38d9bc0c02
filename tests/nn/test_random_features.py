"""The perceptual distance that needs no file."""

import jax
import numpy as np

from nca_gen.nn import random_features

X = np.random.RandomState(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
between = jax.jit(random_features.between)


def test_a_distance():
    np.testing.assert_array_equal(between(X, X), 0)
    np.testing.assert_allclose(between(X, X[::-1]), between(X[::-1], X))
    apart = np.asarray(between(X, -X))
    assert (apart > 0).all()
    assert (apart <= 2).all()


def test_the_level_does_not_count():
    """Filters have mean 0 and features length 1: brightness and contrast are for the pixels' own loss."""
    kernel = random_features.kernels(3)[0]

    def inner(x):
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=axes)

    np.testing.assert_allclose(inner(X + 0.3), inner(X), atol=1e-5)
