"""A system that nca_gen does not know: volumes of bright balls, and a small network that draws them where it is told.

``splits`` makes it a data set, ``Model`` a denoiser. A page names both by ``lab.volumes``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from nca_gen.data.source import Source, Splits


def splits(n: int = 8, size: int = 8) -> Splits:
    """``n`` volumes a split, grey uint8 [size, size, size, 1]; "context" is the same ball, eight times as coarse."""

    def source(seed: int) -> Source:
        def load(i: int) -> dict:
            rng = np.random.default_rng([seed, i])
            centre, grid = rng.uniform(2, size - 2, 3), np.indices((size,) * 3)
            far = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)))
            ball = np.uint8(220 * (far < size / 4) + rng.integers(0, 30, far.shape))[..., None]
            coarse = ball.reshape(*(size // 2, 2) * 3, 1).mean((1, 3, 5)).astype(np.uint8)
            context = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
            return {"image": ball, "context": context, "name": f"{seed}-{i}", "patient": f"{seed}-{i}"}

        return Source(load, [(size, size, size, 1)] * n, fields=("context",))

    return Splits({"train": source(0), "val": source(1), "test": source(2)})


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution of volumes [B, D, H, W, C]."""
    axes = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 3, "SAME", dimension_numbers=axes)


@dataclass(frozen=True)
class Model:
    """A :class:`nca_gen.contracts.Denoiser` of two convolutions. ``told``: whether it sees a second volume."""

    channels: int = 1
    hidden: int = 8
    told: bool = True
    ndim: int = 3

    @property
    def reads(self) -> int:
        """Channels of x_t."""
        return self.channels

    @property
    def predicts(self) -> int:
        """Channels of what it says."""
        return self.channels

    @property
    def conditions(self) -> Mapping[str, int]:
        """A volume of the same grid: the field "context" of the data."""
        return {"image": 1} if self.told else {}

    def init(self, key: jax.Array) -> dict:
        """Random kernels; nothing is predicted at first."""
        inputs = self.channels + len(self.conditions) + 1  # the last one is the time
        first = 0.2 * jax.random.normal(key, (3, 3, 3, inputs, self.hidden))
        return {"first": first, "last": jnp.zeros((3, 3, 3, self.hidden, self.channels))}

    def apply(self, params, x, told, cond, memory, key, place=None):
        """The prediction at x_t. Without a condition it is told of an empty volume."""
        time = jnp.broadcast_to(told.reshape(-1, 1, 1, 1, 1) / 1000, (*x.shape[:-1], 1))
        beside = [] if not self.told else [jnp.zeros_like(time) if cond is None else cond["image"]]
        h = jax.nn.silu(conv(jnp.concatenate([x, *beside, time], -1), params["first"]))
        return conv(h, params["last"]), ()

    def inference(self) -> "Model":
        """Sampling is no faster otherwise."""
        return self
