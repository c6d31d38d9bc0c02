"""The U-Net of latent diffusion (Rombach et al. 2022, arXiv 2112.10752): GeCA's second rival, CA-LDM's two diffusions,
and of stacks of slices that of latent video diffusion (Blattmann et al. 2023, arXiv 2304.08818), CA-LDM's third rival.

Its blocks are those of Dhariwal & Nichol 2021 (arXiv 2105.05233), with attention also in the middle. GeCA's paper says
of its LDM-B no more than 17.3 M parameters. The fields of :class:`Model` as given are our reading: 17,302,916 without
labels and without a learned variance. With heads of 8 channels it is diffusers' ``UNet2DModel``, the rival of Diff-NCA
and FourierDiff-NCA (Kalkhof et al. 2024, table 3). Weights under the names of either code: :func:`published`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import MinLen
from jaxtyping import Array, Float, Key, Num

from nca_gen import ranges
from nca_gen.contracts import Condition, Place
from nca_gen.errors import UserError
from nca_gen.nn import modules, port
from nca_gen.nn.blocks import GROUPS, Attention, Norm, Residual, conv, doubled, halved, plain, sparing
from nca_gen.nn.embeddings import Conditioning, TimeEmbedding
from nca_gen.ranges import Axes, Count, Natural, OneOf


class UNet(nn.Module):
    """Fields ``[B, *S, C]`` to ``[B, *S, outputs]``, in any number of dimensions; see :class:`Model` for the rest."""

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    head: int
    heads: int
    groups: int
    scale: bool
    resizing_blocks: bool
    classes: int
    outputs: int
    level: bool
    slicewise: bool
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *S C"],
        t: Num[Array, " b"],
        label: Float[Array, "B n"] | None = None,
        noise: Num[Array, " B"] | None = None,
    ) -> Float[Array, "B *S _"]:
        how = {"dtype": self.dtype}
        run = sparing if self.remat and not self.is_initializing() else plain
        residual = partial(Residual, groups=self.groups, scale=self.scale, **how)
        attention = partial(Attention, groups=self.groups, **how)
        c = Conditioning(4 * self.width, self.classes, self.width, name="condition")(t, label)
        if self.level:
            noise = jnp.zeros((1,)) if noise is None else noise
            c = c + TimeEmbedding(4 * self.width, self.width, name="level")(noise)
        shape = x.shape
        if self.slicewise:  # from here on the slices are the batch
            lines, x = nn.silu(c), x.reshape(-1, *shape[2:])
            own = TimeEmbedding(4 * self.width, self.width, name="slice")(jnp.arange(shape[1]))
            c = (c[:, None] + own).reshape(-1, c.shape[-1])
            c = jnp.tile(c, (len(x) // len(c), 1))
        c = nn.silu(c)

        def along(x: Array, name: str) -> Array:
            if not self.slicewise:
                return x
            y = x.reshape(-1, shape[1], *x.shape[1:])  # [B, D, h, w, C], and below a line along D of every place
            y = jnp.moveaxis(y, 1, -2)
            rows = y.reshape(-1, *y.shape[-2:])
            told = jnp.repeat(lines, len(rows) // len(lines), 0)
            rows = run(residual(x.shape[-1], name=f"{name}_along"), [rows], told)
            return jnp.moveaxis(attend(rows, f"{name}_along").reshape(y.shape), -2, 1).reshape(x.shape)

        def attend(x: Array, name: str) -> Array:
            return run(attention(self.heads or x.shape[-1] // self.head, name=f"{name}_attention"), [x])

        def block(fields: list[Array], level: int, name: str) -> Array:
            x = run(residual(self.width * self.multipliers[level], name=name), fields, c)
            return along(attend(x, name) if 2**level in self.attention else x, name)

        def down(x: Array, name: str) -> Array:
            if self.resizing_blocks:
                return run(residual(x.shape[-1], resize=halved, name=name), [x], c)
            return conv(x, x.shape[-1], stride=2, **how, name=name)(x)

        def up(x: Array, name: str) -> Array:
            if self.resizing_blocks:
                return run(residual(x.shape[-1], resize=doubled, name=name), [x], c)
            return conv(x, x.shape[-1], **how, name=name)(doubled(x))

        x = conv(x, self.width, **how, name="first")(x)
        skips, last = [x], len(self.multipliers) - 1
        for level in range(last + 1):
            for i in range(self.blocks):
                skips.append(x := block([x], level, f"down_{level}_{i}"))
            if level < last:
                skips.append(x := down(x, f"down_{level}"))
        middle = x.shape[-1]
        x = attend(run(residual(middle, name="middle_0"), [x], c), "middle")
        x = along(run(residual(middle, name="middle_1"), [x], c), "middle")
        for level in range(last, -1, -1):
            for i in range(self.blocks + 1):
                x = block([x, skips.pop()], level, f"up_{level}_{i}")
            if level:
                x = up(x, f"up_{level}")
        x = nn.silu(Norm(self.groups, **how, name="last_norm")(x))
        x = conv(x, self.outputs, zero=True, **how, name="last")(x)
        return x.reshape(*shape[:-1], self.outputs).astype(jnp.float32)


M = TypeVar("M", bound="Model")  # typing.Self is more than the checks of tests can take


@dataclass(frozen=True)
class Model:
    """Denoiser (:class:`nca_gen.contracts.Denoiser`) in any number of dimensions.

    ``width`` channels times one of ``multipliers`` at each level, of which each halves the sides of the one before;
    ``blocks`` residual blocks on the way down, one more on the way up. ``attention``: after which factors of halving
    (1, 2, 4, ..) the blocks attend, in heads of ``head`` channels, or in ``heads`` of them where this is not 0.
    ``groups``: of the normalisations. ``scale``: the time is a scale and a shift behind a block's second norm, and not
    added before it. ``resizing_blocks``: residual blocks halve the sides (by means) and double them, and not
    convolutions. ``classes``: columns of the condition "label", 0 for an unconditional model. ``context_channels``: of
    the condition "image", a picture of the same grid that enters beside x_t; 0 for none. ``map_classes``: of the
    condition "map", shares of the classes of a label map, which enter there too. ``level``: whether it is told how
    noisy that picture is, the condition "level". What is left out of a condition is zero. ``learned_variance``: the
    prediction has 2 C channels. ``slicewise``: of three axes the blocks see the slices along the first one by one, each
    told its number, and behind every block a residual block and an attention along that axis mix them; only the other
    two axes are halved. ``remat`` "block": the gradient keeps what enters a block, and not what is inside.
    ``dtype``: of products and activations; moments and parameters stay float32. The time that it is told enters as it
    is.
    """

    width: Count = 64
    multipliers: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 2, 4)
    blocks: Count = 2
    attention: tuple[Count, ...] = (1, 2)
    head: Count = 32
    heads: Natural = 0
    groups: Count = GROUPS
    scale: bool = False
    resizing_blocks: bool = False
    classes: Natural = 0
    context_channels: Natural = 0
    map_classes: Natural = 0
    level: bool = False
    learned_variance: bool = True
    slicewise: bool = False
    remat: Annotated[str, OneOf(("none", "block"))] = "none"
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    image_channels: Count = 4
    ndim: Axes = 2

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        factors = [2**level for level in range(len(self.multipliers))]
        if not {*self.attention} <= {*factors}:
            raise UserError(f"config.model.attention is {self.attention}; the factors of its levels are {factors}")
        by, of = (self.heads, "number of heads") if self.heads else (self.head, "channels of a head")
        if self.width % self.groups or self.width % by:
            raise UserError(
                f"config.model.width is {self.width}; take a multiple of {self.groups}, the number of groups, and of "
                f"{by}, the {of}"
            )
        if self.slicewise and self.ndim != 3:
            raise UserError(f"config.model.slicewise is for volumes, and ndim is {self.ndim}: set ndim to 3")

    @property
    def reads(self) -> int:
        """Channels of x_t."""
        return self.image_channels

    @property
    def predicts(self) -> int:
        """Channels of the prediction."""
        return (2 if self.learned_variance else 1) * self.image_channels

    @property
    def conditions(self) -> Mapping[str, int]:
        """The labels, a column each, a picture, and one number, where it is told them."""
        channels = {"label": self.classes, "image": self.context_channels, "map": self.map_classes}
        channels["level"] = int(self.level)
        return {field: n for field, n in channels.items() if n}

    @property
    def factors(self) -> tuple[int, ...]:
        """Of which the sides of an image are multiples."""
        return tuple(
            1 if self.slicewise and not axis else 2 ** (len(self.multipliers) - 1) for axis in range(self.ndim)
        )

    def inference(self: M) -> M:
        """The model where no gradient is taken: itself."""
        return self

    @property
    def network(self) -> UNet:
        """The flax module."""
        return UNet(
            self.width,
            tuple(self.multipliers),
            self.blocks,
            tuple(self.attention),
            self.head,
            self.heads,
            self.groups,
            self.scale,
            self.resizing_blocks,
            self.classes,
            self.predicts,
            self.level,
            self.slicewise,
            self.remat == "block",
            self.dtype,
        )

    def example(self) -> tuple[Any, ...]:
        """The smallest input of :attr:`network`, as shapes."""
        size = self.factors
        told = self.context_channels + self.map_classes
        x = jax.ShapeDtypeStruct((1, *size, self.image_channels + told), jnp.float32)
        return x, jax.ShapeDtypeStruct((1,), jnp.int32)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        return modules.start(self.network, key, *self.example())

    def load(self, path: str | Path) -> dict:
        """Parameters from a file of diffusers' ``UNet2DModel`` or of Dhariwal & Nichol's code.

        Raises UserError for a file that cannot be read, or holds another network.
        """
        what = "a U-Net of diffusers or of guided-diffusion, and its config.model"
        return port.load(path, partial(published, model=self), what)

    def apply(
        self,
        params: dict,
        x: Float[Array, "B *S C"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Any,
        place: Place | None = None,
    ) -> tuple[Float[Array, "B *S _"], Any]:
        """The prediction at x_t; ``memory`` as it is. ``told``: one time a sample, or one for all.

        ``key`` and ``place`` are not used: the network draws nothing and knows no place. Raises UserError where the
        sides cannot be halved.
        """
        chex.assert_rank(x, self.ndim + 2)
        if any(n % factor for n, factor in zip(x.shape[1:-1], self.factors, strict=True)):
            raise UserError(
                f"images of {'x'.join(map(str, x.shape[1:-1]))} cannot be halved {len(self.multipliers) - 1} times; "
                f"pad the data to a multiple of {self.factors[-1]} or shorten config.model.multipliers"
            )
        cond = cond or {}
        pictures = {"image": self.context_channels, "map": self.map_classes}
        beside = [cond.get(name, jnp.zeros((*x.shape[:-1], n), x.dtype)) for name, n in pictures.items() if n]
        x = jnp.concatenate([x, *beside], -1)
        return self.network.apply({"params": params}, x, told, cond.get("label"), cond.get("level")), memory


def published(state: Mapping[str, Any], model: Model | None = None) -> dict:
    """Parameters from the tensors, by name, of a U-Net of Dhariwal & Nichol's code, or of diffusers' ``UNet2DModel``.

    ``model``: the one that they are of; None, for diffusers' alone: the one that most of them speak of
    (:func:`architecture`). Raises UserError for the first tensor that is missing, has another shape, or has no place.
    """
    tensors = {name: np.asarray(tensor) for name, tensor in state.items()}
    if "conv_in.weight" in tensors:
        model = model or architecture(tensors)
        return port.variables(joined(tensors), model.network, model.example(), spelled=diffusers(model))["params"]
    if model is None:
        raise UserError(
            "the weights lack conv_in.weight: they are of no U-Net of diffusers; say of which model they are"
        )
    params = port.variables(tensors, model.network, model.example(), spelled=names(model))["params"]
    width, heads = model.head, model.heads

    def ordered(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
        """Theirs go by heads, and within each by query, key and value; ours the other way round."""
        if path[-2].key != "qkv":
            return leaf
        each = heads or leaf.shape[-1] // 3 // width
        return leaf.reshape(*leaf.shape[:-1], each, 3, -1).swapaxes(-3, -2).reshape(leaf.shape)

    return jax.tree.map_with_path(ordered, params)


def joined(state: port.State) -> port.State:
    """``state`` of diffusers with query, key and value of each attention in one tensor, in this order, as ours have
    them. UserError where one of the three is missing."""
    rest = {name: x for name, x in state.items() if not re.search(r"\.to_[qkv]\.", name)}
    for query in (name for name in state if ".to_q." in name):
        three = [query.replace(".to_q.", f".to_{part}.") for part in "qkv"]
        if missing := [name for name in three if name not in state]:
            raise UserError(f"the weights lack {missing[0]}: they are of another network")
        rest[query.replace(".to_q.", ".qkv.")] = np.concatenate([state[name] for name in three])
    return rest


def architecture(state: port.State) -> Model:
    """The model of whose tensors, under diffusers' names, ``state`` consists; heads have 8 channels, as there.

    UserError where they are those of no such network.
    """

    def count(pattern: str) -> int:
        return 1 + max((int(found[1]) for found in map(re.compile(pattern).match, state) if found), default=-1)

    def size(name: str, axis: int = 0) -> int:
        if name not in state:
            raise UserError(f"the weights lack {name}: they are of another network")
        return state[name].shape[axis]

    levels, width = range(count(r"down_blocks\.(\d+)\.")), size("conv_in.weight")
    widths = [size(f"down_blocks.{i}.resnets.0.conv1.weight") for i in levels]
    if any(n % width for n in widths):
        raise UserError(f"the weights are of another network: {widths} channels are no multiples of {width}")
    return Model(
        width=width,
        multipliers=tuple(n // width for n in widths),
        blocks=count(r"down_blocks\.0\.resnets\.(\d+)\."),
        attention=tuple(2**i for i in levels if f"down_blocks.{i}.attentions.0.to_q.weight" in state),
        head=HEAD,
        image_channels=size("conv_in.weight", 1),
        learned_variance=size("conv_out.weight") != size("conv_in.weight", 1),
        ndim=state["conv_in.weight"].ndim - 2,
    )


HEAD = 8
"""Channels of a head where diffusers' ``UNet2DModel`` is not told."""

