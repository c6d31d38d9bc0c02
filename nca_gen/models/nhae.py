"""The non-holistic autoencoder of CA-LDM (MICCAI 2024): a latent of the whole volume, from which slices are decoded.

A volume, seen coarsely, becomes z (``encoder3d``), z by a codebook one latent a slice (``uniaxial``), and these by the
autoencoder of slices (:mod:`nca_gen.models.vq_vae`), which is trained before and stays as it is, images. 7,083,520
parameters are trained, and a codebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from jaxtyping import Array, Float, Key

from nca_gen.contracts import Rebuilt
from nca_gen.errors import UserError
from nca_gen.models import ca_ldm, vq_vae
from nca_gen.models.vq_vae import affine, picking, start
from nca_gen.ranges import Count


@dataclass(frozen=True)
class Model(vq_vae.Model):
    """Autoencoder of volumes in [-1, 1] with latents of the whole.

    The first fields are those of the autoencoder of slices. ``volume_width``, ``volume_multipliers``,
    ``volume_blocks``, ``reduce``: of the encoder of the volume (:class:`nca_gen.models.ca_ldm.Encoder3D`), which must
    make as many places of a side as that of slices does. ``rebuilt``: slices of a volume that a step looks at.
    """

    volume_width: Count = 64
    volume_multipliers: Annotated[tuple[Count, ...], MinLen(1)] = (2, 4)
    volume_blocks: Count = 1
    reduce: Count = 2
    rebuilt: Count = 5

    def __post_init__(self):
        super().__post_init__()
        if self.encoder3d.factor != self.factor:
            raise UserError(
                f"config.model makes one place of {self.factor} pixels a side of a slice (multipliers) and of "
                f"{self.encoder3d.factor} of a volume (volume_multipliers, reduce): make them equal"
            )

    @property
    def slices(self) -> vq_vae.Model:
        """The autoencoder of slices."""
        return vq_vae.sliced(self)

    @property
    def encoder3d(self) -> ca_ldm.Encoder3D:
        """Volumes to what is made into their latent."""
        shared = (self.latent_channels, self.groups, self.image_channels)
        mine = (self.volume_width, self.volume_multipliers, self.volume_blocks)
        return ca_ldm.Encoder3D(*mine, *shared, self.reduce, self.dtype, self.remat)

    @property
    def uniaxial(self) -> ca_ldm.Uniaxial:
        """The latent of a volume to those of its slices."""
        n = self.latent_channels
        return ca_ldm.Uniaxial(n, self.factor.bit_length() - 1, groups=n, dtype=self.dtype, remat=self.remat)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        makes: dict[str, Any] = {"slices": self.slices.init, "encoder": self.encoder3d.init}
        makes |= {"uniaxial": self.uniaxial.init, "codebook": self.book.init}
        makes |= dict.fromkeys(("quant_conv", "post_quant_conv"), lambda key: start(key, self.latent_channels))
        return {name: make(jax.random.fold_in(key, i)) for i, (name, make) in enumerate(makes.items())}

    def encode(self, params: dict, image: Float[Array, "B D H W C"]) -> tuple[Array, Array]:
        """The latent before it is quantised, and its log-variance, -inf."""
        z = affine(params["quant_conv"], self.encoder3d.apply(params["encoder"], image))
        return z, jnp.full(z.shape, -jnp.inf)

    def decode(self, params: dict, z: Float[Array, "B d h w L"]) -> Float[Array, "B D H W C"]:
        """The volume of a latent, which is quantised here; each of its slices by itself."""
        return self.slices.decode(params["slices"], self.latents(params, z))

    def latents(self, params: dict, z: Float[Array, "B d h w L"]) -> Float[Array, "B D h w L"]:
        """The latents of slices that the latent of a volume says, which is quantised here."""
        return self.spread(params, self.book.apply(params["codebook"], z)[0])

    def spread(self, params: dict, q: Float[Array, "B d h w L"]) -> Float[Array, "B D h w L"]:
        """The same of a latent that is quantised already."""
        return self.uniaxial.apply(params["uniaxial"], affine(params["post_quant_conv"], q))

    def pairs(self, params: dict, image: Float[Array, "B D H W C"]) -> tuple[Array, Array]:
        """Of every slice the latent [B, D, h, w, L] of its own, and what the latent of the volume says of it."""
        return self.slices.encode(params["slices"], image)[0], self.latents(params, self.encode(params, image)[0])

    def rebuild(self, params: dict, image: Float[Array, "B D H W C"], key: Key[Array, " B"]) -> Rebuilt:
        """All that training looks at: some slices, drawn at random, and how far their latents are from their own."""
        z, _ = self.encode(params, image)
        q, loss, codes = self.book.apply(params["codebook"], z)
        pick = picking(key, image.shape[1], self.rebuilt)
        real, said = pick(image), pick(self.spread(params, q))
        own, _ = self.slices.encode(params["slices"], real)
        quantised, follows, _ = self.slices.book.apply(params["slices"]["codebook"], said)
        penalties = {"codebook": loss, "codebook_slices": follows}
        penalties["latents"] = jnp.abs(said - jax.lax.stop_gradient(own)).mean()
        return Rebuilt(self.slices.decoded(params["slices"], quantised), real, penalties, z, codes)

    def last(self, params: dict) -> Array:
        """The last kernel that is trained."""
        return params["uniaxial"][f"conv_blocks.{self.uniaxial.levels - 1}.res"]["conv2.conv"]["kernel"]
