"""GeCA (Elbatel et al. 2024, MICCAI): cells of a latent image that live by one block of local attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, Key

from nca_gen import arrays
from nca_gen.ca.fire import fires
from nca_gen.ca.rollout import Rule, repeated
from nca_gen.ca.seed import Cells
from nca_gen.errors import UserError, unknown
from nca_gen.nn import dense
from nca_gen.nn.embeddings import Conditioning
from nca_gen.nn.local_attention import BORDERS, local_attention

# What the gradient keeps of each step beside the cells; the rest it computes again.
KEPT = {"step": (), "out": ("proj", "fc1"), "qkv": ("proj", "fc1", "qkv"), "fc0": ("proj", "fc1", "qkv", "fc0")}
CENTRE = 1 << 20  # steps of a draw: far beyond the ages that the fire masks use


class Genes(NamedTuple):
    """What the cells of one call may hand on to those of the next; a field that is None is born anew."""

    out: Float[Array, "B *S O"] | None
    hidden: Float[Array, "B *S K"] | None


class Told(NamedTuple):
    """What all steps of a call share: [b, .., embed] each, with space axes of size 1, and the code of every place."""

    attention: tuple[Array, Array, Array]  # shift, scale, gate
    mlp: tuple[Array, Array, Array]
    last: tuple[Array, Array]  # shift, scale
    place: Float[Array, "1 *S D"]


class Linear(nn.Module):
    """An affine map; products in ``dtype``, the rest and the result in float32."""

    outputs: int
    init: Any = nn.initializers.xavier_uniform()
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*S I"]) -> Float[Array, "*S O"]:
        y = dense.product(x, self.param("kernel", self.init, (x.shape[-1], self.outputs)), self.dtype)
        return y + self.param("bias", nn.initializers.zeros, (self.outputs,)) if self.bias else y


class Norm(nn.Module):
    """LayerNorm of each cell with a scale and a shift of its own, and then those that the condition gives."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *S D"], shift: Float[Array, "b *s D"], scale: Float[Array, "b *s D"]
    ) -> Float[Array, "B *S D"]:
        mine = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return normed(x, bias * (1 + scale) + shift, mine * (1 + scale), 1e-5)


def normed(
    x: Float[Array, "B *S D"], shift: Float[Array, "b *s D"], scale: Float[Array, "b *s D"], eps: float
) -> Float[Array, "B *S D"]:
    """Each cell over its features, then ``scale`` and ``shift``."""
    mean = x.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)
    return (x - mean) * (rate * scale) + shift


