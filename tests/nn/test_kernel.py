"""The step of Diff-NCA as a kernel: the plain rule's numbers, what it moves, and where it stays away."""

from functools import partial

import jax
import jax.numpy as jnp
import kernel_traffic
import numpy as np
import pytest
import tiny
from jax.sharding import AbstractDevice, AbstractMesh

from nca_gen import arrays
from nca_gen.nn import kernel

C, H = 8, 16
slow = partial(pytest.param, marks=pytest.mark.slow)


def images(seed, *shape):
    return jax.device_put(tiny.images(seed, *shape))


def weights(model):
    return model.side(model.channels).apply({"params": tiny.params(model)["image"]})


def step(model, n=2, sides=(6, 8), border="reflect"):
    """The change of a step as a function of weights, scalars and state, and these."""
    scalars = images(1, n, 1, 1, 2)
    fire = images(2, 2, *sides, 1) > -1
    return lambda w, s, x: model.change(w)(s, x, fire, border), (weights(model), scalars, images(3, 2, *sides, C))


def close(mine, other, tolerance=1e-6):
    """Answer, and the gradient of each argument: to 1e-6 of the largest number in it."""
    for some, others in zip(mine, other, strict=True):
        atol = tolerance * max(np.abs(x).max() for x in jax.tree.leaves(others))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=atol), some, others)


def both(f, d, *arguments):
    """``f`` and its gradients by a cotangent ``d``, of one program."""

    def run(*arguments):
        answer, pull = jax.vjp(f, *arguments)
        return answer, *pull(d)

    return jax.jit(run)(*arguments)


CASES = [
    ("cell", 2, 16, "reflect"),  # images of two strips of three rows, of two times
    ("group", 1, 4, "wrap"),  # and of two strips of columns, row by row, of one time
    slow("cell", 1, 4, "wrap"),
    slow("group", 2, 48, "reflect"),
    slow("group", 2, 16, "reflect"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "n", "cells", "border"), CASES)
def test_it_is_the_plain_rule(monkeypatch, norm, n, cells, border):
    """Forward, and the gradient of weights, of all that conditions a cell, and of the state: to 1e-6."""
    monkeypatch.setattr(kernel, "ROOM", cells * kernel.each(C, H))
    steps = [step(tiny.diff(norm=norm, rule=rule), n, border=border) for rule in ("kernel", "plain")]
    f, (w, scalars, state) = steps[1]
    _, rise = jax.jvp(lambda scalars: f(w, scalars, state), (scalars,), (jnp.ones_like(scalars),))
    d = jnp.abs(images(4, 2, 6, 8, C)) * jnp.sign(rise)  # or sums over cells would cancel
    mine, plain = (both(f, d, *arguments) for f, arguments in steps)
    assert np.abs(plain[0]).max() > 0.1
    close(mine, plain)


@pytest.mark.slow
def test_few_neighbours_are_taps_of_many():
    """Von Neumann's: four taps of the nine are zero, and have no gradient."""
    models = (tiny.diff(norm="cell", rule=rule, neighbourhood="von_neumann") for rule in ("kernel", "plain"))
    mine, plain = (both(f, jnp.ones((2, 6, 8, C)), *arguments) for f, arguments in map(step, models))
    close(mine, plain)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["cell", "group"])
def test_one_of_many_is_itself(norm):
    """Under vmap, forward and gradient: images of two batches, each as alone."""
    f, (w, scalars, state) = step(tiny.diff(norm=norm, rule="kernel"))
    gradient = jax.grad(lambda x, s: jnp.sum(jnp.sin(f(w, s, x))), (0, 1))
    batches = jnp.stack([state, 2 * state]), jnp.stack([scalars, scalars + 1])
    several, alone = jax.jit(jax.vmap(gradient))(*batches), jax.jit(gradient)
    close(several, jax.tree.map(lambda *x: jnp.stack(x), *(alone(*(x[i] for x in batches)) for i in (0, 1))))


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "remat"), [("group", "seen"), ("cell", "nested")])
def test_a_call_of_the_automaton_is_the_same(norm, remat):
    """In a scan, rematerialised, with masks of cells that fire: prediction and gradient."""
    x, t, key = images(0, 2, 8, 8, 3), jnp.array([3, 8]), arrays.keys(0, 2)

    def call(rule):
        model = tiny.diff(norm=norm, rule=rule, remat=remat, steps=2)
        return both(lambda p, x: model.apply(p, x, t, None, (), key)[0], x, tiny.params(model), x)

    mine, plain = call("kernel"), call("plain")
    close(mine, plain, 4e-6)


