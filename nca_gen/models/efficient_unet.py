"""The efficient U-Net of Imagen (Saharia et al. 2022, arXiv 2205.11487), of which URCDM's cascades are made.

A network of URCDM (MICCAI 2024) is imagen-pytorch's without its text part: :func:`published` reads the weights. It is
told the log-SNR, and, of a smaller image, that image and the log-SNR to which noise was added to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from statistics import mode
from typing import Annotated, Any, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, MinLen
from jaxtyping import Array, Float, Key, Num

from nca_gen import ranges
from nca_gen.contracts import Condition, Place
from nca_gen.errors import UserError
from nca_gen.nn import modules, port
from nca_gen.nn.efficient import GROUPS, TOKENS, Fourier, Linear, Residual, Transformer, conv, down, first, up
from nca_gen.ranges import Axes, Count, Natural, OneOf

TEXT = ("attn_pool.*", "null_text_embed", "null_text_hidden")  # of a network that can read; here it never does


class UNet(nn.Module):
    """Fields ``[B, *S, C]`` to ``[B, *S, outputs]``, in any number of dimensions; see :class:`Model` for the rest."""

    width: int
    multipliers: tuple[int, ...]
    blocks: tuple[int, ...]
    attention: tuple[bool, ...]
    cross_attention: tuple[bool, ...]
    efficient: bool
    heads: int
    head: int
    outputs: int
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *S C"],
        log_snr: Float[Array, " B"],
        context: Float[Array, "B *S D"] | None = None,
        low: tuple[Float[Array, "B *S C"], Float[Array, " B"]] | None = None,
    ) -> Float[Array, "B *S _"]:
        how, heads = {"dtype": self.dtype}, (self.heads, self.head)
        residual = nn.remat(Residual) if self.remat else Residual
        transformer = nn.remat(Transformer) if self.remat else Transformer
        levels, widths = range(len(self.multipliers)), [self.width * m for m in (1, *self.multipliers)]
        inner = self.width * (4 if low is None else 8)

        def time(name: str, log_snr: Array) -> tuple[Array, Array]:
            """A time as a code [B, inner] and as tokens."""
            hidden = Fourier(name=f"{name}_hiddens.0")(log_snr)
            hidden = nn.silu(Linear(inner, name=f"{name}_hiddens.1")(hidden))
            tokens = Linear(TOKENS * self.width, name=f"{name}_tokens.0")(hidden)
            return Linear(inner, name=f"{name}_cond.0")(hidden), tokens.reshape(x.shape[0], TOKENS, self.width)

        c, tokens = time("to_time", log_snr)
        if low is not None:
            more, others = time("to_lowres_time", low[1])
            c, tokens = c + more, jnp.concatenate([tokens, others], 1)
        c, tokens = nn.silu(c), modules.LayerNorm(epsilon=1e-5, name="norm_cond")(tokens)

        def opening(x: Array, width: int, level: int, name: str) -> Array:
            heard = tokens if self.cross_attention[level] else None
            return residual(width, *heads, **how, name=name)(x, c, heard)

        def gated(x: Array, width: int, name: str) -> Array:
            return residual(width, *heads, **how, gated=True, name=name)(x, c, None)

        def attended(x: Array, level: int, name: str) -> Array:
            return transformer(*heads, **how, name=name)(x, tokens) if self.attention[level] else x

        smaller = [] if low is None else [low[0]]
        x = jnp.concatenate([*([] if context is None else [context]), x, *smaller], -1)
        x = start = first(x, self.width, self.dtype, "init_conv.convs")
        if self.efficient:
            x = gated(x, self.width, "init_resnet_block")
        skips: list[Array] = []
        for i in levels:
            if self.efficient:
                x = down(x, widths[i + 1], self.dtype, f"downs.{i}.0.1")
            x = opening(x, x.shape[-1], i, f"downs.{i}.1")
            for j in range(self.blocks[i]):
                skips.append(x := gated(x, x.shape[-1], f"downs.{i}.2.{j}"))
            skips.append(x := attended(x, i, f"downs.{i}.3"))
            if not self.efficient and i < levels[-1]:
                x = down(x, widths[i + 1], self.dtype, f"downs.{i}.4.1")
            elif not self.efficient:
                near, own = (conv(x, widths[-1], 3 - 2 * k, **how, name=f"downs.{i}.4.fns.{k}") for k in range(2))
                x = near(x) + own(x)
        x = residual(widths[-1], *heads, **how, name="mid_block1")(x, c, tokens)
        x = transformer(*heads, **how, name="mid_attn")(x, None)
        x = residual(widths[-1], *heads, **how, name="mid_block2")(x, c, tokens)

        def skipped(x: Array) -> Array:
            return jnp.concatenate([x, skips.pop() * 2**-0.5], -1)

        for k, i in enumerate(reversed(levels)):
            x = opening(skipped(x), widths[i + 1], i, f"ups.{k}.0")
            for j in range(self.blocks[i]):
                x = gated(skipped(x), widths[i + 1], f"ups.{k}.1.{j}")
            x = attended(x, i, f"ups.{k}.2")
            if self.efficient or i:
                x = up(x, widths[i], self.dtype, f"ups.{k}.3.net.0")
        x = jnp.concatenate([x, start], -1) if self.efficient else x
        x = gated(x, self.width, "final_res_block")
        x = jnp.concatenate([x, *smaller], -1)
        return conv(x, self.outputs, zero=True, **how, name="final_conv")(x).astype(jnp.float32)


M = TypeVar("M", bound="Model")  # typing.Self is more than the checks of tests can take
Counts = Annotated[tuple[Count, ...], MinLen(1)]


@dataclass(frozen=True)
class Model:
    """Denoiser (:class:`nca_gen.contracts.Denoiser`) in any number of dimensions, of any size that the levels halve.

    The fields as given are URCDM's first network at its lowest magnification, 410,245,796 parameters. ``width``
    channels, a multiple of 8, times one of ``multipliers`` at each level. Of every level, or one for all: ``blocks``
    gated residual blocks behind a first one, each way; ``attention``: whether all cells then attend to all;
    ``cross_attention``: whether the first block hears the tokens of the time. Both in ``heads`` heads of ``head``
    channels. ``efficient``: a level halves the sides before its blocks and not behind them, the last one too, and the
    end sees what the first convolutions said. ``context_channels``: of the condition "context", a picture of the same
    grid; 0 for none. ``zoom``: it is also shown the middle of the context enlarged so many times; by the factor of the
    context, that is what lies there at each pixel of x_t (not in URCDM). 0: it is not. ``low_resolution``: whether it
    is told the conditions "low", the smaller image, enlarged to this grid, and "low_log_snr" [B], its log-SNR. What is
    left out of a condition is zero. ``remat`` "block": the gradient keeps what enters a block, and not what is inside.
    ``dtype``: of products and activations; moments and parameters stay float32. The time that it is told is the
    log-SNR: ``diffusion.clock`` "log_snr".
    """

    width: Count = 256
    multipliers: Counts = (1, 2, 3, 4)
    blocks: Count | Counts = 3
    attention: bool | tuple[bool, ...] = (False, True, True, True)
    cross_attention: bool | tuple[bool, ...] = (False, True, True, True)
    efficient: bool = False
    context_channels: Natural = 0
    zoom: Annotated[int | float, Ge(0)] = 0
    low_resolution: bool = False
    heads: Count = 8
    head: Count = 64
    remat: Annotated[str, OneOf(("none", "block"))] = "none"
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    image_channels: Count = 3
    ndim: Axes = 2

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        levels = len(self.multipliers)
        of_levels = {"blocks": self.blocks, "attention": self.attention, "cross_attention": self.cross_attention}
        for field, value in of_levels.items():
            if np.shape(value) not in ((), (levels,)):
                raise UserError(f"config.model.{field} is {value}: give one for all, or {levels}, one a level")
        if self.width % GROUPS:
            raise UserError(f"config.model.width is {self.width}; take a multiple of {GROUPS}")
        if self.zoom and not self.context_channels:
            raise UserError(f"config.model.zoom={self.zoom} enlarges a context, and config.model.context_channels is 0")

    @property
    def reads(self) -> int:
        """Channels of x_t."""
        return self.image_channels

    @property
    def predicts(self) -> int:
        """Channels of the prediction."""
        return self.image_channels

    @property
    def conditions(self) -> Mapping[str, int]:
        """The context, and a smaller image with its noise, where it is told them."""
        low = int(self.low_resolution)
        channels = {"context": self.context_channels, "low": low * self.image_channels, "low_log_snr": low}
        return {field: n for field, n in channels.items() if n}

    @property
    def multiple(self) -> int:
        """What divides the sides of an image."""
        return 2 ** (len(self.multipliers) - (not self.efficient))

    def inference(self: M) -> M:
        """The model where no gradient is taken: itself."""
        return self

    @property
    def network(self) -> UNet:
        """The flax module."""
        each = lambda value: tuple(np.broadcast_to(value, len(self.multipliers)).tolist())
        return UNet(
            self.width,
            tuple(self.multipliers),
            each(self.blocks),
            each(self.attention),
            each(self.cross_attention),
            self.efficient,
            self.heads,
            self.head,
            self.predicts,
            self.remat == "block",
            self.dtype,
        )

    def example(self) -> tuple[Any, ...]:
        """The smallest input of :attr:`network`, as shapes; None for what it is not told."""
        like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
        picture = lambda channels: like(1, *(self.multiple,) * self.ndim, channels)
        context = picture(self.context_channels * (1 + bool(self.zoom))) if self.context_channels else None
        return picture(self.reads), like(1), context, (picture(self.reads), like(1)) if self.low_resolution else None

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        return modules.start(self.network, key, *self.example())

    def load(self, path: str | Path) -> dict:
        """Parameters from a file of one U-Net of imagen-pytorch, or of a cascade that has this one.

        Raises UserError for a file that cannot be read, or holds other networks.
        """
        what = "a U-Net of imagen-pytorch, or a cascade of them, and its config.model"
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
    ) -> tuple[Float[Array, "B *S C"], Any]:
        """The prediction at x_t; ``memory`` as it is. ``told``: one log-SNR a sample, or one for all.

        ``key`` and ``place`` are not used: the network draws nothing and knows no place. Raises UserError where the
        sides cannot be halved, and where a picture of ``cond`` is not of the grid of x_t.
        """
        chex.assert_rank(x, self.ndim + 2)
        sides, cond = x.shape[1:-1], cond or {}
        if any(n % self.multiple for n in sides):
            raise UserError(
                f"images of {'x'.join(map(str, sides))} are no multiples of {self.multiple}, as the levels halve them; "
                "pad the data or shorten config.model.multipliers"
            )

        def picture(field: str) -> Array:
            shape = (*x.shape[:-1], self.conditions[field])
            image = cond.get(field, jnp.zeros(shape, x.dtype))
            if image.shape != shape:
                raise UserError(f"the condition {field!r} is of {image.shape}; beside x_t of {x.shape} give {shape}")
            return image

        time = lambda log_snr: jnp.broadcast_to(jnp.asarray(log_snr, jnp.float32), x.shape[:1])
        context = picture("context") if self.context_channels else None
        if context is not None and self.zoom:
            context = jnp.concatenate([context, middle(context, self.zoom)], -1)
        low = (picture("low"), time(cond.get("low_log_snr", 0.0))) if self.low_resolution else None
        prediction: Any = self.network.apply({"params": params}, x, time(told), context, low)
        return prediction, memory


def middle(x: Float[Array, "B *S C"], zoom: int | float) -> Float[Array, "B *S C"]:
    """The middle of ``x``, 1 / ``zoom`` of its sides, enlarged to its grid by linear interpolation."""
    axes = range(1, x.ndim - 1)
    scale, shift = jnp.full(len(axes), zoom), jnp.asarray([(1 - zoom) * x.shape[axis] / 2 for axis in axes])
    return jax.image.scale_and_translate(x, x.shape, axes, scale, shift, "linear")


def published(state: Mapping[str, Any], model: Model | None = None) -> dict:
    """Parameters from the tensors, by name, of a U-Net of imagen-pytorch 1.18.5, or of a whole cascade (``Imagen``).

    ``model``: the one that they are of, and which one of a cascade; None: the one that most of them speak of. A text
    part is ignored. Raises UserError for the first other tensor that is missing, has another shape, or has no place;
    for a cascade that has no network such as ``model``, or several; and for a cascade without ``model``.
    """
    tensors = {name: np.asarray(tensor) for name, tensor in state.items()}
    if networks := cascade(tensors):
        tensors = networks[member(networks, model)]
    model = model or architecture(tensors)
    return port.variables(tensors, model.network, model.example(), TEXT)["params"]


def cascade(state: port.State) -> dict[str, port.State]:
    """The tensors of each network of an ``Imagen``, by its place ("unets.0"); none where ``state`` is of one network.

    What lies beside them there, of its noise schedules and of text, is left out.
    """
    networks: dict[str, port.State] = {}
    for name, tensor in state.items():
        if found := re.fullmatch(r"(?:.*\.)?(unets\.\d+)\.(.+)", name):
            networks.setdefault(found[1], {})[found[2]] = tensor
    return networks


def member(networks: Mapping[str, port.State], model: Model | None) -> str:
    """Which of ``networks`` is of the architecture of ``model``. Raises UserError where that is not one."""
    if model is None:
        raise UserError(f"the weights are a cascade, of {', '.join(networks)}: say of which model they are")
    kind = lambda one: (replace(one, remat="none", dtype="float32").network, one.example())
    alike = [name for name, state in networks.items() if kind(architecture(state)) == kind(model)]
    if len(alike) != 1:
        raise UserError(
            f"of the cascade's networks {', '.join(networks)} {' and '.join(alike) or 'none'} has the architecture of "
            "config.model"
        )
    return alike[0]


def architecture(state: port.State) -> Model:
    """The model whose tensors most of ``state`` are. Raises UserError where they are those of no such network."""

    def size(pattern: str, axis: int = 0) -> int:
        sizes = [x.shape[axis] for name, x in state.items() if fnmatchcase(name, pattern) and x.ndim > axis]
        if not sizes:
            raise UserError(f"the weights lack {pattern}: they are of another network")
        return mode(sizes)

    def has(pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in state)

    def count(pattern: str) -> int:
        return 1 + max((int(number[1]) for number in map(re.compile(pattern).match, state) if number), default=-1)

    levels, efficient, low = range(count(r"downs\.(\d+)\.")), has("init_resnet_block.*"), has("to_lowres_time_*")
    width, channels, head = size("final_res_block.block2.*"), size("final_conv.bias"), size("*.null_kv", 1)
    inside = [*(size(f"downs.{i}.1.block2.*") for i in levels), size("mid_block1.block2.*")]
    widths = inside[:-1] if efficient else inside[1:]
    if any(n % width for n in widths):
        raise UserError(f"the weights are of another network: {widths} channels are no multiples of {width}")
    return Model(
        width=width,
        multipliers=tuple(n // width for n in widths),
        blocks=tuple(count(rf"downs\.{i}\.2\.(\d+)\.") for i in levels),
        attention=tuple(has(f"downs.{i}.3.*") for i in levels),
        cross_attention=tuple(has(f"downs.{i}.1.cross_attn.*") for i in levels),
        efficient=efficient,
        context_channels=size("init_conv.convs.*.weight", 1) - channels * (1 + low),
        low_resolution=low,
        heads=size("*.to_q.weight") // head,
        head=head,
        image_channels=channels,
    )
