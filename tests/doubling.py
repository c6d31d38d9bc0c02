"""A VNCA so small that a test takes a moment, an image of 8 bits for it, and what its z deviates by."""

import jax
import numpy as np
import tiny

from nca_gen.models.vnca import Model

SMALL = Model(latent=12, hidden=6, residuals=1, widths=(3, 4), doublings=1, steps=3)  # images of 4 x 4


def params(seed=0):
    """Parameters like those of a trained model; its cells stay of the order of 1."""
    tree = tiny.params(SMALL, seed)
    return tree | {"rule": tree["rule"] | {"last": jax.tree.map(lambda x: 0.2 * x, tree["rule"]["last"])}}


def image(n=2):
    """Values of 8 bits in [-1, 1), the first and the last among them."""
    values = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3))
    values[:, 0, 0], values[:, 0, 1] = 0, 255
    return jax.device_put(np.float32(values / 128 - 1))


def noise(n=2):
    return jax.device_put(np.random.default_rng(1).standard_normal((n, 1, 1, SMALL.latent)).astype(np.float32))
