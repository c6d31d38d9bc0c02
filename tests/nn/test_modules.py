"""Modules that take their parameters as they are: drawn once, as flax draws them, and never traced again."""

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny

from nca_gen.nn import modules

X = tiny.images(0, 2, 4, 4, 32)
LAYERS = {"Dense": (5,), "Conv": (5, (3, 3)), "GroupNorm": (), "LayerNorm": (), "BatchNorm": (True,)}


@pytest.mark.parametrize("name", LAYERS)
def test_of_the_same_shapes_and_names(name):
    ours, theirs = (
        jax.eval_shape(nn.Sequential([getattr(of, name)(*LAYERS[name])]).init, jax.random.key(0), X)
        for of in (modules, nn)
    )
    assert ours == theirs
    assert list(ours["params"]) == ["layers_0"]


def test_a_start_is_drawn_once_and_is_that_of_flax():
    drawn = []

    def start(key, shape, dtype=np.float32):
        drawn.append(shape)
        return jax.random.normal(key, shape, dtype)

    class Pair(nn.Module):
        layer: type

        @nn.compact
        def __call__(self, x):
            return self.layer(3, kernel_init=start)(x)

    ours, theirs = (Pair(of.Dense).init(jax.random.key(0), X[0, 0]) for of in (modules, nn))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert drawn == [(32, 3)] * 2
    Pair(modules.Dense).apply(ours, X[0, 0])
    assert drawn == [(32, 3)] * 2
    with pytest.raises(flax.errors.ScopeParamNotFoundError):
        Pair(modules.Dense).apply({"params": {"Dense_0": {"kernel": ours["params"]["Dense_0"]["kernel"]}}}, X[0, 0])


@pytest.mark.slow
def test_equal_networks_are_traced_once_for_their_parameters():
    """Which are those of flax to the bit, from any key; what is computed of the example is left out."""
    traced = []

    class Pair(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            traced.append(self.width)
            return nn.remat(modules.Dense)(2, name="second")(modules.Dense(self.width, name="first")(x).sum(0))

    example = jax.ShapeDtypeStruct((2, 4), np.float32)
    for seed in range(3):
        ours = modules.start(Pair(3), jax.random.key(seed), example)
        inside = jax.jit(lambda seed: modules.start(Pair(3), jax.random.key(seed), example))(seed)
        theirs = Pair(3).lazy_init(jax.random.key(seed), example)["params"]
        for drawn in (ours, inside):
            jax.tree.map(np.testing.assert_array_equal, drawn, theirs)
    assert traced == [3] * 4  # by us once, by flax for every seed
    assert modules.start(Pair(5), jax.random.key(0), example)["first"]["kernel"].shape == (4, 5)
    steps = jax.make_jaxpr(lambda key: modules.start(Pair(3), key, example))(jax.random.key(0)).jaxpr.eqns
    assert not {"dot_general", "reduce_sum"} & {step.primitive.name for step in steps}


def test_parameters_that_hang_on_the_example_are_refused():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.param("scale", lambda key: x.mean()) * x

    with pytest.raises(flax.errors.LazyInitError):
        modules.start(Scaled(), jax.random.key(0), jax.ShapeDtypeStruct((2,), np.float32))
