"""The networks of CA-LDM (Huang et al. 2024, MICCAI): volumes of 512 x 512 x 512 by a latent of the whole, its slices,
and a decoder that sees five of them.

A volume [B, D, H, W, 1] becomes z [B, D/8, H/8, W/8, 4] (:class:`Encoder3D`), z a latent for every slice, [B, D, H/8,
W/8, 4] (:class:`Uniaxial`), and windows of these become slices (:class:`MultiSliceDecoder`). Two U-Nets
(:mod:`nca_gen.models.unet`) diffuse: ``DIFF3D`` z, ``REFINER`` the latent of a slice beside what z says of it. Names
and tensors of the authors' weights: :func:`published`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Protocol

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import MinLen
from jaxtyping import Array, Float, Int, Key

from nca_gen import ranges
from nca_gen.errors import UserError, accepted, chosen
from nca_gen.models import unet
from nca_gen.nn import codebook, modules, port, volumes
from nca_gen.nn.autoencoder_kl import Decoder, Encoder, compvis
from nca_gen.nn.codebook import quantise
from nca_gen.nn.patch_discriminator import PatchDiscriminator
from nca_gen.ranges import Count, OneOf

Dtype = Annotated[str, OneOf(("float32", "bfloat16"))]
Remat = Annotated[str, OneOf(("none", "block"))]
Multipliers = Annotated[tuple[Count, ...], MinLen(1)]
DIFFUSES: dict[str, Any] = {"heads": 8, "scale": True, "resizing_blocks": True, "learned_variance": False}
DIFF3D: dict[str, Any] = DIFFUSES | {"ndim": 3, "width": 128, "multipliers": (1, 2, 4, 8), "attention": (4, 8)}
REFINER: dict[str, Any] = DIFFUSES | {"context_channels": 4, "width": 192, "multipliers": (1, 2, 4, 4)}
REFINER |= {"attention": (2, 4, 8)}
MOMENTS = ("*.running_mean", "*.running_var", *port.COUNTERS)  # of batches past, which the critic does not look at


class Network(Protocol):
    """What the networks below have beside their ``apply``."""

    @property
    def network(self) -> nn.Module:
        """The flax module."""
        ...

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest input of :attr:`network`, as a shape."""
        ...

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        return modules.start(self.network, key, self.example())


def fitting(x: Array, what: str, channels: int, factors: tuple[int, ...]) -> None:
    """Raises UserError where ``x`` has not so many ``channels``, or sides that ``factors`` do not divide."""
    chex.assert_rank(x, len(factors) + 2)
    if x.shape[-1] != channels:
        raise UserError(f"the {what} have {x.shape[-1]} channels, and this network takes {channels}")
    if any(n % factor for n, factor in zip(x.shape[1:-1], factors, strict=True)):
        sides, by = ("x".join(map(str, numbers)) for numbers in (x.shape[1:-1], factors))
        raise UserError(f"{what} of {sides} are no multiples of {by}, as this network halves them; pad or crop them")


def grouped(widths: tuple[int, ...], groups: int) -> None:
    """Raises UserError where channels cannot be normalised in so many ``groups``."""
    for width in widths:
        if width % groups:
            raise UserError(f"config.model.groups is {groups}, of which {width} channels are no multiple")


