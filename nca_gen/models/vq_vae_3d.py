"""An autoencoder of whole volumes with a codebook: the first half of Medical Diffusion (Khader et al. 2023, Scientific
Reports 13, 7303), CA-LDM's rival.

Its encoder is that of :mod:`nca_gen.models.ca_ldm`, which sees every voxel; the decoder is its mirror, by transposed
convolutions. The fields of :class:`Model` as given are our reading: 6,068,521 parameters. Of the published loss it has
the distance of voxels and the two terms that look at slices, and not the critic of volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nca_gen import ranges
from nca_gen.contracts import Rebuilt
from nca_gen.models import ca_ldm
from nca_gen.models.vq_vae import picking
from nca_gen.nn import codebook, modules, volumes
from nca_gen.ranges import Count, OneOf


@dataclass(frozen=True)
class Model:
    """Autoencoder of volumes in [-1, 1]: the latent is of the whole, before it is quantised, and certain.

    ``multipliers``: of ``width``, the channels of each level, all of which halve the sides, before ``blocks`` residual
    blocks; the decoder has one more a level. ``groups``: of the normalisations. ``entries``: of the codebook, whose
    ``loss`` is weighed as "published" (by CA-LDM), or the "standard" way (:mod:`nca_gen.nn.codebook`). ``rebuilt``:
    slices of a volume at which a critic and the perceptual term look. ``dtype``: of the products; norms and parameters
    stay float32. ``remat`` "block": the gradient keeps what enters a block, and not what is inside.
    """

    width: Count = 16
    multipliers: ca_ldm.Multipliers = (2, 4, 8)
    blocks: Count = 1
    latent_channels: Count = 8
    groups: Count = 32
    image_channels: Count = 1
    entries: Count = 16384
    loss: Annotated[str, OneOf(codebook.LOSSES)] = "published"
    rebuilt: Count = 5
    dtype: ca_ldm.Dtype = "float32"
    remat: ca_ldm.Remat = "none"

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        ca_ldm.grouped(self.encoder.widths[1:], self.groups)

    @property
    def factor(self) -> int:
        """Voxels a side of a place of the latent."""
        return self.encoder.factor

    @property
    def encoder(self) -> ca_ldm.Encoder3D:
        """Volumes to latents."""
        shape = self.width, self.multipliers, self.blocks, self.latent_channels, self.groups, self.image_channels
        return ca_ldm.Encoder3D(*shape, reduce=1, dtype=self.dtype, remat=self.remat)

    @property
    def decoder(self) -> volumes.Decoder:
        """The way back, as a flax module."""
        how = jnp.dtype(self.dtype), self.remat == "block"
        return volumes.Decoder(self.encoder.widths[:0:-1], self.blocks + 1, self.image_channels, self.groups, *how)

    @property
    def book(self) -> ca_ldm.Codebook:
        """The codebook."""
        return ca_ldm.Codebook(self.entries, self.latent_channels, self.loss)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        latent = jax.ShapeDtypeStruct((1, 1, 1, 1, self.latent_channels), jnp.float32)
        back = lambda key: modules.start(self.decoder, key, latent)
        makes: dict[str, Any] = {"encoder": self.encoder.init, "decoder": back, "codebook": self.book.init}
        return {name: make(jax.random.fold_in(key, i)) for i, (name, make) in enumerate(makes.items())}

    def encode(self, params: dict, image: Float[Array, "B D H W C"]) -> tuple[Array, Array]:
        """The latent before it is quantised, and its log-variance, -inf."""
        z = self.encoder.apply(params["encoder"], image)
        return z, jnp.full(z.shape, -jnp.inf)

    def decode(self, params: dict, z: Float[Array, "B d h w L"]) -> Float[Array, "B D H W C"]:
        """The volume of a latent, which is quantised here."""
        return self.decoded(params, self.book.apply(params["codebook"], z)[0])

    def decoded(self, params: dict, q: Float[Array, "B d h w L"]) -> Float[Array, "B D H W C"]:
        """The volume of a latent that is quantised already."""
        ca_ldm.fitting(q, "latents", self.latent_channels, (1, 1, 1))
        return jnp.asarray(self.decoder.apply({"params": params["decoder"]}, q), jnp.float32)

    def rebuild(self, params: dict, image: Float[Array, "B D H W C"], key: Key[Array, " B"]) -> Rebuilt:
        """All that training looks at: some slices, drawn at random, and how far all voxels are from the real ones."""
        z, _ = self.encode(params, image)
        q, loss, codes = self.book.apply(params["codebook"], z)
        volume = self.decoded(params, q)
        pick = picking(key, image.shape[1], self.rebuilt)
        return Rebuilt(
            pick(volume), pick(image), {"codebook": loss, "volume": jnp.abs(volume - image).mean()}, z, codes
        )

    def last(self, params: dict) -> Array:
        """The last kernel."""
        return params["decoder"]["conv_last.conv"]["kernel"]
