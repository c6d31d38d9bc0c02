"""GeCA (Elbatel et al. 2024, MICCAI): cells of a latent image that live by one block of local attention.

:func:`change` is a step as the paper words it; :func:`nca_gen.nn.fast.attentive` says the same faster, and
:func:`nca_gen.nn.fast.fired` of the cells that fire alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from nca_gen import arrays, ranges
from nca_gen.ca import perceive, rows
from nca_gen.ca.fire import fires
from nca_gen.ca.rollout import Rule, remembered, rollout, trajectory
from nca_gen.ca.seed import Cells
from nca_gen.contracts import Condition, Place
from nca_gen.errors import UserError
from nca_gen.nn import fast, modules
from nca_gen.nn.embeddings import Conditioning
from nca_gen.nn.local_attention import BORDERS
from nca_gen.nn.weights import Attentive, Linear, Modulation
from nca_gen.ranges import Axes, Count, Fraction, Natural, OneOf

# What the gradient keeps of each step beside the cells; the rest is computed again.
SAVED = {"step": (), "out": ("proj", "fc1"), "qkv": ("proj", "fc1", "qkv"), "fc0": ("proj", "fc1", "qkv", "fc0")}
WIDE = 64  # features of cells that are worth gathering: the moves grow with their number, what is saved with its square
CENTRE = 1 << 20  # steps of a draw: far beyond the ages that the fire masks use


def change(
    state: Float[Array, "B *S C"],
    code: Float[Array, "b *S D"],
    *,
    w: Attentive,
    modulation: Modulation,
    heads: int,
    border: str,
    neighbourhood: str,
) -> Float[Array, "B *S O"]:
    """What a step adds to every cell that fires (Elbatel et al., section 2.1). ``code``: of the place of each cell."""
    e = w.embedding(state) + code
    shift, scale, gate = modulation.attention
    q, k, v = jnp.split((layer_norm(e, *w.norm0) * (1 + scale) + shift) @ w.qkv, 3, -1)
    e = e + gate * w.proj(attention(q, k, v, heads, border, neighbourhood))
    shift, scale, gate = modulation.mlp
    hidden = jax.nn.gelu(w.fc0(layer_norm(e, *w.norm1) * (1 + scale) + shift), approximate=False)
    e = e + gate * w.fc1(hidden)
    shift, scale = modulation.last
    return w.last(layer_norm(e, eps=1e-6) * (1 + scale) + shift)


def layer_norm(
    x: Float[Array, "B *S D"],
    scale: Float[Array, " D"] | float = 1.0,
    bias: Float[Array, " D"] | float = 0.0,
    eps: float = 1e-5,
) -> Float[Array, "B *S D"]:
    """(x - mean) / deviation of each cell over its features, then ``scale`` and ``bias``."""
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + eps) * scale + bias


def attention(
    q: Float[Array, "B *S D"],
    k: Float[Array, "B *S D"],
    v: Float[Array, "B *S D"],
    heads: int,
    border: str,
    neighbourhood: str,
) -> Float[Array, "B *S D"]:
    """softmax(q k^T / sqrt(d)) v of each cell over its window; both words are of ``nn.local_attention``."""
    q, k, v = (x.reshape(*x.shape[:-1], heads, -1) for x in (q, k, v))
    k, v, there = (windows(x, border, neighbourhood) for x in (k, v, jnp.ones_like(k)))
    logits = jnp.einsum("...hd,...nhd->...hn", q, k) / math.sqrt(q.shape[-1])
    if border == "mask":
        logits = jnp.where(jnp.einsum("...nhd->...hn", there) > 0, logits, -jnp.inf)
    y = jnp.einsum("...hn,...nhd->...hd", jax.nn.softmax(logits), v)
    return y.reshape(*y.shape[:-2], -1)


def windows(x: Float[Array, "B *S h d"], border: str, neighbourhood: str) -> Float[Array, "B *S N h d"]:
    """The N neighbours of every cell, itself among them; zero beyond the edge, or the opposite one."""
    n = x.ndim - 3
    pad = [(0, 0), *[(1, 1)] * n, (0, 0), (0, 0)]
    padded = jnp.pad(x, pad, mode="wrap" if border == "wrap" else "constant")
    cut = partial(jax.lax.dynamic_slice, padded, slice_sizes=x.shape)
    return jnp.stack([cut((0, *tap, 0, 0)) for tap in perceive.taps(n, neighbourhood)], -3)


def code(index: Int[Array, "*S"], width: int) -> Float[Array, "*S {width}"]:
    """sin(n w_j) for even j, cos(n w_j) for odd j, with w_j = 10000^(-j / width), of the flattened index n."""
    j = jnp.arange(width)
    angle = index[..., None] * 10000.0 ** (-j / width)
    return jnp.where(j % 2 == 0, jnp.sin(angle), jnp.cos(angle))


class Genes(NamedTuple):
    """What the cells of one call may hand on to those of the next; a field that is None is born anew."""

    out: Float[Array, "B *S O"] | None
    hidden: Float[Array, "B *S K"] | None


def state(cells: Cells) -> Float[Array, "B *S C"]:
    """All channels of every cell."""
    return jnp.concatenate([cells.image, cells.out, cells.hidden], -1)


class Affine(modules.Module):
    """Declares an affine map; called without input, returns its :class:`Linear`."""

    inputs: int
    outputs: int
    start: Any = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self) -> Linear:
        """The weights."""
        kernel = self.param("kernel", self.start, (self.inputs, self.outputs))
        return Linear(kernel, self.param("bias", nn.initializers.zeros, (self.outputs,)))


class Kernel(modules.Module):
    """Declares a linear map without bias."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> Float[Array, "I O"]:
        """The kernel."""
        return self.param("kernel", nn.initializers.xavier_uniform(), (self.inputs, self.outputs))


