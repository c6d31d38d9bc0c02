"""The Inception network against torch-fidelity's digits; layer by layer and image by image in tests/peers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.nn import inception, port, resize

NETWORK = inception.Inception()
EXAMPLE = jax.ShapeDtypeStruct((1, inception.SIZE, inception.SIZE, 3), jnp.float32)

# torch-fidelity 0.4.0 with random_state(seed 0) on two random images: the first three features of the first image, the
# last of the second, mean and standard deviation over both.
DIGITS = {
    "64": (0.8337403, 0.03923788, 0.0001840393, 0.01931774, 0.3052607, 0.275664),
    "192": (0.0001392162, 0.1346177, 0.758907, 0.0817843, 0.4799712, 0.497561),
    "768": (0.0, 0.8564529, 1.080631, 0.9023625, 0.5041402, 0.6582902),
    "2048": (1.85595, 0.7621827, 0.0, 0.009306806, 0.6504179, 0.871331),
    "logits_unbiased": (-1.485679, 2.337047, 1.576406, -0.7090824, 0.03327848, 1.563866),
    "logits": (-1.456176, 2.386886, 1.717612, -0.6018932, 0.02938636, 1.570333),
}


@pytest.mark.slow
def test_tensors_and_parameters_are_as_many_as_published():
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), EXAMPLE)
    counters = sum(path[-1].key == "var" for path, _ in jax.tree_util.tree_leaves_with_path(shapes))
    assert len(jax.tree.leaves(shapes)) + counters == 566
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 23_850_960


@pytest.mark.slow
def test_every_layer_has_the_digits_of_torch_fidelity():
    pixels = np.random.RandomState(0).randint(0, 256, (2, 20, 28, 3), np.uint8)
    variables = port.variables(port.random_state(NETWORK, EXAMPLE, 0), NETWORK, EXAMPLE)

    def features(variables, x):
        return NETWORK.apply(variables, (resize.tf1(x, inception.SIZE) - 128) / 128)

    out = jax.jit(features)(variables, np.float32(pixels))
    assert tuple(inception.LAYERS) == tuple(DIGITS)
    for layer, digits in DIGITS.items():
        y = np.asarray(out[layer], np.float64)
        mine = (*y[0, :3], y[1, -1], y.mean(), y.std())
        np.testing.assert_allclose(mine, digits, rtol=1e-4, atol=1e-5)


def test_windows_against_loops():
    x = np.random.RandomState(2).standard_normal((1, 7, 8, 2)).astype(np.float32)

    def near(i, j):
        return x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]

    mean = [[near(i, j).mean((1, 2)) for j in range(8)] for i in range(7)]
    np.testing.assert_allclose(jax.jit(inception.average)(x), np.moveaxis(mean, 2, 0), atol=1e-6)
    largest = np.moveaxis([[near(i, j).max((1, 2)) for j in range(8)] for i in range(7)], 2, 0)
    window = jax.jit(inception.window, static_argnums=(1, 2, 3))
    np.testing.assert_array_equal(window(x, jnp.maximum, border=-jnp.inf), largest)
    np.testing.assert_array_equal(window(x, jnp.maximum, 2), largest[:, 1:-1:2, 1:-1:2])
