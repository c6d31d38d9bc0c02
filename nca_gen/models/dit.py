"""DiT (Peebles & Xie 2023, arXiv 2212.09748): a transformer of patches, GeCA's first rival.

Labels enter as they do in GeCA, by two affine maps, so that any number of them may hold at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from nca_gen import ranges
from nca_gen.contracts import Condition, Place
from nca_gen.errors import UserError
from nca_gen.nn import modules
from nca_gen.nn.attention import SelfAttention
from nca_gen.nn.embeddings import Conditioning
from nca_gen.ranges import Count, Natural, OneOf

Dense = partial(modules.Dense, kernel_init=nn.initializers.xavier_uniform())
Zero = partial(modules.Dense, kernel_init=nn.initializers.zeros)


def sines(place: Num[Array, " n"], width: int) -> Float[Array, "n {width}"]:
    """``[sin(place w_0), .., cos(place w_0), ..]`` with ``w_k = 10000^(-2k/width)``."""
    angle = place[:, None] * 10000.0 ** (jnp.arange(width // 2) * (-2.0 / width))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def positions(rows: Num[Array, " h"], columns: Num[Array, " w"], width: int) -> Float[Array, "h*w {width}"]:
    """The code of every patch, row by row: one half of its features says the column, the other the row."""
    x, y = sines(columns, width // 2), sines(rows, width // 2)
    shape = (len(rows), len(columns), width // 2)
    both = jnp.concatenate([jnp.broadcast_to(x[None], shape), jnp.broadcast_to(y[:, None], shape)], -1)
    return both.reshape(-1, width)


def patches(x: Float[Array, "B H W C"], p: int) -> Float[Array, "B N D"]:
    """Row by row, the ``p`` x ``p`` pixels of each as D = p p C features."""
    b, h, w, c = x.shape
    return x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(b, -1, p * p * c)


def image(x: Float[Array, "B N D"], p: int, h: int, w: int) -> Float[Array, "B {h} {w} C"]:
    """The way back from :func:`patches`."""
    return x.reshape(x.shape[0], h // p, w // p, p, p, -1).swapaxes(2, 3).reshape(x.shape[0], h, w, -1)


def normed(
    x: Float[Array, "B N D"], shift: Float[Array, "b 1 D"], scale: Float[Array, "b 1 D"]
) -> Float[Array, "B N D"]:
    """Each token normalised over its features, then moved by what the condition says."""
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Attention, then an MLP four times as wide, each behind a norm and with a gate; the condition sets both."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], c: Float[Array, "b 1 D"]) -> tuple[Float[Array, "B N D"], None]:
        d = x.shape[-1]
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = jnp.split(Zero(6 * d, name="condition")(c), 6, -1)
        x = x + gate * SelfAttention(self.heads, dtype=self.dtype, name="attention")(normed(x, shift, scale))
        y = Dense(4 * d, dtype=self.dtype, name="fc0")(normed(x, shift_mlp, scale_mlp))
        return x + gate_mlp * Dense(d, dtype=self.dtype, name="fc1")(nn.gelu(y)), None


class DiT(nn.Module):
    """Images ``[B, H, W, C]`` to ``[B, H, W, outputs]``; ``at`` [H], [W] are the coordinates of rows and columns."""

    width: int
    depth: int
    heads: int
    patch: int
    classes: int
    outputs: int
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        t: Num[Array, " b"],
        cond: Float[Array, "B n"] | None,
        at: tuple[Num[Array, " H"], Num[Array, " W"]],
    ) -> Float[Array, "B H W _"]:
        p, (h, w) = self.patch, x.shape[1:3]
        c = nn.silu(Conditioning(self.width, self.classes, name="condition")(t, cond))[:, None]
        y = Dense(self.width, dtype=self.dtype, name="patches")(patches(x, p))
        y = y + positions(*(places[::p] / p for places in at), self.width)
        # One block, compiled once; its parameters have an axis more.
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        blocks = nn.scan(block, {"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=self.depth)
        y, _ = blocks(self.heads, self.dtype, name="blocks")(y, c)
        y = normed(y, *jnp.split(Zero(2 * self.width, name="last_condition")(c), 2, -1))
        y = Zero(p * p * self.outputs, dtype=self.dtype, name="last")(y)
        return image(y.astype(jnp.float32), p, h, w)


M = TypeVar("M", bound="Model")  # typing.Self is more than the checks of tests can take


@dataclass(frozen=True)
class Model:
    """Denoiser (:class:`nca_gen.contracts.Denoiser`) of pictures; the fields as given are DiT-S/2.

    ``width`` features in ``heads`` heads, ``depth`` blocks, patches of ``patch`` x ``patch``: sides of x are multiples.
    ``classes``: columns of the condition "label", 0 for an unconditional model. ``learned_variance``: the prediction
    has 2 C channels. ``remat`` "block": the gradient keeps what enters a block, and not what is inside. ``dtype``: of
    the products; sums over blocks, norms and parameters stay float32. The time that it is told enters as it is.
    """

    width: Count = 384
    depth: Count = 12
    heads: Count = 6
    patch: Count = 2
    classes: Natural = 0
    learned_variance: bool = True
    remat: Annotated[str, OneOf(("none", "block"))] = "none"
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    image_channels: Count = 4

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        if self.width % self.heads or self.width % 4:
            raise UserError(f"config.model.width is {self.width}; take a multiple of 4 and of the {self.heads} heads")

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
        """The labels, a column each."""
        return {"label": self.classes} if self.classes else {}

    @property
    def ndim(self) -> int:
        """Spatial axes that it takes."""
        return 2

    def inference(self: M) -> M:
        """The model where no gradient is taken: itself."""
        return self

    @property
    def network(self) -> DiT:
        """The flax module."""
        how = {"classes": self.classes, "outputs": self.predicts, "remat": self.remat == "block", "dtype": self.dtype}
        return DiT(self.width, self.depth, self.heads, self.patch, **how)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        size = (self.patch, self.patch)
        x = jax.ShapeDtypeStruct((1, *size, self.image_channels), jnp.float32)
        t = jax.ShapeDtypeStruct((1,), jnp.int32)
        at = tuple(jax.ShapeDtypeStruct((n,), jnp.int32) for n in size)
        return modules.start(self.network, key, x, t, None, at)

    def apply(
        self,
        params: dict,
        x: Float[Array, "B H W C"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Any,
        place: Place | None = None,
    ) -> tuple[Float[Array, "B H W _"], Any]:
        """The prediction at x_t; ``memory`` as it is. ``told``: one time a sample, or one for all.

        ``key`` is not used: the network draws nothing. Raises UserError where patches do not fill the image.
        """
        chex.assert_rank(x, self.ndim + 2)
        if any(n % self.patch for n in x.shape[1:3]):
            raise UserError(
                f"images of {x.shape[1]}x{x.shape[2]} have no whole number of {self.patch}x{self.patch} patches; "
                "change config.model.patch or pad the data"
            )
        at = tuple(axis.reshape(-1) for axis in (place or Place.of(x)).at)
        return self.network.apply({"params": params}, x, told, (cond or {}).get("label"), at), memory
