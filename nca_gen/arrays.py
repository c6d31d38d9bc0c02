"""Axis names, coordinate grids and randomness that belongs to coordinates.

Axes: ``B`` batch, ``H W`` (or ``D H W``, any number: ``*S``) space, ``C`` channels last.
A *key* in this package is a typed threefry key array of shape ``[B]``: one stream per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Float, Int, Integer, Key, Num, UInt32

from nca_gen.errors import UserError

Coords = tuple[Int[Array, "..."], ...]  # one integer array per spatial axis, broadcastable together


def keys(seed: int, n: int, first: int = 0) -> Key[Array, " n"]:
    """``n`` sample keys; key ``i`` depends on ``seed`` and ``first + i`` alone, never on ``n``."""
    root = jax.random.key(seed, impl="threefry2x32")
    numbers = np.arange(n, dtype=np.uint32) + np.uint32(first)  # in numpy, or four things are compiled for every n
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(numbers)


def numbered(key: Key[Array, ""], n: int) -> Key[Array, " n"]:
    """``n`` sample keys of one ``key``; key ``i`` depends on it and on ``i`` alone, never on ``n``."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))


def fold(key: Key[Array, " B"], data: int | Integer[Array, ""]) -> Key[Array, " B"]:
    """A fresh, independent key per sample, named by the integer ``data``."""
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(key)


def coords(shape: Sequence[int], origin: Sequence[int] | None = None) -> Coords:
    """Absolute integer coordinates of a block of ``shape`` cells at ``origin``, as an open mesh."""
    origin = origin or (0,) * len(shape)
    n = len(shape)
    return tuple(
        (jnp.arange(size) + start).reshape([-1 if a == axis else 1 for a in range(n)])
        for axis, (size, start) in enumerate(zip(shape, origin, strict=True))
    )


