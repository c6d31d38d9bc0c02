"""The convolutions of SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360), with torchvision's names.

A ruler of LPIPS, which has no use for the classifier behind them.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

from nca_gen.nn import modules

# Where torchvision's sequence has the fire modules, and how many channels each squeezes to and expands to (twice).
FIRES = {3: (16, 64), 4: (16, 64), 6: (32, 128), 7: (32, 128)} | {
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}
POOLED, SEEN = (3, 6, 9), (4, 7, 9, 10, 11, 12)  # behind a pool; what LPIPS looks at


class Fire(nn.Module):
    """Few channels, then many: half of them of one pixel, half of its 3 x 3 neighbours."""

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B H W _"]:
        def conv(width: int, taps: int, name: str, x: Array) -> Array:
            return nn.relu(modules.Conv(width, (taps, taps), precision=Precision.HIGHEST, name=name)(x))

        x = conv(self.squeeze, 1, "squeeze", x)
        return jnp.concatenate([conv(self.expand, taps, f"expand{taps}x{taps}", x) for taps in (1, 3)], -1)


class SqueezeNet(nn.Module):
    """Images ``[B, H, W, 3]``, normalised, of at least 17 pixels a side, to ``relu1 .. relu7``."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B _ _ _"]]:
        conv = modules.Conv(64, (3, 3), 2, padding="VALID", precision=Precision.HIGHEST, name="features.0")
        x = nn.relu(conv(x))
        seen = [x]
        for place, (squeeze, expand) in FIRES.items():
            if place in POOLED:
                # A last window that reaches over the edge counts, as torch's ceil_mode has it.
                edges = [(0, (n + 1) % 2) for n in x.shape[1:3]]
                x = nn.max_pool(x, (3, 3), (2, 2), edges)
            x = Fire(squeeze, expand, name=f"features.{place}")(x)
            if place in SEEN:
                seen.append(x)
        return {f"relu{i}": x for i, x in enumerate(seen, 1)}
