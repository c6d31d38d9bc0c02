"""The autoencoding task against sums by hand: loss, both players' gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from scipy.integrate import quad
from scipy.stats import norm

from nca_gen import arrays
from nca_gen.errors import UserError
from nca_gen.nn import random_features
from nca_gen.tasks import autoencode
from nca_gen.tasks.learner import Learner

B, SIZE = 2, 24
IMAGE = jax.device_put(np.random.RandomState(0).uniform(-1, 1, (B, SIZE, SIZE, 3)).astype(np.float32))
KEY = jax.random.key(0, impl="threefry2x32")


@dataclass(frozen=True)
class Linear:
    """Two by two pixels are a place: mean and log-variance are sums of them, as the pixels are of the latent."""

    image_channels: int = 3
    factor: int = 2
    latent_channels: int = 4

    def init(self, key):
        def draw(*shape):
            return jnp.asarray(0.3 * np.random.RandomState(sum(shape)).standard_normal(shape), jnp.float32)

        return {"encoder": {"kernel": draw(12, 8)}, "decoder": {"conv_out": {"kernel": draw(4, 12)}}}

    def encode(self, params, image):
        return jnp.split(arrays.blocked(image, 2) @ params["encoder"]["kernel"], 2, -1)

    def decode(self, params, z):
        return arrays.unblocked(z @ params["decoder"]["conv_out"]["kernel"], 2)


MODEL = Linear()


def task(**fields):
    return autoencode.Task(MODEL, Learner(lr=1e-2), **{"kl": 0.1, "critic": 2} | fields)


@cache
def state(task):
    return jax.device_get(jax.jit(task.init)(jax.random.key(0, impl=tiny.KEYS)))._replace(key=KEY)


def by_hand(task, params, critic=None, weight=0.0, step=0):
    """(loss, (reconstruction, KL of an image, -mean logit, what came back)) of ``step``, in one straight line."""
    key = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(KEY, step), i))(jnp.arange(B))
    mean, logvar = MODEL.encode(params, IMAGE)
    noise = arrays.cell_normal(key, -1, arrays.coords(mean.shape[1:3]), 4)
    fake = MODEL.decode(params, mean + jnp.exp(0.5 * logvar) * noise)
    kl = jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar) / 2 / B
    lost = {"l1": jnp.abs, "l2": jnp.square}[task.loss](fake - IMAGE).mean()
    if task.perceptual == "random":
        lost += task.perceptual_weight * random_features.between(fake, IMAGE).mean()
    fooled = -task.logits(critic, fake).mean() if critic else 0.0
    return lost + task.kl * kl / IMAGE[0].size + weight * fooled, (lost, kl, fooled, fake)


def downhill(before, after, grads, least):
    """Adam's first step is one rate, against the sign of the gradient."""
    for a, b, grad in zip(*map(jax.tree.leaves, (after, before, grads)), strict=True):
        some = np.abs(grad) > least * np.abs(grad).max()
        np.testing.assert_allclose((a - b)[some], -1e-2 * np.sign(grad[some]), rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"loss": "l2", "perceptual": "random", "perceptual_weight": 0.7}])
def test_one_player(fields):
    """Its numbers and its gradient."""
    this = task(**fields)
    before = state(task())

    @jax.jit
    def both(state):
        (loss, (lost, kl, *_)), grads = jax.value_and_grad(lambda p: by_hand(this, p), has_aux=True)(state.params)
        expected = {"loss": loss, "reconstruction": lost, "kl": kl, "grad_norm": optax.tree.norm(grads)}
        return this.step(state, {"image": IMAGE}), expected, grads

    (after, metrics), expected, grads = jax.device_get(both(before))
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4)
    downhill(before.params, after.params, grads, 1e-4)
    assert after.critic == ()


DUEL = {adaptive: task(adversarial=0.3, start=1, adaptive=adaptive) for adaptive in (False, True)}


@jax.jit
def fought(state):
    """A step of both tasks."""
    return {adaptive: this.step(state, {"image": IMAGE}) for adaptive, this in DUEL.items()}


