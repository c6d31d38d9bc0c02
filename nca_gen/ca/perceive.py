"""Perception: what a cell sees of its neighbours.

A kernel is ``[3, .., 3, Cin, Cout]`` (one 3 per spatial axis), of Moore's neighbourhood, or of von Neumann's
``[2 n + 1, Cin, Cout]``, in the order of :func:`taps`. The input is padded first and the product is taken on the
inside, so a tile that brings its own halo skips the padding.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pad(x: Float[Array, "B *S C"], mode: str, width: int = 1) -> Float[Array, "B *T C"]:
    """Pads every spatial axis by ``width``; ``mode`` is numpy's: "constant", "reflect", "wrap"."""
    return jnp.pad(x, ((0, 0), *[(width, width)] * (x.ndim - 2), (0, 0)), mode=mode)


NEIGHBOURHOODS = ("moore", "von_neumann")


def taps(ndim: int, neighbourhood: str) -> list[tuple[int, ...]]:
    """Where a cell sees itself, at (1, .., 1), and its neighbours in a block of 3^n; the i-th faces the i-th last.

    "moore": all of the block. "von_neumann": the 2 n cells with which it shares a face.
    """
    block = itertools.product(range(3), repeat=ndim)
    return [tap for tap in block if neighbourhood == "moore" or sum(t != 1 for t in tap) <= 1]


def sides(ndim: int, neighbourhood: str) -> tuple[int, ...]:
    """Axes of the taps of a kernel."""
    return (3,) * ndim if neighbourhood == "moore" else (2 * ndim + 1,)


def block(kernel: Float[Array, "..."], ndim: int) -> Float[Array, "..."]:
    """``kernel`` as one of ``[3, .., 3, Cin, Cout]``: zero at the taps that it has not."""
    if not _starred(kernel, ndim):
        return kernel
    at = tuple(zip(*taps(ndim, "von_neumann"), strict=True))
    return jnp.zeros(((3,) * ndim + kernel.shape[1:]), kernel.dtype).at[at].set(kernel)


def _starred(kernel: Array, ndim: int) -> bool:
    """Whether it is a kernel of von Neumann's neighbourhood, which has one axis for taps of several."""
    return kernel.ndim - 2 < ndim


def _shifts(x: Array, kernel: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    """The index of each tap of ``kernel``, and the inside of padded ``x`` seen from there."""
    ndim = x.ndim - 2
    if _starred(kernel, ndim):
        places, widths = enumerate(taps(ndim, "von_neumann")), (3,) * ndim
        each = (((i,), tap) for i, tap in places)
    else:
        widths = kernel.shape[:-2]
        each = ((tap, tap) for tap in itertools.product(*map(range, widths)))
    inside = [size - k + 1 for size, k in zip(x.shape[1:-1], widths, strict=True)]
    for index, tap in each:
        yield index, x[(slice(None), *(slice(t, t + n) for t, n in zip(tap, inside, strict=True)))]


def shifted(x: Float[Array, "B *T Cin"], kernel: Float[Array, "..."]) -> Float[Array, "B *S Cout"]:
    """Convolution as a sum of shifted products (9 in 2-D).

    On CPU the gradient of :func:`convolved` inside ``lax.scan`` is several times slower than this.
    """
    taps = (jnp.dot(s, kernel[tap], preferred_element_type=jnp.float32) for tap, s in _shifts(x, kernel))
    return reduce(operator.add, taps)


def gathered(x: Float[Array, "B *T Cin"], kernel: Float[Array, "..."]) -> Float[Array, "B *S Cout"]:
    """Convolution as one product of the gathered neighbourhood (im2col): 9x the memory, one product."""
    columns = jnp.concatenate([s for _, s in _shifts(x, kernel)], axis=-1)
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.dot(columns, flat, preferred_element_type=jnp.float32)


def scattered(x: Float[Array, "B *T Cin"], kernel: Float[Array, "..."]) -> Float[Array, "B *S Cout"]:
    """Convolution as one product to all taps, then the sum of their shifts."""
    cin, cout = kernel.shape[-2:]
    taps = jnp.moveaxis(kernel.reshape(-1, cin, cout), 0, 1).reshape(cin, -1)
    y = jnp.dot(x, taps, preferred_element_type=jnp.float32)
    parts = (s[..., i * cout : (i + 1) * cout] for i, (_, s) in enumerate(_shifts(y, kernel)))
    return reduce(operator.add, parts)


def split(x: Float[Array, "B *T Cin"], kernel: Float[Array, "..."]) -> Float[Array, "B *S Cout"]:
    """Convolution gathered along all axes but the last, scattered along that: one product, in 2-D 3x the memory.

    On CPU this has the fastest gradient: the products that it consists of are large both ways, and square. Von
    Neumann's neighbours lie on no lines that could be split, and are gathered.
    """
    if _starred(kernel, x.ndim - 2):
        return gathered(x, kernel)
    *first, last, cin, cout = kernel.shape
    columns = jnp.concatenate([s for _, s in _shifts(x, jnp.empty((*first, 1, 1, 1)))], axis=-1)
    taps = jnp.moveaxis(kernel.reshape(-1, last, cin, cout), 1, 2).reshape(-1, last * cout)
    y = jnp.dot(columns.reshape(-1, taps.shape[0]), taps, preferred_element_type=jnp.float32)
    y, width = y.reshape(*columns.shape[:-1], -1), x.shape[-2] - last + 1
    return reduce(operator.add, (y[..., i : i + width, i * cout : (i + 1) * cout] for i in range(last)))


def convolved(x: Float[Array, "B *T Cin"], kernel: Float[Array, "..."]) -> Float[Array, "B *S Cout"]:
    """The same product through XLA's convolution."""
    n = x.ndim - 2
    kernel = block(kernel, n)
    space = "DHW"[-n:]
    dims = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, (f"N{space}C", f"{space}IO", f"N{space}C"))
    return jax.lax.conv_general_dilated(
        x, kernel, (1,) * n, "VALID", dimension_numbers=dims, preferred_element_type=jnp.float32
    )
