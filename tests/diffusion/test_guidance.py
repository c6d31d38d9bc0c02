"""Wrappers around a denoiser: identities, and clipping by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import levels

from nca_gen import arrays
from nca_gen.diffusion import guidance
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import x0_of

X = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
KEY = arrays.keys(0, 2)
T = np.array([30, 30])
COND = {"label": np.eye(2, dtype=np.float32)}


def guided(denoise, scale, cond=COND, t=T, memory=()):
    """What comes of the guided denoiser at X."""
    run = jax.jit(lambda x, t, cond, memory, key: guidance.classifier_free(denoise, cond, scale)(x, t, memory, key))
    return jax.device_get(run(X, t, cond, memory, KEY))


def constrained(said, process, codec=Codec(), clip=guidance.static_range, x=X):  # noqa: B008
    """What is left of what a denoiser says at ``x``, and what image that implies."""

    @jax.jit
    def run(said, x, t, key):
        got, _ = guidance.constrained(lambda *_: (said, ()), process, codec, clip)(x, t, (), key)
        return got, x0_of(process, got[..., : x.shape[-1]], x, t)

    return jax.device_get(run(said, x, T, KEY))


def denoiser(calls):
    """Says sin 3x for class 0, x^3 for class 1, cos 2x without; remembers by its own rows."""

    def denoise(x, t, cond, memory, key):
        calls.append(len(x))
        label = cond["label"]
        known = label.sum(-1)[:, None, None, None]
        first = label[:, 0][:, None, None, None]
        said = known * (first * jnp.sin(3 * x) + (1 - first) * x**3) + (1 - known) * jnp.cos(2 * x)
        return jnp.concatenate([said, said + 7], -1) if memory is None else said, memory

    return denoise


TOLD = np.stack([np.sin(3 * X[0]), X[1] ** 3])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_guidance_is_the_line_through_both(scale):
    calls = []
    said, _ = guided(denoiser(calls), scale)
    np.testing.assert_allclose(said, (1 - scale) * np.cos(2 * X) + scale * TOLD, atol=1e-5)
    assert calls == [2 if scale == 1 else 4]


@pytest.mark.slow
@pytest.mark.parametrize("v", [False, True])
def test_away_from_what_young_cells_say(v):
    """p_n + w (p_n - p_k) where the noise is within the levels, p_n elsewhere; variance and memory are of the end."""
    process, asked = Process("cosine", 100), []
    with_variance = lambda said, x: jnp.concatenate([said, x + 7], -1) if v else said

    def aging(x, told, cond, memory, key, age):
        asked.append((age.tolist(), told, cond, memory))
        return with_variance(jnp.sin(x), 0 * x), with_variance(x**3, x), "memory"

    say = guidance.growing(process, aging, guidance.Growth(0.5, 3, (0.2, 0.9)))
    t = jnp.array([1, 50])
    (_, low), (_, high) = (process.levels(i) for i in t)
    assert low < 0.2 < high < 0.9
    output, memory = say(jnp.asarray(X), t, COND, (), KEY)
    expected = X**3 + np.array([0, 0.5])[:, None, None, None] * (X**3 - np.sin(X))
    np.testing.assert_allclose(output[..., :3], expected, atol=1e-5)
    if v:
        np.testing.assert_allclose(output[..., 3:], X + 7, atol=1e-6)
    assert memory == "memory"
    [(age, told, cond, before)] = asked
    assert (age, cond, before) == ([3], COND, ())
    np.testing.assert_array_equal(told, process.told(t))


def test_both_halves_of_an_image_lie_side_by_side():
    """So that a batch dealt to devices stays where it is; and the null half draws numbers of its own."""

    def denoise(x, t, cond, memory, key):
        return x, (x, t, cond, jax.random.key_data(key))

    _, (x, t, cond, words) = guided(denoise, 2.0, t=T[:1])
    np.testing.assert_array_equal(x, np.repeat(X, 2, 0))
    np.testing.assert_array_equal(cond["label"], [[1, 0], [0, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(t, [30] * 4)
    np.testing.assert_array_equal(words[::2], jax.random.key_data(KEY))
    assert len({tuple(w) for w in words.tolist()}) == 4


def test_without_a_condition_there_still_is_the_smaller_image():
    """A stage of a cascade is guided by what else it is told."""
    cond = jax.device_put({"low": X, "low_log_snr": np.float32([1, 2])} | COND)
    free = jax.device_get(guidance.null(cond))
    for field in guidance.LOW:
        np.testing.assert_array_equal(free[field], cond[field])
    assert not free["label"].any()


def test_a_label_map_steers_what_stands_beside_it():
    """Its null condition keeps the picture, which without a map it takes away."""
    picture, shares = jax.device_put(({"image": X + 1}, {"map": np.ones_like(X)}))
    free = jax.device_get(guidance.null(picture | shares | COND))
    np.testing.assert_array_equal(free["image"], X + 1)
    assert not free["map"].any()
    assert not free["label"].any()
    assert not jax.device_get(guidance.null(picture))["image"].any()
    assert guidance.guides(picture | shares, 2.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_smaller_image_alone_leaves_nothing_to_guide(scale):
    """Its null condition keeps all of it: one call on the rows that there are, told of them, with their own keys."""
    sizes, low = [], {"low": X + 1, "low_log_snr": np.float32([1, 2])}

    def denoise(x, t, cond, memory, key):
        sizes.append(len(x))
        return x + cond["low"], jax.random.key_data(key)

    said, words = guided(denoise, scale, low)
    assert sizes == [2]
    np.testing.assert_allclose(said, 2 * X + 1, atol=1e-6)
    np.testing.assert_array_equal(words, jax.random.key_data(KEY))
    guided(lambda x, t, cond, *_: (sizes.append(len(x)) or x, ()), scale, low | COND)
    assert sizes == [2, 2 if scale == 1 else 4]


def test_each_half_remembers_for_itself():
    def denoise(x, t, cond, memory, key):
        return x, memory * 2 + cond["label"].sum(-1)

    _, memory = guided(denoise, 2.0, memory=np.float32([1, 2, 3, 4]))
    np.testing.assert_array_equal(memory, [3, 4, 7, 8])


def test_every_condition_has_its_null():
    """Pictures and levels too; a part that is None stays None, and without a condition there is one call on B rows."""
    sizes = []

    def denoise(x, t, cond, memory, key):
        sizes.append(len(x))
        return x, cond

    _, told = guided(denoise, 2.0, {"image": X + 1, "level": np.float32([0.2, 0.3]), "label": None})
    _, alone = guided(denoise, 2.0, None)
    assert sizes == [4, 2]
    assert told["label"] is None
    np.testing.assert_allclose(told["level"], [0.2, 0, 0.3, 0])
    np.testing.assert_array_equal(told["image"][::2], X + 1)
    np.testing.assert_array_equal(told["image"][1::2], 0 * X)
    assert alone is None


def test_a_variance_is_not_guided():
    said, _ = guided(denoiser([]), 3.0, memory=None)
    np.testing.assert_allclose(said[..., :3], 3 * TOLD - 2 * np.cos(2 * X), atol=1e-5)
    np.testing.assert_allclose(said[..., 3:], TOLD + 7, atol=1e-6)


def test_a_variance_is_not_clipped():
    said, _ = constrained(np.concatenate([3 * X, 5 * X], -1), Process("cosine", 60, "x0"))
    np.testing.assert_allclose(said[..., :3], np.clip(3 * X, -1, 1), atol=1e-5)
    np.testing.assert_array_equal(said[..., 3:], 5 * X)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("clip", [guidance.static_range, guidance.dynamic_range, lambda x0: x0])
def test_nothing_to_clip_changes_nothing(prediction, clip):
    """A denoiser whose x0 lies within [-1, 1] passes through, in its own coordinate."""
    process = Process("cosine", 60, prediction)
    said = implying(process, np.tanh(X))
    np.testing.assert_allclose(constrained(said, process, clip=clip)[0], said, atol=1e-5)


def implying(process, x0):
    """What a denoiser says at X that takes it for ``x0``."""
    a, s = levels(process, T[0])
    return process.predict.target(x0, (X - a * x0) / s, a, s)


def test_what_is_remembered_passes_through():
    process = Process("cosine", 60, "x0")
    denoise = guidance.constrained(lambda x, *_: (x, 7), process, Codec(), guidance.static_range)
    assert jax.jit(denoise)(X, T, (), KEY)[1] == 7


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_clipped_image_is_what_is_implied(prediction):
    process = Process("cosine", 60, prediction)
    _, image = constrained(implying(process, 3 * X), process)
    np.testing.assert_allclose(image, np.clip(3 * X, -1, 1), atol=1e-5)


def test_dynamic_range_by_hand():
    """|x0| = 0, 1, 1, 2, 4: the quantile 0.75 is 2. What is beyond is clipped to it, then all is divided by it."""
    x0 = np.float32([-4, -1, 0, 1, 2]).reshape(1, 5, 1, 1)
    half, nine = jax.jit(lambda x0: [guidance.dynamic_range(x0, q) for q in (0.75, 0.9)])(x0)
    np.testing.assert_allclose(np.ravel(half), [-1, -0.5, 0, 0.5, 1], atol=1e-6)
    # Between two values it is interpolated: 0.9 is 2 + 0.6 * 2 = 3.2.
    np.testing.assert_allclose(np.ravel(nine), [-1, -1 / 3.2, 0, 1 / 3.2, 2 / 3.2], rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.95, 1.0])
def test_quantile_without_sorting(n, quantile):
    rng = np.random.default_rng(n)
    ties = rng.integers(0, 3, (2, n)).astype(np.float32)
    x = np.concatenate([np.abs(rng.normal(size=(2, n))).astype(np.float32), ties, 1e-30 * ties])
    found = jax.jit(guidance.quantile_of, static_argnums=1)(x, quantile)
    np.testing.assert_allclose(found, np.quantile(x.astype(float), quantile, axis=1), rtol=2e-6)


def test_dynamic_range_is_per_sample_and_never_enlarges():
    quiet, loud = np.full((4, 4, 3), 0.3, np.float32), np.full((4, 4, 3), -5, np.float32)
    out = np.asarray(jax.jit(guidance.dynamic_range)(np.stack([quiet, loud])))
    np.testing.assert_allclose(out[0], quiet)
    np.testing.assert_allclose(out[1], np.full((4, 4, 3), -1.0))


def test_static_range():
    clipped = jax.jit(guidance.static_range)(np.float32([[[-3], [0.4], [1.2]]]))
    np.testing.assert_array_equal(np.ravel(clipped), np.float32([-1, 0.4, 1]))


def test_clipping_is_of_pixels_not_of_their_code():
    """With colours standardised, [-1, 1] is a range of the decoded image."""
    process, codec = Process("cosine", 60, "x0"), Codec(mean=(0.5, 0.0, -0.5), std=(0.2, 0.5, 2.0), block=2)
    image = np.random.default_rng(1).uniform(-2, 2, (2, 4, 4, 3)).astype(np.float32)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    said, _ = constrained(encode(image), process, codec, x=np.zeros((2, 2, 2, 12), np.float32))
    np.testing.assert_allclose(decode(said), np.clip(image, -1, 1), atol=1e-5)
