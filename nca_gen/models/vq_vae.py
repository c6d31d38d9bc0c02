"""The autoencoder of slices of CA-LDM (MICCAI 2024), of VQGAN (Esser et al. 2021) in small: a codebook between its
halves. 83,696,301 parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nca_gen.contracts import Rebuilt
from nca_gen.models import ca_ldm
from nca_gen.nn import codebook
from nca_gen.ranges import Count, OneOf

SLICES = 16  # of a volume that go through at once
PLANAR = [field.name for field in fields(ca_ldm.Planar)]


def affine(params: dict, x: Float[Array, "*S K"]) -> Float[Array, "*S L"]:
    """A linear map of the channels, as before and behind a codebook."""
    return jnp.asarray(x @ params["kernel"] + params["bias"])


def start(key: Key[Array, ""], width: int) -> dict:
    """Of :func:`affine` before training: the kernel of a layer of flax."""
    return {"kernel": jax.nn.initializers.lecun_normal()(key, (width, width)), "bias": jnp.zeros(width)}


@dataclass(frozen=True)
class Model(ca_ldm.Planar):
    """Autoencoder of images in [-1, 1], and of the slices of volumes, each by itself.

    Its latent is that before it is quantised, and certain: the log-variance is -inf. ``entries``: of the codebook,
    whose ``loss`` is weighed as "published", or the "standard" way (:mod:`nca_gen.nn.codebook`).
    """

    entries: Count = 16384
    loss: Annotated[str, OneOf(codebook.LOSSES)] = "published"

    @property
    def encoder(self) -> ca_ldm.Encoder2D:
        """Images to what is made into latents."""
        return ca_ldm.Encoder2D(**self.planar)

    @property
    def decoder(self) -> ca_ldm.Decoder2D:
        """The way back."""
        return ca_ldm.Decoder2D(**self.planar)

    @property
    def book(self) -> ca_ldm.Codebook:
        """The codebook."""
        return ca_ldm.Codebook(self.entries, self.latent_channels, self.loss)

    @property
    def planar(self) -> dict[str, Any]:
        """The fields of the two halves."""
        return {name: value for name, value in asdict(self).items() if name in PLANAR}

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        makes: dict[str, Any] = {"encoder": self.encoder.init, "decoder": self.decoder.init, "codebook": self.book.init}
        makes |= dict.fromkeys(("quant_conv", "post_quant_conv"), lambda key: start(key, self.latent_channels))
        return {name: make(jax.random.fold_in(key, i)) for i, (name, make) in enumerate(makes.items())}

    def encode(self, params: dict, image: Float[Array, "B *D H W C"]) -> tuple[Array, Array]:
        """The latent before it is quantised, and its log-variance, -inf."""
        z = by_slices(lambda x: affine(params["quant_conv"], self.encoder.apply(params["encoder"], x)), image)
        return z, jnp.full(z.shape, -jnp.inf)

    def decode(self, params: dict, z: Float[Array, "B *D h w L"]) -> Float[Array, "B *D H W C"]:
        """The image of a latent, which is quantised here."""
        return by_slices(lambda x: self.quantised(params, x), z)

    def quantised(self, params: dict, z: Float[Array, "B h w L"]) -> Float[Array, "B H W C"]:
        """The images of latents, by way of the codebook."""
        return self.decoded(params, self.book.apply(params["codebook"], z)[0])

    def decoded(self, params: dict, z: Float[Array, "B h w L"]) -> Float[Array, "B H W C"]:
        """The images of latents that are quantised already."""
        return self.decoder.apply(params["decoder"], affine(params["post_quant_conv"], z))

    def rebuild(self, params: dict, image: Float[Array, "B H W C"], key: Key[Array, " B"]) -> Rebuilt:
        """All that training looks at."""
        z, _ = self.encode(params, image)
        q, loss, codes = self.book.apply(params["codebook"], z)
        return Rebuilt(self.decoded(params, q), image, {"codebook": loss}, z, codes)

    def last(self, params: dict) -> Array:
        """The last kernel."""
        return params["decoder"]["conv_out"]["kernel"]


def by_slices(f: Any, x: Float[Array, "B *D _ _ _"]) -> Array:
    """``f`` of images; of volumes that of their slices, a few at a time, so that memory does not grow with them."""
    if x.ndim == 4:
        return f(x)
    y = jax.lax.map(lambda one: f(one[None])[0], x.reshape(-1, *x.shape[2:]), batch_size=SLICES)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def picking(key: Key[Array, " B"], depth: int, n: int) -> Callable[[Array], Array]:
    """What makes of volumes [B, D, *S] some of their slices, [N, *S]: ``n`` of each ``depth``, drawn at random.

    All where there are fewer; the same ones, whatever it is asked for.
    """
    some = jax.vmap(lambda key: jax.random.permutation(key, depth)[:n])(key)
    return lambda x: jnp.take_along_axis(x, some[:, :, None, None, None], 1).reshape(-1, *x.shape[2:])


def sliced(model: Model) -> Model:
    """The autoencoder of slices on which ``model`` stands: the fields that it has from there."""
    names = [field.name for field in fields(Model)]
    return Model(**{name: value for name, value in asdict(model).items() if name in names})
