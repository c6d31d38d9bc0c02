"""Between images and what a denoiser sees."""

import jax
import numpy as np
import pytest

from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError

STAINED = Codec(mean=(0.3, -0.2, 0.0), std=(0.5, 0.25, 2.0), block=2)


def test_encoding_is_standardised_blocks():
    """By hand: one cell holds its 2 x 2 pixels row by row, each colour less its mean, by its deviation."""
    image = np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32)
    x0 = np.asarray(jax.jit(STAINED.encode)(image))
    assert x0.shape == (2, 2, 3, 12)
    pixels = (image - [0.3, -0.2, 0.0]) / [0.5, 0.25, 2.0]
    expected = np.concatenate([pixels[:, 0:2, 2:4].reshape(2, 4, 3)[:, i] for i in range(4)], -1)
    np.testing.assert_allclose(x0[:, 0, 1], expected, atol=1e-6)
    np.testing.assert_allclose(jax.jit(STAINED.decode)(x0), image, atol=1e-6)


def test_by_default_an_image_is_its_own_code():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 5, 3, 1)).astype(np.float32)
    for code in (Codec().encode, Codec().decode):
        np.testing.assert_array_equal(jax.jit(code)(image), image)


def test_a_block_must_divide():
    with pytest.raises(UserError, match=r"codec\.block=2 does not divide"):
        jax.eval_shape(STAINED.encode, np.zeros((1, 4, 5, 3), np.float32))


def test_sizes():
    """A picture of 4 x 5 pixels is 2 x 3 cells of 2 x 2; 12 channels of a cell are 3 colours, in a volume 24 are."""
    assert STAINED.cells((4, 5)) == (2, 3)
    assert STAINED.colours(12, 2) == STAINED.colours(24, 3) == 3
