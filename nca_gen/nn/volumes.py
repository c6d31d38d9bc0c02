"""A volume's latent, and the slices of it (CA-LDM, MICCAI 2024): borders are repeated, and one axis alone is refined.

Parameters have the names of the authors' weights, for :mod:`nca_gen.nn.port`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen.nn import modules
from nca_gen.nn.autoencoder_kl import Norm, conv

Around = Sequence[tuple[int, int]]  # voxels before and behind, along each axis


def repeated(x: Float[Array, "B *S C"], around: Around) -> Float[Array, "B *T C"]:
    """``x`` with its border repeated so many voxels ``around`` it."""
    return jnp.pad(x, ((0, 0), *around, (0, 0)), mode="edge")


def inner(width: int, taps: int, dtype: Any, name: str, stride: int = 1) -> nn.Conv:
    """A convolution of volumes where all taps lie within; see :func:`repeated`."""
    return conv(width, taps, dtype, name, ndim=3, padding=0, strides=stride)


class Residual(nn.Module):
    """x + two convolutions of it, each after norm and SiLU."""

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        y = x
        for i in (1, 2):
            y = nn.silu(Norm(self.groups, name=f"norm{i}")(y))
            y = inner(x.shape[-1], 3, self.dtype, f"conv{i}.conv")(repeated(y, [(1, 1)] * 3))
        return x + y


class Encoder(nn.Module):
    """Volumes to latents: ``widths`` are those of the first convolution and of every level, of which each halves the
    sides and has ``blocks`` residual blocks."""

    widths: tuple[int, ...]
    blocks: int
    channels: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *T _"]) -> Float[Array, "B *S C"]:
        around = [(1, 1)] * 3
        x = inner(self.widths[0], 3, self.dtype, "conv_first.conv")(repeated(x, around))
        for i, width in enumerate(self.widths[1:]):
            x = inner(width, 4, self.dtype, f"conv_blocks.{i}.down.conv", stride=2)(repeated(x, around))
            for j in range(self.blocks):
                x = Residual(self.groups, self.dtype, name=f"conv_blocks.{i}.res{j + 1 if j else ''}")(x)
        x = nn.silu(Norm(self.groups, name="final_block.0")(x))
        return conv(self.channels, 3, self.dtype, "final_block.2", ndim=3)(x)  # zeros around, here alone


class Uniaxial(nn.Module):
    """Latents with ``2**levels`` times as many slices; the norms are of the whole volume, which so cannot be tiled."""

    levels: int
    blocks: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, z: Float[Array, "B d h w C"]) -> Float[Array, "B D h w C"]:
        x = nn.silu(Norm(self.groups, name="final_block.0")(z))
        for i in range(self.levels):
            up = modules.ConvTranspose(
                z.shape[-1],
                (4, 4, 4),
                (2, 1, 1),
                [(0, 0)] * 3,
                transpose_kernel=True,
                dtype=self.dtype,
                name=f"conv_blocks.{i}.up.convt",
            )
            x = up(repeated(x, [(1, 1), (2, 1), (2, 1)]))
            for j in range(self.blocks):
                x = Residual(self.groups, self.dtype, name=f"conv_blocks.{i}.res{j + 1 if j else ''}")(x)
        return x