@pytest.mark.slow
def test_two_players():
    """The autoencoder's gradient has the critic's part in it, by the ratio of both at the last kernel if adaptive."""
    before, this = state(DUEL[True])._replace(step=np.int32(1)), DUEL[True]

    @jax.jit
    def parts(params, critic):
        """Values and slopes of the loss without a critic and of what fools it; and the critic's own."""

        def both(params):
            loss, (_, _, fooled, fake) = by_hand(this, params, critic, step=1)
            return (loss, fooled), ((loss, fooled), fake)

        slopes, (values, fake) = jax.jacrev(both, has_aux=True)(params)
        tell = jax.value_and_grad(lambda c: autoencode.hinge(this.logits(c, IMAGE), this.logits(c, fake)))
        return values, slopes, tell(critic)

    def norm(tree):
        return np.sqrt(sum(np.square(x).sum(dtype=np.float64) for x in jax.tree.leaves(tree)))

    (loss, fooled), (plain, push), (told, up) = jax.device_get(parts(before.params, before.critic))
    ratio = norm(plain["decoder"]["conv_out"]) / (norm(push["decoder"]["conv_out"]) + 1e-4)  # the KL is not behind it
    for adaptive, (after, metrics) in jax.device_get(fought(before)).items():
        weight = 0.3 * (ratio if adaptive else 1.0)
        values = {"adversarial_weight": weight, "loss": loss + weight * fooled, "critic": told}
        values["grad_norm"] = norm(jax.tree.map(lambda a, b, weight=weight: a + weight * b, plain, push))
        for name, value in values.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-3)
        downhill(before.critic, after.critic, up, 1e-3)


@pytest.mark.slow
def test_the_critic_waits():
    """Before its first step nothing of it moves, nor does it move the autoencoder; then it does both."""
    before = state(DUEL[True])
    after, metrics = jax.device_get(fought(before)[True])
    jax.tree.map(np.testing.assert_array_equal, after.critic, before.critic)
    assert metrics["adversarial_weight"] == 0
    plain = metrics["reconstruction"] + 0.1 * metrics["kl"] / IMAGE[0].size
    np.testing.assert_allclose(metrics["loss"], plain, rtol=1e-6)
    then, metrics = jax.device_get(fought(after)[True])
    assert metrics["adversarial_weight"] > 0
    assert all(np.any(then.critic[name]["kernel"] != after.critic[name]["kernel"]) for name in ("main.0", "main.11"))


def test_divergence_is_an_integral():
    """Of p log(p/q), numerically."""
    mean, std = 0.7, 0.4
    p, q = norm(mean, std), norm()
    by_quadrature, _ = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -4, 5)

    def full(v):
        return np.full((1, 2, 3, 4), v, np.float32)

    got = jax.jit(autoencode.divergence)(full(mean), full(2 * np.log(std)))
    np.testing.assert_allclose(got, 24 * by_quadrature, rtol=1e-5)


hinge = jax.jit(autoencode.hinge)


@pytest.mark.parametrize(("real", "fake", "loss"), [(1, -1, 0), (2, -3, 0), (0, 0, 1), (-1, 1, 2), (1, 0, 0.5)])
def test_hinge(real, fake, loss):
    assert float(hinge(np.full(3, real, np.float32), np.full(5, fake, np.float32))) == loss


def test_what_a_user_can_mend(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="did you mean l1"):
        task(loss="l11")
    with pytest.raises(UserError, match=r"task\.perceptual"):
        task(perceptual="vgg")
    with pytest.raises(UserError, match=r"config\.model\.image_channels=1"):
        task().init(KEY, {"image": IMAGE[..., :1]})
    with pytest.raises(UserError, match="24 pixels a side"):
        task(adversarial=1.0).init(KEY, {"image": IMAGE[:, :16]})
    with pytest.raises(UserError, match="look at pictures"):
        task(perceptual="random").init(KEY, {"image": IMAGE[:, None]})
    monkeypatch.setenv("NCA_GEN_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"no vgg16-397923af\.pth"):
        replace(task(), perceptual="lpips").reconstruction(IMAGE, IMAGE)
