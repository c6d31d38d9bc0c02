"""How parameters move: learning rates and optimisers in closed form, and the average of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nca_gen.errors import UserError
from nca_gen.tasks.learner import Learner, average, ema_decay


def rates(**fields):
    """The learning rate of steps 0 .. 19."""
    rate = Learner(**fields).schedule(fields["lr"])
    return np.array([float(rate(step)) for step in range(20)])


def test_learning_rates():
    k = np.arange(20)
    np.testing.assert_allclose(rates(lr=0.1), 0.1, rtol=1e-6)
    np.testing.assert_allclose(rates(lr=0.1, decay=0.9), 0.1 * 0.9**k, rtol=1e-5)
    warm = rates(lr=0.1, decay=0.9, warmup=5)
    np.testing.assert_allclose(warm[:5], 0.1 * k[:5] / 5, rtol=1e-5)
    np.testing.assert_allclose(warm[5:], 0.1 * 0.9 ** k[:15], rtol=1e-5)
    np.testing.assert_allclose(rates(lr=0.1, cosine_steps=16)[:17], 0.05 * (1 + np.cos(np.pi * k[:17] / 16)), atol=1e-8)
    both = rates(lr=0.1, cosine_steps=16, warmup=4)
    np.testing.assert_allclose(both[4:17], 0.05 * (1 + np.cos(np.pi * k[:13] / 12)), atol=1e-8)
    np.testing.assert_allclose(both[16:], 0, atol=1e-8)


@pytest.mark.parametrize("cosine_steps", [3, 4])
def test_a_cosine_that_ends_before_the_warm_up(cosine_steps):
    with pytest.raises(UserError, match=f"cosine_steps={cosine_steps} ends before the warm-up of 4 steps"):
        Learner(cosine_steps=cosine_steps, warmup=4)


def test_clipping_is_of_the_whole_gradient():
    """A gradient of norm 5 with ``clip`` 1 moves like a fifth of it without; a short one is left alone."""
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    # eps so large that Adam's step is proportional to the gradient.
    fields = {"lr": 1.0, "b1": 0.0, "b2": 0.0, "eps": 1e6}

    def move(grads, **more):
        transform = Learner(**fields, **more).transform
        return jax.jit(lambda g: transform.update(g, transform.init(params), params)[0])(grads)

    long = {"a": jnp.array([3.0, 0, 0]), "b": jnp.array([[0, 4.0], [0, 0]])}
    short = jax.tree.map(lambda x: x / 10, long)
    fifth = jax.tree.map(lambda x: x / 5, long)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), move(long, clip=1.0), move(fifth))
    jax.tree.map(np.testing.assert_array_equal, move(short, clip=1.0), move(short))


@pytest.mark.slow
def test_muon_turns_kernels_and_nothing_else():
    """Jordan et al. 2024: the step of a kernel (inputs x outputs) is near orthogonal, whatever the gradient's scale.

    Vectors learn by Adam with Nesterov's momentum.
    """
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.ones((3, 3, 2, 12)), "gain": jnp.ones(12)}
    grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32), params)
    fields = {"lr": 1e-2, "b1": 0.9, "b2": 0.99}

    def move(grads, **more):
        transform = Learner(**fields, **more).transform
        return jax.jit(lambda g: transform.update(g, transform.init(params), params)[0])(grads)

    mine, nadam = move(grads, muon=0.5), optax.nadamw(1e-2, 0.9, 0.99, weight_decay=0.0)
    plain = nadam.update(grads["gain"], nadam.init(params["gain"]), params["gain"])[0]
    np.testing.assert_allclose(mine["gain"], plain, rtol=1e-5)
    stretch = np.linalg.svd(np.reshape(mine["kernel"], (18, 12)), compute_uv=False)
    assert stretch.min() > 0.6 * 0.5
    assert stretch.max() < 1.3 * 0.5  # of the gradient itself it is 10 times the least
    assert np.vdot(mine["kernel"], grads["kernel"]) < 0
    larger = move(jax.tree.map(lambda g: 100 * g, grads), muon=0.5)
    np.testing.assert_allclose(larger["kernel"], mine["kernel"], rtol=1e-3, atol=1e-5)
    twice = move(grads, muon=1.0)
    np.testing.assert_allclose(twice["kernel"], 2 * mine["kernel"], rtol=1e-5)
    # Decay is decoupled: each part by its own rate.
    decayed = move(grads, muon=0.5, weight_decay=0.1)
    np.testing.assert_allclose(decayed["kernel"], mine["kernel"] - 0.5 * 0.1, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(decayed["gain"], mine["gain"] - 1e-2 * 0.1, rtol=1e-4, atol=1e-6)


def test_the_rate_that_a_step_had():
    """With its state and its parameters, of the step that is asked for."""
    learner, params = Learner(lr=0.1, decay=0.5), {"w": jnp.zeros(2)}
    state = learner.init(params)
    for step, rate in enumerate((0.1, 0.05, 0.025)):
        before = params
        params, state, got = learner.update({"w": jnp.array([1.0, -1.0])}, state, params, jnp.int32(step))
        assert float(got) == pytest.approx(rate)
        np.testing.assert_allclose(params["w"] - before["w"], [-rate, rate], rtol=1e-4)  # Adam's, of a constant slope


def test_warm_up_of_the_average():
    """min(decay, (1 + n) / (10 + n)): 1/10 at first, so the start is soon forgotten."""
    decays = [float(ema_decay(jnp.int32(n), 0.99, True)) for n in (0, 1, 10, 890, 891, 10_000)]
    assert decays == pytest.approx([0.1, 2 / 11, 11 / 20, 891 / 900, 0.99, 0.99], rel=1e-5)
    assert float(ema_decay(jnp.int32(0), 0.99, False)) == pytest.approx(0.99)


def test_the_average_in_closed_form():
    """Of a ramp p_k = k from 0 on, after n steps of decay d: n - (1 - d^n) d / (1 - d)."""
    ema, d = {"w": jnp.zeros(3)}, 0.75
    for k in range(1, 9):
        ema = average(ema, {"w": jnp.full(3, float(k))}, jnp.int32(k - 1), d, False)
        np.testing.assert_allclose(ema["w"], k - (1 - d**k) * d / (1 - d), rtol=1e-5)


def test_a_learner_is_a_static_argument():
    assert hash(Learner(lr=1e-3)) == hash(Learner(lr=1e-3))
    assert Learner(lr=1e-3) == Learner(lr=1e-3) != Learner()
