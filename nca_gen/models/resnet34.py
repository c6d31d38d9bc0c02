"""ResNet-34 (He et al. 2015, arXiv 1512.03385) as a classifier of images in [-1, 1]; of GeCA's experiments the one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Array, Float, Key

from nca_gen import ranges
from nca_gen.errors import UserError
from nca_gen.io import weights as published
from nca_gen.nn import modules, port, resnet
from nca_gen.ranges import Count

MEAN, DEVIATION = np.float32([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])  # of ImageNet, in 255 grey levels
HEAD = ("fc.weight", "fc.bias")
EXAMPLE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


@dataclass(frozen=True)
class Model:
    """Images of 1 (taken three times) or 3 channels to ``classes`` logits; 21,290,315 parameters for 11 classes.

    ``width`` 64 is the published one, and what ``weights`` fits: a local file of ImageNet's, in any format that
    :func:`nca_gen.io.weights.read` knows, whose head is left out. Parameters are what learns; running means and
    variances of the normalisations are ``statistics``.
    """

    classes: Annotated[int, Ge(2)]
    width: Count = 64
    weights: str = ""

    def __post_init__(self):
        ranges.check_fields(self, "config.model")

    @property
    def network(self) -> nn.Module:
        """The flax module."""
        return resnet.resnet34(self.classes, self.width)

    def init(self, key: Key[Array, ""]) -> dict:
        """Random ones, or those of ``weights`` below a random head."""
        params = modules.start(self.network, key, EXAMPLE)
        return params | self.ported()["params"] if self.weights else params

    def init_statistics(self) -> dict:
        """Means of 0 and variances of 1, or those of ``weights``."""
        if self.weights:
            return self.ported()["batch_stats"]
        shapes = jax.eval_shape(self.network.init, jax.random.key(0), EXAMPLE)["batch_stats"]
        fill = {"mean": jnp.zeros, "var": jnp.ones}
        return jax.tree.map_with_path(lambda path, x: fill[path[-1].key](x.shape, x.dtype), shapes)

    def ported(self) -> dict[str, Any]:
        """Variables from ``weights``, all but the head. Raises UserError for those of another network."""
        network = resnet.resnet34(0, self.width)
        return port.variables(published.read(self.weights), network, EXAMPLE, (*port.COUNTERS, *HEAD))

    def apply(
        self, params: dict, statistics: dict, x: Float[Array, "B H W C"], train: bool = False
    ) -> tuple[Float[Array, "B L"], dict]:
        """Logits, and the statistics, which ``train`` moves: it normalises by the batch."""
        if x.shape[-1] not in (1, 3):
            raise UserError(f"resnet34 takes images of 1 or 3 channels, not {x.shape[-1]}")
        x = (jnp.broadcast_to((x + 1) * 128, (*x.shape[:-1], 3)) - MEAN) / DEVIATION
        variables = {"params": params, "batch_stats": statistics}
        if not train:
            return self.network.apply(variables, x)["logits"], statistics
        out, moved = self.network.apply(variables, x, train=True, mutable="batch_stats")
        return out["logits"], moved["batch_stats"]
