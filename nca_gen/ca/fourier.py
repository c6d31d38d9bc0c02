"""The corner of Fourier space in which distant cells are neighbours (Diff-NCA paper, section 3.1)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float


def window(x: Float[Array, "B *S C"], size: int) -> Complex[Array, "B *K C"]:
    """The ``size`` lowest non-negative frequencies per axis of the spatial DFT, mean at index 0.

    Taking quadrant ``[n//2 : n//2 + size]`` of the shifted spectrum is taking ``[:size]`` of the plain
    one. Raises ValueError where an axis is shorter than ``2 * size``: its window would hold aliases.
    """
    axes = tuple(range(1, x.ndim - 1))
    if min(x.shape[1:-1]) < 2 * size:
        raise ValueError(
            f"a Fourier window of {size} needs images of at least {2 * size} pixels a side, got {x.shape[1:-1]}"
        )
    spectrum = jnp.fft.fftn(x, axes=axes, norm="forward")
    return spectrum[(slice(None), *[slice(size)] * len(axes))]


def unwindow(f: Complex[Array, "B *K C"], shape: tuple[int, ...]) -> Float[Array, "B *S C"]:
    """Real part of the inverse DFT on a grid of ``shape``, all frequencies outside the window zero."""
    axes = tuple(range(1, f.ndim - 1))
    spectrum = jnp.zeros((f.shape[0], *shape, f.shape[-1]), f.dtype)
    spectrum = spectrum.at[(slice(None), *[slice(k) for k in f.shape[1:-1]])].set(f)
    return jnp.fft.ifftn(spectrum, axes=axes, norm="forward").real
