"""Diff-NCA (Kalkhof et al. 2024, arXiv 2401.06291): one automaton step is the whole network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from nca_gen import arrays
from nca_gen.ca import perceive
from nca_gen.ca.fire import fires
from nca_gen.ca.rollout import Rule, repeated
from nca_gen.ca.seed import Cells, seed
from nca_gen.ca.strips import in_strips
from nca_gen.errors import UserError, unknown
from nca_gen.nn import dense
from nca_gen.nn.embeddings import scalar_features
from nca_gen.nn.norm import activated
from nca_gen.nn.weight_norm import Linear, WeightNorm


class Weights(NamedTuple):
    """Effective weights of one side (facts: perceive, fc0, fc1, two gates, embedding, norm)."""

    perceive: Linear
    fc0: Linear
    fc1: Linear
    gate0: tuple[Linear, Linear]
    gate1: tuple[Linear, Linear]
    embedding: tuple[Linear, Linear]
    norm: tuple[Float[Array, " h"], Float[Array, " h"]] | None


class Side(nn.Module):
    """Parameters of the automaton in one space: ``c`` state, ``h`` hidden, ``e`` embedding channels."""

    c: int
    h: int
    e: int
    affine: bool
    zero: bool
    ndim: int = 2

    @nn.compact
    def __call__(self) -> Weights:
        c, h, e, q = self.c, self.h, self.e, self.h // 4
        pair = lambda name, a, b, d: (  # noqa: E731
            WeightNorm((a, b), name=f"{name}_0")(),
            WeightNorm((b, d), name=f"{name}_1")(),
        )
        scale = self.param("norm_scale", nn.initializers.ones, (h,)) if self.affine else None
        shift = self.param("norm_shift", nn.initializers.zeros, (h,)) if self.affine else None
        return Weights(
            perceive=WeightNorm((3,) * self.ndim + (c + e, c), name="perceive")(),
            fc0=WeightNorm((2 * c + e, h), name="fc0")(),
            fc1=WeightNorm((h, c), zero=self.zero, name="fc1")(),
            gate0=pair("gate0", e, q, 2 * c + e),
            gate1=pair("gate1", e, q, h),
            embedding=pair("embedding", e * e, 256, e),
            norm=(scale, shift) if self.affine else None,
        )


def mlp(x: Float[Array, "*S I"], layers: tuple[Linear, Linear]) -> Float[Array, "*S O"]:
    """Affine, SiLU, affine; of rows, because the gradient of a product with more axes is slow on a CPU."""
    first, last = layers
    rows = jax.nn.silu(x.reshape(-1, x.shape[-1]) @ first.kernel + first.bias) @ last.kernel + last.bias
    return rows.reshape(*x.shape[:-1], -1)


def constant(field: Float[Array, "b *S C"]) -> bool:
    """True where a field has one value for all cells of an image: its space axes have size 1."""
    return max(field.shape[1:-1]) == 1


def gated(
    x: Float[Array, "B *S I"],
    gate: Float[Array, "b *s I"],
    kernel: Float[Array, "I O"],
    bias: Float[Array, "... O"],
    dtype: Any,
) -> Float[Array, "B *S O"]:
    """(x * gate) @ kernel + bias, accumulated in float32; the bias is constant over space.

    A constant gate goes into the kernel: one pass over x less, both ways.
    """
    if constant(gate):
        kernel = gate.reshape(gate.shape[0], -1, 1) * kernel
    else:
        x = x * gate
    each = lambda k: jnp.broadcast_to(k, (x.shape[0], *k.shape[-2:]))  # noqa: E731
    x, kernel = x.astype(dtype), each(kernel.astype(dtype))
    if x.shape[-1] > kernel.shape[-1]:
        return dense.linear(x, kernel) + bias
    return dense.affine(x, kernel, each(bias.reshape(-1, 1, bias.shape[-1])))


def inside(x: Float[Array, "b *S C"]) -> Float[Array, "b *T C"]:
    """``x`` without a border of one cell; a constant field as it is."""
    return x if constant(x) else x[(slice(None), *[slice(1, -1)] * (x.ndim - 2))]


def change(
    scalars: Float[Array, "b *s K"],
    state: Float[Array, "B *S C"],
    fire: Bool[Array, "*M"],
    *,
    w: Weights,
    padding: str | None,
    product: Any,
    dtype: Any,
) -> Float[Array, "B *T C"]:
    """What a step adds to every cell. ``padding`` None: fields bring a halo of one, and the inside is asked for."""
    around, centre = (partial(perceive.pad, mode=padding), lambda x: x) if padding else (lambda x: x, inside)
    e = mlp(scalar_features(scalars), w.embedding)
    gate0, gate1 = mlp(centre(e), w.gate0), mlp(centre(e), w.gate1)
    c, k = state.shape[-1], e.shape[-1]

    if constant(e) and padding != "constant":
        # So is then all that e contributes, up to the border: it enters as one constant, before the norm.
        taps, taps_e = jnp.split(w.perceive.kernel, (c,), -2)
        seen_e = e @ taps_e.sum(tuple(range(taps_e.ndim - 2))) + w.perceive.bias
        gate, gate_e, gate_seen = jnp.split(gate0, (c, c + k), -1)
        fc0, fc0_e, fc0_seen = jnp.split(w.fc0.kernel, (c, c + k), 0)
        bias = (e * gate_e) @ fc0_e + (seen_e * gate_seen) @ fc0_seen + w.fc0.bias
        z, gate0, fc0 = state, jnp.concatenate([gate, gate_seen], -1), jnp.concatenate([fc0, fc0_seen])
        seen = product(around(z).astype(dtype), taps.astype(dtype))
    else:
        z = jnp.concatenate([state, jnp.broadcast_to(e, (*state.shape[:-1], k))], -1)
        seen = product(around(z).astype(dtype), w.perceive.kernel.astype(dtype)) + w.perceive.bias
        fc0, bias = w.fc0

    y = jnp.concatenate([centre(z), checkpoint_name(seen, "seen")], -1)
    y = checkpoint_name(gated(y, gate0, fc0, bias, dtype), "fc0")
    return gated(activated(y, w.norm), gate1, *w.fc1, dtype) * fire


def update(
    w: Weights,
    scalars: Float[Array, "b *S K"],
    cells: Cells,
    fire: Bool[Array, "*M"],
    *,
    padding: str,
    product: Any,
    dtype: Any,
    strip: int = 0,
) -> Cells:
    """One step of the automaton. ``scalars`` (position, t, s) may have batch and space axes of size 1.

    ``strip`` > 0 takes about so many cells at a time, which a norm of the whole image does not allow.
    """
    state = jnp.concatenate([cells.image, cells.out, cells.hidden], -1)
    some = partial(change, w=w, product=product, dtype=dtype)
    if strip and w.norm is None and padding != "constant":
        around = scalars if constant(scalars) else perceive.pad(scalars, padding)
        d = in_strips(partial(some, padding=None), strip, around, perceive.pad(state, padding), fire)
    else:
        d = some(scalars, state, fire, padding=padding)
    i, o = cells.image.shape[-1], cells.out.shape[-1]
    _, d_out, d_hidden = jnp.split(d, (i, i + o), -1)
    return Cells(cells.image, cells.out + d_out, cells.hidden + d_hidden, cells.age + 1)


def rollout(rule: Rule, n: int, remat: str) -> Rule:
    """``n`` steps; ``remat`` says what the gradient keeps.

    "none": everything. "fc0": cells, perception and the widest product of each step. "seen": cells and perception.
    "step": the cells of each step. "nested": the cells of about 2 sqrt(n) steps, for one more forward pass.
    """
    if remat == "nested":
        inner = max(1, round(n**0.5))
        whole, rest = repeated(repeated(rule, inner), n // inner), repeated(rule, n % inner)
        return lambda cells: rest(whole(cells))
    names = {"fc0": ("moments", "seen", "fc0"), "seen": ("moments", "seen")}.get(remat, ())
    keep = jax.checkpoint_policies.save_only_these_names(*names)
    return repeated(rule, n, remat=remat != "none", policy=keep)


@dataclass(frozen=True)
class Model:
    """Denoiser. ``apply(params, x, t, cond, memory, key) -> (prediction, memory)`` in any number of dimensions.

    ``norm``: "group" is the paper's GroupNorm(1, h), which couples the whole image; "cell" normalises each
    cell over its channels, without parameters, and keeps the rule local. ``init``: "zero" starts with the
    update zero, "torch" as the paper's framework does. ``conv``: a product of :mod:`nca_gen.ca.perceive`.
    ``dtype``: of the products; cells, norms and parameters stay float32. ``timesteps``: T of the diffusion.
    ``border``: what a cell at the edge sees beyond it: "reflect" its own side, "wrap" the opposite edge (a torus).
    ``strip``: cells at a time where no gradient is taken and the rule is local, 0 for all.
    """

    channels: int = 96
    hidden: int = 512
    steps: int = 20
    norm: str = "group"
    init: str = "zero"
    fire_rate: float = 0.9
    conv: str = "shifted"
    remat: str = "step"
    dtype: str = "float32"
    image_channels: int = 3
    ndim: int = 2
    timesteps: int = 300
    border: str = "reflect"
    strip: int = 0

    def __post_init__(self):
        allowed = dict(
            norm=("group", "cell"),
            init=("zero", "torch"),
            conv=("shifted", "gathered", "scattered", "split", "convolved"),
            remat=("none", "fc0", "seen", "step", "nested"),
            dtype=("float32", "bfloat16"),
            border=("reflect", "wrap"),
        )
        for field, names in allowed.items():
            if getattr(self, field) not in names:
                raise unknown(f"value of config.model.{field}", getattr(self, field), names)
        if self.channels <= 2 * self.image_channels:
            raise UserError(
                f"config.model.channels is {self.channels}; image and prediction alone take {2 * self.image_channels}"
            )

    @property
    def scalars(self) -> int:
        """Scalars that condition a cell: t and s."""
        return 2

    @property
    def halo(self) -> int | None:
        """How far a call sees, in cells; None when every cell depends on the whole image."""
        return self.steps if self.norm == "cell" else None

    def side(self, c: int) -> Side:
        return Side(c, self.hidden, self.scalars, self.norm == "group", self.init == "zero", self.ndim)

    def init_params(self, key: Key[Array, ""]) -> dict:
        return {"image": self.side(self.channels).init(key)["params"]}

    def condition(
        self, t: Int[Array, " b"], s: Float[Array, ""], at: arrays.Coords, extent: tuple[int, ...]
    ) -> Float[Array, "b *S K"]:
        """The scalars (t/T, s) of every cell: constant over space, so its axes have size 1."""
        t = (t / self.timesteps).reshape(-1, *[1] * (self.ndim + 1))
        return jnp.concatenate([t, jnp.broadcast_to(s, t.shape)], -1)

    def rule(
        self, params: dict, t: Int[Array, " b"], key: Key[Array, " B"], at: arrays.Coords, extent: tuple[int, ...]
    ) -> Rule:
        """The image-space automaton at diffusion index ``t``, for cells ``at`` in a whole of ``extent``."""
        weights = self.side(self.channels).apply({"params": params["image"]})
        fire = fires(key, self.steps, at, self.fire_rate)

        def step(cells: Cells) -> Cells:
            scalars = self.condition(t, cells.age / self.steps, at, extent)
            return self.update(weights, scalars, cells, fire(cells.age), padding=self.border)

        return step

    def update(self, *args: Any, **kwargs: Any) -> Cells:
        how = {"product": getattr(perceive, self.conv), "dtype": jnp.dtype(self.dtype), "strip": self.strip}
        return update(*args, **kwargs, **how)

    def begin(
        self,
        params: dict,
        x: Float[Array, "B *S I"],
        t: Int[Array, " b"],
        cond: Any = None,
        at: arrays.Coords | None = None,
        extent: tuple[int, ...] | None = None,
    ) -> Cells:
        """The cells before the first step in image space: those ``at`` coordinates in a whole of ``extent``."""
        return seed(x, self.image_channels, self.channels - 2 * self.image_channels)

    def apply(
        self,
        params: dict,
        x: Float[Array, "B *S I"],
        t: Int[Array, " b"],
        cond: Any,
        memory: Any,
        key: Key[Array, " B"],
        at: arrays.Coords | None = None,
        extent: tuple[int, ...] | None = None,
    ) -> tuple[Float[Array, "B *S I"], Any]:
        """Prediction at x_t. ``t``: one index per image, or one for all; ``cond``: what :meth:`begin` is told."""
        extent = extent or x.shape[1:-1]
        at = at or arrays.coords(x.shape[1:-1])
        rule = self.rule(params, t, key, at, extent)
        cells = rollout(rule, self.steps, self.remat)(self.begin(params, x, t, cond, at, extent))
        return cells.out, memory
