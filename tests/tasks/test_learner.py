"""How parameters move: learning rates and optimisers in closed form, and the average of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nca_gen.errors import UserError
from nca_gen.tasks.learner import ITERATIONS, Learner, average, ema_decay, looped, packing


def rates(**fields):
    """The learning rate of steps 0 .. 19."""
    return np.asarray(jax.jit(jax.vmap(Learner(**fields).schedule(fields["lr"])))(np.arange(20)))


@pytest.mark.slow
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


def first(learner, params):
    """From a gradient, the first update of ``params``."""
    transform = learner.transform
    return jax.jit(lambda grads: transform.update(grads, transform.init(params), params)[0])


def test_clipping_is_of_the_whole_gradient():
    """A gradient of norm 5 with ``clip`` 1 moves like a fifth of it without; a short one is left alone."""
    params = {"a": np.zeros(3, np.float32), "b": np.zeros((2, 2), np.float32)}
    # eps so large that Adam's step is proportional to the gradient.
    fields = {"lr": 1.0, "b1": 0.0, "b2": 0.0, "eps": 1e6}
    clipped, free = (first(Learner(**fields, **more), params) for more in ({"clip": 1.0}, {}))
    long = {"a": np.float32([3, 0, 0]), "b": np.float32([[0, 4], [0, 0]])}
    short = jax.tree.map(lambda x: x / 10, long)
    fifth = jax.tree.map(lambda x: x / 5, long)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), clipped(long), free(fifth))
    jax.tree.map(np.testing.assert_array_equal, clipped(short), free(short))


@pytest.mark.slow
@pytest.mark.parametrize("muon", [0.0, 0.1])
def test_a_first_moment_of_two_bytes(muon):
    """Of Adam, which it moves as optax says by a moment of one step; all else stays float32."""
    params = jax.device_put({"kernel": np.float32([[1, 2], [3, 4]]), "gain": np.float32([1, 2])})
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    learners = [Learner(lr=0.1, muon=muon, mu_dtype=dtype) for dtype in ("float32", "bfloat16")]
    step = lambda learner: jax.jit(lambda grads: learner.transform.update(grads, learner.init(params), params))(grads)
    (whole, plain), (half, short) = map(step, learners)
    size = lambda state: sum(x.nbytes for x in jax.tree.leaves(state))
    assert size(plain) - size(short) == 2 * 6
    np.testing.assert_allclose(half["gain"], whole["gain"], rtol=2**-8)
    assert {x.dtype for x in jax.tree.leaves(half)} == {np.dtype(np.float32)}


@pytest.mark.slow
def test_muon_turns_kernels_and_nothing_else():
    """Jordan et al. 2024: the step of a kernel (inputs x outputs) is near orthogonal, whatever the gradient's scale.

    Vectors learn by Adam with Nesterov's momentum.
    """
    rng = np.random.default_rng(0)
    params = jax.device_put({"kernel": np.ones((3, 3, 2, 12), np.float32), "gain": np.ones(12, np.float32)})
    grads = jax.tree.map(lambda p: np.float32(rng.standard_normal(p.shape)), params)
    nadam = optax.nadamw(1e-2, 0.9, 0.99, weight_decay=0.0)

    @jax.jit
    def moves(grads):
        """Of three learners, and of a gain under NAdam."""
        ways = ({"muon": 0.5}, {"muon": 1.0}, {"muon": 0.5, "weight_decay": 0.1})
        learners = [Learner(lr=1e-2, b1=0.9, b2=0.99, **more) for more in ways]
        plain = nadam.update(grads["gain"], nadam.init(params["gain"]), params["gain"])[0]
        return *(first(learner, params)(grads) for learner in learners), plain

    mine, twice, decayed, plain = jax.device_get(moves(grads))
    np.testing.assert_allclose(mine["gain"], plain, rtol=1e-5)
    stretch = np.linalg.svd(np.reshape(mine["kernel"], (18, 12)), compute_uv=False)
    assert stretch.min() > 0.6 * 0.5
    assert stretch.max() < 1.3 * 0.5  # of the gradient itself it is 10 times the least
    assert np.vdot(mine["kernel"], grads["kernel"]) < 0
    larger, *_ = moves(jax.tree.map(lambda g: 100 * g, grads))
    np.testing.assert_allclose(larger["kernel"], mine["kernel"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(twice["kernel"], 2 * mine["kernel"], rtol=1e-5)
    # Decay is decoupled: each part by its own rate.
    np.testing.assert_allclose(decayed["kernel"], mine["kernel"] - 0.5 * 0.1, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(decayed["gain"], mine["gain"] - 1e-2 * 0.1, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"clip": 0.1, "weight_decay": 0.1}, {"mu_dtype": "bfloat16"}, {"muon": 0.1}])
def test_small_arrays_move_as_one_as_they_do_alone(fields):
    """A step is optax's own of every array, and its state has the form of older checkpoints."""
    rng = np.random.default_rng(0)
    shapes = {"gain": (3,), "kernel": (2, 5), "large": (64, 65), "none": (0,), "scale": ()}
    params = {name: jnp.float32(rng.standard_normal(shape)) for name, shape in shapes.items()}
    grads = jax.tree.map(lambda p: 2 * p, params)
    learner = Learner(lr=0.1, **fields)

    @jax.jit
    def both(grads, state):
        moves, plain = learner.transform.update(grads, state, params)
        return learner.update(grads, state, params, jnp.int32(0)), (optax.apply_updates(params, moves), plain)

    (moved, state, metrics), (expected, plain) = both(grads, learner.init(params))
    like = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert like((moved, state)) == like((expected, plain))
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-6)
    close = lambda a, b: np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-6)
    jax.tree.map(close, (moved, state), (expected, plain))


