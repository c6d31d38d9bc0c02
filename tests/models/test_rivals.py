"""What DiT and the U-Net promise as denoisers of GeCA's protocol."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
import tiny

from nca_gen.contracts import Local
from nca_gen.errors import UserError

MAKE = {"dit": rivals.small_dit, "unet": rivals.small_unet}
both = pytest.mark.parametrize("name", MAKE)


@cache
def params(name):
    return tiny.params(MAKE[name]())


def answer(name, x, t, cond, **changes):
    return np.asarray(rivals.call(MAKE[name](**changes), params(name), x, t, cond)[0])


@both
@pytest.mark.slow
def test_prediction_and_memory(name):
    """2 C channels of float32 with a learned variance; what the model does not know passes through."""
    model, (x, t, cond) = MAKE[name](), rivals.start(4, 6)
    assert not isinstance(model, Local)
    prediction, memory = rivals.call(model, params(name), x, t, cond)
    assert (prediction.shape, prediction.dtype, memory) == ((2, 4, 6, 6), np.float32, ())
    mean = tiny.shapes(MAKE[name](learned_variance=False))
    plain = MAKE[name](learned_variance=False)
    x, t, cond = (jax.ShapeDtypeStruct(a.shape, jnp.dtype(a.dtype)) for a in (x, t, cond))

    def shape(memory):
        return jax.eval_shape(partial(rivals.call, plain), mean, x, t, cond, memory)

    prediction, memory = shape({"a": jax.ShapeDtypeStruct((7,), jnp.float32)})
    assert (prediction.shape, memory["a"].shape) == ((2, 4, 6, 3), (7,))


@pytest.mark.slow
@both
def test_starts_with_nothing_to_say(name):
    model, (x, t, cond) = MAKE[name](), rivals.start(4, 6)
    np.testing.assert_array_equal(
        rivals.call(model, tiny.born(model), x, t, cond)[0], np.zeros((2, 4, 6, 6), np.float32)
    )


@both
@pytest.mark.slow
def test_images_times_and_labels_matter(name):
    """Each image answers to its own."""
    x, t, cond = rivals.start(4, 6)
    said = answer(name, x, t, cond)
    for i, other in enumerate((x + 0.1, t // 3, 1 - cond)):
        mixed = [x, t, cond]
        mixed[i] = np.stack([mixed[i][0], other[1]])
        changed = answer(name, *mixed)
        np.testing.assert_allclose(changed[0], said[0], atol=1e-4)
        assert np.abs(changed[1] - said[1]).max() > 1e-2


@pytest.mark.slow
@both
def test_null_and_one_time_for_all(name):
    x, t, cond = rivals.start(4, 6)
    said = answer(name, x, t, cond)
    np.testing.assert_allclose(answer(name, x, t[1:], None)[1], said[1], atol=1e-4)


ONE = {"dit": {}, "unet": {"multipliers": (1,)}}  # less to compile


def gradient(name, **changes):
    model, (x, t, cond) = MAKE[name](**ONE[name] | changes), map(jnp.asarray, rivals.start(4, 6))

    def loss(p):
        return jnp.mean(jnp.square(model.apply(p, x, t, {"label": cond}, (), None)[0] - 1))

    return jax.jit(jax.grad(loss))(tiny.params(MAKE[name](**ONE[name])))


@pytest.mark.slow
@both
def test_remat_changes_nothing(name):
    mine, kept = gradient(name, remat="block"), gradient(name)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(kept))
    scale = max(np.abs(g).max() for g in jax.tree.leaves(kept))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-3), mine, kept)


@pytest.mark.slow
@both
def test_bf16_is_close(name):
    x, t, cond = rivals.start(4, 6)
    exact, rough = (answer(name, x, t, cond, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    error = np.sqrt(np.mean((exact - rough) ** 2)) / np.std(exact)
    assert 1e-4 < error < 0.05


@pytest.mark.slow
@both
def test_any_size(name):
    """Of even sides; the parameters are the same."""
    for shape in ((2, 2), (10, 8)):
        x, t, cond = rivals.start(*shape)
        assert np.isfinite(answer(name, x, t, cond)).all()


@pytest.mark.slow
@both
def test_labels_must_have_the_columns(name):
    x, t, _ = rivals.start(4, 6)
    with pytest.raises(UserError, match=r"config.model.classes is 3, but the labels have 2 columns"):
        answer(name, x, t, np.zeros((2, 2), np.float32))


@both
@pytest.mark.parametrize(("field", "value"), [("dtype", "bfloat"), ("remat", "blocks")])
def test_wrong_words(name, field, value):
    with pytest.raises(UserError, match=f"unknown value of config.model.{field} '{value}'; did you mean b"):
        MAKE[name](**{field: value})