@dataclass(frozen=True)
class Planar:
    """The fields of the autoencoder of slices, which both of its halves have.

    ``multipliers``: of ``width``, the channels of each level, which has ``blocks`` residual blocks, one more in a
    decoder; every level but the last halves the image. ``groups``: of the normalisations. ``attention``: over all
    places, in the middle. ``dtype``: of the products; norms and parameters stay float32. ``remat`` "block": the
    gradient keeps what enters a block, and not what is inside.
    """

    width: Count = 128
    multipliers: Multipliers = (1, 2, 4, 4)
    blocks: Count = 2
    latent_channels: Count = 4
    groups: Count = 32
    attention: bool = True
    image_channels: Count = 1
    dtype: Dtype = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        grouped(self.widths, self.groups)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the largest images first."""
        return tuple(self.width * m for m in self.multipliers)

    @property
    def factor(self) -> int:
        """Pixels a side of a place of the latent."""
        return 2 ** (len(self.multipliers) - 1)

    def half(self, module: Any, channels: int, *more: int) -> Any:
        """The encoder or the decoder of these fields, as the flax ``module`` with so many ``channels`` at its end."""
        how = jnp.dtype(self.dtype), self.remat == "block"
        return module(self.widths, self.blocks, channels, self.groups, self.attention, *how, *more)


class Encoder2D(Planar, Network):
    """Slices in [-1, 1] to latents: 34,142,852 parameters."""

    @property
    def network(self) -> Encoder:
        """The flax module."""
        return self.half(Encoder, self.latent_channels)

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest image."""
        return jax.ShapeDtypeStruct((1, self.factor, self.factor, self.image_channels), jnp.float32)

    def apply(self, params: dict, image: Float[Array, "B H W C"]) -> Float[Array, "B h w L"]:
        """The latent before it is quantised."""
        fitting(image, "images", self.image_channels, (self.factor,) * 2)
        return jnp.asarray(self.network.apply({"params": params}, image), jnp.float32)


class Decoder2D(Planar, Network):
    """Latents to slices, each alone: 49,487,873 parameters."""

    @property
    def network(self) -> Decoder:
        """The flax module."""
        return self.half(Decoder, self.image_channels)

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest latent."""
        return jax.ShapeDtypeStruct((1, 1, 1, self.latent_channels), jnp.float32)

    def apply(self, params: dict, z: Float[Array, "B h w L"]) -> Float[Array, "B H W C"]:
        """The slices."""
        fitting(z, "latents", self.latent_channels, (1, 1))
        return jnp.asarray(self.network.apply({"params": params}, z), jnp.float32)


@dataclass(frozen=True)
class MultiSliceDecoder(Planar, Network):
    """Latents of ``slices`` neighbours to these slices: 119,840,685 parameters, those of :class:`Decoder2D` among them.

    A slice depends on the whole window, by the norms of the adaptors: a window of another length is refused.
    """

    slices: Count = 5

    @property
    def network(self) -> Decoder:
        """The flax module."""
        return self.half(Decoder, self.image_channels, self.slices)

    @property
    def lean(self) -> Decoder:
        """The same where no gradient is taken, in less memory; equal to rounding."""
        return self.half(Decoder, self.image_channels, self.slices, True)

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest window, its slices in the place of a batch."""
        return jax.ShapeDtypeStruct((self.slices, 1, 1, self.latent_channels), jnp.float32)

    def apply(self, params: dict, z: Float[Array, "B k h w L"], lean: bool = False) -> Float[Array, "B k H W C"]:
        """The slices of each window, by the network or by the :attr:`lean` one."""
        fitting(z, "latents", self.latent_channels, (1, 1, 1))
        if z.shape[1] != self.slices:
            raise UserError(f"a window is of {self.slices} slices (config.model.slices), and not of {z.shape[1]}")
        network = self.lean if lean else self.network
        y = jnp.asarray(network.apply({"params": params}, z.reshape(-1, *z.shape[2:])), jnp.float32)
        return y.reshape(*z.shape[:2], *y.shape[1:])


@dataclass(frozen=True)
class Encoder3D(Network):
    """Volumes in [-1, 1] to latents of the whole: 7,077,764 parameters.

    It sees every ``reduce``-th voxel along each axis. ``multipliers``: of ``width``, the channels of each level, all of
    which halve the sides, before ``blocks`` residual blocks. ``groups``: of the normalisations. ``dtype``: of the
    products; norms and parameters stay float32. ``remat``: as in :class:`Planar`.
    """

    width: Count = 64
    multipliers: Multipliers = (2, 4)
    blocks: Count = 1
    latent_channels: Count = 4
    groups: Count = 32
    image_channels: Count = 1
    reduce: Count = 2
    dtype: Dtype = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        grouped(self.widths[1:], self.groups)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the first convolution and of each level."""
        return tuple(self.width * m for m in (1, *self.multipliers))

    @property
    def factor(self) -> int:
        """Voxels a side of a place of the latent."""
        return self.reduce * 2 ** len(self.multipliers)

    @property
    def network(self) -> volumes.Encoder:
        """The flax module, of the volume that is reduced already."""
        how = jnp.dtype(self.dtype), self.remat == "block"
        return volumes.Encoder(self.widths, self.blocks, self.latent_channels, self.groups, *how)

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest volume."""
        side = 2 ** len(self.multipliers)
        return jax.ShapeDtypeStruct((1, side, side, side, self.image_channels), jnp.float32)

    def apply(self, params: dict, volume: Float[Array, "B D H W C"]) -> Float[Array, "B d h w L"]:
        """The latent before it is quantised."""
        fitting(volume, "volumes", self.image_channels, (self.factor,) * 3)
        seen = volume[(slice(None), *(slice(None, None, self.reduce),) * 3)]
        return jnp.asarray(self.network.apply({"params": params}, seen), jnp.float32)


