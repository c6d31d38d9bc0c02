"""The evidence lower bound of a model whose likelihood is known: one number z, images a line of it in noise."""

from __future__ import annotations

from dataclasses import dataclass

import doubling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy.stats import multivariate_normal, norm

from nca_gen import arrays
from nca_gen.errors import UserError
from nca_gen.tasks import elbo
from nca_gen.tasks.autoencode import divergence
from nca_gen.tasks.learner import Learner

KEY = jax.random.key(0, impl="threefry2x32")
LINE, NOISE = np.float32([[0.5, -1.0], [0.8, 0.3]]), 0.4
IMAGE = jax.device_put(np.random.default_rng(0).normal(0, 0.7, (3, 2, 2, 1)).astype(np.float32))


@dataclass(frozen=True)
class Line:
    """p(x|z) = N(z w, 0.4^2) for images of 2 x 2; q(z|x) is the posterior, its mean ``off`` from where it belongs."""

    off: float = 0.0
    factor: int = 2
    image_channels: int = 1
    latent_channels: int = 1

    def init(self, key):
        return {"w": jnp.asarray(LINE)}

    def encode(self, params, image):
        precision = 1 + jnp.square(params["w"]).sum() / NOISE**2
        mean = (image[..., 0] * params["w"]).sum((1, 2)) / NOISE**2 / precision + self.off
        return mean.reshape(-1, 1, 1, 1), jnp.full((len(image), 1, 1, 1), -jnp.log(precision))

    def outputs(self, params, z):
        return z * params["w"][..., None]

    def log_likelihood(self, outputs, image):
        return jax.scipy.stats.norm.logpdf(image, outputs, NOISE).sum((1, 2, 3))

    def decode(self, params, z):
        return self.outputs(params, z)


@dataclass(frozen=True)
class Still(Line):
    """Its cells can be damaged, and take steps that change nothing."""

    def step(self, params):
        return lambda cells: cells

    def mean(self, outputs):
        return outputs


def evidence():
    """log p(x) = log N(0, w w' + 0.4^2 I), in float64."""
    w = LINE.astype(np.float64).ravel()
    return multivariate_normal(np.zeros(4), np.outer(w, w) + NOISE**2 * np.eye(4)).logpdf(IMAGE.reshape(3, 4))


def keys(n=3):
    return arrays.keys(0, n)


def bounds(model, samples):
    with jax.ensure_compile_time_eval():
        params = model.init(KEY)
    return map(np.asarray, jax.jit(lambda key: elbo.bounds(model, params, IMAGE, key, samples))(keys()))


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 4])
def test_of_the_posterior_every_weight_is_the_evidence(samples):
    _, _, weighted = bounds(Line(), samples)
    np.testing.assert_allclose(weighted, evidence(), rtol=1e-4)


@pytest.mark.slow
def test_bounds_of_another_posterior():
    """Off by d, the lower bound lies d^2 / 2 var below the evidence, and many weights make up for it."""
    off, draws = 0.3, 4000
    likelihood, kl, weighted = bounds(Line(off), draws)
    var = 1 / (1 + np.square(LINE).sum() / NOISE**2)
    np.testing.assert_allclose(likelihood - kl, evidence() - off**2 / (2 * var), atol=0.1)
    np.testing.assert_allclose(weighted, evidence(), atol=0.05)
    assert (likelihood - kl < weighted - 0.1).all()


@pytest.mark.parametrize(
    ("mean", "logvar", "kl"),
    [(0.0, 0.0, 0.0), (2.0, 0.0, 2.0), (0.0, 1.0, (np.e - 2) / 2), (-1.0, -2.0, np.exp(-2) / 2 + 1)],
)
def test_the_divergence_by_hand(mean, logvar, kl):
    """Of each number of z; five of them add up."""
    full = lambda value: np.full((2, 1, 1, 5), value, np.float32)
    np.testing.assert_allclose(jax.jit(divergence)(full(mean), full(logvar)), [5 * kl] * 2, rtol=1e-6)


def test_uniform_values_have_eight_bits():
    shape = (64, 64, 3)
    assert elbo.bits_per_dim(-np.prod(shape) * np.log(256), shape) == pytest.approx(8)


