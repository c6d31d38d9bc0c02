"""A volume's latent, and the slices of it (CA-LDM, MICCAI 2024): borders are repeated, and one axis alone is refined.

Parameters have the names of the authors' weights, for :mod:`nca_gen.nn.port`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen import arrays
from nca_gen.nn import modules
from nca_gen.nn.autoencoder_kl import Norm, conv

Around = Sequence[tuple[int, int]]  # voxels before and behind, along each axis


def repeated(x: Float[Array, "B *S C"], around: Around) -> Float[Array, "B *T C"]:
    """``x`` with its border repeated so many voxels ``around`` it."""
    return jnp.pad(x, ((0, 0), *around, (0, 0)), mode="edge")


def inner(width: int, taps: int, dtype: Any, name: str) -> nn.Conv:
    """A convolution of volumes where all taps lie within; see :func:`repeated`."""
    return conv(width, taps, dtype, name, ndim=3, padding=0)


class Halving(modules.Module):
    """A convolution of 4 taps a side and stride 2, where all taps lie within: the sides are even.

    It is one of 2 taps over blocks of 2 voxels a side. So its gradient is a convolution too, and not one over a volume
    with zeros in between, for which XLA has no fast program on CPUs: 190 times the time, at 8 channels.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *T C"]) -> Float[Array, "B *S K"]:
        n, channels = x.ndim - 2, x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), ((4,) * n + (channels, self.width)))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        outer, inner = range(0, 2 * n, 2), range(1, 2 * n, 2)
        kernel = kernel.reshape(*(2,) * (2 * n), channels, self.width)
        kernel = kernel.transpose(*outer, *inner, 2 * n, 2 * n + 1).reshape(*(2,) * n, -1, self.width)
        x, kernel, bias = (y.astype(self.dtype) for y in (arrays.blocked(x, 2), kernel, bias))
        axes = "DHW"[-n:]
        layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        return jax.lax.conv_general_dilated(x, kernel, (1,) * n, "VALID", dimension_numbers=layout) + bias


class Doubling(modules.Module):
    """A transposed convolution of 4 taps a side that doubles the slices, [B, n + 2, ..] to [B, 2 n, ..].

    Every other slice it makes hears the even taps along D, and those between the odd ones: a convolution each, for the
    reason that :class:`Halving` has. Its kernel is stored as for a transposed one, [4, 4, 4, width, channels].
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B d H W C"]) -> Float[Array, "B D h w C"]:
        width = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, 4, width, width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        taps = jnp.flip(kernel, (0, 1, 2)).swapaxes(-1, -2)
        x, taps, bias = (y.astype(self.dtype) for y in (x, jnp.concatenate([taps[0::2], taps[1::2]], -1), bias))
        y = jax.lax.conv_general_dilated(x, taps, (1,) * 3, "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))
        y = jnp.stack([y[:, :-1, ..., :width], y[:, 1:, ..., width:]], 2)
        return y.reshape(y.shape[0], -1, *y.shape[3:]) + bias


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
            x = Halving(width, self.dtype, name=f"conv_blocks.{i}.down.conv")(repeated(x, around))
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
            x = Doubling(self.dtype, name=f"conv_blocks.{i}.up.convt")(repeated(x, [(1, 1), (2, 1), (2, 1)]))
            for j in range(self.blocks):
                x = Residual(self.groups, self.dtype, name=f"conv_blocks.{i}.res{j + 1 if j else ''}")(x)
        return x
