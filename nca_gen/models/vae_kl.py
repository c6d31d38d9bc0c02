"""The KL autoencoder of latent diffusion (Rombach et al. 2022): as published with Stable Diffusion, or as small."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
from annotated_types import MinLen
from jaxtyping import Array, Float, Key

from nca_gen import ranges
from nca_gen.errors import UserError
from nca_gen.nn import modules, port
from nca_gen.nn.autoencoder_kl import AutoencoderKL, renamed
from nca_gen.ranges import Count, OneOf

BESIDE = ("loss.*", "model_ema.*")  # of training, in a file of CompVis
Latent = Float[Array, "B h w L"]
Image = Float[Array, "B H W C"]


@dataclass(frozen=True)
class Model:
    """Autoencoder of images in [-1, 1] of any size that :attr:`factor` divides.

    The defaults are the published network (sd-vae-ft-ema), 83,653,863 parameters. ``multipliers``: of ``width``, the
    channels of each level; every level but the last halves the image, and has ``layers`` residual blocks. ``patch``:
    pixels a side that enter as channels. ``groups``: of the normalisations. ``attention``: over all places, in the
    middle. ``latent_channels``: of the latent. ``dtype``: of the products; norms and parameters stay float32.
    """

    width: Count = 128
    multipliers: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 4, 4)
    layers: Count = 2
    latent_channels: Count = 4
    groups: Count = 32
    attention: bool = True
    patch: Count = 1
    image_channels: Count = 3
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"

    def __post_init__(self):
        ranges.check_fields(self, "config.model")

    @property
    def network(self) -> AutoencoderKL:
        """The flax module."""
        return AutoencoderKL(**asdict(self))

    @property
    def factor(self) -> int:
        """Pixels a side of a place of the latent."""
        return self.network.factor

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        return modules.start(self.network, key, self.network.example())

    def encode(self, params: dict, image: Image) -> tuple[Latent, Latent]:
        """Mean and log-variance of the latent, the latter in [-30, 20]."""
        if any(side % self.factor for side in image.shape[1:3]):
            size = "{} x {}".format(*image.shape[1:3])
            raise UserError(
                f"images are {size}, not multiples of {self.factor} as this network needs; set config.data.patch"
            )
        return self.network.apply({"params": params}, image, method="encode")

    def decode(self, params: dict, z: Latent) -> Image:
        """The image of a latent that is not standardised."""
        return self.network.apply({"params": params}, z, method="decode")

    def load(self, path: str | Path) -> dict[str, Any]:
        """Parameters from a file with diffusers' names, of today or before, or with those of CompVis.

        Raises UserError for a file that cannot be read, or holds another network.
        """
        beside, network = (*port.COUNTERS, *BESIDE), self.network
        read = lambda state: port.variables(renamed(state), network, network.example(), beside)["params"]
        return port.load(path, read, "a KL autoencoder of diffusers or CompVis, and its config.model")

    def state(self, params: dict) -> dict[str, Any]:
        """``params`` by diffusers' names, for :func:`nca_gen.io.weights.write`."""
        return port.state({"params": jax.device_get(params)})
