"""Draws that are made at once: the same bits as one by one, and fewer of them in the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays
from nca_gen.runtime import draws


def network(key):
    """Draws of many shapes, from keys that are folded once and twice; some in programs of their own, some large."""
    scale = jax.jit(lambda k, n: jax.random.normal(k, (n, 3)) / n, static_argnums=1)
    folded = [jax.random.fold_in(key, i) for i in range(4)]
    deep = jax.random.fold_in(folded[0], 2**32 - 1)
    return {
        "first": scale(folded[1], 2),
        "second": scale(folded[2], 5) + scale(deep, 5),
        "bits": jax.random.bits(folded[3], (4,), np.uint8),
        "truncated": jax.random.truncated_normal(deep, -2, 2, ()),
        "of a draw": jax.random.fold_in(key, jax.random.randint(folded[0], (), 0, 9)),
        "halves": jax.random.split(jax.random.fold_in(key, 7), 2),
        "large": jax.random.uniform(folded[1], (300, 300)),
        "looped": jax.lax.fori_loop(0, 3, lambda i, x: x + jax.random.uniform(jax.random.fold_in(key, i)), 0.0),
        "one of a batch": jax.vmap(jax.random.uniform)(jax.vmap(lambda k: jax.random.fold_in(k, 3))(key[None])),
        "a batch of one key": jax.vmap(lambda k: jax.random.fold_in(k, 3))(key[None]),
        "halves of one": jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, 3)))(key[None]),
        "constant": jnp.arange(3),
        "key": key,
    }


def data(tree):
    """``tree`` with the words of its keys."""
    words = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return jax.tree.map(lambda x: np.asarray(words(x)), tree)


@pytest.mark.slow
@pytest.mark.parametrize("form", [lambda key: key, arrays.written_out], ids=["jax's own", "written out"])
def test_the_same_bits(form):
    key = form(jax.random.key(5, impl="threefry2x32"))
    jax.tree.map(
        np.testing.assert_array_equal, data(jax.jit(draws.together(network))(key)), data(jax.jit(network)(key))
    )


@pytest.mark.slow
def test_keys_of_another_kind_draw_as_they_did():
    key = jax.random.key(5, impl=tiny.KEYS)
    some = lambda key: jax.random.uniform(jax.random.fold_in(key, 3), (4,))
    np.testing.assert_array_equal(jax.jit(draws.together(some))(key), some(key))


@pytest.mark.slow
def test_all_that_wait_for_the_same_are_one():
    """Of 40 keys that are folded and draw: two threefries, where there were 80."""

    def many(key):
        return [jax.random.uniform(jax.random.fold_in(key, i), (i + 1,)) for i in range(40)]

    def rounds(function):
        jaxpr = str(jax.make_jaxpr(function)(jax.random.key(0, impl="threefry2x32")))
        return jaxpr.count("random_fold_in"), jaxpr.count("random_bits"), jaxpr.count(" xor ")

    assert rounds(many)[:2] == (40, 40)
    folds, bits, xors = rounds(draws.together(many))
    assert (folds, bits) == (0, 0)
    one = str(jax.make_jaxpr(arrays.threefry)(*jnp.zeros((4, 1), jnp.uint32))).count(" xor ")
    assert xors <= 2 * one + 40  # and each draw adds its two words
