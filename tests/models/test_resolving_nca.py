"""A Diff-NCA that resolves a smaller image, and one that reads a context: against the numpy twin; what they hear."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
import tiny

from nca_gen import arrays, build
from nca_gen import config as configs
from nca_gen.errors import UserError
from nca_gen.models import efficient_unet, resolving_nca

SMALL = {"channels": 12, "hidden": 16, "steps": 4, "start": "torch", "timesteps": tiny.T, "norm": "cell"}
MODEL = resolving_nca.Model(**SMALL)
LOG_SNR = np.array([1.5, -0.5], np.float32)


@partial(jax.jit, static_argnums=0)
def apply(model, x, cond, key=None):
    key = arrays.keys(0, 2) if key is None else key
    return model.apply(tiny.params(model), x, jnp.array([3, 8]), cond, (), key)[0]


def given(low, log_snr=LOG_SNR):
    return {"low": low, "low_log_snr": log_snr}


@pytest.mark.slow
def test_the_numpy_twin_agrees():
    """x_t and the smaller image are read and never written; t, s and its share of noise condition every cell."""
    x, low = (tiny.images(seed, 2, 9, 8, 3) for seed in (0, 1))
    state = np.concatenate([x, low, np.zeros((*x.shape[:-1], 6))], -1)
    each = lambda value: np.broadcast_to(np.reshape(value, (-1, 1, 1, 1)), (*x.shape[:-1], 1))
    t, noise = each(np.array([3, 8]) / tiny.T), each(1 / (1 + np.exp(np.float64(LOG_SNR))))
    weights = textbook.plain(tiny.params(MODEL))["image"]
    for k, fire in enumerate(tiny.masks(MODEL, arrays.keys(0, 2), (9, 8))):
        scalars = np.concatenate([t, each(k / MODEL.steps), noise], -1)
        state = textbook.update(state, scalars, weights, fire, np.arange(6), "reflect")
    assert np.abs(state[..., 6:9]).max() > 0.1
    np.testing.assert_allclose(apply(MODEL, x, given(low)), state[..., 6:9], atol=1e-4)


TOLD = replace(MODEL, channels=15, context_channels=2)
ALONE = replace(MODEL, context_channels=2, low_resolution=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [(TOLD, (9, 8)), pytest.param(replace(TOLD, ndim=3), (5, 4, 3), marks=pytest.mark.slow), (ALONE, (9, 8))],
)
def test_the_numpy_twin_agrees_of_a_context(model, shape):
    """Behind the smaller image, or in its place, cells read a context and never write it."""
    x, low, context = (tiny.images(seed, 2, *shape, n) for seed, n in ((0, 3), (1, 3), (2, 2)))
    each = lambda value: np.broadcast_to(np.reshape(value, (-1, *[1] * (len(shape) + 1))), (*x.shape[:-1], 1))
    beside, noise, cond = [context], [], {"context": context}
    if model.low_resolution:
        beside, cond = [low, context], cond | given(low)
        noise = [each(1 / (1 + np.exp(np.float64(LOG_SNR))))]
    state, n = np.concatenate([x, *beside], -1), model.given
    state = np.concatenate([state, np.zeros((*x.shape[:-1], model.channels - n))], -1)
    weights = textbook.plain(tiny.params(model))["image"]
    for k, fire in enumerate(tiny.masks(model, arrays.keys(0, 2), shape)):
        scalars = np.concatenate([each(np.array([3, 8]) / tiny.T), each(k / model.steps), *noise], -1)
        state = textbook.update(state, scalars, weights, fire, np.arange(n), "reflect")
    assert np.abs(state[..., n : n + 3]).max() > 0.1
    np.testing.assert_allclose(apply(model, x, cond), state[..., n : n + 3], atol=1e-4)


@pytest.mark.slow
def test_a_context_is_read_where_it_lies():
    """Enlarged by ``zoom`` its middle is what lies at each cell, and then a call depends on the whole."""
    x, context = tiny.images(0, 2, 8, 8, 3), tiny.images(2, 2, 8, 8, 2)
    near = replace(ALONE, zoom=2)
    middle = efficient_unet.middle(jnp.asarray(context), 2)
    same = apply(ALONE, x, {"context": middle})
    np.testing.assert_allclose(apply(near, x, {"context": context}), same, atol=1e-5)
    assert (near.halo, ALONE.halo, near.conditions, ALONE.scalars) == (None, 4, {"context": 2}, 2)


@pytest.mark.slow
def test_it_is_told_what_the_networks_of_urcdm_are_told(monkeypatch):
    """Every stage takes it by name; the first of a magnification also says that there is no smaller image."""
    monkeypatch.chdir(build.__file__.rpartition("nca_gen")[0])
    for stage in configs.stages("configs/urcdm.py:laptop"):
        first = "stage1" in stage.name
        flags = ["--config.model.name=resolving_nca", *["--config.model.low_resolution=False"] * first]
        theirs = build.model(build.completed(stage.config))
        task = build.task(configs.override(stage.config, flags))
        assert (task.model.conditions, task.model.reads) == (theirs.conditions, theirs.reads), stage.name
        zoomed = first and stage.name != "mag0_stage1"
        assert task.model.zoom == theirs.zoom, stage.name
        assert not zoomed or theirs.zoom == 4


@pytest.mark.slow
def test_it_hears_the_smaller_image_as_far_as_it_hears():
    """A pixel of that changes all within ``halo`` cells, and nothing beyond."""
    x, low = (tiny.images(seed, 2, 16, 16, 3) for seed in (0, 1))
    touched = low.copy()
    touched[:, 8, 8] += 1
    moved = np.abs(apply(MODEL, x, given(touched)) - apply(MODEL, x, given(low))).max((0, 3)) > 0
    y, x = np.nonzero(moved)
    assert MODEL.halo == 4 == max(np.abs(y - 8).max(), np.abs(x - 8).max())


@pytest.mark.slow
def test_its_noise_is_told():
    x, low = (tiny.images(seed, 2, 6, 6, 3) for seed in (0, 1))
    assert np.abs(apply(MODEL, x, given(low)) - apply(MODEL, x, given(low, LOG_SNR + 1))).max() > 1e-3


@pytest.mark.slow
def test_nothing_is_a_smaller_image_of_zeros():
    x = tiny.images(0, 2, 6, 6, 3)
    same = apply(MODEL, x, given(np.zeros_like(x), np.zeros(2, np.float32)))
    np.testing.assert_array_equal(apply(MODEL, x, None), same)


@pytest.mark.slow
def test_what_does_not_fit():
    x = tiny.images(0, 2, 6, 6, 3)
    with pytest.raises(UserError, match=r"'low' is of \(2, 3, 3, 3\); beside x_t of \(2, 6, 6, 3\)"):
        apply(MODEL, x, given(x[:, :3, :3]))
    with pytest.raises(UserError, match="channels is 9; image and prediction alone take 9"):
        resolving_nca.Model(**SMALL | {"channels": 9})
    with pytest.raises(UserError, match=r"'context' is of \(2, 6, 6, 3\); .* give \(2, 6, 6, 2\)"):
        apply(ALONE, x, {"context": x})
    with pytest.raises(UserError, match=r"zoom=4 enlarges a context, and .*context_channels is 0"):
        replace(MODEL, zoom=4)
