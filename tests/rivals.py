"""GeCA's rivals so small that a test takes a moment, and in numpy what their twins share."""

from functools import partial

import jax
import numpy as np
import tiny

from nca_gen.models import dit, unet
from nca_gen.nn import port

CLASSES = 3


def small_dit(**changes):
    """Images of even sides."""
    fields = {"width": 16, "depth": 2, "heads": 2, "classes": CLASSES, "image_channels": 3}
    return dit.Model(**fields | changes)


def small_unet(**changes):
    """Two levels, of which the upper attends: images of even sides."""
    fields = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "head": 16, "classes": CLASSES}
    return unet.Model(**fields | {"image_channels": 3} | changes)


@partial(jax.jit, static_argnums=0)
def call(model, params, x, t, label, memory=(), place=None):
    return model.apply(params, x, t, None if label is None else {"label": label}, memory, None, place)


def start(*shape, channels=3):
    """Two images, an index for each, and their labels: two of the first, none of the second."""
    return tiny.images(0, 2, *shape, channels), np.int32([3, 900]), np.float32([[0, 1, 1], [0, 0, 0]])


def wide(params):
    """In float64."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def affine(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def told(p, t, cond, features):
    """Time and labels, [B, width]."""
    angle = np.outer(t, 10000.0 ** (-np.arange(features // 2) / (features // 2)))
    time = affine(np.concatenate([np.cos(angle), np.sin(angle)], -1), p["time"]["fc0"])
    return affine(silu(time), p["time"]["fc1"]) + affine(affine(cond, p["label"]["fc0"]), p["label"]["fc1"])


def attention(p, x, heads):
    """One image and one head at a time; x [B, N, D]."""
    out = np.empty_like(x)
    for b, tokens in enumerate(x):
        q, k, v = np.split(affine(tokens, p["qkv"]), 3, -1)
        for part in np.split(np.arange(x.shape[-1]), heads):
            weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(len(part)))
            out[b][:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
    return affine(out, p["proj"])


def diffusers_state(model):
    """Random tensors under diffusers' names, without a network of theirs."""
    spelled, state = unet.diffusers(model), {}
    for name, x in port.random_state(model.network, model.example(), 0).items():
        parts = dict(zip("qkv", np.split(x, 3), strict=True)) if ".qkv." in name else {}
        state |= {spelled(name).replace(".qkv.", f".to_{k}."): part for k, part in parts.items()} or {spelled(name): x}
    return state
