"""The rules of :mod:`nca_gen.models` as a CPU computes them fast: the same numbers up to the rounding of float32.

What is constant over space is computed once and folded into kernels, gradients are written out (``dense``, ``norm``,
``local_attention``), and what a gradient may keep has a name (``checkpoint_name``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from nca_gen.ca import rows
from nca_gen.ca.perceive import pad
from nca_gen.ca.strips import in_strips
from nca_gen.nn import dense
from nca_gen.nn.embeddings import scalar_features
from nca_gen.nn.local_attention import local_attention
from nca_gen.nn.norm import activated
from nca_gen.nn.weights import Attentive, Gated, Linear, Modulation

Product = Callable[[Array, Array], Array]  # of padded cells and a kernel, one of nca_gen.ca.perceive


def gated(
    scalars: Float[Array, "b *s K"],
    state: Float[Array, "B *S C"],
    fire: Bool[Array, "*M"],
    border: str,
    *,
    w: Gated,
    product: Product,
    dtype: Any,
    strip: int = 0,
) -> Float[Array, "B *S C"]:
    """What a step adds to every cell: perception, two gated products, a norm between them; the mask of those that fire.

    ``scalars`` condition every cell and may have batch and space axes of size 1; ``border`` is numpy's padding.
    ``dtype``: of the products. ``strip`` > 0 takes about so many cells at a time, which a norm of the whole image does
    not allow.
    """
    some = partial(_gated, w=w, product=product, dtype=dtype)
    if not strip or w.norm or border == "constant":
        return some(scalars, state, fire, border)
    around = scalars if _constant(scalars) else pad(scalars, border)
    return in_strips(partial(some, border=None), strip, around, pad(state, border), fire)


def _gated(
    scalars: Float[Array, "b *s K"],
    state: Float[Array, "B *S C"],
    fire: Bool[Array, "*M"],
    border: str | None,
    *,
    w: Gated,
    product: Product,
    dtype: Any,
) -> Float[Array, "B *T C"]:
    """``border`` None: fields bring a halo of one, and the inside is asked for."""
    around, centre = (partial(pad, mode=border), lambda x: x) if border else (lambda x: x, _inside)
    e = mlp(scalar_features(scalars), w.embedding)
    gate0, gate1 = mlp(centre(e), w.gate0), mlp(centre(e), w.gate1)

    if _constant(e) and border != "constant":
        taps, gate0, fc0, bias = constants(e, w, gate0)
        z, seen = state, product(around(state).astype(dtype), taps.astype(dtype))
    else:
        z = jnp.concatenate([state, jnp.broadcast_to(e, (*state.shape[:-1], e.shape[-1]))], -1)
        seen = product(around(z).astype(dtype), w.perceive.kernel.astype(dtype)) + w.perceive.bias
        fc0, bias = w.fc0

    y = jnp.concatenate([centre(z), checkpoint_name(seen, "seen")], -1)
    y = checkpoint_name(_gate(y, gate0, fc0, bias, dtype), "fc0")
    return _gate(activated(y, w.norm), gate1, *w.fc1, dtype) * fire


def constants(
    e: Float[Array, "b *s e"], w: Gated, gate0: Float[Array, "b *s n"]
) -> tuple[Float[Array, "..."], Float[Array, "b *s d"], Float[Array, "d h"], Float[Array, "b *s h"]]:
    """Taps, gate, kernel and bias of cells and what they see of each other, where ``e`` is constant over space.

    So is then all that it contributes, up to the border: it enters as one constant, before the norm. d = 2 c.
    """
    k = e.shape[-1]
    c = w.perceive.kernel.shape[-2] - k
    taps, taps_e = jnp.split(w.perceive.kernel, (c,), -2)
    seen_e = e @ taps_e.sum(tuple(range(taps_e.ndim - 2))) + w.perceive.bias
    gate, gate_e, gate_seen = jnp.split(gate0, (c, c + k), -1)
    fc0, fc0_e, fc0_seen = jnp.split(w.fc0.kernel, (c, c + k), 0)
    bias = (e * gate_e) @ fc0_e + (seen_e * gate_seen) @ fc0_seen + w.fc0.bias
    return taps, jnp.concatenate([gate, gate_seen], -1), jnp.concatenate([fc0, fc0_seen]), bias


def mlp(x: Float[Array, "*S I"], layers: tuple[Linear, Linear]) -> Float[Array, "*S O"]:
    """Affine, SiLU, affine; of rows, because the gradient of a product with more axes is slow on a CPU."""
    first, last = layers
    rows = jax.nn.silu(x.reshape(-1, x.shape[-1]) @ first.kernel + first.bias) @ last.kernel + last.bias
    return rows.reshape(*x.shape[:-1], -1)


def _constant(field: Float[Array, "b *S C"]) -> bool:
    """True where a field has one value for all cells of an image: its space axes have size 1."""
    return max(field.shape[1:-1]) == 1


def _inside(x: Float[Array, "b *S C"]) -> Float[Array, "b *T C"]:
    """``x`` without a border of one cell; a constant field as it is."""
    return x if _constant(x) else x[(slice(None), *[slice(1, -1)] * (x.ndim - 2))]


def _gate(
    x: Float[Array, "B *S I"],
    gate: Float[Array, "b *s I"],
    kernel: Float[Array, "I O"],
    bias: Float[Array, "... O"],
    dtype: Any,
) -> Float[Array, "B *S O"]:
    """(x * gate) @ kernel + bias, accumulated in float32; the bias is constant over space.

    A constant gate goes into the kernel: one pass over x less, both ways.
    """
    if _constant(gate):
        kernel = gate.reshape(gate.shape[0], -1, 1) * kernel
    else:
        x = x * gate
    kernel = kernel.astype(dtype)
    x, kernel = x.astype(dtype), jnp.broadcast_to(kernel, (x.shape[0], *kernel.shape[-2:]))
    if x.shape[-1] > kernel.shape[-1]:
        return dense.linear(x, kernel) + bias
    bias = bias.reshape(-1, 1, bias.shape[-1])
    return dense.affine(x, kernel, jnp.broadcast_to(bias, (x.shape[0], *bias.shape[-2:])))


def attentive(
    state: Float[Array, "B *S C"],
    code: Float[Array, "b *S D"],
    *,
    w: Attentive,
    modulation: Modulation,
    heads: int,
    border: str,
    neighbourhood: str,
    dtype: Any,
) -> Float[Array, "B *S O"]:
    """What a step adds to every cell that fires: local attention, then an MLP, each behind a norm and with a gate.

    ``code``: of the place of each cell. ``dtype``: of the products.
    """
    e = affine(state, w.embedding) + code
    shift, scale, gate = modulation.attention
    qkv = _named("qkv", dense.product(_modulated(e, w.norm0, shift, scale), w.qkv, dtype), dtype)
    parts = (part.reshape(*e.shape[:-1], heads, -1) for part in jnp.split(qkv, 3, -1))
    answer = local_attention(*parts, border, neighbourhood).reshape(e.shape)
    e = e + gate * _named("proj", affine(answer, w.proj, dtype), dtype)
    return _spoken(e, w, modulation, dtype)


def _spoken(e: Float[Array, "B *S D"], w: Attentive, modulation: Modulation, dtype: Any) -> Float[Array, "B *S O"]:
    """What cells say after they have attended: the MLP, and the change that comes of it."""
    shift, scale, gate = modulation.mlp
    y = _named("fc0", affine(_modulated(e, w.norm1, shift, scale), w.fc0, dtype), dtype).astype(jnp.float32)
    e = e + gate * _named("fc1", affine(_gelu(y), w.fc1, dtype), dtype)
    shift, scale = modulation.last
    return affine(_normed(e, shift, 1 + scale, 1e-6), w.last)


def keys(
    state: Float[Array, "B *S C"], code: Float[Array, "b *S D"], w: Attentive, modulation: Modulation, dtype: Any
) -> Float[Array, "B *S E"]:
    """Keys and values of all cells, as :func:`fired` keeps them from one step to the next."""
    shift, scale, _ = modulation.attention
    a = _modulated(affine(state, w.embedding) + code, w.norm0, shift, scale)
    return _named("qkv", dense.product(a, w.qkv[:, w.qkv.shape[1] // 3 :], dtype), dtype)


def fired(
    state: Float[Array, "B *S C"],
    code: Float[Array, "b *S D"],
    fire: rows.Rows,
    kept: Float[Array, "B *S E"] | None,
    *,
    w: Attentive,
    modulation: Modulation,
    heads: int,
    border: str,
    neighbourhood: str,
    dtype: Any,
) -> tuple[Float[Array, "B *S O"], Float[Array, "B *S E"] | None]:
    """:func:`attentive` of the cells that ``fire``, and 0 for the others, of which nothing is computed.

    ``kept``: :func:`keys` before the step, which come back as they are after it, so that they too are computed of the
    cells that changed alone; None computes those of all cells, and keeps none: a gradient would hold them for each
    step.
    """
    grid, d, n = state.shape[:-1], code.shape[-1], math.prod(state.shape[1:-1])
    groups = len(fire.order)

    def take(x: Float[Array, "B *S k"]) -> Float[Array, "G m k"]:
        return rows.take(x.reshape(groups, -1, x.shape[-1]), fire)

    def spread(y: Float[Array, "G m k"]) -> Float[Array, "B *S k"]:
        return rows.spread(y, fire).reshape(*grid, -1)

    def each(x: Float[Array, "b *s D"]) -> Float[Array, "..."]:
        """What the condition makes of the image of each row."""
        if len(x) in (1, groups):
            return x.reshape(len(x), 1, -1)
        return rows.of_images(x.reshape(groups, -1, d), fire.order // n)

    seen = keys(state, code, w, modulation, dtype) if kept is None else kept
    modulation = jax.tree.map(each, modulation)
    own = take(state)
    place = code.reshape(-1, d)[fire.order % n] if len(code) == 1 else take(code)
    e = affine(own, w.embedding) + place
    shift, scale, gate = modulation.attention
    q = _named("qkv", dense.product(_modulated(e, w.norm0, shift, scale), w.qkv[:, :d], dtype), dtype)
    parts = (part.reshape(*grid, heads, -1) for part in (spread(q), *jnp.split(seen, 2, -1)))
    answer = take(local_attention(*parts, border, neighbourhood).reshape(*grid, d))
    e = e + gate * _named("proj", affine(answer, w.proj, dtype), dtype)
    change = _spoken(e, w, modulation, dtype)
    if kept is None:
        return spread(change), None
    older = own + jnp.pad(change, ((0, 0), (0, 0), (own.shape[-1] - change.shape[-1], 0)))
    a = _modulated(affine(older, w.embedding) + place, w.norm0, shift, scale)
    fresh = spread(dense.product(a, w.qkv[:, d:], dtype).astype(dtype))
    return spread(change), jnp.where(fire.fire.reshape(*grid, 1), fresh, kept)


def affine(x: Float[Array, "*S I"], layer: Linear, dtype: Any = jnp.float32) -> Float[Array, "*S O"]:
    """``layer`` of ``x``: products in ``dtype``, the rest and the result in float32."""
    return dense.product(x, layer.kernel, dtype) + layer.bias


def _named(name: str, x: Float[Array, "*S"], dtype: Any) -> Float[Array, "*S"]:
    """``x`` in ``dtype``, as a gradient may keep it."""
    return checkpoint_name(x.astype(dtype), name)


def _modulated(
    x: Float[Array, "B *S D"],
    norm: tuple[Float[Array, " D"], Float[Array, " D"]],
    shift: Float[Array, "b *s D"],
    scale: Float[Array, "b *s D"],
) -> Float[Array, "B *S D"]:
    """A LayerNorm with scale and bias of its own, and then those of the condition, in one."""
    own, bias = norm
    return _normed(x, bias * (1 + scale) + shift, own * (1 + scale), 1e-5)


def _normed(
    x: Float[Array, "B *S D"], shift: Float[Array, "b *s D"], scale: Float[Array, "b *s D"], eps: float
) -> Float[Array, "B *S D"]:
    """Each cell over its features, then ``scale`` and ``shift``."""
    mean = x.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)
    return (x - mean) * (rate * scale) + shift


def _gelu(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Exact, by erf: jax.nn.gelu takes erfc, which is three times the work on a CPU."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))
