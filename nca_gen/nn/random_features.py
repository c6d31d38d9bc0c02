"""How far apart images look to a network that nobody has trained: a perceptual distance that needs no file.

Random convolutions already answer to edges and textures (Ulyanov et al. 2018, arXiv 1711.10925, section 2). It stands
in for LPIPS and is measured in the same way; it is no judge of quality.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

WIDTHS = (16, 32, 64)


def kernels(channels: int) -> list[Float[np.ndarray, "3 3 I O"]]:
    """Of 3 x 3, with the deviation of He et al. 2015 and mean 0 over every filter; always the same."""
    rng = np.random.RandomState(0)
    drawn = []
    for width in WIDTHS:
        kernel = rng.standard_normal((3, 3, channels, width))
        kernel -= kernel.mean((0, 1, 2))
        drawn.append((kernel * np.sqrt(2 / (9 * channels))).astype(np.float32))
        channels = width
    return drawn


def between(a: Float[Array, "B H W C"], b: Float[Array, "B H W C"]) -> Float[Array, " B"]:
    """Distance of pairs of images, in [0, 2], the mean over layers; to be called inside jit; differentiable."""
    apart = jnp.zeros(len(a))
    for kernel in kernels(a.shape[-1]):
        a, b = (_layer(x, kernel) for x in (a, b))
        unit = [x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6) for x in (a, b)]
        apart += jnp.mean(jnp.sum(jnp.square(unit[0] - unit[1]), -1), (1, 2))
    return apart / len(WIDTHS)


def _layer(x: Array, kernel: np.ndarray) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=axes))
