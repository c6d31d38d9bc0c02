"""Times to train at: uniform for every image, and evenly spread over a batch, in every kind of time."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.diffusion import continuous
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import comb

ROOT = jax.random.key(0, impl="threefry2x32")


@cache
def many_times(B, T, n=2000):
    """Times of ``n`` batches, [n, B]."""
    draw = jax.jit(jax.vmap(lambda i: Process("linear", T).draw(jax.random.fold_in(ROOT, i), (B,))))
    return np.asarray(draw(np.arange(n)))


@pytest.mark.parametrize(("B", "T"), [(1, 12), (16, 300), (64, 7)])
def test_times_are_uniform_for_every_image(B, T):
    """Chi squared per position in the batch, and all of them within four deviations; every index within range."""
    t = many_times(B, T)
    assert t.min() >= 0
    assert t.max() < T
    for column in t.T:
        counts = np.bincount(column, minlength=T)
        chi2 = ((counts - len(t) / T) ** 2 / (len(t) / T)).sum()
        assert abs(chi2 - (T - 1)) < 5 * np.sqrt(2 * (T - 1))


@pytest.mark.parametrize(("B", "T"), [(16, 300), (64, 7)])
def test_times_of_a_batch_are_spread(B, T):
    """Of any stretch of times a batch has its share, to within one image."""
    for row in many_times(B, T)[:200]:
        below = np.searchsorted(np.sort(row), np.arange(T + 1))
        assert np.abs(below - B * np.arange(T + 1) / T).max() <= 1 + 1e-6


@pytest.mark.parametrize("offset", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("T", [1, 7, 300, 1000])
def test_times_stay_in_range_at_the_last_bit(monkeypatch, offset, T):
    """1 - 2**-24 is the largest of the uniform numbers; with 16 images 15 + it is 16 in float32."""
    monkeypatch.setattr(arrays, "cell_uniform", lambda *_: jnp.full((1, 1), offset, jnp.float32))
    t = np.asarray(jax.jit(lambda key: Process("linear", T).draw(key, (16,)))(ROOT))
    assert t.min() >= 0
    assert t.max() < T


@pytest.mark.parametrize("offset", [0.0, 0.5, 1 - 2**-24])
def test_continuous_times_are_above_0_and_at_most_1(monkeypatch, offset):
    monkeypatch.setattr(arrays, "cell_uniform", lambda *_: jnp.full((1, 1), offset, jnp.float32))
    t = np.asarray(jax.jit(lambda key: continuous.Process().draw(key, (16,)))(ROOT))
    assert t.min() > 0
    assert t.max() <= 1


@pytest.mark.slow
def test_continuous_times_of_a_batch_are_a_comb():
    """Sixteen teeth, a sixteenth apart, around the circle; turned anew by every key; any shape has them all."""
    draw = jax.jit(lambda i: continuous.Process().draw(jax.random.fold_in(ROOT, i), (16,)))
    first, second = (np.asarray(draw(i)) for i in range(2))
    for t in (first, second):
        np.testing.assert_allclose(np.diff(np.sort(t)), 1 / 16, atol=1e-6)
    assert abs(first - second).max() > 1e-3
    square, line = jax.jit(lambda key: (comb(key, (4, 4)), comb(key, (16,))))(ROOT)
    np.testing.assert_array_equal(np.ravel(square), line)