INNER = {  # names within a block: ours, and those of Dhariwal & Nichol's code
    "time.fc0": "0",
    "time.fc1": "2",
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "condition": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "shortcut": "skip_connection",
    "attention.qkv": "qkv",
    "attention.proj": "proj_out",
}


def names(model: Model) -> Callable[[str], str]:
    """Of a tensor of ``model`` by :mod:`nca_gen.nn.port`'s name, the name that it has in Dhariwal & Nichol's code."""
    each, top = model.blocks + 1, len(model.multipliers) - 1  # rows of a level, each way
    places = {"condition": "time_embed", "first": "input_blocks.0.0", "last_norm": "out.0", "last": "out.2"}
    places |= {"middle_0": "middle_block.0", "middle_attention": "middle_block.1", "middle_1": "middle_block.2"}
    for level, i in np.ndindex(top + 1, each):
        rows = {"down": f"input_blocks.{1 + level * each + i}", "up": f"output_blocks.{(top - level) * each + i}"}
        for side, row in rows.items():
            places |= {f"{side}_{level}_{i}": f"{row}.0", f"{side}_{level}_{i}_attention": f"{row}.1"}
        if i == model.blocks:
            halves, doubles = ("", "") if model.resizing_blocks else (".op", ".conv")
            places[f"down_{level}"] = f"{rows['down']}.0{halves}"
            places[f"up_{level}"] = f"{rows['up']}.{1 + (2**level in model.attention)}{doubles}"
    return renamed(places, INNER)


