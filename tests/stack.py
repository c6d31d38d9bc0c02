"""CA-LDM's networks so small that a test takes a moment; seeded weights by the authors' names, and seeded inputs."""

from functools import cache, partial

import jax
import numpy as np
import seeded

from nca_gen.models import ca_ldm, unet
from nca_gen.nn import autoencoder_kl, port

PLANAR = {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4}
TINY = {
    "encoder2d": PLANAR,
    "decoder2d": PLANAR,
    "multislice": PLANAR | {"multipliers": (1, 2)},
    "encoder3d": {"width": 8, "multipliers": (1, 2), "groups": 4},
    "uniaxial": {},  # as published
    "diff3d": {"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention": (2, 4), "heads": 4, "groups": 8},
    "refiner": {"width": 16, "multipliers": (1, 2), "blocks": 2, "attention": (2,), "heads": 4, "groups": 8},
    "critic": {"width": 8},
}
SHAPES = {  # of what goes in: sides that differ
    "encoder2d": (2, 12, 20, 1),
    "decoder2d": (2, 3, 5, 4),
    "multislice": (2, 5, 3, 4, 4),
    "encoder3d": (2, 16, 8, 24, 1),
    "uniaxial": (2, 3, 4, 5, 4),
    "diff3d": (2, 4, 8, 4, 4),
    "refiner": (2, 6, 4, 4),
    "critic": (2, 20, 16, 1),
}


def spelled(name, model):
    """The authors' name of a tensor."""
    if isinstance(model, unet.Model):
        return unet.names(model)(name)
    if isinstance(model, ca_ldm.Planar):
        return autoencoder_kl.compvis(name, len(model.multipliers))
    return name


def shaped(name, tensor):
    """As the authors have it: the maps of an attention are convolutions."""
    if name.endswith(("qkv.weight", "proj_out.weight")) and ".attn_1." not in name:
        return tensor[..., None]
    return tensor[..., None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor


@cache
def state(name, **fields):
    """Weights by the authors' names; without ``fields`` of the published size."""
    model = ca_ldm.model(name, **fields)
    example = model.example()
    drawn = port.random_state(model.network, example, 0)
    named = {spelled(ours, model): tensor for ours, tensor in drawn.items()}
    return {theirs: shaped(theirs, tensor) for theirs, tensor in named.items()}


@cache
def params(name):
    return ca_ldm.published(name, state(name, **TINY[name]), **TINY[name])


def given(name, seed=0, shape=()):
    """What goes in, and for the two diffusions also times, and for the refiner the condition."""
    rng, shape = np.random.RandomState(seed), shape or SHAPES[name]
    x = rng.standard_normal(shape).astype(np.float32)
    if name not in ("diff3d", "refiner"):
        return (x,)
    beside = {"image": rng.standard_normal(shape).astype(np.float32)} if name == "refiner" else None
    return x, np.int32([7, 930])[: len(x)], beside


@partial(jax.jit, static_argnums=0)
def call(model, params, x, t=None, cond=None):
    """What ``model`` says."""
    return model.apply(params, x) if t is None else model.apply(params, x, t, cond, (), None)[0]


def answer(name, *more):
    """Of the small network with the seeded weights."""
    return np.asarray(call(ca_ldm.model(name, **TINY[name]), params(name), *given(name, *more)))


def digits(y):
    """Mean, deviation and ordered sum, and 9 numbers from all over it."""
    return [*seeded.digits(y), *y.ravel()[:: y.size // 9][:9]]
