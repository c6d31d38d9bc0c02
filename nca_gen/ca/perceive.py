"""Perception: what a cell sees of its neighbours.

A kernel is ``[3, .., 3, Cin, Cout]`` (one 3 per spatial axis). The input is padded first and the
product is taken on the inside, so a tile that brings its own halo skips the padding.
"""

from __future__ import annotations

import itertools
import operator
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pad(x: Float[Array, "B *S C"], mode: str, width: int = 1) -> Float[Array, "B *T C"]:
    """Pads every spatial axis by ``width``; ``mode`` is numpy's: "constant", "reflect", "wrap"."""
    return jnp.pad(x, ((0, 0), *[(width, width)] * (x.ndim - 2), (0, 0)), mode=mode)


def _shifts(x, kernel):
    """The inside of padded ``x`` seen from each tap of ``kernel``."""
    inside = [size - k + 1 for size, k in zip(x.shape[1:-1], kernel.shape[:-2], strict=True)]
    for tap in itertools.product(*map(range, kernel.shape[:-2])):
        index = tuple(slice(t, t + n) for t, n in zip(tap, inside, strict=True))
        yield tap, x[(slice(None), *index)]


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

    On CPU this has the fastest gradient: the products that it consists of are large both ways, and square.
    """
    *first, last, cin, cout = kernel.shape
    columns = jnp.concatenate([s for _, s in _shifts(x, jnp.empty((*first, 1, 1, 1)))], axis=-1)
    taps = jnp.moveaxis(kernel.reshape(-1, last, cin, cout), 1, 2).reshape(-1, last * cout)
    y = jnp.dot(columns.reshape(-1, taps.shape[0]), taps, preferred_element_type=jnp.float32)
    y, width = y.reshape(*columns.shape[:-1], -1), x.shape[-2] - last + 1
    return reduce(operator.add, (y[..., i : i + width, i * cout : (i + 1) * cout] for i in range(last)))


def convolved(x: Float[Array, "B *T Cin"], kernel: Float[Array, "..."]) -> Float[Array, "B *S Cout"]:
    """The same product through XLA's convolution."""
    n = x.ndim - 2
    space = "DHW"[-n:]
    dims = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, (f"N{space}C", f"{space}IO", f"N{space}C"))
    return jax.lax.conv_general_dilated(
        x, kernel, (1,) * n, "VALID", dimension_numbers=dims, preferred_element_type=jnp.float32
    )