@pytest.mark.parametrize("shapes", [[(3,)], [(64, 65)], [(3,), (64, 65)]])
def test_one_small_array_has_nothing_to_go_with(shapes):
    """And a tree is handed on as it is."""
    tree = [np.zeros(shape, np.float32) for shape in shapes]
    pack, unpack = packing(tree)
    assert pack(tree) is tree
    assert unpack(tree) is tree


@pytest.mark.slow
def test_muon_in_a_loop_is_the_library_s():
    """To the same updates and the same state, which keeps the shape that older checkpoints have."""
    muon = optax.contrib.muon(0.5, ns_steps=ITERATIONS)
    params = {"w": np.ones((3, 4), np.float32), "b": np.ones(4, np.float32)}
    grads = jax.tree.map(lambda p: np.float32(np.random.default_rng(0).standard_normal(p.shape)), params)
    state = muon.init(params)
    mine, library = jax.jit(lambda g: [way.update(g, state, params) for way in (looped(muon), muon)])(grads)
    assert jax.tree.structure(mine) == jax.tree.structure(library)
    jax.tree.map(np.testing.assert_array_equal, mine, library)


def test_the_rate_that_a_step_had():
    """With its state and its parameters, of the step that is asked for."""
    learner, params = Learner(lr=0.1, decay=0.5), {"w": np.zeros(2, np.float32)}
    state, update = learner.init(params), jax.jit(learner.update)
    for step, rate in enumerate((0.1, 0.05, 0.025)):
        before = params
        params, state, got = jax.device_get(update({"w": np.float32([1, -1])}, state, params, np.int32(step)))
        assert float(got["lr"]) == pytest.approx(rate)
        assert float(got["grad_norm"]) == pytest.approx(2**0.5)
        np.testing.assert_allclose(params["w"] - before["w"], [-rate, rate], rtol=1e-4)  # Adam's, of a constant slope


def test_warm_up_of_the_average():
    """min(decay, (1 + n) / (10 + n)): 1/10 at first, so the start is soon forgotten."""
    decays, plain = (jax.jit(lambda n, warm=warm: ema_decay(n, 0.99, warm)) for warm in (True, False))
    found = [float(decays(n)) for n in (0, 1, 10, 890, 891, 10_000)]
    assert found == pytest.approx([0.1, 2 / 11, 11 / 20, 891 / 900, 0.99, 0.99], rel=1e-5)
    assert float(plain(0)) == pytest.approx(0.99)


def test_the_average_in_closed_form():
    """Of a ramp p_k = k from 0 on, after n steps of decay d: n - (1 - d^n) d / (1 - d)."""
    ema, d = {"w": np.zeros(3, np.float32)}, 0.75
    move = jax.jit(lambda ema, params, step: average(ema, params, step, d, False))
    for k in range(1, 9):
        ema = move(ema, {"w": np.full(3, k, np.float32)}, k - 1)
        np.testing.assert_allclose(ema["w"], k - (1 - d**k) * d / (1 - d), rtol=1e-5)


def test_a_learner_is_a_static_argument():
    assert hash(Learner(lr=1e-3)) == hash(Learner(lr=1e-3))
    assert Learner(lr=1e-3) == Learner(lr=1e-3) != Learner()
