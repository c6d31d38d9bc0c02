"""The three autoencoders of CA-LDM's stages: published counts, and each against its parts put together by hand."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stack
import tiny

from nca_gen.errors import UserError
from nca_gen.models import multislice, nhae, vq_vae
from nca_gen.models.multislice import Window

PLANAR = stack.PLANAR | {"entries": 9}
FLAT = vq_vae.Model(**PLANAR)
DEEP = nhae.Model(**PLANAR, volume_width=8, volume_multipliers=(2,), reduce=2, rebuilt=2)
MIXED = multislice.Model(**PLANAR)
KEYS = jax.random.split(jax.random.key(3, impl=tiny.KEYS), 2)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@jax.default_matmul_precision("highest")
def run(f, *args):
    return jax.device_get(jax.jit(f)(*args))


@pytest.mark.slow
def test_as_many_parameters_as_published():
    """Encoder, decoder, codebook, and 20 before and behind it."""
    flat = 34_142_852 + 49_487_873 + 65_536 + 2 * 20
    assert count(tiny.shapes(vq_vae.Model())) == flat
    deep = tiny.shapes(nhae.Model())
    assert count(deep["slices"]) == flat
    assert count(deep) - flat == 7_077_764 + 5_756 + 65_536 + 2 * 20
    mixed = tiny.shapes(multislice.Model())
    assert count(mixed["adaptors"]) == 70_352_812
    assert jax.tree.structure(mixed["slices"]) == jax.tree.structure(tiny.shapes(vq_vae.Model()))


@pytest.mark.slow
def test_a_volume_is_its_slices():
    """To the autoencoder of slices, both ways; what it decodes are entries of the codebook."""
    params, volume = tiny.params(FLAT), tiny.images(0, 2, 3, 8, 12, 1)

    def both(params, volume):
        z, logvar = FLAT.encode(params, volume)
        alone = [FLAT.encode(params, volume[:, i])[0] for i in range(3)]
        q = FLAT.book.apply(params["codebook"], z)[0]
        y = FLAT.decode(params, z), FLAT.decode(params, q), [FLAT.decode(params, z[:, i]) for i in range(3)]
        return z, logvar, alone, *y

    z, logvar, alone, y, of_entries, slices = run(both, params, volume)
    assert z.shape == (2, 3, 2, 3, 4)
    assert (logvar == -np.inf).all()
    np.testing.assert_allclose(z, np.stack(alone, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, np.stack(slices, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_entries, y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_training_sees_of_slices():
    """The image that comes back, and what the codebook costs: 1.25 mean squares, as both weights see them."""
    params, image = tiny.params(FLAT), tiny.images(0, 2, 8, 8, 1)

    def both(params, image):
        z, _ = FLAT.encode(params, image)
        entries = params["codebook"]["embedding"]
        nearest = jnp.square(z[..., None, :] - entries).sum(-1).argmin(-1)
        cost = 1.25 * jnp.square(z - entries[nearest]).mean()
        return FLAT.rebuild(params, image, KEYS), (z, nearest, cost, FLAT.decode(params, z))

    rebuilt, (z, nearest, cost, y) = run(both, params, image)
    np.testing.assert_array_equal(rebuilt.codes, nearest)
    np.testing.assert_array_equal(rebuilt.real, image)
    np.testing.assert_allclose(rebuilt.z, z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rebuilt.fake, y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rebuilt.penalties["codebook"], cost, rtol=1e-4)


@pytest.mark.slow
def test_what_training_sees_of_volumes():
    """Some slices of each, all different; they are those of the whole volume that is decoded, and so are the costs."""
    params, volume = tiny.params(DEEP), tiny.images(0, 2, 8, 8, 12, 1)

    def both(params, volume):
        z, _ = DEEP.encode(params, volume)
        own, said = DEEP.pairs(params, volume)
        whole = DEEP.decode(params, z)
        return DEEP.rebuild(params, volume, KEYS), own, said, whole

    rebuilt, own, said, whole = run(both, params, volume)
    matches = np.abs(rebuilt.real[:, None] - volume.reshape(-1, 8, 12, 1)[None]).max((2, 3, 4)) == 0
    assert (matches.sum(1) == 1).all()
    picked = matches.argmax(1)
    assert len({*picked}) == 4
    assert [*picked // 8] == [0, 0, 1, 1]  # two of each volume
    np.testing.assert_allclose(rebuilt.fake, whole.reshape(-1, 8, 12, 1)[picked], rtol=1e-4, atol=1e-5)
    own, said = (x.reshape(-1, *x.shape[2:])[picked] for x in (own, said))
    np.testing.assert_allclose(rebuilt.penalties["latents"], np.abs(own - said).mean(), rtol=1e-4)
    entries = params["slices"]["codebook"]["embedding"]
    follows = np.square(said[..., None, :] - entries).sum(-1).min(-1).mean() / 4
    np.testing.assert_allclose(rebuilt.penalties["codebook_slices"], 1.25 * follows, rtol=1e-4)
    assert {*rebuilt.penalties} == {"codebook", "codebook_slices", "latents"}


SLOW = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "shape"), [(FLAT, (8, 8)), SLOW(DEEP, (8, 8, 8)), SLOW(MIXED, (5, 8, 8))])
def test_remat_changes_nothing(model, shape):
    """Neither the loss nor a gradient, to rounding."""
    params, image = tiny.params(model), tiny.images(0, 1, *shape, 1)

    def cost(model, params, image):
        rebuilt = model.rebuild(params, image, KEYS[:1])
        return jnp.square(rebuilt.fake - rebuilt.real).mean() + sum(rebuilt.penalties.values())

    models = model, replace(model, remat="block")
    plain, nested = (run(jax.value_and_grad(partial(cost, one)), params, image) for one in models)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(plain))  # of a bias before a norm it is rounding alone
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5 * largest), plain, nested)


def test_windows():
    """Each slice once, in order; of inner windows the middle, at the ends all that is beyond."""
    assert [*multislice.windows(8, 5, 1)] == [Window(0, 0, 3), Window(1, 3, 4), Window(2, 4, 5), Window(3, 5, 8)]
    assert [*multislice.windows(8, 5, 5)] == [Window(0, 0, 5), Window(3, 5, 8)]
    assert [*multislice.windows(5, 5, 1)] == [Window(0, 0, 5)]
    for depth in (5, 6, 11, 64):
        for keep in (1, 3, 5):
            found = [*multislice.windows(depth, 5, keep)]
            assert [d for w in found for d in range(w.first, w.stop)] == [*range(depth)]
            assert all(0 <= w.start <= w.first < w.stop <= w.start + 5 <= depth for w in found)
    assert len([*multislice.windows(512, 5, 1)]) == 508
    with pytest.raises(UserError, match=r"4 slices.*5 \(config\.model\.window\)"):
        [*multislice.windows(4, 5, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 5])
def test_a_volume_is_its_windows(keep):
    params, z = tiny.params(MIXED), tiny.images(0, 2, 8, 2, 3, 4)
    whole = run(partial(MIXED.decode, keep=keep), params, z)
    opened = jax.jit(MIXED.opened)
    for start, first, stop in multislice.windows(8, 5, keep):
        alone = np.asarray(opened(params, z[:, start : start + 5]))[:, first - start : stop - start]
        np.testing.assert_allclose(whole[:, first:stop], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_adaptors_that_are_turned_off():
    """Leave each slice to the decoder that was there before."""
    params, z = tiny.params(MIXED), tiny.images(0, 1, 6, 2, 3, 4)
    off = lambda path, x: np.full_like(x, -40.0) if path[-1].key == "mix" else x
    params = {"slices": params["slices"], "adaptors": jax.tree.map_with_path(off, params["adaptors"])}
    plain = run(FLAT.decode, params["slices"], z)
    np.testing.assert_allclose(run(MIXED.decode, params, z), plain, rtol=1e-4, atol=1e-5)
    decoder = multislice.merged(params["slices"]["decoder"], params["adaptors"])
    rest, adaptors = multislice.parted(decoder)
    jax.tree.map(np.testing.assert_array_equal, (rest, adaptors), (params["slices"]["decoder"], params["adaptors"]))


def test_halves_that_do_not_fit():
    with pytest.raises(UserError, match=r"4 pixels a side of a slice.* of 8 of a volume"):
        nhae.Model(**PLANAR, volume_width=8, volume_multipliers=(1, 1), reduce=2)
