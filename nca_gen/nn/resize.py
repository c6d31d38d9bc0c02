"""The ways in which published networks have been given images of their size. The choice alone moves FID by a quarter.

None but :func:`clean` and :func:`smooth` smooth before they take pixels away (Parmar et al. 2022, arXiv 2104.11222).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float, Num


def tf1(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B {size} {size} C"]:
    """Bilinear as in TensorFlow 1: output pixel i reads at ``i * in / out``, half a pixel away from where it lies."""
    return _bilinear(x, size, lambda at, rate: at * rate)


def half_pixel(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B {size} {size} C"]:
    """Bilinear as in torch (``align_corners=False``): output pixel i reads at ``(i + 1/2) in / out - 1/2``."""
    return _bilinear(x, size, lambda at, rate: np.maximum(rate * (at + np.float32(0.5)) - np.float32(0.5), 0))


def _bilinear(x: Array, size: int, source) -> Array:
    """Between the two nearest columns, then the two nearest rows; the last ones continue beyond the border."""
    for axis in (2, 1):
        n = x.shape[axis]
        at = source(np.arange(size, dtype=np.float32), np.float32(n / size))
        low = at.astype(np.int32)
        part = (at - low).reshape(-1, *[1] * (3 - axis))
        a, b = (jnp.take(x, i, axis) for i in (low, np.minimum(low + 1, n - 1)))
        x = a + (b - a) * part
    return x


def smooth(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B {size} {size} C"]:
    """Bilinear with antialiasing, torch's ``antialias=True``: a triangle as wide as the pixels that are taken away."""
    return _separable(x, size, _triangles)


def bicubic(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B {size} {size} C"]:
    """Bicubic as in torch (``align_corners=False``), without antialiasing, the last pixels repeated."""
    return _separable(x, size, lambda n, size: cubic((np.arange(size) + 0.5) * n / size - 0.5, n))


def cubic(at: Float[np.ndarray, " n"], size: int) -> Float[np.ndarray, "n {size}"]:
    """The matrix that reads a row of ``size`` pixels at ``at``: cubic convolution (Keys 1981) with torch's a = -3/4."""
    rows, a = np.zeros((len(at), size)), -0.75
    for tap in range(-1, 3):
        place = np.floor(at) + tap
        d = np.abs(at - place)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        np.add.at(rows, (np.arange(len(at)), place.clip(0, size - 1).astype(int)), np.where(d <= 1, near, far))
    return rows.astype(np.float32)


def _triangles(n: int, size: int) -> Float[np.ndarray, "{size} {n}"]:
    """The matrix of :func:`smooth`; at the border the triangle is cut off and what is left adds up to 1."""
    rate = n / size
    far = np.abs(np.arange(n) + 0.5 - ((np.arange(size) + 0.5) * rate)[:, None]) / max(rate, 1.0)
    rows = np.maximum(1 - far, 0)
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32)


def _separable(x: Array, size: int, matrix: Callable[[int, int], np.ndarray]) -> Array:
    y, z = (matrix(n, size) for n in x.shape[1:3])
    return jnp.einsum("iy,jx,byxc->bijc", y, z, x, precision=Precision.HIGHEST)


def clean(x: Num[np.ndarray, "B H W C"], size: int) -> Float[np.ndarray, "B {size} {size} C"]:
    """Bicubic with antialiasing, clipped to [0, 255] and not rounded: Pillow's, a channel at a time in float32."""
    import PIL.Image

    def plane(p: np.ndarray) -> np.ndarray:
        return np.asarray(PIL.Image.fromarray(p).resize((size, size), PIL.Image.Resampling.BICUBIC))

    planes = np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3]).astype(np.float32)
    with ThreadPoolExecutor() as pool:
        out = np.stack([*pool.map(plane, planes)]).clip(0, 255)
    return np.moveaxis(out.reshape(len(x), x.shape[-1], size, size), 1, -1)