def gelu(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Exact, by erf: jax.nn.gelu takes erfc, which is three times the work on a CPU."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


def code(place: Int[Array, "*S"], width: int) -> Float[Array, "*S {width}"]:
    """sin(n w_j) for even j, cos(n w_j) for odd j, with w_j = 10000^(-j / width), of the flattened index n."""
    j = jnp.arange(width)
    angle = place[..., None] * 10000.0 ** (-j / width)
    return jnp.where(j % 2 == 0, jnp.sin(angle), jnp.cos(angle))


class Block(nn.Module):
    """Local attention, then an MLP, each behind a norm and with a gate that the condition sets."""

    embed: int
    heads: int
    mlp: int
    border: str
    dtype: Any

    def setup(self):
        linear = partial(Linear, dtype=self.dtype)
        self.condition = Linear(6 * self.embed, nn.initializers.zeros)
        self.norm0, self.norm1 = Norm(), Norm()
        self.qkv, self.proj = linear(3 * self.embed, bias=False), linear(self.embed)
        self.fc0, self.fc1 = linear(self.mlp), linear(self.embed)

    def __call__(self, e: Float[Array, "B *S D"], told: Told) -> Float[Array, "B *S D"]:
        shift, scale, gate = told.attention
        kept = lambda name, x: checkpoint_name(x.astype(self.dtype), name)  # noqa: E731
        qkv = kept("qkv", self.qkv(self.norm0(e, shift, scale)))
        heads = (part.reshape(*e.shape[:-1], self.heads, -1) for part in jnp.split(qkv, 3, -1))
        e = e + gate * kept("proj", self.proj(local_attention(*heads, self.border).reshape(e.shape)))
        shift, scale, gate = told.mlp
        y = kept("fc0", self.fc0(self.norm1(e, shift, scale))).astype(jnp.float32)
        return e + gate * kept("fc1", self.fc1(gelu(y)))


class Last(nn.Module):
    """From tokens to the change of the cells; the zero map at the start."""

    embed: int
    outputs: int

    def setup(self):
        self.condition = Linear(2 * self.embed, nn.initializers.zeros)
        self.linear = Linear(self.outputs, nn.initializers.zeros)

    def __call__(self, e: Float[Array, "B *S D"], told: Told) -> Float[Array, "B *S O"]:
        shift, scale = told.last
        return self.linear(normed(e, shift, 1 + scale, 1e-6))


class Cell(nn.Module):
    """Parameters of the automaton: :meth:`told` once a call, and the change of every cell in each step."""

    embed: int
    heads: int
    mlp: int
    classes: int
    outputs: int
    border: str
    dtype: Any

    def setup(self):
        self.condition = Conditioning(self.embed, self.classes)
        self.embedding = Linear(self.embed)
        self.block = Block(self.embed, self.heads, self.mlp, self.border, self.dtype)
        self.last = Last(self.embed, self.outputs)

    def told(
        self, t: Int[Array, " b"], cond: Float[Array, "B n"] | None, at: arrays.Coords, extent: tuple[int, ...]
    ) -> Told:
        c = nn.silu(self.condition(t, cond))
        c = c.reshape(-1, *[1] * len(extent), self.embed)
        first, last = jnp.split(self.block.condition(c), 6, -1), jnp.split(self.last.condition(c), 2, -1)
        place = sum(a * math.prod(extent[i + 1 :]) for i, a in enumerate(at))
        return Told(tuple(first[:3]), tuple(first[3:]), tuple(last), code(place, self.embed)[None])

    def __call__(self, state: Float[Array, "B *S C"], told: Told) -> Float[Array, "B *S O"]:
        return self.last(self.block(self.embedding(state) + told.place, told), told)

    def everything(self, state, t, at, extent):
        """Touches all parameters, so that they can be made."""
        return self(state, self.told(t, None, at, extent))


@dataclass(frozen=True)
class Model:
    """Denoiser. ``apply(params, x, t, cond, memory, key) -> (prediction, Genes)`` in any number of dimensions.

    The fields as given are GeCA-S; GeCA-XS is embed 384, heads 6, mlp 64, hidden 32. ``classes``: columns of ``cond``,
    0 for an unconditional model. ``learned_variance``: the prediction has 2 C channels. ``steps``: of the cells in a
    call, which the parameters do not depend on. ``hidden_seed``: "zeros", or "centre" for a random cell in the middle,
    as ``out`` has one. ``border``: of :mod:`nca_gen.nn.local_attention`. ``remat``: what the gradient keeps: "none" is
    everything, "fc0", "qkv", "out" fewer and fewer products of each step, "step" the cells of each step, "nested"
    those of about 2 sqrt(steps). ``dtype``: of the products; cells, norms and parameters stay float32. ``timesteps``:
    T of the diffusion; t enters as it is.
    """

    embed: int = 768
    heads: int = 12
    mlp: int = 3072
    hidden: int = 64
    steps: int = 12
    fire_rate: float = 0.5
    classes: int = 0
    learned_variance: bool = True
    hidden_seed: str = "zeros"
    border: str = "zero"
    remat: str = "out"
    dtype: str = "float32"
    image_channels: int = 4
    ndim: int = 2
    timesteps: int = 1000

    def __post_init__(self):
        allowed = dict(
            hidden_seed=("zeros", "centre"),
            border=BORDERS,
            remat=("none", *reversed(KEPT), "nested"),
            dtype=("float32", "bfloat16"),
        )
        for field, names in allowed.items():
            if getattr(self, field) not in names:
                raise unknown(f"value of config.model.{field}", getattr(self, field), names)
        if self.embed % self.heads:
            raise UserError(f"config.model.embed is {self.embed}; take a multiple of the {self.heads} heads")

    @property
    def out(self) -> int:
        """Channels of the prediction."""
        return (2 if self.learned_variance else 1) * self.image_channels

    @property
    def halo(self) -> int:
        """How far a call sees, in cells."""
        return self.steps

    @property
    def cell(self) -> Cell:
        grown = self.out + self.hidden
        return Cell(self.embed, self.heads, self.mlp, self.classes, grown, self.border, jnp.dtype(self.dtype))

    def init_params(self, key: Key[Array, ""]) -> dict:
        size = (1,) * self.ndim
        state = jax.ShapeDtypeStruct((1, *size, self.image_channels + self.out + self.hidden), jnp.float32)
        t = jax.ShapeDtypeStruct((1,), jnp.int32)
        make = partial(self.cell.lazy_init, at=arrays.coords(size), extent=size, method="everything")
        return make(key, state, t)["params"]

    def newborn(
        self,
        x: Float[Array, "B *S C"],
        key: Key[Array, " B"],
        at: arrays.Coords | None = None,
        extent: tuple[int, ...] | None = None,
    ) -> Genes:
        """Of fresh cells around ``x``: zeros, and N(0, 1) in the cell at the centre of the whole of ``extent``."""
        extent, at = extent or x.shape[1:-1], at or arrays.coords(x.shape[1:-1])
        centre = math.prod([(a == n // 2).astype(x.dtype) for a, n in zip(at, extent, strict=True)], start=1)[..., None]
        draw = lambda i, channels: arrays.cell_normal(key, CENTRE + i, at, channels) * centre  # noqa: E731
        hidden = draw(1, self.hidden) if self.hidden_seed == "centre" else jnp.zeros((*x.shape[:-1], self.hidden))
        return Genes(draw(0, self.out), hidden)

    def begin(
        self,
        x: Float[Array, "B *S C"],
        memory: Any,
        key: Key[Array, " B"],
        at: arrays.Coords | None = None,
        extent: tuple[int, ...] | None = None,
    ) -> Cells:
        """The cells before the first step: of what ``memory`` has, and newborn in the rest."""
        fresh = self.newborn(x, key, at, extent)
        kept = [new if old is None else old for old, new in zip(memory or (None, None), fresh, strict=True)]
        return Cells(x, *kept, jnp.zeros((), jnp.int32))

    def rule(
        self,
        params: dict,
        t: Int[Array, " b"],
        key: Key[Array, " B"],
        at: arrays.Coords,
        extent: tuple[int, ...],
        cond: Float[Array, "B n"] | None = None,
    ) -> Rule:
        """The automaton at diffusion index ``t``, for cells ``at`` in a whole of ``extent``."""
        params = {"params": params}
        told = self.cell.apply(params, t, cond, at, extent, method="told")
        fire = fires(key, self.steps, at, self.fire_rate)

        def step(cells: Cells) -> Cells:
            state = jnp.concatenate([cells.image, cells.out, cells.hidden], -1)
            d = self.cell.apply(params, state, told) * fire(cells.age)
            d_out, d_hidden = jnp.split(d, (self.out,), -1)
            return Cells(cells.image, cells.out + d_out, cells.hidden + d_hidden, cells.age + 1)

        return step

    def rollout(self, rule: Rule) -> Rule:
        """``steps`` steps of ``rule``; their gradient keeps what ``remat`` says."""
        if self.remat == "nested":
            inner = max(1, round(self.steps**0.5))
            whole, rest = repeated(repeated(rule, inner), self.steps // inner), repeated(rule, self.steps % inner)
            return lambda cells: rest(whole(cells))
        keep = jax.checkpoint_policies.save_only_these_names(*KEPT.get(self.remat, ()))
        return repeated(rule, self.steps, remat=self.remat != "none", policy=keep)

    def apply(
        self,
        params: dict,
        x: Float[Array, "B *S C"],
        t: Int[Array, " b"],
        cond: Float[Array, "B n"] | None,
        memory: Any,
        key: Key[Array, " B"],
        at: arrays.Coords | None = None,
        extent: tuple[int, ...] | None = None,
    ) -> tuple[Float[Array, "B *S O"], Genes]:
        """Prediction at x_t, of C or 2 C channels, and what the cells leave.

        ``t``: one index per image, or one for all; ``cond`` None is the null condition; ``memory``: :class:`Genes` of
        an earlier call, or () for none.
        """
        extent, at = extent or x.shape[1:-1], at or arrays.coords(x.shape[1:-1])
        rule = self.rule(params, t, key, at, extent, cond)
        cells = self.rollout(rule)(self.begin(x, memory, key, at, extent))
        return cells.out, Genes(cells.out, cells.hidden)
