"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597) that says the class of every place: what generated images
with label maps are worth is measured on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Ge, Interval
from jaxtyping import Array, Float, Key

from nca_gen import ranges
from nca_gen.errors import UserError
from nca_gen.nn import modules
from nca_gen.nn.blocks import conv, doubled, halved
from nca_gen.ranges import Count, OneOf


class Convolutions(nn.Module):
    """Two convolutions of 3 taps an axis, each before a norm and a ReLU."""

    width: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S _"]) -> Float[Array, "B *S C"]:
        for i in range(2):
            x = conv(x, self.width, dtype=self.dtype, use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(modules.GroupNorm(self.groups, epsilon=1e-5, dtype=self.dtype, name=f"norm{i}")(x))
        return x


class UNet(nn.Module):
    """Images ``[B, *S, C]`` to logits ``[B, *S, K]``; see :class:`Model`."""

    classes: int
    width: int
    levels: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *S K"]:
        block = lambda level, name: Convolutions(self.width << level, self.groups, self.dtype, name=name)
        skips = []
        for level in range(self.levels - 1):
            skips.append(x := block(level, f"down_{level}")(x))
            x = halved(x)
        x = block(self.levels - 1, "middle")(x)
        for level in range(self.levels - 2, -1, -1):
            x = conv(x, self.width << level, 1, dtype=self.dtype, name=f"narrow_{level}")(x)
            x = block(level, f"up_{level}")(jnp.concatenate([doubled(x), skips[level]], -1))
        return conv(x, self.classes, 1, name="last")(x).astype(jnp.float32)


@dataclass(frozen=True)
class Model:
    """A :class:`nca_gen.contracts.Segmenter` of images or volumes of ``image_channels``, which it tells in ``classes``.

    ``width`` channels at the full size, twice as many at each of ``levels``, of which each halves the sides (by means)
    of the one before. ``groups``: of the normalisations, which are of an image by itself. ``dtype``: of products and
    activations; parameters stay float32.
    """

    classes: Annotated[int, Ge(2)]
    image_channels: Count = 1
    width: Count = 16
    levels: Annotated[int, Interval(ge=1, le=8)] = 4
    groups: Count = 8
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    ndim: Annotated[int, Interval(ge=2, le=3)] = 2

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        if self.width % self.groups:
            raise UserError(f"config.model.width is {self.width}: take a multiple of config.model.groups={self.groups}")

    @property
    def multiple(self) -> int:
        """Of which the sides of an image are multiples."""
        return 2 ** (self.levels - 1)

    @property
    def network(self) -> UNet:
        """The flax module."""
        return UNet(self.classes, self.width, self.levels, self.groups, self.dtype)

    def init(self, key: Key[Array, ""]) -> dict:
        """Random parameters."""
        x = jax.ShapeDtypeStruct((1, *[self.multiple] * self.ndim, self.image_channels), jnp.float32)
        return modules.start(self.network, key, x)

    def apply(self, params: dict, x: Float[Array, "B *S C"]) -> Float[Array, "B *S K"]:
        """Logits of every place. Raises UserError for images of another kind."""
        if x.ndim != self.ndim + 2 or x.shape[-1] != self.image_channels:
            raise UserError(
                f"these images have {x.ndim - 2} axes and {x.shape[-1]} channels; the model takes {self.ndim} "
                f"(config.model.ndim) and {self.image_channels} (config.model.image_channels)"
            )
        if any(side % self.multiple for side in x.shape[1:-1]):
            raise UserError(
                f"config.data.patch={x.shape[1:-1]}: sides are multiples of {self.multiple} for a U-Net of "
                f"{self.levels} levels; take others, or fewer config.model.levels"
            )
        logits: Any = self.network.apply({"params": params}, x)
        return logits
