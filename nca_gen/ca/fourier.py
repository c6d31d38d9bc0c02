"""The corner of Fourier space in which distant cells are neighbours (Diff-NCA paper, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from nca_gen import arrays
from nca_gen.errors import UserError


def roomy(shape: Sequence[int], size: int) -> None:
    """Raises UserError where an axis is shorter than ``2 * size``: its window would hold aliases."""
    if min(shape) < 2 * size:
        raise UserError(f"a Fourier window of {size} needs images of at least {2 * size} pixels a side, got {shape}")


def window(x: Float[Array, "B *S C"], size: int) -> Complex[Array, "B *K C"]:
    """The ``size`` lowest non-negative frequencies per axis of the spatial DFT, mean at index 0.

    Taking quadrant ``[n//2 : n//2 + size]`` of the shifted spectrum is taking ``[:size]`` of the plain
    one. Raises UserError as :func:`roomy`.
    """
    roomy(x.shape[1:-1], size)
    axes = tuple(range(1, x.ndim - 1))
    spectrum = jnp.fft.fftn(x, axes=axes, norm="forward")
    return spectrum[(slice(None), *[slice(size)] * len(axes))]


def unwindow(f: Complex[Array, "B *K C"], shape: tuple[int, ...]) -> Float[Array, "B *S C"]:
    """Real part of the inverse DFT on a grid of ``shape``, all frequencies outside the window zero."""
    axes = tuple(range(1, f.ndim - 1))
    spectrum = jnp.zeros((f.shape[0], *shape, f.shape[-1]), f.dtype)
    spectrum = spectrum.at[(slice(None), *[slice(k) for k in f.shape[1:-1]])].set(f)
    return jnp.fft.ifftn(spectrum, axes=axes, norm="forward").real


def wave(at: Int[Array, "..."], size: int, extent: int) -> Complex[Array, "{size} n"]:
    """exp(-2 pi i k c / extent) for k below ``size`` and the coordinates c along one axis, rounded once."""
    table = np.exp(-2j * np.pi * np.arange(extent) / extent).astype(np.complex64)
    return jnp.asarray(table)[(jnp.arange(size)[:, None] * at.reshape(-1)) % extent]


def share(
    x: Float[Array, "B *S C"],
    size: int,
    at: arrays.Coords,
    extent: tuple[int, ...],
    core: Int[Array, "axes 2"],
) -> Complex[Array, "B *K C"]:
    """What the cells of a tile add to the :func:`window` of a whole of ``extent``.

    ``at`` are the coordinates of ``x``; only cells with start <= c < stop, a row of ``core`` an axis, count.
    """
    f = x / math.prod(extent)
    for c, n, (start, stop) in zip(at, extent, core, strict=True):
        counted = ((c >= start) & (c < stop)).reshape(-1)
        f = jnp.tensordot(f, wave(c, size, n) * counted, ((1,), (1,)), precision="highest")
    return jnp.moveaxis(f, 1, -1)


def part(f: Complex[Array, "B *K C"], at: arrays.Coords, extent: tuple[int, ...]) -> Float[Array, "B *S C"]:
    """The cells ``at`` of the :func:`unwindow` of ``f`` on a grid of ``extent``, by one small product per axis."""
    *first, last = (wave(c, k, n) for c, k, n in zip(at, f.shape[1:-1], extent, strict=True))
    for w in first:
        f = jnp.tensordot(f, w.conj(), ((1,), (0,)), precision="highest")
    left, right = (jnp.concatenate([z.real, z.imag], axis) for z, axis in ((f, 1), (last, 0)))
    out = jnp.tensordot(left, right, ((1,), (0,)), precision="highest")  # Re(f conj(w)) in real numbers
    return jnp.moveaxis(out, 1, -1)