class Scale(modules.Module):
    """Declares scale and bias of a LayerNorm."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
        """Scale, then bias."""
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        return scale, self.param("bias", nn.initializers.zeros, (self.width,))


class Block(nn.Module):
    """Declares local attention and an MLP, each behind a norm, and what the condition sets of them."""

    embed: int
    mlp: int

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        """Weights by name."""
        d, m = self.embed, self.mlp
        return {
            "condition": Affine(d, 6 * d, nn.initializers.zeros, name="condition")(),
            "norm0": Scale(d, name="norm0")(),
            "qkv": Kernel(d, 3 * d, name="qkv")(),
            "proj": Affine(d, d, name="proj")(),
            "norm1": Scale(d, name="norm1")(),
            "fc0": Affine(d, m, name="fc0")(),
            "fc1": Affine(m, d, name="fc1")(),
        }


class Last(nn.Module):
    """Declares the way from tokens to the change of the cells; the zero map at the start."""

    embed: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Linear, Linear]:
        """What the condition sets, and the map."""
        condition = Affine(self.embed, 2 * self.embed, nn.initializers.zeros, name="condition")()
        return condition, Affine(self.embed, self.outputs, nn.initializers.zeros, name="linear")()


class Cell(nn.Module):
    """Declares the parameters of the automaton; called once a call, with what it is told."""

    embed: int
    mlp: int
    classes: int
    inputs: int
    outputs: int
    ndim: int

    @nn.compact
    def __call__(
        self, told: Num[Array, " b"], label: Float[Array, "B n"] | None = None
    ) -> tuple[Attentive, Modulation]:
        """Weights of a step, and what the condition makes of its norms and gates."""
        c = nn.silu(Conditioning(self.embed, self.classes, name="condition")(told, label))
        c = c.reshape(-1, *[1] * self.ndim, self.embed)
        embedding = Affine(self.inputs, self.embed, name="embedding")()
        block = Block(self.embed, self.mlp, name="block")()
        condition, last = Last(self.embed, self.outputs, name="last")()
        first = jnp.split(fast.affine(c, block.pop("condition")), 6, -1)
        modulation = Modulation(tuple(first[:3]), tuple(first[3:]), tuple(jnp.split(fast.affine(c, condition), 2, -1)))
        return Attentive(embedding=embedding, **block, last=last), modulation


M = TypeVar("M", bound="Model")  # typing.Self is more than the checks of tests can take


@dataclass(frozen=True)
class Model:
    """Denoiser in any number of dimensions: :class:`nca_gen.contracts.Local`, Heir and Aging.

    The fields as given are GeCA-S; GeCA-XS is embed 384, heads 6, mlp 64, hidden 32. ``classes``: columns of the
    condition "label", 0 for an unconditional model. ``learned_variance``: the prediction has 2 C channels. ``steps``:
    of the cells in a call, which the parameters do not depend on. ``hidden_seed``: "zeros", or "centre" for a random
    cell in the middle, as ``out`` has one. ``border``, ``neighbourhood``: of :mod:`nca_gen.nn.local_attention`; a cell
    attends to all 3^n cells around it, as published, or to the 2 n that share a face with it and to itself.

    How it is computed: ``rule`` "fast", "gathered", which computes the cells that fire alone, or "plain"; and of the
    first two ``dtype``, of the products, while cells, norms and parameters stay float32. On a CPU the fast rule samples
    as the gathered one does. ``keeps``: that takes keys and values of cells that did not change from the step before,
    in room for two tokens a cell, which a gradient would hold for each step. ``remat``: what the gradient keeps: "none"
    is everything, "fc0", "qkv", "out" fewer and fewer products of each step, "step" the cells of each step, "nested"
    those of about 2 sqrt(steps).
    """

    embed: Count = 768
    heads: Count = 12
    mlp: Count = 3072
    hidden: Count = 64
    steps: Count = 12
    fire_rate: Fraction = 0.5
    classes: Natural = 0
    learned_variance: bool = True
    hidden_seed: Annotated[str, OneOf(("zeros", "centre"))] = "zeros"
    border: Annotated[str, OneOf(BORDERS)] = "zero"
    neighbourhood: Annotated[str, OneOf(perceive.NEIGHBOURHOODS)] = "moore"
    rule: Annotated[str, OneOf(("fast", "gathered", "plain"))] = "fast"
    keeps: bool = False
    remat: Annotated[str, OneOf(("none", *reversed(SAVED), "nested"))] = "out"
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    image_channels: Count = 4
    ndim: Axes = 2

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        if self.embed % self.heads:
            raise UserError(f"config.model.embed is {self.embed}; take a multiple of the {self.heads} heads")

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
    def halo(self) -> int:
        """How far a call sees, in cells."""
        return self.steps

    def bordered(self: M, border: str) -> M:
        """The same cells with another ``border``."""
        return replace(self, border=border)

    def grown(self: M, steps: int) -> M:
        """The same cells, ``steps`` steps old when they are asked."""
        return replace(self, steps=steps)

    def inference(self: M) -> M:
        """The model where no gradient is taken: of the cells that fire alone, on a CPU and where they are ``WIDE``."""
        gathers = self.rule == "fast" and self.embed >= WIDE and jax.default_backend() == "cpu"
        rule = "gathered" if gathers else self.rule
        return replace(self, rule=rule, keeps=rule == "gathered")

    @property
    def cell(self) -> Cell:
        """Declares the parameters."""
        outputs = self.predicts + self.hidden
        inputs = self.image_channels + outputs
        return Cell(self.embed, self.mlp, self.classes, inputs, outputs, self.ndim)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        return modules.start(self.cell, key, jax.ShapeDtypeStruct((1,), jnp.int32))

    def newborn(self, x: Float[Array, "B *S C"], key: Key[Array, " B"], place: Place | None = None) -> Genes:
        """Of fresh cells around ``x``: zeros, and N(0, 1) in the cell at the centre of the whole."""
        place = place or Place.of(x)
        at, sides = place.at, place.sides
        centre = math.prod([(a == n // 2).astype(x.dtype) for a, n in zip(at, sides, strict=True)], start=1)[..., None]
        out = arrays.cell_normal(key, CENTRE, at, self.predicts) * centre
        if self.hidden_seed == "centre":
            return Genes(out, arrays.cell_normal(key, CENTRE + 1, at, self.hidden) * centre)
        return Genes(out, jnp.zeros((*x.shape[:-1], self.hidden)))

    def begin(self, x: Float[Array, "B *S C"], memory: Any, key: Key[Array, " B"], place: Place) -> Cells:
        """The cells before the first step: of what ``memory`` has, and newborn in the rest."""
        fresh = self.newborn(x, key, place)
        genes: list[Any] = [new if old is None else old for old, new in zip(memory or (None, None), fresh, strict=True)]
        return Cells(x, *genes, jnp.zeros((), jnp.int32))

    def how(self, w: Attentive, modulation: Modulation) -> dict[str, Any]:
        """What every form of a step is told."""
        words = {"heads": self.heads, "border": self.border, "neighbourhood": self.neighbourhood}
        return {"w": w, "modulation": modulation} | words

    def change(self, w: Attentive, modulation: Modulation) -> Callable[..., Float[Array, "B *S O"]]:
        """The change of a step, as ``rule`` has it: (state, code) -> what is added to the state."""
        how = self.how(w, modulation)
        if self.rule == "plain":
            return partial(change, **how)
        return partial(fast.attentive, **how, dtype=jnp.dtype(self.dtype))

    def room(self, shape: tuple[Any, ...]) -> int:
        """Rows for the cells of a group that fire, of all cells [B, *S, ..]; 0 where all cells are computed.

        So they are in a program for any number of images (``jax.export``), which knows no number of rows.
        """
        if self.rule != "gathered" or not all(isinstance(n, int) for n in shape[:-1]):
            return 0
        cells = math.prod(shape[:-1]) // rows.groups(shape[0])
        room = rows.room(cells, self.fire_rate)
        return room if room < cells else 0

    def live(
        self,
        ways: Callable[[Rule, Cells], Any],
        params: dict,
        x: Float[Array, "B *S C"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Key[Array, " B"],
        place: Place,
    ) -> Any:
        """``ways`` of the automaton, cells to cells one step older, and of the cells before the first step.

        Where cells are gathered, and in some step more of them fire than there are rows, all are computed in all steps.
        """
        weights: Any = self.cell.apply({"params": params}, told, (cond or {}).get("label"))
        w, modulation = weights
        index = sum(a * math.prod(place.sides[i + 1 :]) for i, a in enumerate(place.at))
        index = index.reshape(-1, *index.shape[-self.ndim :])  # windows may each have a place of their own
        fire, places = fires(key, self.steps, place.at, self.fire_rate), code(index, self.embed)
        born, room, dtype = self.begin(x, memory, key, place), self.room(x.shape), jnp.dtype(self.dtype)

        def older(cells: Cells, d: Float[Array, "B *S O"], kept: Any) -> Cells:
            d_out, d_hidden = jnp.split(d, (self.predicts,), -1)
            return Cells(cells.image, cells.out + d_out, cells.hidden + d_hidden, cells.age + 1, kept)

        def dense(cells: Cells) -> Cells:
            return older(cells, self.change(w, modulation)(state(cells), places) * fire(cells.age), None)

        if not room:
            return ways(dense, born)
        groups = rows.groups(len(x))

        def gathered(cells: Cells) -> Cells:
            few = rows.few(fire(cells.age).reshape(groups, -1), room)
            how = self.how(w, modulation)
            return older(cells, *fast.fired(state(cells), places, few, cells.kept, **how, dtype=dtype))

        def all_gathered() -> Any:
            kept = fast.keys(state(born), places, w, modulation, dtype) if self.keeps else None
            return ways(gathered, born._replace(kept=kept))

        each = fire(jnp.arange(self.steps)).reshape(self.steps, groups, -1).sum(-1)
        # The gradient keeps nothing of the way that is hardly ever gone: both would have their room each time.
        return jax.lax.cond(jnp.all(each <= room), all_gathered, jax.checkpoint(lambda: ways(dense, born)))

    def apply(
        self,
        params: dict,
        x: Float[Array, "B *S C"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Key[Array, " B"],
        place: Place | None = None,
    ) -> tuple[Float[Array, "B *S O"], Genes]:
        """The prediction at x_t, and what the cells leave. ``memory``: :class:`Genes` of an earlier call, or ().

        ``told``: one time a sample, or one for all. ``cond`` None, or a row of zeros, is the null condition.
        """
        chex.assert_rank(x, self.ndim + 2)

        def ways(rule: Rule, cells: Cells) -> Genes:
            cells = rollout(rule, self.steps, self.remat, SAVED)(cells)
            return Genes(cells.out, cells.hidden)

        genes = self.live(ways, params, x, told, cond, memory, key, place or Place.of(x))
        return genes.out, genes

    def aging(
        self,
        params: dict,
        x: Float[Array, "B *S C"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Key[Array, " B"],
        age: Int[Array, " a"],
        place: Place | None = None,
    ) -> tuple[Float[Array, "B *S O"], Float[Array, "B *S O"], Genes]:
        """What the cells say after ``age`` steps, and what :meth:`apply` returns."""

        def ways(rule: Rule, cells: Cells) -> tuple[Array, Genes]:
            rule = remembered(rule, age, lambda cells: cells.out)
            cells, young = rollout(rule, self.steps, self.remat, SAVED)((cells, cells.out))
            return young, Genes(cells.out, cells.hidden)

        young, genes = self.live(ways, params, x, told, cond, memory, key, place or Place.of(x))
        return young, genes.out, genes

    def growth(
        self, params: dict, x: Float[Array, "B *S C"], told: Num[Array, " b"], cond: Condition, key: Key[Array, " B"]
    ) -> Float[Array, "n B *S O"]:
        """What the cells say before the first step of a call and after each."""
        ways = lambda rule, cells: trajectory(rule, self.steps, lambda cells: cells.out)(cells)
        return self.live(ways, params, x, told, cond, (), key, Place.of(x))