def threefry(
    k0: UInt32[Array, "..."], k1: UInt32[Array, "..."], c0: UInt32[Array, "..."], c1: UInt32[Array, "..."]
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), elementwise over broadcast words.

    ``jax.random`` counts along the array: its bits move when the array is cut.
    """
    # Written out: jax.extend.random.threefry2x32_p has the same bits, but on a CPU (jax 0.10.2) 50 draws in a scan took
    # five times as long to compile and to run, because nothing is fused with it, and under vmap it fails. And of lax,
    # on words of one shape: to trace the operators of jnp took a third of the time to trace all of sampling.
    shape = jnp.broadcast_shapes(*map(jnp.shape, (k0, k1, c0, c1)))
    k0, k1, k2, x0, x1 = (jnp.broadcast_to(word, shape) for word in (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA), c0, c1))
    ks = k0, k1, k2
    rotations = ((13, 15, 26, 6), (17, 29, 16, 24))
    word = cache(partial(lax.full_like, x0))
    x0, x1 = lax.add(x0, k0), lax.add(x1, k1)
    for i in range(5):
        for r in rotations[i % 2]:
            x0 = lax.add(x0, x1)
            turned = lax.bitwise_or(lax.shift_left(x1, word(r)), lax.shift_right_logical(x1, word(32 - r)))
            x1 = lax.bitwise_xor(turned, x0)
        x0 = lax.add(x0, ks[(i + 1) % 3])
        x1 = lax.add(lax.add(x1, ks[(i + 2) % 3]), word(i + 1))
        # 20 rounds in one piece are too much for the vectoriser of jax 0.11 on CPU, which never ends.
        x0, x1 = lax.optimization_barrier((x0, x1))
    return x0, x1


_traced = jax.jit(threefry)  # once for each shape


def _block(key: UInt32[Array, "2"], count: UInt32[Array, "..."]) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    return _traced(key[0], key[1], np.uint32(0), count)


def _bits(key: UInt32[Array, "2"], width: int, shape: tuple[int, ...]) -> Array:
    if width != 32:
        return jax.random.bits(jax.random.wrap_key_data(key, impl="threefry2x32"), shape, f"uint{width}")
    x0, x1 = _block(key, lax.iota(np.uint32, prod(shape)))
    return (x0 ^ x1).reshape(shape)


_WRITTEN_OUT = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
    split=lambda key, shape: jnp.stack(_block(key, lax.iota(np.uint32, prod(shape))), -1).reshape(*shape, 2),
    random_bits=_bits,
    fold_in=lambda key, data: jnp.stack(_block(key, jnp.asarray(data, np.uint32))),
    name="threefry2x32_written_out",
    tag="wo",
)


THREEFRY = ("key<fry>", "key<wo>")
"""The types of keys that draw these bits."""


def written_out(key: Key[Array, "*n"]) -> Key[Array, "*n"]:
    """``key`` with its draws written out: the bits of jax's own, of fewer than 2^32 numbers, which on a CPU are a loop.

    For programs that draw much and run once: the start of a network of 160 arrays compiles in half the time. A key of
    another kind than threefry stays as it is.
    """
    if jax.random.key_impl(key) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_WRITTEN_OUT)


@partial(jax.jit, static_argnums=3)  # or a call outside of a program would compile some fifty
def cell_bits(
    key: Key[Array, " B"], step: int | Int[Array, "..."], at: Coords, channels: int
) -> tuple[UInt32[Array, "... C"], UInt32[Array, "... C"]]:
    """Two random words [B, *S, C] per sample, cell and channel: a hash of (key, step, coordinates, channel).

    A coordinate below 0 is hashed as its two's complement of 32 bits, -1 as 2^32 - 1.
    Those of several steps, of any shape, come along axes before these.
    """
    n = len(at)
    words = jax.random.key_data(key)
    k0, k1 = (words[:, i].reshape(-1, *[1] * (n + 1)) for i in (0, 1))
    step = jnp.asarray(step).astype(jnp.uint32)
    step = step.reshape(*step.shape, *[1] * (n + 2))
    k0, k1 = threefry(k0, k1, step, jnp.arange(channels, dtype=jnp.uint32))
    axes = [jnp.asarray(c).astype(jnp.uint32)[..., None] for c in at]
    axes = [jnp.uint32(0)] * (n % 2) + axes  # an even number of words: two enter per call
    for c0, c1 in zip(axes[::2], axes[1::2], strict=True):
        k0, k1 = threefry(k0, k1, c0, c1)
    return k0, k1


def cell_uniform(
    key: Key[Array, " B"], step: int | Int[Array, "..."], at: Coords, channels: int
) -> Float[Array, "... C"]:
    """Uniform in [0, 1) with 24 bits, keyed by coordinates (see :func:`cell_bits`)."""
    bits, _ = cell_bits(key, step, at, channels)
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def cell_normal(
    key: Key[Array, " B"], step: int | Int[Array, "..."], at: Coords, channels: int
) -> Float[Array, "... C"]:
    """Standard normal, keyed by coordinates; Box-Muller on the two words of a cell."""
    b0, b1 = cell_bits(key, step, at, channels)
    radius2 = -2.0 * jnp.log(((b0 >> 8).astype(jnp.float32) + 0.5) * 2.0**-24)
    angle = (b1 >> 8).astype(jnp.float32) * (2.0**-24 * 2.0 * jnp.pi)
    return jnp.sqrt(radius2) * jnp.cos(angle)


def blocked(x: Float[Array, "B *T C"], k: int) -> Float[Array, "B *S D"]:
    """Blocks of ``k`` pixels along every spatial axis as the channels of one cell; ``k`` divides every axis."""
    if k == 1:
        return x
    n = x.ndim - 2
    split = [part for size in x.shape[1:-1] for part in (size // k, k)]
    cells, inner = range(1, 2 * n, 2), range(2, 2 * n + 1, 2)
    x = x.reshape(x.shape[0], *split, x.shape[-1]).transpose(0, *cells, *inner, 2 * n + 1)
    return x.reshape(*x.shape[: n + 1], -1)


def unblocked(x: Float[Array, "B *S D"], k: int) -> Float[Array, "B *T C"]:
    """The inverse of :func:`blocked`."""
    if k == 1:
        return x
    n = x.ndim - 2
    x = x.reshape(*x.shape[:-1], *[k] * n, x.shape[-1] // k**n)
    order = [axis for i in range(n) for axis in (1 + i, 1 + n + i)]
    sides = [size * k for size in x.shape[1 : n + 1]]
    return x.transpose(0, *order, 2 * n + 1).reshape(x.shape[0], *sides, -1)


def reduced(x: Float[Array, "B *T C"], k: int) -> Float[Array, "B *S C"]:
    """Mean of every block of ``k`` pixels a side; ``k`` divides every axis."""
    cells = blocked(x, k)
    return cells.reshape(*cells.shape[:-1], k ** (x.ndim - 2), x.shape[-1]).mean(-2)


def enlarged(x: Float[Array, "B *S C"], k: int) -> Float[Array, "B *T C"]:
    """Every place as a block of ``k`` equal pixels a side: :func:`reduced` gives back ``x``."""
    return unblocked(jnp.tile(x, k ** (x.ndim - 2)), k)


def shares(label_map: Num[Array | np.ndarray, "B *S _"], classes: int) -> Float[Array, "B *S {classes}"]:
    """A label map as a condition: of each place the share that every class has of it.

    ``label_map``: classes, one a place, or of a coarser grid shares of 255 already, uint8. Raises UserError for any
    other number of channels. A class that there is not gives NaN, as in :func:`multi_hot`.
    """
    if label_map.shape[-1] == classes and label_map.dtype == jnp.uint8:
        return label_map / jnp.float32(255)
    if label_map.shape[-1] == 1:
        known = (label_map >= 0) & (label_map < classes)
        return jnp.where(known, jax.nn.one_hot(label_map[..., 0], classes), jnp.nan)
    raise UserError(f"the label maps have {label_map.shape[-1]} channels; the model takes {classes} classes of one")


def multi_hot(label: Num[Array | np.ndarray, "B L"], classes: int) -> Float[Array, "B K"]:
    """The labels of images as conditions: ``classes`` columns of 0 or 1 as they are, a grade as its one-hot row.

    Raises UserError for any other number of columns. A grade that is no class gives NaN, which stops a training; zeros,
    the null condition, would go unseen.
    """
    if label.shape[-1] == classes:
        return jnp.asarray(label, jnp.float32)
    if label.shape[-1] == 1:
        grade = jnp.asarray(label)[:, :1]
        known = (grade >= 0) & (grade < classes) & (grade == jnp.floor(grade))
        return jnp.where(known, jax.nn.one_hot(grade[:, 0], classes), jnp.nan)
    raise UserError(f"the images have {label.shape[-1]} labels each; set --config.model.classes={label.shape[-1]}")