@pytest.mark.slow
def test_a_tile_with_its_border_is_the_whole():
    f, (w, scalars, state) = step(tiny.diff(norm="cell", rule="kernel", fire_rate=1.0), sides=(8, 8))
    once = lambda x: kernel.gated(scalars, x, jnp.ones((), bool), "wrap", w=w, dtype=jnp.float32, otherwise=f)
    whole, tile = (jax.jit(once)(x) for x in (state, state[:, 1:7, 2:8]))
    np.testing.assert_allclose(tile[:, 1:-1, 1:-1], whole[:, 2:6, 3:7], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["cell", "group"])
def test_products_in_bf16_are_close(norm):
    d = jnp.abs(images(4, 2, 6, 8, C))  # or sums over cells would cancel
    rough, exact = (
        both(f, d, *arguments)
        for f, arguments in (step(tiny.diff(norm=norm, rule="kernel", dtype=t)) for t in ("bfloat16", "float32"))
    )
    for some, others in zip(rough, exact, strict=True):
        a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (some, others))
        assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
    assert {x.dtype for x in jax.tree.leaves(rough)} == {np.dtype(np.float32)}
    assert np.abs(rough[0] - exact[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("scalars", "state", "backend", "fitting"),
    [
        ((1, 1, 1, 2), (2, 64, 64, 96), "cpu", True),
        ((1, 1, 1, 2), (2, 64, 64, 96), "gpu", False),  # blocks that overlap
        ((1, 1, 1, 2), (2, 64, 64, 96), "tpu", False),  # several devices, as here
        ((1, 64, 64, 4), (2, 64, 64, 96), "cpu", False),  # cells that know where they are
        ((1, 1, 1, 1, 2), (2, 8, 8, 8, 96), "cpu", False),  # volumes
        ((1, 1, 1, 2), (2, 64, 64, 256), "cpu", False),  # weights of 4 MB
    ],
)
def test_where_it_fits(scalars, state, backend, fitting):
    assert kernel.fits(scalars, state, 512, backend) == fitting


def test_on_one_tpu_strips_are_whole_registers(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert [kernel.fits((1, 1, 1, 2), (2, 64, w, 96), 512, "tpu") for w in (64, 66)] == [True, False]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        slow(tiny.diff(norm="cell", ndim=3, rule="kernel", steps=2), (5, 6, 7)),
        slow(tiny.fourier(rule="kernel", steps=2, fourier_steps=2), (8, 8)),
    ],
)
def test_elsewhere_the_fast_rule_answers(model, shape):
    """Of volumes, and of cells that know where they are, bit for bit."""
    x, t, key = images(0, 2, *shape, 3), jnp.array([3, 8]), arrays.keys(0, 2)
    fast = type(model)(**{**vars(model), "rule": "fast"})
    say = jax.jit(lambda m, p: m.apply(p, x, t, None, (), key)[0], static_argnums=0)
    mine, other = (say(m, tiny.params(fast)) for m in (model, fast))
    np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_it_becomes_kernels_of_a_tpu():
    """Lowered for a device that is not here, at the published size: forward, and a gradient of two kernels. What a TPU
    makes of them is not known."""
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    shapes = ((9, 96, 96), (2, 192, 512), (2, 1, 512), (2, 512, 96))
    x, *w = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 66, 66, 96), *shapes))
    how, w = kernel.How(True, jnp.float32, False), kernel.Weights(*w)

    def gradient(f, x, w):
        return jax.grad(lambda x, w: jnp.sum(f(x, w, how)), (0, 1))(x, w)

    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        for f, n in ((partial(kernel.change, how=how), 1), (partial(gradient, kernel.sums), 2)):
            text = jax.jit(f).trace(x, w).lower(lowering_platforms=("tpu",)).as_text()
            assert text.count("tpu_custom_call") == n


def test_what_a_kernel_moves(monkeypatch):
    """By hand: two images of two strips of columns, row by row; weights of each image are read once an image."""
    monkeypatch.setattr(kernel, "ROOM", 4 * kernel.each(C, H))
    how = kernel.How(True, jnp.float32, True)
    one = kernel.call("change", (4, 8, 6, C), 2, H, how)
    assert one.grid == (4, 6)
    cells = 4 * 6 * (3 * 6 + 4) * C  # strips of 3 x 6 cells in, of 1 x 4 out
    assert kernel.moved(one) == 4 * (cells + 9 * C * C + 2 * (2 * C * H + H + H * C))
    back = kernel.call("change_gradient", (4, 8, 6, C), 1, H, how)
    cells = 4 * 6 * (3 * 6 + 3 * 4) * C  # gradients in, and out to cells and what they have seen
    assert kernel.moved(back) == 4 * (cells + 2 * (9 * C * C + 2 * C * H + H + H * C))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["cell", "group"])
def test_it_moves_a_quarter_of_what_single_operations_move(norm):
    """At the published size, beside the form of the fast rule that moves the least, as the compiler counts it."""
    pairs = zip(kernel_traffic.fused(norm), kernel_traffic.unfused(norm, conv="convolved"), strict=True)
    assert [mine <= other / 4 for mine, other in pairs] == [True, True]
