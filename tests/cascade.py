"""The networks of URCDM's cascades, as published and so small that a test takes a moment; seeded weights and inputs."""

from functools import cache, partial

import jax
import numpy as np

from nca_gen.models import efficient_unet
from nca_gen.nn import port

CONTEXT = 3  # channels of the surroundings, which the lowest magnification has not
FIRST = {"width": 256, "multipliers": (1, 2, 3, 4), "blocks": 3}
FIRST |= {"attention": (False, True, True, True), "cross_attention": (False, True, True, True)}
LATER = {"width": 128, "multipliers": (1, 2, 4, 8), "efficient": True, "low_resolution": True}
SECOND = {"blocks": 2, "attention": (False, False, False, True), "cross_attention": (False, False, True, True)}
THIRD = {"blocks": (2, 4, 6, 8), "attention": False, "cross_attention": (False, False, False, True)}
KINDS = {"first": FIRST, "second": LATER | SECOND, "third": LATER | THIRD}

SMALL = {"width": 16, "multipliers": (1, 2), "cross_attention": (False, True)}
SMALLER = SMALL | {"efficient": True, "low_resolution": True, "blocks": (1, 2)}
TINY = {
    "first": SMALL | {"blocks": 2, "attention": (False, True), "context_channels": CONTEXT},
    "second": SMALLER | {"attention": (False, True), "context_channels": CONTEXT},
    "third": SMALLER | {"attention": False},
}


@cache
def state(model):
    """Weights by imagen-pytorch's names."""
    return port.random_state(model.network, model.example(), 0)


@cache
def params(model):
    return efficient_unet.published(state(model), model)


def inputs(model, side):
    """Two images ``[2, side, side, 3]``, their log-SNR, and all that the model can be told of them."""
    rng = np.random.RandomState(side)
    x, context, low = rng.standard_normal((3, 2, side, side, 3)).astype(np.float32)
    told = {"context": context, "low": low, "low_log_snr": np.float32([1.5, -0.5])}
    return x, np.float32([-3.0, 2.0]), {field: told[field] for field in model.conditions}


@partial(jax.jit, static_argnums=0)
def call(model, params, x, log_snr, cond):
    return model.apply(params, x, log_snr, cond, (), None)[0]
