"""Wrappers around a denoiser: identities, and clipping by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.diffusion import guidance
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import x0_of

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 3)), jnp.float32)
KEY = arrays.keys(0, 2)
T = jnp.array([30, 30])


COND = {"label": jnp.array([[1.0, 0.0], [0.0, 1.0]])}


def denoiser(calls):
    """Says sin 3x for class 0, x^3 for class 1, cos 2x without; remembers by its own rows."""

    def denoise(x, t, cond, memory, key):
        calls.append((x, t, cond, key))
        label = cond["label"]
        known = label.sum(-1)[:, None, None, None]
        first = label[:, 0][:, None, None, None]
        said = known * (first * jnp.sin(3 * x) + (1 - first) * x**3) + (1 - known) * jnp.cos(2 * x)
        return jnp.concatenate([said, said + 7], -1) if memory is None else said, memory

    return denoise


TOLD = jnp.stack([jnp.sin(3 * X[0]), X[1] ** 3])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_guidance_is_the_line_through_both(scale):
    calls = []
    said, _ = guidance.classifier_free(denoiser(calls), COND, scale)(X, T, (), KEY)
    np.testing.assert_allclose(said, (1 - scale) * jnp.cos(2 * X) + scale * TOLD, atol=1e-5)
    assert len(calls) == 1
    assert len(calls[0][0]) == (2 if scale == 1 else 4)


def test_both_halves_of_an_image_lie_side_by_side():
    """So that a batch dealt to devices stays where it is; and the null half draws numbers of its own."""
    calls = []
    guidance.classifier_free(denoiser(calls), COND, 2.0)(X, T[:1], (), KEY)
    [(x, t, cond, key)] = calls
    np.testing.assert_array_equal(x, np.repeat(X, 2, 0))
    np.testing.assert_array_equal(cond["label"], [[1, 0], [0, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(t, [30] * 4)
    words = jax.random.key_data(key)
    np.testing.assert_array_equal(words[::2], jax.random.key_data(KEY))
    assert len({tuple(w) for w in words.tolist()}) == 4


def test_each_half_remembers_for_itself():
    def denoise(x, t, cond, memory, key):
        return x, memory * 2 + cond["label"].sum(-1)

    _, memory = guidance.classifier_free(denoise, COND, 2.0)(X, T, jnp.array([1.0, 2, 3, 4]), KEY)
    np.testing.assert_array_equal(memory, [3, 4, 7, 8])


def test_every_condition_has_its_null():
    """Pictures and levels too; a part that is None stays None, and without a condition there is one call on B rows."""
    cond = {"image": X + 1, "level": jnp.array([0.2, 0.3]), "label": None}
    calls = []

    def denoise(x, t, cond, memory, key):
        calls.append((len(x), cond))
        return x, memory

    guidance.classifier_free(denoise, cond, 2.0)(X, T, (), KEY)
    guidance.classifier_free(denoise, None, 2.0)(X, T, (), KEY)
    (n, told), alone = calls
    assert n == 4
    assert told["label"] is None
    np.testing.assert_allclose(told["level"], [0.2, 0, 0.3, 0])
    np.testing.assert_array_equal(told["image"][::2], X + 1)
    np.testing.assert_array_equal(told["image"][1::2], 0 * X)
    assert alone == (2, None)


def test_a_variance_is_not_guided():
    said, _ = guidance.classifier_free(denoiser([]), COND, 3.0)(X, T, None, KEY)
    np.testing.assert_allclose(said[..., :3], 3 * TOLD - 2 * jnp.cos(2 * X), atol=1e-5)
    np.testing.assert_allclose(said[..., 3:], TOLD + 7, atol=1e-6)


def test_a_variance_is_not_clipped():
    process = Process("cosine", 60, "x0")

    def denoise(*_):
        return (jnp.concatenate([3 * X, 5 * X], -1), ())

    said, _ = guidance.constrained(denoise, process, Codec(), guidance.static_range)(X, T, (), KEY)
    np.testing.assert_allclose(said[..., :3], np.clip(3 * X, -1, 1), atol=1e-5)
    np.testing.assert_array_equal(said[..., 3:], 5 * X)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("clip", [guidance.static_range, guidance.dynamic_range, lambda x0: x0])
def test_nothing_to_clip_changes_nothing(prediction, clip):
    """A denoiser whose x0 lies within [-1, 1] passes through, in its own coordinate."""
    process = Process("cosine", 60, prediction)
    a, s = (v[0] for v in process.levels(T))
    x0 = jnp.tanh(X)
    said = process.predict.target(x0, (X - a * x0) / s, a, s)
    denoise = guidance.constrained(lambda *_: (said, 7), process, Codec(), clip)
    got, memory = jax.jit(denoise)(X, T, (), KEY)
    np.testing.assert_allclose(got, said, atol=1e-5)
    assert memory == 7


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_clipped_image_is_what_is_implied(prediction):
    process = Process("cosine", 60, prediction)
    a, s = (v[0] for v in process.levels(T))
    x0 = 3 * X
    said = process.predict.target(x0, (X - a * x0) / s, a, s)
    got, _ = guidance.constrained(lambda *_: (said, ()), process, Codec(), guidance.static_range)(X, T, (), KEY)
    np.testing.assert_allclose(x0_of(process, got, X, T), np.clip(x0, -1, 1), atol=1e-5)


def test_dynamic_range_by_hand():
    """|x0| = 0, 1, 1, 2, 4: the quantile 0.75 is 2. What is beyond is clipped to it, then all is divided by it."""
    x0 = jnp.array([-4.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(guidance.dynamic_range(x0, 0.75).ravel(), [-1, -0.5, 0, 0.5, 1], atol=1e-6)
    # Between two values it is interpolated: 0.9 is 2 + 0.6 * 2 = 3.2.
    np.testing.assert_allclose(guidance.dynamic_range(x0, 0.9).ravel(), [-1, -1 / 3.2, 0, 1 / 3.2, 2 / 3.2], rtol=1e-5)


def test_dynamic_range_is_per_sample_and_never_enlarges():
    quiet, loud = jnp.full((4, 4, 3), 0.3), jnp.full((4, 4, 3), -5.0)
    out = guidance.dynamic_range(jnp.stack([quiet, loud]))
    np.testing.assert_allclose(out[0], quiet)
    np.testing.assert_allclose(out[1], np.full((4, 4, 3), -1.0))


def test_static_range():
    np.testing.assert_array_equal(
        guidance.static_range(jnp.array([[[-3.0], [0.4], [1.2]]])).ravel(), np.float32([-1, 0.4, 1])
    )


def test_clipping_is_of_pixels_not_of_their_code():
    """With colours standardised, [-1, 1] is a range of the decoded image."""
    process, codec = Process("cosine", 60, "x0"), Codec(mean=(0.5, 0.0, -0.5), std=(0.2, 0.5, 2.0), block=2)
    image = jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (2, 4, 4, 3)), jnp.float32)
    x = jnp.zeros((2, 2, 2, 12))
    denoise = guidance.constrained(lambda *_: (codec.encode(image), ()), process, codec, guidance.static_range)
    said, _ = denoise(x, T, (), KEY)
    np.testing.assert_allclose(codec.decode(said), np.clip(image, -1, 1), atol=1e-5)
