"""Between images and the x0 that a denoiser sees: standardised, blocks of pixels as the channels of one cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from annotated_types import MinLen
from jaxtyping import Array, Float

from nca_gen import arrays
from nca_gen.errors import UserError
from nca_gen.ranges import Count, Positive


@dataclass(frozen=True)
class Codec:
    """x0 is the image less ``mean``, by ``std`` (one value for all channels, or one each), and a square (cube, ..) of
    ``block`` pixels a side makes the channels of one cell; by default it is the image itself."""

    mean: Annotated[tuple[float, ...], MinLen(1)] = (0.0,)
    std: Annotated[tuple[Positive, ...], MinLen(1)] = (1.0,)
    block: Count = 1

    def encode(self, image: Float[Array, "B *T C"]) -> Float[Array, "B *S D"]:
        """x0 of an image in [-1, 1]. Raises UserError where ``block`` does not divide its sides, and where it has other
        channels than ``mean`` or ``std``."""
        for field, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, image.shape[-1]):
                raise UserError(
                    f"codec.{field} has {len(numbers)} numbers and the images {image.shape[-1]} channels: give one, or "
                    "one each"
                )
        if any(size % self.block for size in image.shape[1:-1]):
            raise UserError(f"codec.block={self.block} does not divide an image of {image.shape[1:-1]}")
        return arrays.blocked((image - jnp.asarray(self.mean)) / jnp.asarray(self.std), self.block)

    def decode(self, x: Float[Array, "B *S D"]) -> Float[Array, "B *T C"]:
        """The image of an x0: the inverse of :meth:`encode`."""
        return arrays.unblocked(x, self.block) * jnp.asarray(self.std) + jnp.asarray(self.mean)

    def cells(self, size: Sequence[int]) -> tuple[int, ...]:
        """Sides in cells of an image of ``size`` pixels, grown to whole blocks."""
        return tuple(-(-side // self.block) for side in size)

    def colours(self, channels: int, axes: int) -> int:
        """Channels of an image of ``axes`` spatial axes whose cells have ``channels``."""
        return channels // self.block**axes
