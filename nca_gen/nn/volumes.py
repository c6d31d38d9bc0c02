"""A volume's latent, and the slices of it (CA-LDM, MICCAI 2024): borders are repeated, and one axis alone is refined.

Parameters have the names of the authors' weights, for :mod:`nca_gen.nn.port`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nca_gen import arrays
from nca_gen.nn import modules
from nca_gen.nn.autoencoder_kl import Norm, conv, kept
from nca_gen.nn.convolution import convolution

Around = Sequence[tuple[int, int]]  # voxels before and behind, along each axis


def repeated(x: Float[Array, "B *S C"], margins: Around) -> Float[Array, "B *T C"]:
    """``x`` with its border repeated so many voxels around it, the ``margins``."""
    return jnp.pad(x, ((0, 0), *margins, (0, 0)), mode="edge")


def inner(width: int, taps: int, dtype: Any, name: str) -> nn.Conv:
    """A convolution of volumes where all taps lie within; see :func:`repeated`."""
    return conv(width, taps, dtype, name, ndim=3, padding=0)


class Halving(modules.Module):
    """A convolution of 4 taps a side and stride 2, where all taps lie within: the sides are even.

    It is one of 2 taps over blocks of 2 voxels a side. So its gradient is a convolution too, and not one over a volume
    with zeros in between, for which XLA has no fast program on CPUs: 50 times the time, at 8 channels
    (findings/xla_cpu_gradient_of_strided_volumes.sh).
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B *T C"]) -> Float[Array, "B *S K"]:
        n, channels = x.ndim - 2, x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), ((4,) * n + (channels, self.width)))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        blocks, within = range(0, 2 * n, 2), range(1, 2 * n, 2)
        kernel = kernel.reshape(*(2,) * (2 * n), channels, self.width)
        kernel = kernel.transpose(*blocks, *within, 2 * n, 2 * n + 1).reshape(*(2,) * n, -1, self.width)
        x, kernel, bias = (y.astype(self.dtype) for y in (arrays.blocked(x, 2), kernel, bias))
        return convolution(x, kernel, (1,) * n, "VALID") + bias


class Doubling(modules.Module):
    """A transposed convolution of 4 taps a side that makes ``strides`` voxels of one, 1 or 2 along each axis.

    Its border must be repeated (:func:`around`). Where it makes two, every other voxel hears the even taps, and those
    between the odd ones: a convolution each, for the reason that :class:`Halving` has. Its kernel is stored as for a
    transposed one, [4, 4, 4, width, channels].
    """

    width: int
    strides: tuple[int, int, int]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B d h w C"]) -> Float[Array, "B D H W K"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, 4, self.width, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        flipped, phases = jnp.flip(kernel, (0, 1, 2)).swapaxes(-1, -2), [*product(*map(range, self.strides))]
        some = lambda phase: flipped[tuple(slice(i, None, n) for i, n in zip(phase, self.strides, strict=True))]
        taps = jnp.concatenate([some(phase) for phase in phases], -1)
        x, taps, bias = (y.astype(self.dtype) for y in (x, taps, bias))
        y = convolution(x, taps, (1,) * 3, "VALID")
        sides = [side - n + 1 for side, n in zip(y.shape[1:-1], self.strides, strict=True)]
        own = lambda y, phase: y[(slice(None), *(slice(i, i + side) for i, side in zip(phase, sides, strict=True)))]
        y = jnp.stack([own(part, phase) for part, phase in zip(jnp.split(y, len(phases), -1), phases, strict=True)], 4)
        y = y.reshape(len(y), *sides, *self.strides, self.width).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return y.reshape(len(y), *(side * n for side, n in zip(sides, self.strides, strict=True)), -1) + bias


def around(strides: Sequence[int]) -> Around:
    """The border that :class:`Doubling` needs repeated: the sides become ``strides`` times as long."""
    return [((5 - stride) // 2, (4 - stride) // 2) for stride in strides]


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
    sides and has ``blocks`` residual blocks. ``remat``: :func:`nca_gen.nn.autoencoder_kl.kept`."""

    widths: tuple[int, ...]
    blocks: int
    channels: int
    groups: int
    dtype: Any
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B *T _"]) -> Float[Array, "B *S C"]:
        edge = [(1, 1)] * 3
        x = inner(self.widths[0], 3, self.dtype, "conv_first.conv")(repeated(x, edge))
        for i, width in enumerate(self.widths[1:]):
            x = Halving(width, self.dtype, name=f"conv_blocks.{i}.down.conv")(repeated(x, edge))
            for j in range(self.blocks):
                name = f"conv_blocks.{i}.res{j + 1 if j else ''}"
                x = kept(Residual, self.remat)(self.groups, self.dtype, name=name)(x)
        x = nn.silu(Norm(self.groups, name="final_block.0")(x))
        return conv(self.channels, 3, self.dtype, "final_block.2", ndim=3)(x)  # zeros around, here alone


class Uniaxial(nn.Module):
    """Latents with ``2**levels`` times as many slices; the norms are of the whole volume, which so cannot be tiled."""

    levels: int
    blocks: int
    groups: int
    dtype: Any
    remat: bool = False

    @nn.compact
    def __call__(self, z: Float[Array, "B d h w C"]) -> Float[Array, "B D h w C"]:
        strides = (2, 1, 1)
        x = nn.silu(Norm(self.groups, name="final_block.0")(z))
        for i in range(self.levels):
            up = Doubling(z.shape[-1], strides, self.dtype, name=f"conv_blocks.{i}.up.convt")
            x = up(repeated(x, around(strides)))
            for j in range(self.blocks):
                name = f"conv_blocks.{i}.res{j + 1 if j else ''}"
                x = kept(Residual, self.remat)(self.groups, self.dtype, name=name)(x)
        return x


class Decoder(nn.Module):
    """Latents to volumes, the way back of :class:`Encoder`: ``widths`` are those of the levels, of which each doubles
    the sides and has ``blocks`` residual blocks."""

    widths: tuple[int, ...]
    blocks: int
    channels: int
    groups: int
    dtype: Any
    remat: bool = False

    @nn.compact
    def __call__(self, z: Float[Array, "B *S C"]) -> Float[Array, "B *T _"]:
        edge, strides = [(1, 1)] * 3, (2, 2, 2)
        x = inner(self.widths[0], 3, self.dtype, "conv_first.conv")(repeated(z, edge))
        x = nn.silu(Norm(self.groups, name="final_block.0")(x))
        for i, width in enumerate(self.widths):
            up = Doubling(width, strides, self.dtype, name=f"conv_blocks.{i}.up.convt")
            x = up(repeated(x, around(strides)))
            for j in range(self.blocks):
                name = f"conv_blocks.{i}.res{j + 1}"
                x = kept(Residual, self.remat)(self.groups, self.dtype, name=name)(x)
        return inner(self.channels, 3, self.dtype, "conv_last.conv")(repeated(x, edge))