@dataclass(frozen=True)
class Uniaxial(Network):
    """Latents of the whole to one of every slice: 2 to the power of ``levels`` times as many, 5,756 parameters.

    ``blocks`` residual blocks a level. Its norms, in ``groups``, are of the whole volume: a part of a volume becomes
    something else than that part of the whole does. ``dtype``: of the products; norms and parameters stay float32.
    ``remat``: as in :class:`Planar`.
    """

    latent_channels: Count = 4
    levels: Count = 3
    blocks: Count = 1
    groups: Count = 4
    dtype: Dtype = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        grouped((self.latent_channels,), self.groups)

    @property
    def factor(self) -> int:
        """Slices of a place of the latent."""
        return 2**self.levels

    @property
    def network(self) -> volumes.Uniaxial:
        """The flax module."""
        how = jnp.dtype(self.dtype), self.remat == "block"
        return volumes.Uniaxial(self.levels, self.blocks, self.groups, *how)

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest latent."""
        return jax.ShapeDtypeStruct((1, 1, 1, 1, self.latent_channels), jnp.float32)

    def apply(self, params: dict, z: Float[Array, "B d h w L"]) -> Float[Array, "B D h w L"]:
        """The latent of every slice."""
        fitting(z, "latents", self.latent_channels, (1, 1, 1))
        return jnp.asarray(self.network.apply({"params": params}, z), jnp.float32)


@dataclass(frozen=True)
class Critic(Network):
    """Slices to a logit for every patch, larger where it looks real: 661,313 parameters."""

    width: Count = 64
    layers: Count = 2
    image_channels: Count = 1

    def __post_init__(self):
        ranges.check_fields(self, "config.model")

    @property
    def network(self) -> PatchDiscriminator:
        """The flax module."""
        return PatchDiscriminator(self.width, self.layers)

    @property
    def least(self) -> int:
        """Pixels a side of the smallest image, which is one patch."""
        return 3 * 2**self.layers

    def example(self) -> jax.ShapeDtypeStruct:
        """The smallest image."""
        return jax.ShapeDtypeStruct((1, self.least, self.least, self.image_channels), jnp.float32)

    def apply(self, params: dict, image: Float[Array, "B H W C"]) -> Float[Array, "B h w 1"]:
        """The logits."""
        fitting(image, "images", self.image_channels, (1, 1))
        if min(image.shape[1:3]) < self.least:
            raise UserError(f"the critic needs images of {self.least} pixels a side; enlarge config.data.patch")
        return jnp.asarray(self.network.apply({"params": params}, image))


@dataclass(frozen=True)
class Codebook:
    """``entries`` vectors, of which one stands for each place of a latent: 65,536 parameters.

    ``loss``: "published", as the authors weigh it, or "standard"; see :func:`nca_gen.nn.codebook.quantise`.
    """

    entries: Count = 16384
    latent_channels: Count = 4
    loss: Annotated[str, OneOf(codebook.LOSSES)] = "published"

    def __post_init__(self):
        ranges.check_fields(self, "config.model")

    @property
    def network(self) -> nn.Embed:
        """The flax module that holds the vectors."""
        return nn.Embed(self.entries, self.latent_channels)

    def example(self) -> jax.ShapeDtypeStruct:
        """The number of one vector, as a shape."""
        return jax.ShapeDtypeStruct((1,), jnp.int32)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        return {"embedding": codebook.start(key, self.entries, self.latent_channels)}

    def apply(
        self, params: dict, z: Float[Array, "*S L"]
    ) -> tuple[Float[Array, "*S L"], Float[Array, ""], Int[Array, "*S"]]:
        """The nearest vectors, the loss, and the numbers of these vectors."""
        return quantise(z, params["embedding"], codebook.LOSSES[self.loss])


@dataclass(frozen=True)
class Pointwise(Network):
    """A linear map of the channels of every place, as there is one before a codebook and one behind: 20 parameters."""

    latent_channels: Count = 4

    def __post_init__(self):
        ranges.check_fields(self, "config.model")

    @property
    def network(self) -> nn.Dense:
        """The flax module."""
        return nn.Dense(self.latent_channels)

    def example(self) -> jax.ShapeDtypeStruct:
        """One place."""
        return jax.ShapeDtypeStruct((1, self.latent_channels), jnp.float32)

    def apply(self, params: dict, x: Float[Array, "*S L"]) -> Float[Array, "*S L"]:
        """The channels, mixed."""
        return jnp.asarray(self.network.apply({"params": params}, x))


NETWORKS: dict[str, Any] = {
    "encoder2d": Encoder2D(),
    "decoder2d": Decoder2D(),
    "multislice": MultiSliceDecoder(),
    "encoder3d": Encoder3D(),
    "uniaxial": Uniaxial(),
    "diff3d": unet.Model(**DIFF3D),
    "refiner": unet.Model(**REFINER),
    "critic": Critic(),
    "codebook": Codebook(),
    "quant_conv": Pointwise(),
    "post_quant_conv": Pointwise(),
}
QUANTISES = {  # those around a codebook: where they lie in the authors' autoencoders, and how their tensors are called
    "codebook": ("quantize", "quantize.{}.weight"),
    "quant_conv": ("quant_conv", "quant_conv.{}"),
    "post_quant_conv": ("post_quant_conv", "post_quant_conv.{}"),
}


def model(name: str, **fields: Any) -> Any:
    """The network ``name`` of ``NETWORKS``, as published but for ``fields``: of any other size.

    Raises UserError with the nearest for a name or a field that there is not.
    """
    one = chosen(NETWORKS, "network", name)
    return replace(one, **accepted(type(one), f"network {name}", fields))


def published(network: str, state: Mapping[str, Any], **fields: Any) -> dict:
    """Parameters of ``model(network, **fields)`` from the authors' tensors, by their names.

    What stands before all names of the network ("decoder.") is left out, and what lies beside it is of other networks.
    A linear map at a codebook may be a convolution of one tap, in two dimensions or in three. Raises UserError for the
    first tensor that is missing, has another shape, or has no place.
    """
    one = model(network, **fields)
    tensors = {name: np.atleast_1d(np.asarray(tensor)) for name, tensor in state.items()}
    if network in QUANTISES:
        place, spelling = QUANTISES[network]
        return port.variables(below(tensors, place), one.network, one.example(), (), spelling.format)["params"]
    if isinstance(one, unet.Model):
        return unet.published(tensors, one)
    spelled = partial(compvis, levels=len(one.multipliers)) if isinstance(one, Planar) else port.as_it_is
    ignore = MOMENTS if isinstance(one, Critic) else port.COUNTERS
    return port.variables(tensors, one.network, one.example(), ignore, spelled)["params"]


def below(tensors: port.State, place: str) -> port.State:
    """Those of ``place``, without what stands before it in their names. Raises UserError where it is there twice."""
    parts = [(*f".{name}".partition(f".{place}."), tensor) for name, tensor in tensors.items()]
    starts = sorted({start for start, found, _, _ in parts if found})
    if len(starts) > 1:
        both = " and as ".join(f"{start}.{place}".strip(".") for start in starts)
        raise UserError(f"the weights hold this network as {both}: save one of them alone")
    return {f"{place}.{rest}": tensor for _, found, rest, tensor in parts if found}