@pytest.mark.slow
def test_the_loss_by_hand():
    """beta KL - log p(x|z) of one draw, a mean over images; of the bound that is logged beta is no part."""
    task, params = elbo.Task(Line(), Learner(), beta=2.5), {"w": jnp.asarray(LINE)}

    @jax.jit
    def both(image, key):
        moments = task.model.encode(params, image)
        return task.objective(params, image, key), moments, elbo.latent(*moments, key, -1)

    (loss, terms), (mean, logvar), (z, ratio) = jax.device_get(both(IMAGE, keys()))
    likelihood = norm.logpdf(IMAGE, z * LINE[..., None], NOISE).sum((1, 2, 3)).mean()
    kl = (mean**2 + np.exp(logvar) - 1 - logvar).sum((1, 2, 3)).mean() / 2
    assert float(loss) == pytest.approx(2.5 * kl - likelihood, rel=1e-4)
    assert float(terms["elbo"]) == pytest.approx(likelihood - kl, rel=1e-4)
    assert float(terms["bits_per_dim"]) == pytest.approx((kl - likelihood) / 4 / np.log(2), rel=1e-4)
    expected = norm.logpdf(z) - norm.logpdf(z, mean, np.exp(logvar / 2))
    np.testing.assert_allclose(ratio, expected[:, 0, 0, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_half_of_the_likelihood_is_of_what_regrows():
    """Steps that change nothing: what regrows is what the damage left."""
    task, params = elbo.Task(Still(), Learner(), regrow=3), {"w": jnp.asarray(LINE)}

    @jax.jit
    def both(image, key):
        grown = task.model.outputs(params, elbo.latent(*task.model.encode(params, image), key, -1)[0])
        return task.objective(params, image, key), elbo.anywhere(grown, key)

    (loss, terms), left = jax.device_get(both(IMAGE, keys()))
    expected = norm.logpdf(IMAGE, left, NOISE).sum((1, 2, 3)).mean()
    assert terms["regrown_log_likelihood"] == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(terms["kl"] - (terms["log_likelihood"] + expected) / 2, rel=1e-5)
    assert expected != pytest.approx(terms["log_likelihood"], rel=1e-2)


@pytest.mark.slow
def test_damage_is_a_quarter_anywhere_within():
    """All corners of a square of 4 x 3 cells in 8 x 7 are drawn, and no other."""
    left = np.asarray(jax.jit(elbo.anywhere)(np.ones((400, 8, 7, 2), np.float32), keys(400)))
    assert ((left == 0).sum((1, 2)) == 12).all()
    corners = [np.argwhere(one[..., 0] == 0)[0] for one in left]
    assert {tuple(corner) for corner in corners} == {(y, x) for y in range(5) for x in range(5)}
    for (y, x), one in zip(corners, left, strict=True):
        assert not one[y : y + 4, x : x + 3].any()


@pytest.mark.slow
def test_a_step_downhill_and_what_generates():
    """Adam's first step is one rate against the sign of the gradient; without an average the newest generate."""
    task = elbo.Task(Line(), Learner(lr=1e-3))
    before = tiny.state(task)._replace(params={"w": jnp.asarray(LINE)})

    @jax.jit
    def both(state):
        here = jax.random.fold_in(state.key, 0)
        key = jax.vmap(lambda i: jax.random.fold_in(here, i))(jnp.arange(3))
        slopes = jax.value_and_grad(task.objective, has_aux=True)(state.params, IMAGE, key)
        return task.step(state, {"image": IMAGE}), slopes

    (after, metrics), ((loss, _), grads) = jax.device_get(both(before))
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    for a, b, grad in zip(*map(jax.tree.leaves, (after.params, before.params, grads)), strict=True):
        some = np.abs(grad) > 1e-3 * np.abs(grad).max()
        np.testing.assert_allclose((a - b)[some], -1e-3 * np.sign(grad[some]), rtol=0.05)
    jax.tree.map(np.testing.assert_array_equal, task.eval_params(after), after.params)
    assert after.step == 1


def test_what_a_user_can_mend():
    with pytest.raises(UserError, match=r"task\.regrow is for models whose cells can be damaged"):
        elbo.Task(Line(), Learner(), regrow=1)
    with pytest.raises(UserError, match=r"set --config\.model\.image_channels=3"):
        elbo.Task(Line(), Learner()).init(KEY, {"image": np.zeros((1, 2, 2, 3), np.float32)})
    with pytest.raises(UserError, match=r"images are 8 x 4"):
        jax.eval_shape(elbo.Task(doubling.SMALL, Learner()).init, KEY, {"image": np.zeros((1, 8, 4, 3), np.float32)})
