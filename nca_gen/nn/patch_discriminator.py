"""The discriminator of patches of pix2pix (Isola et al. 2017, arXiv 1611.07004, section 3.2), with its names."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen.nn import modules

normal = nn.initializers.normal(0.02)


class BatchNorm(modules.Module):
    """By the batch's own mean and variance, always: a discriminator is looked at in training alone."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        scale = self.param("scale", lambda key, shape: 1 + normal(key, shape), (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        mean = x.mean((0, 1, 2))
        rate = jax.lax.rsqrt(jnp.square(x - mean).mean((0, 1, 2)) + 1e-5)
        return (x - mean) * (rate * scale) + bias


class PatchDiscriminator(nn.Module):
    """A logit for every patch, larger where it looks real: ``layers`` times half the places, then two convolutions.

    Three layers see patches of 70 x 70 pixels and, 64 wide, have 2,765,633 parameters for 3 channels.
    """

    width: int = 64
    layers: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w 1"]:
        conv = partial(modules.Conv, kernel_size=(4, 4), padding=1, kernel_init=normal)
        x = nn.leaky_relu(conv(self.width, strides=2, name="main.0")(x), 0.2)
        for i in range(1, self.layers + 1):
            place = 3 * i - 1
            stride = 2 if i < self.layers else 1
            x = conv(self.width * min(2**i, 8), strides=stride, use_bias=False, name=f"main.{place}")(x)
            x = nn.leaky_relu(BatchNorm(name=f"main.{place + 1}")(x), 0.2)
        return conv(1, name=f"main.{3 * self.layers + 2}")(x)
