"""The step of Diff-NCA as one kernel for accelerators (Pallas): perceive and update, forward and gradient.

A strip of cells and its border are read once and stay on the chip: all nine taps, both products and the norm between
them take them from there, and of what is made on the way nothing is written. The gradient makes it again. So a step
moves a few times the state, where a program of single operations moves all that lies between (:func:`moved`).
:func:`nca_gen.nn.fast.gated` is the same rule, and takes over where no kernel fits (:func:`fits`).

    seen = sum over taps k of x[. + k] @ taps[k]
    y    = [x, seen] @ fc0 + bias
    d    = leaky_relu(norm(y)) @ fc1

Gates, and what the embedding contributes, are in the weights of each image (:func:`nca_gen.nn.fast.constants`); so is
a norm of the whole image, whose moments are a kernel of their own. A norm of each cell is part of the kernel.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from nca_gen.ca import perceive
from nca_gen.nn import fast
from nca_gen.nn.embeddings import scalar_features
from nca_gen.nn.norm import EPS, SLOPE
from nca_gen.nn.weights import Gated

TAPS = [(i, j) for i in range(3) for j in range(3)]
ROOM = 2**21  # float32 that a kernel makes of a strip on the way: 8 MiB
WEIGHTS = 2**19  # numbers, of which the chip holds each four times: its gradient, and the next image's
SUBLANES = 8  # rows of a register of a TPU, of which a strip has to be a multiple


class Weights(NamedTuple):
    """Of a step: ``c`` state, ``h`` hidden channels. ``b`` is 1 where all images have the same, or their number."""

    taps: Float[Array, "9 c c"]
    fc0: Float[Array, "b d h"]  # d = 2 c: of the cell, then of what it has seen
    bias: Float[Array, "b 1 h"]
    fc1: Float[Array, "b h c"]


class How(NamedTuple):
    """``cell``: whether y is normalised over each cell. ``dtype``: of the products. ``interpret``: for CPUs."""

    cell: bool
    dtype: Any
    interpret: bool


def gated(
    scalars: Float[Array, "b *s K"],
    state: Float[Array, "B *S C"],
    fire: Bool[Array, "*M"],
    border: str,
    *,
    w: Gated,
    dtype: Any,
    otherwise: Callable[..., Array],
) -> Float[Array, "B *S C"]:
    """What a step adds to every cell, as :func:`nca_gen.nn.fast.gated` says it; ``otherwise`` is asked where no kernel
    :func:`fits`. On a CPU kernels are interpreted, which is for tests, and not fast."""
    backend = jax.default_backend()
    if border == "constant" or not fits(scalars.shape, state.shape, w.fc1.kernel.shape[0], backend):
        return otherwise(scalars, state, fire, border)
    e = fast.mlp(scalar_features(scalars), w.embedding)
    taps, gate0, fc0, bias = fast.constants(e, w, fast.mlp(e, w.gate0))
    fc0, fc1 = (g.reshape(len(g), -1, 1) * k for g, k in ((gate0, fc0), (fast.mlp(e, w.gate1), w.fc1.kernel)))
    weights = Weights(perceive.block(taps, 2).reshape(9, *taps.shape[-2:]), fc0, bias.reshape(len(fc0), 1, -1), fc1)
    x = strips(perceive.pad(state, border), strip(state.shape[2], state.shape[3], fc1.shape[1]))
    how = How(w.norm is None, dtype, backend == "cpu")
    if w.norm is not None:
        total = sums(x, weights, how).reshape(len(state), -1, 2, fc0.shape[2])
        weights = normalised(weights, *w.norm, total, math.prod(state.shape[1:3]))
    return (whole(change(x, weights, how), state.shape) + w.fc1.bias) * fire


def fits(scalars: Sequence[int], state: Sequence[int], h: int, backend: str) -> bool:
    """Whether there is a kernel for arrays of these shapes: 2-D, one time for all cells of an image, weights that the
    chip holds; on a TPU a single device and strips of whole registers. A GPU has none, as kernels there take blocks
    that do not overlap alone (jax 0.10)."""
    if len(state) != 4 or max(scalars[1:-1]) > 1 or 9 * state[-1] ** 2 + 3 * state[-1] * h > WEIGHTS:
        return False
    whole_registers = strip(state[2], state[3], h) % SUBLANES == 0
    return backend == "cpu" or (backend == "tpu" and jax.device_count() == 1 and whole_registers)


def each(c: int, h: int) -> int:
    """Numbers that the gradient of a cell makes on the way."""
    return 6 * h + 12 * c


def strip(width: int, c: int, h: int) -> int:
    """Columns of an image that a kernel takes at once: a divisor of its ``width``."""
    return next(w for w in divisors(width) if w * each(c, h) <= ROOM or w == 1)


def divisors(n: int) -> list[int]:
    """Of ``n``, the greatest first."""
    return [k for k in range(n, 0, -1) if n % k == 0]


def strips(x: Float[Array, "B T U C"], width: int) -> Float[Array, "M T V C"]:
    """``x``, with its border of one, cut into n strips of ``width`` columns and a border each: M = B n images."""
    each = jnp.stack([x[:, :, i : i + width + 2] for i in range(0, x.shape[2] - 2, width)], 1)
    return each.reshape(-1, *each.shape[2:])


def whole(d: Float[Array, "M H V C"], shape: tuple[int, ...]) -> Float[Array, "B H W C"]:
    """Strips as the images of ``shape`` that they are of."""
    return jnp.moveaxis(d.reshape(shape[0], -1, *d.shape[1:]), 1, 2).reshape(shape)


def normalised(
    w: Weights, scale: Float[Array, " h"], shift: Float[Array, " h"], total: Float[Array, "B n 2 h"], cells: int
) -> Weights:
    """``w``, by which y is normalised over the ``cells`` of each image. ``total``: :func:`sums` of its n strips."""
    moments = total.sum((1, 3)) / (cells * len(scale))
    mean, square = (m.reshape(-1, 1, 1) for m in moments.T)
    rate = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + EPS)
    mean, rate = checkpoint_name((mean, rate), "moments")
    fc0, fc1 = w.fc0 * rate * scale, jnp.broadcast_to(w.fc1, (len(rate), *w.fc1.shape[1:]))
    return Weights(w.taps, fc0, (w.bias - mean) * rate * scale + shift, fc1)


# What a kernel does with a strip: references to blocks come in, those of results last.


def _dot(a: Array, b: Array, dtype: Any, axes: tuple[int, int] = (1, 0)) -> Array:
    """The product of matrices over the ``axes`` of each, of numbers of ``dtype``, accumulated in float32."""
    over = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a.astype(dtype), b.astype(dtype), over, preferred_element_type=jnp.float32)


def _rows(x: Array, tap: tuple[int, int] = (1, 1)) -> Array:
    """The cells of a strip [R+2, W+2, C] as each sees them at a ``tap``, one a row."""
    (i, j), (r, w) = tap, (x.shape[0] - 2, x.shape[1] - 2)
    return x[i : i + r, j : j + w].reshape(r * w, x.shape[2])


def _seen(x: Array, taps: Any, dtype: Any) -> Array:
    return reduce(operator.add, (_dot(_rows(x, tap), taps[k], dtype) for k, tap in enumerate(TAPS)))


def _hidden(x: Any, taps: Any, fc0: Any, bias: Any, dtype: Any) -> tuple[Array, Array, Array]:
    """Cells, what they have seen, and y."""
    z, seen, c = _rows(x[0]), _seen(x[0], taps, dtype), x.shape[-1]
    return z, seen, _dot(z, fc0[0, :c], dtype) + _dot(seen, fc0[0, c:], dtype) + bias[0]


def _cell(y: Array) -> tuple[Array, Array]:
    """y normalised over each cell, and by which rate."""
    mean = y.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.maximum(jnp.square(y).mean(-1, keepdims=True) - jnp.square(mean), 0.0) + EPS)
    return (y - mean) * rate, rate


def _leaky(u: Array, x: Array) -> Array:
    """``x`` where u >= 0, else a little of it: leaky_relu, and its gradient."""
    return jnp.where(u >= 0, x, SLOPE * x)


def _add(out: Any, value: Array, first: Array) -> None:
    """Adds to a block that several strips share, from 0 on at the ``first``."""

    @pl.when(first)
    def _() -> None:
        out[...] = jnp.zeros(out.shape, out.dtype)

    out[...] += value.reshape(out.shape)


def _change(x: Any, taps: Any, fc0: Any, bias: Any, fc1: Any, d: Any, *, how: How) -> None:
    _, _, y = _hidden(x, taps, fc0, bias, how.dtype)
    u = _cell(y)[0] if how.cell else y
    d[...] = _dot(_leaky(u, u), fc1[0], how.dtype).reshape(d.shape)


def _sums(x: Any, taps: Any, fc0: Any, bias: Any, total: Any, *, how: How) -> None:
    _, _, y = _hidden(x, taps, fc0, bias, how.dtype)
    both = jnp.concatenate([y.sum(0, keepdims=True), jnp.square(y).sum(0, keepdims=True)])
    _add(total, both, pl.program_id(1) == 0)


def _back(x: Any, parts: tuple[Array, Array, Array], fc0: Any, outs: Sequence[Any], how: How, n: int) -> Array:
    """Writes what a gradient ``dy`` of y is to cells, what they have seen, and weights; whether an image begins."""
    z, seen, dy = parts
    dz, dseen, dtaps, dfc0, dbias = outs
    dot, c = partial(_dot, dtype=how.dtype), x.shape[-1]
    dz[...] = dot(dy, fc0[0, :c], axes=(1, 1)).reshape(dz.shape)
    heard = dot(dy, fc0[0, c:], axes=(1, 1))
    dseen[...] = heard.reshape(dseen.shape)
    begins = (pl.program_id(0) % n == 0) & (pl.program_id(1) == 0)
    each = [dot(_rows(x[0], tap), heard, axes=(0, 0)) for tap in TAPS]
    _add(dtaps, jnp.stack(each), (pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    _add(dfc0, jnp.concatenate([dot(z, dy, axes=(0, 0)), dot(seen, dy, axes=(0, 0))]), begins)
    _add(dbias, dy.sum(0), begins)
    return begins


def _change_gradient(x: Any, taps: Any, fc0: Any, bias: Any, fc1: Any, d: Any, *outs: Any, how: How, n: int) -> None:
    z, seen, y = _hidden(x, taps, fc0, bias, how.dtype)
    u, rate = _cell(y) if how.cell else (y, None)
    g = d[...].reshape(len(z), -1)
    du = _leaky(u, _dot(g, fc1[0], how.dtype, (1, 1)))
    if rate is not None:
        du = rate * (du - du.mean(-1, keepdims=True) - u * (du * u).mean(-1, keepdims=True))
    begins = _back(x, (z, seen, du), fc0, outs[:-1], how, n)
    _add(outs[-1], _dot(_leaky(u, u), g, how.dtype, (0, 0)), begins)


def _sums_gradient(x: Any, taps: Any, fc0: Any, bias: Any, total: Any, *outs: Any, how: How, n: int) -> None:
    z, seen, y = _hidden(x, taps, fc0, bias, how.dtype)
    _back(x, (z, seen, total[0, :1] + 2 * total[0, 1:] * y), fc0, outs, how, n)


def _perceived(x: Any, taps: Any, seen: Any, *, how: How) -> None:
    seen[...] = _seen(x[0], taps, how.dtype).reshape(seen.shape)


# Which blocks of which arrays they get.


class Block(NamedTuple):
    """What a kernel gets of an array at a time: a block of so many numbers along every axis, and where it lies.

    ``place``: of a strip, counted in blocks, or in numbers where blocks have a border and overlap.
    """

    array: tuple[int, ...]
    sides: tuple[int, ...]
    place: Callable[[Any, Any], tuple[Any, ...]]
    bordered: bool = False

    @property
    def spec(self) -> pl.BlockSpec:
        """The same for Pallas."""
        return pl.BlockSpec([pl.Element(side) for side in self.sides] if self.bordered else self.sides, self.place)


class Call(NamedTuple):
    """A kernel, and what it gets and gives for every strip."""

    kernel: Callable[..., None]
    grid: tuple[int, int]  # images, strips of rows
    ins: tuple[Block, ...]
    outs: tuple[Block, ...]

    def __call__(self, interpret: bool, *arrays: Array) -> tuple[Array, ...]:
        """The results, float32."""
        return pl.pallas_call(
            self.kernel,
            grid=self.grid,
            in_specs=[block.spec for block in self.ins],
            out_specs=[block.spec for block in self.outs],
            out_shape=[jax.ShapeDtypeStruct(block.array, jnp.float32) for block in self.outs],
            interpret=interpret,
        )(*arrays)


def call(name: str, x: tuple[int, ...], b: int, h: int, how: How) -> Call:
    """The kernel ``name`` for cells of the shape ``x`` [M, H+2, W+2, C], and weights of ``b`` images."""
    m, height, width, c = x[0], x[1] - 2, x[2] - 2, x[3]
    n = m // b
    rows = next(r for r in divisors(height) if r * width * each(c, h) <= ROOM or r == 1)
    around = Block(x, (1, rows + 2, width + 2, c), lambda i, j: (i, j * rows, 0, 0), bordered=True)
    cells = Block((m, height, width, c), (1, rows, width, c), lambda i, j: (i, j, 0, 0))
    taps = Block((9, c, c), (9, c, c), lambda i, j: (0, 0, 0))

    def own(*shape: int, images: int = b) -> Block:
        many = m // images
        return Block((images, *shape), (1, *shape), lambda i, j: (i // many, 0, 0))

    first, fc1, total = (taps, own(2 * c, h), own(1, h)), own(h, c), own(2, h, images=m)
    back, grid = (cells, cells, *first), (m, height // rows)
    kernels: dict[str, tuple[Callable[..., None], tuple[Block, ...], tuple[Block, ...]]] = {
        "change": (partial(_change, how=how), (around, *first, fc1), (cells,)),
        "sums": (partial(_sums, how=how), (around, *first), (total,)),
        "change_gradient": (partial(_change_gradient, how=how, n=n), (around, *first, fc1, cells), (*back, fc1)),
        "sums_gradient": (partial(_sums_gradient, how=how, n=n), (around, *first, total), back),
        "perceived": (partial(_perceived, how=how), (around, taps), (cells,)),
    }
    kernel, ins, outs = kernels[name]
    return Call(kernel, grid, ins, outs)


def moved(one: Call) -> int:
    """Bytes of float32 that a kernel reads and writes: a block whenever it is not the one of the strip before."""
    total = 0
    for block in (*one.ins, *one.outs):
        places = [block.place(*strip) for strip in np.ndindex(one.grid)]
        turns = 1 + sum(here != there for here, there in zip(places[1:], places, strict=False))
        total += 4 * turns * math.prod(block.sides)
    return total


def traffic(state: tuple[int, ...], b: int, h: int, cell: bool) -> tuple[int, int]:
    """Bytes that a step of cells ``state`` [B, H, W, C] moves, and its gradient, by kernels and what is between them.

    Between them a program pads the state, and in the gradient what cells have seen; adds what comes to each cell both
    ways, and undoes the padding: 2 arrays like the state for a padding, 3 for a sum. ``b``, ``h``, ``cell``: as in
    :class:`Weights` and :class:`How`.
    """
    width = strip(state[2], state[3], h)
    x, like = (state[0] * state[2] // width, state[1] + 2, width + 2, state[3]), 4 * math.prod(state)
    far = (x[0], *(2 + side + 2 + -(side + 2) % SUBLANES for side in (state[1], width)), state[3])
    how = How(cell, jnp.float32, True)

    def bytes_of(*names: str) -> int:
        return sum(moved(call(name, far if name == "perceived" else x, b, h, how)) for name in names)

    if cell:
        return bytes_of("change") + 2 * like, bytes_of("change_gradient", "perceived") + 9 * like
    image = bytes_of("sums", "change")
    return image + 2 * like, bytes_of("change_gradient", "sums_gradient", "perceived", "perceived") + 17 * like


# What of that is differentiated.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def change(x: Float[Array, "M T U C"], w: Weights, how: How) -> Float[Array, "M H W C"]:
    """The answer ``d`` of cells that bring a border of one: T = H + 2, U = W + 2."""
    return _run("change", x, w, how, *w)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def sums(x: Float[Array, "M T U C"], w: Weights, how: How) -> Float[Array, "M 2 h"]:
    """The sums of y and of its square over the cells of each image."""
    return _run("sums", x, w, how, *w[:3])[0]


def _run(name: str, x: Array, w: Weights, how: How, *arrays: Array) -> tuple[Array, ...]:
    return call(name, x.shape, len(w.fc0), w.fc0.shape[2], how)(how.interpret, x, *arrays)


def _of_cells(dz: Array, dseen: Array, w: Weights, how: How) -> Array:
    """The gradient of cells and their border: what they saw goes back by a perception with the taps turned round."""
    (_, h, width, _), far = dseen.shape, w.taps[::-1].mT
    extra = [-(side + 2) % SUBLANES for side in (h, width)]  # so that strips are whole
    x = jnp.pad(dseen, ((0, 0), *[(2, 2 + more) for more in extra], (0, 0)))
    heard = call("perceived", x.shape, 1, w.fc0.shape[2], how)(how.interpret, x, far)[0]
    return heard[:, : h + 2, : width + 2] + perceive.pad(dz, "constant")


def _gradient_of_change(how: How, residuals: tuple[Array, Weights], d: Array) -> tuple[Array, Weights]:
    x, w = residuals
    dz, dseen, *dw = _run("change_gradient", x, w, how, *w, d)
    return _of_cells(dz, dseen, w, how), Weights(*dw)


def _gradient_of_sums(how: How, residuals: tuple[Array, Weights], d: Array) -> tuple[Array, Weights]:
    x, w = residuals
    dz, dseen, *dw = _run("sums_gradient", x, w, how, *w[:3], d)
    return _of_cells(dz, dseen, w, how), Weights(*dw, jnp.zeros_like(w.fc1))


change.defvjp(lambda x, w, how: (change(x, w, how), (x, w)), _gradient_of_change)
sums.defvjp(lambda x, w, how: (sums(x, w, how), (x, w)), _gradient_of_sums)
