"""The critic of patches: published counts."""

import jax
import numpy as np

from nca_gen.nn.patch_discriminator import BatchNorm, PatchDiscriminator


def test_parameters():
    """pix2pix publishes 2,768,705 for 6 channels; 3 channels are 3 x 16 x 64 fewer."""
    shapes = jax.eval_shape(PatchDiscriminator().init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 2_768_705 - 3 * 16 * 64


def test_logits_of_an_image():
    """30 x 30 of 256 x 256 pixels, as pix2pix has them."""
    shapes = jax.eval_shape(
        lambda x: PatchDiscriminator().init_with_output(jax.random.key(0), x)[0], np.zeros((1, 256, 256, 3), np.float32)
    )
    assert shapes.shape == (1, 30, 30, 1)


def test_each_channel_is_normalised_by_the_batch():
    """To a mean and deviation of its own."""
    x = np.random.RandomState(0).standard_normal((3, 8, 8, 2)).astype(np.float32)
    norm = BatchNorm()
    params = {"params": {"scale": np.float32([2, 3]), "bias": np.float32([5, 7])}}
    y = np.asarray(jax.jit(norm.apply)(params, 10 * x + 4))
    np.testing.assert_allclose(y.mean((0, 1, 2)), [5, 7], atol=1e-4)
    np.testing.assert_allclose(y.std((0, 1, 2)), [2, 3], atol=1e-4)
