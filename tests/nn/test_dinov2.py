"""DINOv2 against the digits of a straightforward version in torch, which tests/peers has."""

import jax
import numpy as np
import pytest
import seeded

from nca_gen.nn import dinov2


@pytest.mark.slow
@pytest.mark.parametrize(("make", "published"), [(dinov2.vit_s14, 22_056_576), (dinov2.vit_b14, 86_580_480)])
def test_parameters_are_as_many_as_published(make, published):
    assert seeded.count(make(), 28) + make().width == published  # and the mask token


@pytest.mark.slow
def test_the_class_token_has_the_digits_of_torch():
    seeded.agree(seeded.layers(dinov2.vit_s14(), 28), {"cls": (0.01372047, 1.005347, -1.120496)})


def test_positions_have_the_digits_of_torch():
    """torch 2.13's bicubic interpolation of 37 x 37 by 16.1/37 and 5.1/37."""
    grid = np.random.RandomState(0).standard_normal((37 * 37, 1)).astype(np.float32)
    resampled = np.asarray(jax.jit(dinov2.positions, static_argnums=(1, 2))(grid, 16, 5))
    digits = [resampled[5 * i + j, 0] for i, j in ((0, 0), (3, 2), (8, 1), (15, 4))]
    np.testing.assert_allclose(digits, (-0.05036234, 0.02452448, 0.4496182, -0.1280574), atol=1e-5)
    np.testing.assert_allclose(seeded.digits(resampled), (0.01311825, 0.8206719, 0.7267283), atol=1e-5)


def test_positions_at_their_own_size_are_left_alone():
    grid = jax.device_put(np.arange(37.0 * 37)[:, None])
    assert dinov2.positions(grid, 37, 37) is grid


@pytest.mark.parametrize("n", [1, 2, 16, 37, 50])
def test_a_constant_is_resampled_to_itself(n):
    np.testing.assert_allclose(dinov2.resampling(n).sum(1), 1, atol=1e-6)
