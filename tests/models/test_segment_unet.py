"""The segmenting U-Net: the digits of its twin in PyTorch (tests/peers), and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from nca_gen.errors import UserError
from nca_gen.models.segment_unet import Model
from nca_gen.nn import port

DIGITS = {  # of tests/peers/test_segment_unet.py with PyTorch 2.13.0
    (16, 24): (0.2835609, 0.7328777, 0.03740996),
    (8, 12, 4): (0.4273941, 0.9118842, 0.008770118),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [*DIGITS])
def test_digits_of_the_twin(size):
    model = Model(4, image_channels=2, width=8, levels=3, groups=4, ndim=len(size))
    x = np.random.RandomState(0).standard_normal((2, *size, 2)).astype(np.float32)
    params = port.variables(port.random_state(model.network, x, 1), model.network, x)["params"]
    apply = jax.jit(model.apply)
    logits = np.asarray(apply(params, x))
    seeded.agree({"logits": logits}, {"logits": DIGITS[size]})
    np.testing.assert_allclose(apply(params, x[1:])[0], logits[1], atol=1e-4)  # an image is normalised by itself


@pytest.mark.slow
def test_what_cannot_be_segmented():
    with pytest.raises(UserError, match=r"multiple of config\.model\.groups=8"):
        Model(3, width=12)
    with pytest.raises(UserError, match="classes must be at least 2; got 1"):
        Model(1)
    model = Model(3, width=8, levels=3)
    params = jax.eval_shape(model.init, jax.random.key(0))
    for shape, told in (
        ((1, 8, 8, 2), r"2 axes and 2 channels; the model takes 2 .* and 1"),
        ((1, 8, 8, 8, 1), r"3 axes"),
        ((1, 8, 10, 1), r"\(8, 10\): sides are multiples of 4 for a U-Net of 3 levels"),
    ):
        with pytest.raises(UserError, match=told):
            jax.eval_shape(model.apply, params, jnp.zeros(shape))
