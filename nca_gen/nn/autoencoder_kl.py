"""The KL autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752, appendix G), with diffusers' names.

Each level but the last halves the image; between the levels and the latent lies a block with attention over all places.
CA-LDM (MICCAI 2024) has its halves, without moments, and a decoder that mixes neighbouring slices by adaptors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from math import gcd, prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nca_gen import arrays
from nca_gen.nn import modules
from nca_gen.nn.convolution import convolution

LOGVAR = (-30.0, 20.0)
QUIET = -6.0  # log-variance before training: unit noise would drown a signal that is not there yet
FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of diffusers before 0.18
FORMERLY = re.compile(rf"(.*attentions\.\d+)\.({'|'.join(FORMER)})\.(weight|bias)")
COMPVIS = {  # names of Rombach et al.'s own code, and ours; the levels of its decoder count from the last
    "down.#.block": "down_blocks.#.resnets",
    "down.#.downsample": "down_blocks.#.downsamplers.0",
    "up.#.block": "up_blocks.#.resnets",
    "up.#.upsample": "up_blocks.#.upsamplers.0",
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
    "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
    "mid.attn_1.q": "mid_block.attentions.0.to_q",
    "mid.attn_1.k": "mid_block.attentions.0.to_k",
    "mid.attn_1.v": "mid_block.attentions.0.to_v",
    "nin_shortcut": "conv_shortcut",
    "norm_out": "conv_norm_out",
    "norm3d": "adaptor.norm",  # and of CA-LDM's decoder of several slices
    "conv3d": "adaptor.conv",
    "mix_factor_3d": "adaptor.mix",
    "conv_in_3d": "adaptor_in.conv",
    "mix_factor_3d_in": "adaptor_in.mix",
    "conv_out_3d": "adaptor_out.conv",
    "mix_factor_3d_out": "adaptor_out.mix",
}
LEVEL = re.compile(r"(?:(?<=\bdecoder\.up\.)|(?<=^up\.))\d+")


class Norm(modules.Module):
    """GroupNorm in float32, whatever goes through. Fewer channels than ``groups`` can share have as many as divide."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        B, *S, C = x.shape
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        groups = gcd(self.groups, C)
        y = x.astype(jnp.float32).reshape(B, prod(S), groups, C // groups)
        mean = y.mean((1, 3), keepdims=True)
        rate = jax.lax.rsqrt(jnp.square(y - mean).mean((1, 3), keepdims=True) + 1e-6)
        affine = scale.reshape(groups, -1), bias.reshape(groups, -1)
        return ((y - mean) * (rate * affine[0]) + affine[1]).reshape(x.shape).astype(x.dtype)


def quiet(key: Any, shape: tuple[int], dtype: Any) -> Float[Array, " n"]:
    """The bias of the moments before training: 0 of the mean, ``QUIET`` of the log-variance, their second half."""
    return jnp.where(jnp.arange(*shape) < shape[0] // 2, 0.0, QUIET).astype(dtype)


def conv(width: int, taps: int, dtype: Any, name: str | None = None, ndim: int = 2, **more: Any) -> nn.Conv:
    """A convolution of ``taps`` along each of ``ndim`` axes that keeps the size."""
    how: dict[str, Any] = {"padding": taps // 2, "conv_general_dilated": convolution} | more
    return modules.Conv(width, (taps,) * ndim, **how, dtype=dtype, name=name)


def enlarged(
    x: Float[Array, "B h w I"], kernel: Float[Array, "3 3 I C"], bias: Float[Array, " C"], dtype: Any
) -> Float[Array, "B H W C"]:
    """A convolution of ``x`` twice as large, each place four pixels, from ``x`` itself: 4 products of 9.

    Along an axis, of three taps the first two of an odd pixel lie in one place, and the last two of an even one.
    """
    k = jnp.asarray(kernel, jnp.float32)
    for axis in (0, 2):  # each becomes: even or odd, taps
        a, b, c = jnp.split(k, 3, axis)
        even, odd = jnp.concatenate([a, b + c], axis), jnp.concatenate([a + b, c], axis)
        k = jnp.stack([even, odd], axis)
    k = k.transpose(1, 3, 4, 0, 2, 5).reshape(2, 2, x.shape[-1], -1)
    padded = jnp.pad(x.astype(dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
    names = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(padded, k.astype(dtype), (1, 1), "VALID", dimension_numbers=names)
    B, h, w, _ = x.shape
    y = y.reshape(B, h + 1, w + 1, 2, 2, -1)
    rows = [jnp.stack([y[:, i : i + h, j : j + w, i, j] for j in (0, 1)], 3) for i in (0, 1)]
    return jnp.stack(rows, 2).reshape(B, 2 * h, 2 * w, -1) + bias.astype(dtype)


def one_by_one(f: Callable[[Array], Array], x: Float[Array, "B *S C"]) -> Float[Array, "B *T D"]:
    """``f`` of every image by itself, in the place of the image where that has its size."""
    like, y = jax.eval_shape(f, x[:1]), x
    inside = (like.shape, like.dtype) == (x[:1].shape, x.dtype)
    if not inside:
        # What is to hold the images waits for x, or XLA would have room for those of all layers at once.
        y, x = jax.lax.optimization_barrier((jnp.zeros((len(x), *like.shape[1:]), like.dtype), x))

    def put(i: Array, y: Array) -> Array:
        one = jax.lax.dynamic_slice_in_dim(y if inside else x, i, 1)
        return jax.lax.dynamic_update_slice_in_dim(y, f(one), i, 0)

    return jax.lax.fori_loop(0, len(x), put, y)


class Adaptor(modules.Module):
    """a y + (1 - a) x, where y is a convolution of ``slices`` images that lie one behind the other in the batch.

    It sees 3 of them, zeros beyond the first and the last. ``groups``: of a norm over all of them, which goes before it
    with a SiLU; 0 for the convolution alone. a = sigmoid(``mix``) is 1/2 before training.
    """

    slices: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = x.reshape(-1, self.slices, *x.shape[1:])
        if self.groups:
            y = nn.silu(Norm(self.groups, name="norm")(y))
        y = conv(x.shape[-1], 3, self.dtype, "conv", ndim=3)(y).reshape(x.shape)
        a = nn.sigmoid(self.param("mix", nn.initializers.zeros, (1,))).astype(y.dtype)
        return a * y + (1 - a) * x


class Resnet(nn.Module):
    """x + two convolutions of it, each after norm and SiLU; where the width changes, x through a 1 x 1 one.

    ``slices``, not 0: behind it an :class:`Adaptor` of so many. ``lean``: images go through the rest one by one.
    """

    width: int
    groups: int
    dtype: Any
    slices: int = 0
    lean: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B H W C"]:
        y = x
        if self.lean:
            alone, own = Resnet(self.width, self.groups, self.dtype, parent=None), {"params": self.variables["params"]}
            y = one_by_one(lambda one: jnp.asarray(alone.apply(own, one)), x)
        else:
            for i in (1, 2):
                y = nn.silu(Norm(self.groups, name=f"norm{i}")(y))
                y = conv(self.width, 3, self.dtype, f"conv{i}")(y)
            y = y + (x if x.shape == y.shape else conv(self.width, 1, self.dtype, "conv_shortcut")(x))
        return Adaptor(self.slices, self.groups, self.dtype, name="adaptor")(y) if self.slices else y


def kept(part: Any, remat: bool) -> Any:
    """A module of the class ``part``, of which with ``remat`` the gradient keeps what enters it, and nothing inside."""
    return nn.remat(part) if remat else part


class Attention(nn.Module):
    """x + what every place gathers from all, with one head."""

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        B, H, W, C = x.shape
        rows = Norm(self.groups, name="group_norm")(x).reshape(B, H * W, C)
        affine = partial(modules.Dense, C, dtype=self.dtype)
        q, k, v = (affine(name=name)(rows) for name in ("to_q", "to_k", "to_v"))
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32) * C**-0.5
        gathered = jnp.einsum("bqk,bkc->bqc", nn.softmax(logits).astype(v.dtype), v)
        return x + affine(name="to_out.0")(gathered).reshape(x.shape)


class Middle(nn.Module):
    """Block, attention, block."""

    groups: int
    dtype: Any
    attention: bool
    slices: int = 0
    lean: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        block = partial(kept(Resnet, self.remat), x.shape[-1], self.groups, self.dtype, self.slices, self.lean)
        x = block(name="resnets.0")(x)
        if self.attention:
            x = kept(Attention, self.remat)(self.groups, self.dtype, name="attentions.0")(x)
        return block(name="resnets.1")(x)


class Down(nn.Module):
    """Blocks of one width, then, unless it is the last, half the places."""

    width: int
    layers: int
    groups: int
    dtype: Any
    last: bool
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B h w C"]:
        for i in range(self.layers):
            x = kept(Resnet, self.remat)(self.width, self.groups, self.dtype, name=f"resnets.{i}")(x)
        if self.last:
            return x
        # Padded on the right and below alone.
        return conv(self.width, 3, self.dtype, "downsamplers.0.conv", strides=2, padding=((0, 1), (0, 1)))(x)


class Up(nn.Module):
    """Blocks of one width, then, unless it is the last, twice the places."""

    width: int
    layers: int
    groups: int
    dtype: Any
    last: bool
    slices: int = 0
    lean: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w _"]) -> Float[Array, "B H W C"]:
        block = partial(kept(Resnet, self.remat), self.width, self.groups, self.dtype, self.slices, self.lean)
        for i in range(self.layers):
            x = block(name=f"resnets.{i}")(x)
        if self.last:
            return x
        if self.lean:
            own = self.variables["params"]["upsamplers.0.conv"]
            return one_by_one(lambda one: enlarged(one, own["kernel"], own["bias"], self.dtype), x)
        return conv(self.width, 3, self.dtype, "upsamplers.0.conv")(x.repeat(2, 1).repeat(2, 2))


class Encoder(nn.Module):
    """To ``channels`` of a latent; where they are moments, mean and log-variance, side by side. ``remat``: see
    :func:`kept`."""

    widths: tuple[int, ...]
    layers: int
    channels: int
    groups: int
    attention: bool
    dtype: Any
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B h w C"]:
        x = conv(self.widths[0], 3, self.dtype, "conv_in")(x)
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            x = Down(width, self.layers, self.groups, self.dtype, last, self.remat, name=f"down_blocks.{i}")(x)
        x = Middle(self.groups, self.dtype, self.attention, remat=self.remat, name="mid_block")(x)
        return conv(self.channels, 3, self.dtype, "conv_out")(nn.silu(Norm(self.groups, name="conv_norm_out")(x)))


class Decoder(nn.Module):
    """From the latent to the image; one block a level more than the encoder has.

    ``slices``, not 0: the images of a batch are so many slices each of volumes, and adaptors mix them: behind every
    residual block, the first convolution and the last. ``lean``: parameters that are there already, and no gradient:
    equal to rounding, in fewer products, and what is not mixed goes through one image at a time, in less memory.
    ``remat``: see :func:`kept`.
    """

    widths: tuple[int, ...]
    layers: int
    channels: int
    groups: int
    attention: bool
    dtype: Any
    remat: bool = False
    slices: int = 0
    lean: bool = False

    @nn.compact
    def __call__(self, z: Float[Array, "B h w _"]) -> Float[Array, "B H W C"]:
        more = self.slices, self.lean, self.remat

        def mixed(x: Array, name: str) -> Array:
            return Adaptor(self.slices, 0, self.dtype, name=name)(x) if self.slices else x

        x = mixed(conv(self.widths[-1], 3, self.dtype, "conv_in")(z), "adaptor_in")
        x = Middle(self.groups, self.dtype, self.attention, *more, name="mid_block")(x)
        for i, width in enumerate(self.widths[::-1]):
            last = i == len(self.widths) - 1
            x = Up(width, self.layers + 1, self.groups, self.dtype, last, *more, name=f"up_blocks.{i}")(x)
        x = nn.silu(Norm(self.groups, name="conv_norm_out")(x))
        return mixed(conv(self.channels, 3, self.dtype, "conv_out")(x), "adaptor_out")


class AutoencoderKL(nn.Module):
    """Images ``[B, H, W, image_channels]`` in [-1, 1], latents ``[B, h, w, latent_channels]``; h = H / :attr:`factor`.

    ``patch`` x ``patch`` pixels are the channels of one place of the first level: what a laptop can afford. The
    published network is the default; its ``dtype`` is that of the convolutions, norms and softmax stay float32.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    layers: int = 2
    latent_channels: int = 4
    groups: int = 32
    attention: bool = True
    patch: int = 1
    image_channels: int = 3
    dtype: str = "float32"

    @property
    def factor(self) -> int:
        """Pixels a side of a place of the latent."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def setup(self):
        """Declares the four parts."""
        widths, dtype = tuple(self.width * m for m in self.multipliers), jnp.dtype(self.dtype)
        shared: dict[str, Any] = dict(groups=self.groups, attention=self.attention, dtype=dtype)
        self.encoder = Encoder(widths, self.layers, 2 * self.latent_channels, **shared)
        self.decoder = Decoder(widths, self.layers, self.image_channels * self.patch**2, **shared)
        self.quant_conv = conv(2 * self.latent_channels, 1, dtype, bias_init=quiet)
        self.post_quant_conv = conv(self.latent_channels, 1, dtype)

    def encode(self, image: Float[Array, "B H W C"]) -> tuple[Float[Array, "B h w L"], Float[Array, "B h w L"]]:
        """Mean and log-variance of the latent, the latter within ``LOGVAR``."""
        moments = self.quant_conv(self.encoder(arrays.blocked(image, self.patch))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, -1)
        return mean, jnp.clip(logvar, *LOGVAR)

    def decode(self, z: Float[Array, "B h w L"]) -> Float[Array, "B H W C"]:
        """The image of a latent."""
        return arrays.unblocked(self.decoder(self.post_quant_conv(z)).astype(jnp.float32), self.patch)

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """There and back."""
        return self.decode(self.encode(image)[0])

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest image."""
        return jax.ShapeDtypeStruct((1, self.factor, self.factor, self.image_channels), jnp.float32)


def renamed(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``state`` by the names that diffusers has today; older files, and those of CompVis, have others."""
    last = max((int(level) for name in state for level in LEVEL.findall(name)), default=0)
    return {_today(_turned(name, last)): tensor for name, tensor in state.items()}


def _today(name: str) -> str:
    for theirs, ours in COMPVIS.items():
        name = _exchanged(name, theirs, ours)
    match = FORMERLY.fullmatch(name)
    return f"{match[1]}.{FORMER[match[2]]}.{match[3]}" if match else name


def compvis(name: str, levels: int) -> str:
    """The name in Rombach et al.'s own code of a tensor of ours, of an autoencoder of ``levels`` levels."""
    for theirs, ours in COMPVIS.items():
        name = _exchanged(name, ours, theirs)
    return _turned(name, levels - 1)


def _exchanged(name: str, before: str, after: str) -> str:
    """``name`` with whole words ``after`` in the place of ``before``; # is a number."""
    pattern = re.escape(before).replace(r"\#", r"(\d+)")
    return re.sub(rf"(?<![^.]){pattern}(?![^.])", after.replace("#", r"\1"), name)


def _turned(name: str, last: int) -> str:
    """``name`` with the levels of a decoder in CompVis's code counted from the other end."""
    return LEVEL.sub(lambda level: str(last - int(level[0])), name)
