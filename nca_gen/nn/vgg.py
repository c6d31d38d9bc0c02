"""VGG16 (Simonyan & Zisserman 2014, arXiv 1409.1556, configuration D), with torchvision's names.

Its convolutions are a ruler of LPIPS, its second layer of 4096 features that of improved precision and recall.
"""

from __future__ import annotations

import flax.linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float

from nca_gen.nn import modules

FEATURES = 4096
# Width of every block, and where torchvision's sequence has its convolutions.
BLOCKS = ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21)), (512, (24, 26, 28)))


class VGG16(nn.Module):
    """Images ``[B, H, W, 3]``, normalised, to the last ReLU of every block: ``relu1_2 .. relu5_3``, of H/1 .. H/16.

    With ``head`` also ``fc2`` ``[B, 4096]``, after ReLU; H and W are then 224, else at least 16. The class logits
    (``classifier.6``) are left out.
    """

    head: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B ..."]]:
        out = {}
        for block, (width, places) in enumerate(BLOCKS, 1):
            x = nn.max_pool(x, (2, 2), (2, 2)) if block > 1 else x
            for place in places:
                name = f"features.{place}"
                x = nn.relu(modules.Conv(width, (3, 3), padding=1, precision=Precision.HIGHEST, name=name)(x))
            out[f"relu{block}_{len(places)}"] = x
        if self.head:
            x = nn.max_pool(x, (2, 2), (2, 2)).transpose(0, 3, 1, 2).reshape(len(x), -1)  # in torch's order
            for place in (0, 3):
                x = nn.relu(modules.Dense(FEATURES, precision=Precision.HIGHEST, name=f"classifier.{place}")(x))
            out["fc2"] = x
        return out
