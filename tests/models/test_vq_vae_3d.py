"""The autoencoder of whole volumes: its counts by hand, and what training sees against its parts put together."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen.errors import UserError
from nca_gen.models import vq_vae_3d

SMALL = vq_vae_3d.Model(
    width=4, multipliers=(1, 2), blocks=1, latent_channels=3, groups=2, image_channels=2, entries=9, rebuilt=2
)
KEYS = jax.random.split(jax.random.key(3, impl=tiny.KEYS), 2)


@jax.default_matmul_precision("highest")
def run(f, *args):
    return jax.device_get(jax.jit(f)(*args))


def count(model):
    """Parameters, from the fields alone: kernels of 3, and of 4 where the sides change."""
    conv = lambda a, b, taps=3: taps**3 * a * b + b
    residual = lambda a: 2 * (conv(a, a) + 2 * a)
    first, *widths = model.encoder.widths
    down = sum(conv(a, b, 4) + model.blocks * residual(b) for a, b in zip([first, *widths], widths, strict=False))
    up = sum(
        conv(a, b, 4) + (model.blocks + 1) * residual(b)
        for a, b in zip([widths[-1], *widths[::-1]], widths[::-1], strict=False)
    )
    ends = conv(model.image_channels, first) + 2 * widths[-1] + conv(widths[-1], model.latent_channels)
    ends += conv(model.latent_channels, widths[-1]) + 2 * widths[-1] + conv(widths[0], model.image_channels)
    return down + up + ends + model.entries * model.latent_channels


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMALL, vq_vae_3d.Model()])
def test_as_many_parameters_as_its_fields_say(model):
    assert sum(x.size for x in jax.tree.leaves(tiny.shapes(model))) == count(model)
    assert count(vq_vae_3d.Model()) == 6_068_521


@pytest.mark.slow
def test_what_training_sees():
    """Some slices of each volume, all different, of the volume that is decoded; and how far all of it is."""
    params, volume = tiny.params(SMALL), tiny.images(0, 2, 8, 4, 12, 2)

    def both(params, volume):
        z, logvar = SMALL.encode(params, volume)
        entries = params["codebook"]["embedding"]
        nearest = jnp.square(z[..., None, :] - entries).sum(-1).argmin(-1)
        cost = 1.25 * jnp.square(z - entries[nearest]).mean()
        whole = SMALL.decode(params, z), SMALL.decoded(params, entries[nearest])
        return SMALL.rebuild(params, volume, KEYS), z, logvar, nearest, cost, whole

    rebuilt, z, logvar, nearest, cost, (whole, of_entries) = run(both, params, volume)
    assert z.shape == (2, 2, 1, 3, 3)
    assert (logvar == -np.inf).all()
    np.testing.assert_array_equal(rebuilt.codes, nearest)
    np.testing.assert_allclose(of_entries, whole, rtol=1e-4, atol=1e-5)
    matches = np.abs(rebuilt.real[:, None] - volume.reshape(-1, 4, 12, 2)[None]).max((2, 3, 4)) == 0
    assert (matches.sum(1) == 1).all()
    picked = matches.argmax(1)
    assert len({*picked}) == 4
    assert [*picked // 8] == [0, 0, 1, 1]  # two of each volume
    np.testing.assert_allclose(rebuilt.fake, whole.reshape(-1, 4, 12, 2)[picked], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rebuilt.penalties["codebook"], cost, rtol=1e-4)
    np.testing.assert_allclose(rebuilt.penalties["volume"], np.abs(whole - volume).mean(), rtol=1e-4)
    assert {*rebuilt.penalties} == {"codebook", "volume"}


@pytest.mark.slow
def test_equal_places_are_equal_voxels():
    """Every fourth one, as transposed convolutions make them two by two, twice; as far from the ends as these reach."""
    params, z = tiny.params(SMALL), np.broadcast_to(np.float32([0.3, -1.0, 0.5]), (1, 1, 1, 12, 3))
    y = run(SMALL.decode, params, z)[0]
    assert y.shape == (4, 4, 48, 2)
    assert np.ptp(y, 2).max() > 0.1
    np.testing.assert_allclose(y[:, :, 16:28], y[:, :, 20:32], atol=1e-5)
    assert np.abs(y[:, :, :4] - y[:, :, 20:24]).max() > 1e-3


@pytest.mark.slow
def test_remat_changes_nothing():
    params, volume = tiny.params(SMALL), tiny.images(0, 1, 4, 4, 8, 2)

    def cost(model, params, volume):
        rebuilt = model.rebuild(params, volume, KEYS[:1])
        return jnp.square(rebuilt.fake - rebuilt.real).mean() + sum(rebuilt.penalties.values())

    plain, nested = (
        run(jax.value_and_grad(partial(cost, model)), params, volume)
        for model in (SMALL, replace(SMALL, remat="block"))
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), plain, nested)


@pytest.mark.slow
def test_volumes_that_do_not_fit():
    with pytest.raises(UserError, match=r"groups is 3, of which 4 channels are no multiple"):
        replace(SMALL, groups=3)
    with pytest.raises(UserError, match=r"volumes of 8x8x6 are no multiples of 4x4x4"):
        jax.eval_shape(SMALL.encode, tiny.shapes(SMALL), jax.ShapeDtypeStruct((1, 8, 8, 6, 2), np.float32))