WITHIN = {  # names within a block: ours, and those of diffusers, whose three maps of an attention are joined
    "time.fc0": "linear_1",
    "time.fc1": "linear_2",
    "norm0": "norm1",
    "conv0": "conv1",
    "condition": "time_emb_proj",
    "norm1": "norm2",
    "conv1": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "attention.qkv": "qkv",
    "attention.proj": "to_out.0",
}


def diffusers(model: Model) -> Callable[[str], str]:
    """Of a tensor of ``model`` by :mod:`nca_gen.nn.port`'s name, the name that it has in diffusers' ``UNet2DModel``."""
    top = len(model.multipliers) - 1
    places = {"condition": "time_embedding", "first": "conv_in", "last_norm": "conv_norm_out", "last": "conv_out"}
    places |= {"middle_0": "mid_block.resnets.0", "middle_1": "mid_block.resnets.1"}
    places["middle_attention"] = "mid_block.attentions.0"
    for level in range(top + 1):
        sides = {"down": f"down_blocks.{level}", "up": f"up_blocks.{top - level}"}
        for side, block in sides.items():
            places[f"{side}_{level}"] = f"{block}.{side}samplers.0.conv"
            for i in range(model.blocks + 1):
                places[f"{side}_{level}_{i}"] = f"{block}.resnets.{i}"
                places[f"{side}_{level}_{i}_attention"] = f"{block}.attentions.{i}"
    return renamed(places, WITHIN)


def renamed(places: Mapping[str, str], within: Mapping[str, str]) -> Callable[[str], str]:
    """Of a tensor of ours, the name in another code: blocks by ``places``, and what is in one of them by ``within``."""

    def name(ours: str) -> str:
        place, _, rest = ours.partition(".")
        inner, _, leaf = rest.rpartition(".")
        return ".".join(filter(None, (places.get(place, place), within.get(inner, inner), leaf)))

    return name
