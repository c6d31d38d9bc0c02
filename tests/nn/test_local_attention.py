"""Local attention against a loop over cells in numpy, at both borders and in 1 to 3 dimensions, and its gradient."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen.errors import UserError
from nca_gen.nn.local_attention import local_attention


def twin(q, k, v, border, neighbourhood="moore"):
    """Every cell asks its window, one after the other; float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    size, out = q.shape[1:-2], np.zeros(q.shape)
    for b, *cell, h in np.ndindex(*q.shape[:-1]):
        keys, values = [], []
        for shift in itertools.product((-1, 0, 1), repeat=len(size)):
            if neighbourhood == "von_neumann" and np.abs(shift).sum() > 1:
                continue
            place = tuple(c + s for c, s in zip(cell, shift, strict=True))
            if border == "wrap":
                place = tuple(p % n for p, n in zip(place, size, strict=True))
            if all(0 <= p < n for p, n in zip(place, size, strict=True)):
                keys.append(k[(b, *place, h)])
                values.append(v[(b, *place, h)])
            elif border == "zero":
                keys.append(np.zeros(q.shape[-1]))
                values.append(np.zeros(q.shape[-1]))
        weights = np.exp(np.array(keys) @ q[(b, *cell, h)] / np.sqrt(q.shape[-1]))
        out[(b, *cell, h)] = weights / weights.sum() @ np.array(values)
    return out


def heads(size, h=2, d=6):
    return [jax.device_put(2 * tiny.images(seed, 2, *size, h, d)) for seed in range(3)]


attend = jax.jit(local_attention, static_argnums=(3, 4))


slow = partial(pytest.param, marks=pytest.mark.slow)
CASES = [((5, 4), "zero"), ((5, 4), "mask"), slow((5, 4), "wrap")]
CASES += [slow((1, 3), "zero"), slow((4,), "mask"), slow((3, 2, 3), "zero")]


@pytest.mark.parametrize(("size", "border"), CASES)
def test_the_twin_agrees(size, border):
    q, k, v = heads(size)
    np.testing.assert_allclose(attend(q, k, v, border), twin(q, k, v, border), atol=1e-5)


@pytest.mark.parametrize(("size", "border"), [((3, 2, 3), "zero"), slow((5, 4), "mask"), slow((3, 4, 3), "wrap")])
def test_the_twin_agrees_of_faces_alone(size, border):
    q, k, v = heads(size)
    how = border, "von_neumann"
    np.testing.assert_allclose(attend(q, k, v, *how), twin(q, k, v, *how), atol=1e-5)


WINDOWS = [((4, 3), "zero"), slow(((4, 3), "mask")), slow(((4, 3), "wrap"))]
WINDOWS += [slow(((2, 4, 3), "mask", "von_neumann"))]


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS)
def test_the_gradient_is_the_slope(window):
    """Along a random direction of q, k or v, by a central difference of the twin."""
    size, *border = window
    at, (weight, *ways) = heads(size), [tiny.images(seed, 2, *size, 2, 6) for seed in range(3, 7)]

    def loss(*parts):
        return jnp.sum(weight * local_attention(*parts, *border))

    grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*at)
    for i, (grad, way) in enumerate(zip(grads, ways, strict=True)):

        def moved(h, i=i, way=way):
            return [np.float64(x) + h * way * (j == i) for j, x in enumerate(at)]

        there, back = (np.sum(weight * twin(*moved(h), *border)) for h in (1e-5, -1e-5))
        assert np.sum(np.float64(grad) * way) == pytest.approx((there - back) / 2e-5, rel=1e-4)


def test_what_lies_beyond_the_grid():
    """Of one cell with a value of 1 and a key of 0: alone it is itself; among zeros it is one of nine."""
    q, k, v = (np.full((1, 1, 1, 1, 4), x, np.float32) for x in (1, 0, 1))
    np.testing.assert_allclose(attend(q, k, v, "mask"), 1.0, rtol=1e-6)
    np.testing.assert_allclose(attend(q, k, v, "zero"), 1 / 9, rtol=1e-6)


@pytest.mark.slow
def test_no_nine_copies():
    """Of keys and values: the gradient as compiled needs room for less than nine fields like q beside its results."""
    field = jax.ShapeDtypeStruct((1, 32, 32, 4, 32), np.float32)

    def loss(q, k, v):
        return jnp.sum(jnp.square(local_attention(q, k, v)))

    for f in (local_attention, jax.grad(loss, (0, 1, 2))):
        memory = jax.jit(f).lower(field, field, field).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 9 * 4 * field.size


def test_an_unknown_border_is_named():
    with pytest.raises(UserError, match="zero"):
        local_attention(*heads((2, 2)), "zeros")


def test_an_unknown_neighbourhood_is_named():
    with pytest.raises(UserError, match="did you mean moore"):
        local_attention(*heads((2, 2)), "zero", "more")
