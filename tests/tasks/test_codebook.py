"""Autoencoders with a codebook, and those that stand on another one, in training: what is used, revived, left alone."""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.contracts import Rebuilt
from nca_gen.errors import UserError
from nca_gen.nn.codebook import STANDARD, quantise
from nca_gen.tasks import autoencode
from nca_gen.tasks.learner import Learner

ENTRIES = np.float32([[-3.0], [-1.0], [1.0], [3.0], [9.0]])  # the last of them is far from everything
IMAGE = np.float32([[-3.1, -0.8, -1.2, 1.3], [0.9, 1.1, 1.0, 0.7]])[:, :, None, None]  # codes 0 1 1 2, 2 2 2 2
KEY = jax.random.key(0, impl="threefry2x32")


@dataclass(frozen=True)
class Scalar:
    """Pixels are places; what comes back is the entry of the codebook, brighter by a bias."""

    image_channels: int = 1
    factor: int = 1
    latent_channels: int = 1

    def init(self, key):
        return {"bias": jnp.zeros(1), "codebook": {"embedding": jnp.asarray(ENTRIES)}}

    def encode(self, params, image):
        return image, jnp.full(image.shape, -jnp.inf)

    def decode(self, params, z):
        return quantise(z, params["codebook"]["embedding"])[0] + params["bias"]

    def rebuild(self, params, image, key):
        q, loss, codes = quantise(image, params["codebook"]["embedding"], STANDARD)
        return Rebuilt(q + params["bias"], image, {"codebook": loss}, image, codes)

    def last(self, params):
        return params["bias"]


@dataclass(frozen=True)
class Above(Scalar):
    """The same with a gain of its own, on a codebook and a bias that another run has trained."""

    @property
    def slices(self):
        return Scalar()

    def init(self, key):
        return {"slices": Scalar().init(key), "gain": jnp.ones(1)}

    def rebuild(self, params, image, key):
        q, loss, _ = quantise(params["gain"] * image, params["slices"]["codebook"]["embedding"], STANDARD)
        return Rebuilt(q + params["slices"]["bias"], image, {"codebook": loss})


@cache
def trained(task, steps):
    """The state and the metrics of each of ``steps`` steps on one batch."""
    state, found = task.init(KEY), []
    step = jax.jit(task.step)
    for _ in range(steps):
        state, metrics = step(state, {"image": jnp.asarray(IMAGE)})
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


PLAIN = autoencode.Task(Scalar(), Learner(lr=1e-3), kl=0.7)


@pytest.mark.slow
def test_the_loss():
    """What is added is the model's own penalty, and no KL."""
    _, (metrics, *_) = trained(PLAIN, 1)
    q = ENTRIES[[0, 1, 1, 2, 2, 2, 2, 2], 0].reshape(IMAGE.shape)
    cost = 1.25 * np.square(IMAGE - q).mean()
    np.testing.assert_allclose(metrics["codebook"], cost, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.abs(IMAGE - q).mean() + cost, rtol=1e-5)
    assert "kl" not in metrics


@pytest.mark.slow
def test_how_the_codebook_is_used(monkeypatch):
    """One code of 8 places, two, and five: three entries of five; until RECENT steps are over all count as used."""
    p = np.array([1, 2, 5]) / 8
    state, found = trained(PLAIN, 3)
    np.testing.assert_allclose(found[0]["perplexity"], np.exp(-(p * np.log(p)).sum()), rtol=1e-5)
    assert [*state.idle] == [0, 0, 0, 3, 3]
    assert found[-1]["usage"] == 1
    monkeypatch.setattr(autoencode, "RECENT", 2)
    _, found = trained(replace(PLAIN, ema=0.5), 3)
    np.testing.assert_allclose([m["usage"] for m in found], [1, 0.6, 0.6])


@pytest.mark.slow
def test_dead_entries_are_revived():
    """After so many idle steps they become latents of the batch, also in the average, and count anew."""
    task = replace(PLAIN, revive=3)
    before, _ = trained(task, 2)
    assert [*before.idle] == [0, 0, 0, 2, 2]
    after, _ = trained(task, 3)
    assert [*after.idle] == [0] * 5
    book = after.params["codebook"]["embedding"][:, 0]
    assert {*book[3:]} <= {*IMAGE.ravel()}
    np.testing.assert_array_equal(after.ema["codebook"]["embedding"][3:, 0], book[3:])
    np.testing.assert_allclose(book[:3], ENTRIES[:3, 0], atol=0.01)
    never, _ = trained(PLAIN, 3)
    np.testing.assert_allclose(never.params["codebook"]["embedding"][3:, 0], ENTRIES[3:, 0])


@pytest.mark.slow
def test_what_it_stands_on_stays():
    """Its own gain moves, and optimiser and average have nothing else; all of it generates."""
    task = autoencode.Task(Above(), Learner(lr=1e-3))
    start = task.init(KEY)
    there = Scalar().init(KEY) | {"bias": jnp.full(1, 0.25)}
    begun = task.begin(start, there)
    after, _ = jax.jit(task.step)(begun, {"image": jnp.asarray(IMAGE)})
    assert {*after.params} == {*after.ema} == {"gain"}
    assert sum(x.size for x in jax.tree.leaves(after.optimizer)) < 6
    assert after.params["gain"] != 1
    jax.tree.map(np.testing.assert_array_equal, task.inherits(task.eval_params(after)), there)
    assert {*task.eval_params(after)} == {"slices", "gain"}


def test_what_a_user_can_mend():
    with pytest.raises(UserError, match=r"task\.revive .*: set it to 0"):
        autoencode.Task(Above(), Learner(), revive=5).init(KEY)
