"""Features of scalars and indices by hand, and what is made of them against numpy."""

from math import cos, sin

import jax
import numpy as np
import pytest

from nca_gen.errors import UserError
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


def test_an_index_by_hand():
    """Width 4: w = 1, 0.01."""
    t = 700
    expected = [cos(t), cos(0.01 * t), sin(t), sin(0.01 * t)]
    features = jax.jit(embeddings.timestep_features, static_argnums=1)(np.array([0, t]), 4)
    np.testing.assert_allclose(features, [[1, 1, 0, 0], expected], atol=1e-4)


def conditioned(classes, t, cond):
    """Of width 8, with parameters of which none is zero, and the same in numpy."""
    module = embeddings.Conditioning(8, classes, features=4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.arange(2))
    rng = np.random.default_rng(0)
    p = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)["params"]

    def affine(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    angle = np.outer(t, [1, 0.01])
    time = affine(np.concatenate([np.cos(angle), np.sin(angle)], -1), p["time"]["fc0"])
    expected = affine(time / (1 + np.exp(-time)), p["time"]["fc1"])
    if classes:
        labels = np.zeros((1, classes)) if cond is None else cond
        expected = expected + affine(affine(labels, p["label"]["fc0"]), p["label"]["fc1"])
    return jax.jit(module.apply)({"params": p}, t, cond), expected


@pytest.mark.parametrize("cond", [None, np.float32([[0, 1, 1], [0, 0, 0]])], ids=["null", "labels"])
def test_what_a_denoiser_is_told(cond):
    mine, expected = conditioned(3, np.array([5, 90]), cond)
    np.testing.assert_allclose(mine, expected, atol=1e-4)


def test_no_labels_are_the_null_condition():
    t = np.array([5, 90])
    null, zeros = (conditioned(3, t, cond)[0] for cond in (None, np.zeros((2, 3), np.float32)))
    np.testing.assert_allclose(null, zeros, atol=1e-6)


def test_without_classes_there_is_time_alone():
    mine, expected = conditioned(0, np.array([5]), None)
    np.testing.assert_allclose(mine, expected, atol=1e-4)


def test_one_time_for_many_labels():
    cond = np.float32([[0, 1, 1], [1, 0, 0]])
    one, each = (conditioned(3, np.array(t), cond)[0] for t in ([5], [5, 5]))
    np.testing.assert_allclose(one, each, atol=1e-6)


@pytest.mark.parametrize("classes", [0, 4])
def test_labels_of_other_classes(classes):
    with pytest.raises(UserError, match=f"config.model.classes is {classes}, but the labels have 3 columns"):
        jax.eval_shape(embeddings.Conditioning(8, classes).init, jax.random.key(0), np.arange(1), np.zeros((1, 3)))


def test_conditioning_counts():
    """GeCA-S with 11 classes: 787,968 for the time, 599,808 for the labels."""
    init = embeddings.Conditioning(768, 11).init
    tree = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1,), np.int32))["params"]
    sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in tree.items()}
    assert sizes == {"time": 787_968, "label": 599_808}
