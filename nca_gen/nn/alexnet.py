"""The convolutions of AlexNet in the form of Krizhevsky 2014 (arXiv 1404.5997), with torchvision's names.

The default ruler of LPIPS, which has no use for the classifier behind them.
"""

from __future__ import annotations

import flax.linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float

from nca_gen.nn import modules

# Where torchvision's sequence has the convolution; width, taps, stride, padding; whether a pool comes before it.
LAYERS = ((0, 64, 11, 4, 2, False), (3, 192, 5, 1, 2, True), (6, 384, 3, 1, 1, True))
LAYERS += ((8, 256, 3, 1, 1, False), (10, 256, 3, 1, 1, False))


class AlexNet(nn.Module):
    """Images ``[B, H, W, 3]``, normalised, of at least 31 pixels a side, to ``relu1 .. relu5``."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B _ _ _"]]:
        out = {}
        for i, (place, width, taps, stride, padding, pool) in enumerate(LAYERS, 1):
            x = nn.max_pool(x, (3, 3), (2, 2)) if pool else x
            name = f"features.{place}"
            conv = modules.Conv(width, (taps, taps), stride, padding, precision=Precision.HIGHEST, name=name)
            out[f"relu{i}"] = x = nn.relu(conv(x))
        return out
