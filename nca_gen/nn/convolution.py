"""Convolutions of volumes, on CPUs by those of images: XLA has a fast program for these, and plain loops for those."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FEW = 2**24
"""Up to how many numbers of one volume are laid side by side: 64 MiB in float32, so that large ones take no memory."""

LIGHT = 2**20
"""Of how many numbers the kernel is at the most: those of the published networks, laid anew, would take 2 GB more."""


def convolution(
    x: Float[Array, "B *T C"],
    kernel: Float[Array, "*K _ D"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **how: Any,
) -> Float[Array, "B *S D"]:
    """:func:`jax.lax.conv_general_dilated` of fields whose channels are last, with its arguments.

    On a CPU one of a small volume is that of its slices, whose channels are those of all slices that a tap of the first
    axis hears, side by side. It takes a third to a tenth of the time, forward and backward (3 taps a side, 4 to 128
    channels), and for as long as it runs three times the memory of the volume.
    """
    n = x.ndim - 2
    small = prod(x.shape[1:]) * len(kernel) <= FEW and kernel.size <= LIGHT
    if n == 3 and small and jax.default_backend() == "cpu" and plain(how):
        return by_slices(x, kernel, strides, padding, **how)
    axes = "DHW"[-n:]
    how["dimension_numbers"] = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return jax.lax.conv_general_dilated(x, kernel, tuple(strides), padding, **how)


def plain(how: Any) -> bool:
    """Whether all channels hear each other, and taps lie side by side."""
    spread = [*(how.get("lhs_dilation") or ()), *(how.get("rhs_dilation") or ())]
    return how.get("feature_group_count", 1) == how.get("batch_group_count", 1) == 1 and {1}.issuperset(spread)


def by_slices(
    x: Float[Array, "B d h w C"],
    kernel: Float[Array, "k i j C D"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    **_: Any,
) -> Float[Array, "B e g f D"]:
    """The convolution as one of images, in two axes."""
    taps, *sides = kernel.shape[:3]
    (first, *others), (stride, *along) = _margins(x, kernel, strides, padding), strides
    x = jnp.pad(x, ((0, 0), first, *[(0, 0)] * 3))
    slices = (x.shape[1] - taps) // stride + 1
    heard = [x[:, i : i + (slices - 1) * stride + 1 : stride] for i in range(taps)]
    images = jnp.concatenate(heard, -1).reshape(-1, *x.shape[2:4], taps * x.shape[-1])
    flat = jnp.moveaxis(kernel, 0, 2).reshape(*sides, images.shape[-1], -1)
    y = jax.lax.conv_general_dilated(
        *(images, flat, tuple(along), others),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    return y.reshape(len(x), slices, *y.shape[1:])


def _margins(x: Array, kernel: Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]]) -> Any:
    """``padding`` in numbers."""
    if isinstance(padding, str):
        return jax.lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:3], strides, padding)
    return padding
