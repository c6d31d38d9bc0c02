"""Networks with seeded weights on seeded images: the same numbers in any framework, to be compared with a peer's."""

from functools import cache

import jax
import numpy as np

from nca_gen.nn import port


def images(size, n=2):
    """Normalised ones, ``[n, size, size, 3]``."""
    return np.random.RandomState(size).standard_normal((n, size, size, 3)).astype(np.float32)


@cache
def state(network, size):
    """Weights by torch's names."""
    return port.random_state(network, images(size, 1), 1)


def layers(network, size):
    """Every layer of ``network``."""
    variables = port.variables(state(network, size), network, images(size, 1))
    return {name: np.asarray(y) for name, y in jax.jit(network.apply)(variables, images(size)).items()}


def digits(layer):
    """Three numbers of a layer ``[N, ..., C]``: mean, deviation, and a sum that minds the order."""
    y = layer.astype(np.float64).ravel()
    return y.mean(), y.std(), y @ np.cos(np.arange(y.size)) / np.sqrt(y.size)


def count(network, size):
    """The number of its parameters; nothing is computed."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
    return sum(p.size for p in jax.tree.leaves(shapes["params"]))


def agree(mine, theirs, tolerance=1e-4):
    """Every layer's digits within ``tolerance`` of the frozen ones, relative to them or to the deviation."""
    assert set(mine) == set(theirs)
    for name, y in mine.items():
        np.testing.assert_allclose(digits(y), theirs[name], rtol=tolerance, atol=tolerance * theirs[name][1])


@cache
def with_heads(network):
    """As :func:`state`, and the factors that LPIPS has for every layer, which are not negative."""
    rng = np.random.RandomState(7)
    layers, _ = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x), images(64))
    widths = {f"lin{i}.model.1.weight": y.shape[-1] for i, y in enumerate(layers.values())}
    return state(network, 64) | {name: rng.rand(1, c, 1, 1).astype(np.float32) for name, c in widths.items()}
