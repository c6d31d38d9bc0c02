"""Features of scalars, by hand."""

from math import cos, sin

import jax
import numpy as np

from nca_gen.nn import embeddings

scalar_features = jax.jit(embeddings.scalar_features)


def test_two_scalars_by_hand():
    """w_0 = 1: scalar 0 gives [v, 0], scalar 1 gives v [cos 1, sin 1]."""
    t, s = 0.3, -2.0
    expected = [t, 0, s * cos(1), s * sin(1)]
    np.testing.assert_allclose(scalar_features(np.float32([t, s])), expected, rtol=1e-6)


def test_four_scalars_by_hand():
    """w = 1, 0.01: scalar k gives v [cos k, cos 0.01 k, sin k, sin 0.01 k]."""
    v = [0.5, 2.0, -1.0, 3.0]
    rows = [[a * cos(k), a * cos(0.01 * k), a * sin(k), a * sin(0.01 * k)] for k, a in enumerate(v)]
    np.testing.assert_allclose(scalar_features(np.float32(v)), np.ravel(rows), rtol=1e-5, atol=1e-7)


def test_linear_in_the_scalars():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((3, 4, 5, 4)).astype(np.float32) for _ in range(2))
    both = scalar_features(2 * a - 3 * b)
    np.testing.assert_allclose(both, 2 * scalar_features(a) - 3 * scalar_features(b), atol=1e-5)


def test_every_cell_for_itself():
    v = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(scalar_features(v)[1, 2], scalar_features(v[1, 2]))


def test_an_odd_number_of_scalars_keeps_its_square():
    """K = 5 (a volume): w_j = 10000^(-2j/5), three cosines, then two sines."""
    v = np.float32([0, 0, 0, 0, 1])
    w = [10000 ** (-2 * j / 5) for j in range(3)]
    expected = [*(cos(4 * x) for x in w), *(sin(4 * x) for x in w[:2])]
    np.testing.assert_allclose(scalar_features(v)[20:], expected, atol=1e-6)
    assert scalar_features(v).shape == (25,)
