"""Vector quantisation: the nearest vector, its loss and gradients by hand, and how much of the distances is there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen.errors import UserError
from nca_gen.nn import codebook
from nca_gen.nn.codebook import PUBLISHED, STANDARD, nearest, quantise


def plain(z, vectors):
    """All distances at once, in float64."""
    return np.square(z.astype(np.float64)[..., None, :] - vectors).sum(-1).argmin(-1)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5, 4), (1, 37, 30, 4), (codebook.ROWS, 4), (0, 4)], ids=str)
def test_the_nearest_of_a_plain_search(shape):
    """Of any number of places, in parts and what is left of them."""
    z, vectors = tiny.images(0, *shape), tiny.images(1, 50, 4)
    np.testing.assert_array_equal(jax.jit(nearest)(z, vectors), plain(z, vectors))


@pytest.mark.slow
def test_vectors_that_lie_close_together_and_far_from_the_latent():
    """As at the start: 16384 of them within 1e-4, latents of 1. With |z|^2 the last digits would be noise."""
    vectors = np.asarray(codebook.start(jax.random.key(0, impl=tiny.KEYS), 16384, 4))
    assert np.abs(vectors).max() <= 1 / 16384
    assert vectors.std() == pytest.approx(1 / 16384 / np.sqrt(3), rel=0.02)
    z = tiny.images(0, 200, 4)
    np.testing.assert_array_equal(jax.jit(nearest)(z, vectors), plain(z, vectors))


def test_of_equally_near_vectors_the_first():
    vectors = np.float32([[2, 0], [1, 0], [-1, 0], [1, 0], [0, 1], [0, -1]])
    z = np.float32([[0, 0], [1, 0], [1.5, 0], [0, 0.5], [-3, 0]])
    np.testing.assert_array_equal(jax.jit(nearest)(z, vectors), [1, 1, 0, 4, 2])


@pytest.mark.parametrize(("weights", "factors"), [(PUBLISHED, (1, 0.25)), (STANDARD, (0.25, 1))], ids=str)
def test_loss_and_gradients_by_hand(weights, factors):
    """Two places of two channels, next to vectors 0 and 2; nothing is near vector 1."""
    vectors = jnp.float32([[0, 0], [9, 9], [2, 0]])
    z = jnp.float32([[0.5, -0.5], [2, 1]])  # off by (0.5, -0.5) and (0, 1): a mean square of 1.5 / 4
    pull = jnp.float32([[3, 5], [7, 11]])  # of what stands behind

    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss(z, vectors):
        zq, lost, indices = quantise(z, vectors, weights)
        return lost, (zq, indices)

    (lost, (zq, indices)), (to_z, to_vectors) = jax.jit(loss)(z, vectors)
    np.testing.assert_array_equal(zq, [[0, 0], [2, 0]])
    np.testing.assert_array_equal(indices, [0, 2])
    assert lost == pytest.approx(sum(factors) * 1.5 / 4)
    commitment, codes = factors
    np.testing.assert_allclose(to_z, commitment * np.float32([[0.25, -0.25], [0, 0.5]]))
    np.testing.assert_allclose(to_vectors, -codes * np.float32([[0.25, -0.25], [0, 0], [0, 0.5]]))
    straight = jax.jit(jax.grad(lambda *both: jnp.sum(pull * quantise(*both)[0]), (0, 1)))(z, vectors)
    np.testing.assert_array_equal(straight[0], pull)
    np.testing.assert_array_equal(straight[1], 0)


def test_places_that_share_a_vector_pull_it_together():
    z, vectors = jnp.float32([[1, 0], [2, 0], [3, 3]]), jnp.float32([[1.5, 0], [9, 9]])
    grad = jax.jit(jax.grad(lambda c: quantise(z, c, STANDARD)[1]))(vectors)
    np.testing.assert_allclose(grad, np.float32([[0.5 - 0.5 - 1.5, -3], [0, 0]]) * 2 / 6)


def inside(jaxpr):
    """The number of values of every array that a program makes, at any depth."""
    for equation in jaxpr.eqns:
        yield from (np.prod(var.aval.shape) for var in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from inside(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("places", [(64, 64, 64, 4), (1, 61, 63, 64, 4)], ids=str)
def test_never_all_distances(places):
    """Of a published latent these are 17 GB; also for the gradient no more than a part of them is there at once."""
    like = jax.ShapeDtypeStruct(places, np.float32), jax.ShapeDtypeStruct((16384, 4), np.float32)
    program = jax.make_jaxpr(jax.value_and_grad(lambda *both: quantise(*both)[1], (0, 1)))(*like)
    sizes = [*inside(program.jaxpr)]
    assert max(sizes) == codebook.ROWS * 16384
    assert codebook.ROWS * 16384 * 4 == 64 * 2**20


def test_half_precision_is_looked_up_in_float32():
    z, vectors = tiny.images(0, 40, 4).astype(jnp.bfloat16), tiny.images(1, 30, 4)
    zq, _, indices = jax.jit(quantise)(z, vectors)
    np.testing.assert_array_equal(indices, plain(np.asarray(z, np.float32), vectors))
    np.testing.assert_array_equal(zq, vectors[indices])


def test_other_channels_are_one_line():
    with pytest.raises(UserError, match="latents of 3 channels have no place in a codebook of 4"):
        quantise(jnp.zeros((2, 3)), jnp.zeros((5, 4)))
