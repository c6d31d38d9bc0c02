"""Full attention against its definition in float64, its gradient against the slope, and its memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.nn import attention


def fields(seed, b, n, m, h, c):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, k, h, c)).astype(np.float32) for k in (n, m, m)]


def definition(q, k, v):
    logits = np.einsum("bqhc,bkhc->bhqk", q, k)
    weights = np.exp(logits / np.sqrt(q.shape[-1]))
    return np.einsum("bhqk,bkhc->bqhc", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("queries", [256, 4, 3])
def test_the_definition(queries):
    """All queries at once, in parts that fill up, and in parts of which the last is not full."""
    q, k, v = fields(0, 2, 8, 5, 3, 4)
    mine = jax.jit(partial(attention.attention, queries=queries))(q, k, v)
    np.testing.assert_allclose(mine, definition(*map(np.float64, (q, k, v))), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("queries", [256, 3])
def test_the_gradient_is_the_slope(queries):
    """Central differences along a random direction of each input, in float64."""
    x, rng = [np.float64(f) for f in fields(1, 2, 8, 5, 3, 4)], np.random.default_rng(2)

    def loss(y):
        return (y**2).sum()

    gradients = jax.jit(jax.grad(lambda *x: loss(attention.attention(*x, queries=queries)), (0, 1, 2)))(
        *map(np.float32, x)
    )
    for i, g in enumerate(gradients):
        way = rng.standard_normal(x[i].shape)
        ends = (loss(definition(*(a + h * way if a is x[i] else a for a in x))) for h in (1e-5, -1e-5))
        slope = (next(ends) - next(ends)) / 2e-5
        assert float((g * way).sum()) == pytest.approx(slope, rel=1e-4)


def test_large_logits_do_not_overflow():
    """One key stands out by far: its value is the answer, and nothing pulls at the query."""
    q, k, v = fields(3, 1, 2, 5, 1, 4)
    k[:, 2] = 0
    k[0, 2, 0, 0], q[..., 0] = 1e4, 10
    answer, dq = jax.jit(jax.value_and_grad(lambda q, k, v: attention.attention(q, k, v)[0, 0, 0, 0]))(q, k, v)
    assert float(answer) == pytest.approx(float(v[0, 2, 0, 0]), rel=1e-6)
    np.testing.assert_array_equal(dq, 0)


def test_bf16_is_close():
    q, k, v = fields(0, 2, 8, 8, 2, 4)
    rough = jax.jit(attention.attention)(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
    assert rough.dtype == jnp.bfloat16
    error = np.abs(np.float64(rough) - definition(q, k, v)).max()
    assert 1e-4 < error < 0.05


@pytest.mark.slow
def test_memory_grows_with_the_tokens_alone():
    """Nothing of N x N: of four times the tokens about four times the memory."""

    def peak(n):
        x = jax.ShapeDtypeStruct((1, n, 1, 4), jnp.float32)
        gradient = jax.grad(lambda *x: attention.attention(*x, queries=16).sum(), (0, 1, 2))
        return jax.jit(gradient).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    large = peak(1024)
    assert large < 5 * peak(256)
    assert large < 1024 * 1024


@pytest.mark.slow
def test_zero_and_named_parameters():
    """``zero``: only the last map starts at zero."""
    module, x = attention.SelfAttention(2, zero=True), np.ones((1, 3, 8), np.float32)
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    assert {n: p["kernel"].shape for n, p in params.items()} == {"qkv": (8, 24), "proj": (8, 8)}
    assert [n for n, p in params.items() if not np.any(p["kernel"])] == ["proj"]
