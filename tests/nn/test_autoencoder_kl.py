"""The forms of a decoder that take fewer products and less memory, against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen.models import multislice
from nca_gen.nn.autoencoder_kl import enlarged, one_by_one


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (1, 4, 7, 3)])
def test_an_enlarged_image_is_convolved_without_being_made(shape):
    """Equal to the convolution of four times as many pixels, at the border too."""
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (shape, (3, 3, 3, 5), (5,)))
    names = ("NHWC", "HWIO", "NHWC")
    large = x.repeat(2, 1).repeat(2, 2)
    expected = jax.lax.conv_general_dilated(large, kernel, (1, 1), "SAME", dimension_numbers=names) + bias
    np.testing.assert_allclose(enlarged(x, kernel, bias, jnp.float32), expected, atol=2e-5)


@pytest.mark.slow
def test_one_by_one_is_all_at_once():
    """In the place of the image, and where the result has another size or type."""
    x = jnp.arange(24, dtype=jnp.float32).reshape(3, 2, 4)
    for f in (
        lambda one: 2 * one + one.sum(),
        lambda one: one[:, :, :3] + one.mean(),
        lambda one: one.astype(jnp.bfloat16),
    ):
        expected = jnp.concatenate([f(x[i : i + 1]) for i in range(3)])
        found = jax.jit(lambda x, f=f: one_by_one(f, x))(x)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_lean_decoder_is_the_decoder():
    fields = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "attention": True, "entries": 16}
    model = multislice.Model(**fields)
    params, z = tiny.params(model), jax.random.normal(jax.random.key(0), (2, 5, 2, 3, 4))
    plain, lean = (jax.jit(lambda z, lean=lean: model.opened(params, z, lean))(z) for lean in (False, True))
    assert np.std(plain) > 0.02
    np.testing.assert_allclose(lean, plain, atol=1e-5)
