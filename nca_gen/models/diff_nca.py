"""Diff-NCA (Kalkhof et al. 2024, arXiv 2401.06291): one automaton step is the whole network.

:func:`change` is that step as the paper words it; :func:`nca_gen.nn.fast.gated` says the same faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Array, Bool, Float, Int, Key, Num

from nca_gen import ranges
from nca_gen.ca import perceive
from nca_gen.ca.fire import fires
from nca_gen.ca.rollout import Rule, remembered, rollout, trajectory
from nca_gen.ca.seed import Cells, seed
from nca_gen.contracts import Condition, Place
from nca_gen.errors import UserError
from nca_gen.nn import fast, kernel, modules
from nca_gen.nn.embeddings import scalar_features
from nca_gen.nn.norm import EPS, SLOPE, normed
from nca_gen.nn.weight_norm import WeightNorm
from nca_gen.nn.weights import Gated, Linear
from nca_gen.ranges import Axes, Count, Fraction, Natural, OneOf

# What the gradient keeps of each step beside the cells; the rest is computed again.
SAVED = {"step": (), "seen": ("moments", "seen"), "fc0": ("moments", "seen", "fc0")}
PRODUCTS = {
    "shifted": perceive.shifted,
    "gathered": perceive.gathered,
    "scattered": perceive.scattered,
    "split": perceive.split,
    "convolved": perceive.convolved,
}
STRIP = 2048  # cells a core: what a step makes of them are a few MB


def change(
    scalars: Float[Array, "b *s K"],
    state: Float[Array, "B *S C"],
    fire: Bool[Array, "*M"],
    border: str,
    *,
    w: Gated,
) -> Float[Array, "B *S C"]:
    """What a step adds to every cell (Kalkhof et al., section 3.1 and figure 2). ``scalars``: position, t and s."""
    scalars = jnp.broadcast_to(scalars, (*state.shape[:-1], scalars.shape[-1]))
    e = mlp(scalar_features(scalars), w.embedding)
    z = jnp.concatenate([state, e], -1)
    seen = perceive.convolved(perceive.pad(z, border), w.perceive.kernel) + w.perceive.bias
    y = jnp.concatenate([z, seen], -1) * mlp(e, w.gate0)
    y = jax.nn.leaky_relu(normed(w.fc0(y), w.norm), SLOPE) * mlp(e, w.gate1)
    return w.fc1(y) * fire


def mlp(x: Float[Array, "*S I"], layers: tuple[Linear, Linear]) -> Float[Array, "*S O"]:
    """Affine, SiLU, affine."""
    first, last = layers
    return last(jax.nn.silu(first(x)))


class Side(modules.Module):
    """Parameters of the automaton in one space: ``c`` state, ``h`` hidden, ``e`` embedding channels."""

    c: int
    h: int
    e: int
    affine: bool
    zero: bool
    ndim: int = 2
    neighbourhood: str = "moore"

    @nn.compact
    def __call__(self) -> Gated:
        """The effective weights."""
        c, h, e, q = self.c, self.h, self.e, self.h // 4
        scale = self.param("norm_scale", nn.initializers.ones, (h,)) if self.affine else None
        shift = self.param("norm_shift", nn.initializers.zeros, (h,)) if self.affine else None
        return Gated(
            perceive=WeightNorm((*perceive.sides(self.ndim, self.neighbourhood), c + e, c), name="perceive")(),
            fc0=WeightNorm((2 * c + e, h), name="fc0")(),
            fc1=WeightNorm((h, c), zero=self.zero, name="fc1")(),
            gate0=(WeightNorm((e, q), name="gate0_0")(), WeightNorm((q, 2 * c + e), name="gate0_1")()),
            gate1=(WeightNorm((e, q), name="gate1_0")(), WeightNorm((q, h), name="gate1_1")()),
            embedding=(WeightNorm((e * e, 256), name="embedding_0")(), WeightNorm((256, e), name="embedding_1")()),
            norm=(scale, shift) if self.affine else None,
        )


M = TypeVar("M", bound="Model")  # typing.Self is more than the checks of tests can take


@dataclass(frozen=True)
class Model:
    """Denoiser in any number of dimensions: :class:`nca_gen.contracts.Aging`, and Local where ``norm`` is "cell".

    ``channels`` of a cell, of which the first ``image_channels`` are the image; ``hidden`` of its network. In each of
    ``steps`` steps a cell changes with the probability ``fire_rate``. ``ndim``: spatial axes. ``neighbourhood``: whom a
    cell perceives beside itself, "moore" all 3^n - 1 around it, as published, "von_neumann" the 2 n that share a face,
    in three axes 7 taps for 27. ``norm``: "group" is the
    paper's GroupNorm(1, h), which couples the whole image; "cell" normalises each cell over its channels, without
    parameters, and keeps the rule local. ``start``: "zero" starts with the change zero, "torch" as the paper's
    framework does. ``border``: what a cell at the edge sees beyond it: "reflect" its own side, "wrap" the opposite edge
    (a torus). ``timesteps``: what the time that it is told stays below.

    How it is computed: ``rule`` "fast", "plain", or "kernel", one program of a TPU (:mod:`nca_gen.nn.kernel`), which a
    CPU interprets, slowly; where there is none, as on a GPU, in 3-D or where cells know their position, it is "fast".
    Of the fast one ``conv``, a product of :mod:`nca_gen.ca.perceive`; of both ``dtype``, of the products, while cells,
    norms and parameters stay float32; ``strip``, the cells at a time where no gradient is taken and the rule is local,
    0 for all. ``remat``: what the gradient keeps: "none" is everything, "fc0" cells, perception and the widest product
    of each step, "seen" cells and perception, "step" the cells, "nested" the cells of about 2 sqrt(steps) steps, for
    one more forward pass. A kernel keeps neither perception nor product.
    """

    channels: Count = 96
    hidden: Annotated[int, Ge(4)] = 512  # the gates have a quarter as many
    steps: Count = 20
    norm: Annotated[str, OneOf(("group", "cell"))] = "group"
    start: Annotated[str, OneOf(("zero", "torch"))] = "zero"
    fire_rate: Fraction = 0.9
    rule: Annotated[str, OneOf(("fast", "kernel", "plain"))] = "fast"
    conv: Annotated[str, OneOf(PRODUCTS)] = "split"
    remat: Annotated[str, OneOf(("none", *SAVED, "nested"))] = "seen"
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    image_channels: Count = 3
    ndim: Axes = 2
    timesteps: Annotated[int | float, Gt(0)] = 300
    border: Annotated[str, OneOf(("reflect", "wrap"))] = "reflect"
    neighbourhood: Annotated[str, OneOf(perceive.NEIGHBOURHOODS)] = "moore"
    strip: Natural = 0

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        if self.channels <= (taken := self.given + self.image_channels):
            raise UserError(f"config.model.channels is {self.channels}; image and prediction alone take {taken}")

    @property
    def reads(self) -> int:
        """Channels of x_t."""
        return self.image_channels

    @property
    def predicts(self) -> int:
        """Channels of the prediction: the variance is not learned."""
        return self.image_channels

    @property
    def conditions(self) -> Mapping[str, int]:
        """None: an unconditional model."""
        return {}

    @property
    def scalars(self) -> int:
        """Scalars that condition a cell: t and s."""
        return 2

    @property
    def given(self) -> int:
        """Channels of a cell that are read and never written: those of x_t."""
        return self.image_channels

    @property
    def halo(self) -> int | None:
        """How far a call sees, in cells; None where every cell depends on the whole image."""
        return self.steps if self.norm == "cell" else None

    def bordered(self: M, border: str) -> M:
        """The same cells with another ``border``."""
        return replace(self, border=border)

    def grown(self: M, steps: int) -> M:
        """The same cells, ``steps`` steps old when they are asked."""
        return replace(self, steps=steps)

    def inference(self: M) -> M:
        """The model where no gradient is taken: on a CPU in strips that fit its caches, :mod:`nca_gen.ca.strips`."""
        return replace(self, strip=STRIP * (os.cpu_count() or 1)) if jax.default_backend() == "cpu" else self

    def side(self, c: int) -> Side:
        """Declares the parameters of an automaton of ``c`` channels."""
        how = self.norm == "group", self.start == "zero", self.ndim, self.neighbourhood
        return Side(c, self.hidden, self.scalars, *how)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        return {"image": modules.start(self.side(self.channels), key)}

    def condition(
        self, told: Num[Array, " b"], s: Float[Array, ""], place: Place, cond: Condition = None
    ) -> Float[Array, "b *s K"]:
        """The scalars (t/T, s) of every cell: constant over space, so its axes have size 1."""
        t = (told / self.timesteps).reshape(-1, *[1] * (self.ndim + 1))
        return jnp.concatenate([t, jnp.broadcast_to(s, t.shape)], -1)

    def change(self, w: Gated) -> Callable[..., Float[Array, "B *S C"]]:
        """The change of a step, as ``rule`` has it: (scalars, state, fire, border) -> what is added to the state."""
        if self.rule == "plain":
            return partial(change, w=w)
        dtype = jnp.dtype(self.dtype)
        fused = partial(fast.gated, w=w, product=PRODUCTS[self.conv], dtype=dtype, strip=self.strip)
        return partial(kernel.gated, w=w, dtype=dtype, otherwise=fused) if self.rule == "kernel" else fused

    def update(
        self, w: Gated, scalars: Float[Array, "b *s K"], cells: Cells, fire: Bool[Array, "*M"], border: str
    ) -> Cells:
        """One step older: the change of prediction and hidden channels, and not of the image, is taken."""
        state = jnp.concatenate([cells.image, cells.out, cells.hidden], -1)
        d = self.change(w)(scalars, state, fire, border)
        i, o = cells.image.shape[-1], cells.out.shape[-1]
        _, d_out, d_hidden = jnp.split(d, (i, i + o), -1)
        return Cells(cells.image, cells.out + d_out, cells.hidden + d_hidden, cells.age + 1)

    def step(
        self, params: dict, told: Num[Array, " b"], key: Key[Array, " B"], place: Place, cond: Condition = None
    ) -> Rule:
        """The automaton in image space: cells to cells one step older."""
        w = self.side(self.channels).apply({"params": params["image"]})
        fire = fires(key, self.steps, place.at, self.fire_rate)

        def older(cells: Cells) -> Cells:
            scalars = self.condition(told, cells.age / self.steps, place, cond)
            return self.update(w, scalars, cells, fire(cells.age), self.border)

        return older

    def begin(
        self, params: dict, x: Float[Array, "B *S I"], told: Num[Array, " b"], place: Place, cond: Condition = None
    ) -> Cells:
        """The cells before the first step in image space."""
        return seed(x, self.image_channels, self.channels - self.given - self.image_channels)

    def apply(
        self,
        params: dict,
        x: Float[Array, "B *S I"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Key[Array, " B"],
        place: Place | None = None,
    ) -> tuple[Float[Array, "B *S I"], Any]:
        """The prediction at x_t; ``memory`` as it is. ``told``: one time a sample, or one for all."""
        chex.assert_rank(x, self.ndim + 2)
        place = place or Place.of(x)
        step = self.step(params, told, key, place, cond)
        cells = rollout(step, self.steps, self.remat, SAVED)(self.begin(params, x, told, place, cond))
        return cells.out, memory

    def aging(
        self,
        params: dict,
        x: Float[Array, "B *S I"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Key[Array, " B"],
        age: Int[Array, " a"],
        place: Place | None = None,
    ) -> tuple[Float[Array, "B *S I"], Float[Array, "B *S I"], Any]:
        """What the cells say after ``age`` steps, and what :meth:`apply` returns."""
        place = place or Place.of(x)
        step = remembered(self.step(params, told, key, place, cond), age, lambda cells: cells.out)
        cells = self.begin(params, x, told, place, cond)
        cells, young = rollout(step, self.steps, self.remat, SAVED)((cells, cells.out))
        return young, cells.out, memory

    def growth(
        self, params: dict, x: Float[Array, "B *S I"], told: Num[Array, " b"], cond: Condition, key: Key[Array, " B"]
    ) -> Float[Array, "n B *S I"]:
        """What the cells say before the first step of a call and after each."""
        place = Place.of(x)
        frames = trajectory(self.step(params, told, key, place, cond), self.steps, lambda cells: cells.out)
        return frames(self.begin(params, x, told, place, cond))

    def portable(self) -> Mapping[str, Any]:
        """The cells as :class:`nca_gen.contracts.Portable` has them.

        Raises UserError for cells that are told more than t and s or read another picture, that perceive fewer than
        all around them, and for any but images.
        """
        told, around = self.scalars == 2 and self.given == self.image_channels, self.neighbourhood == "moore"
        if not told or not around or self.ndim != 2:
            raise UserError(
                "a page grows images by cells that are told the time alone; those of this model are told more, "
                "perceive fewer than all around them, or live in a volume: leave out --export.html"
            )
        return {
            "channels": self.channels,
            "hidden": self.hidden,
            "image": self.image_channels,
            "rate": float(np.float32(self.fire_rate)),
            "border": self.border,
            "local": self.norm == "cell",
            "timesteps": self.timesteps,
            "features": np.asarray(scalar_features(jnp.ones(self.scalars)), float).reshape(self.scalars, -1).tolist(),
            "slope": SLOPE,
            "eps": EPS,
        }
