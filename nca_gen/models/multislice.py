"""The decoder of several slices of CA-LDM (MICCAI 2024): that of :mod:`nca_gen.models.vq_vae`, mixed by adaptors.

All but the adaptors is trained before and stays as it is. 70,352,812 parameters are trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Key

from nca_gen.contracts import Rebuilt
from nca_gen.errors import UserError
from nca_gen.models import ca_ldm, vq_vae
from nca_gen.models.vq_vae import affine
from nca_gen.ranges import Count


class Window(NamedTuple):
    """Slices ``start`` to ``start + k`` are decoded together, of which ``first`` to ``stop`` are kept."""

    start: int
    first: int
    stop: int


def windows(depth: int, k: int, keep: int) -> Iterator[Window]:
    """Windows of ``k`` of ``depth`` slices, of each of which the middle ``keep`` stay, at the ends all that are beyond.

    ``keep`` = 1 is published, of ``k`` each slice is decoded once. Raises UserError for fewer slices than a window.
    """
    if depth < k:
        raise UserError(f"volumes of {depth} slices are no window of {k} (config.model.window)")
    margin, done = (k - keep) // 2, 0
    while done < depth:
        start = min(max(done - margin, 0), depth - k)
        stop = depth if start == depth - k else start + margin + keep
        yield Window(start, done, stop)
        done = stop


@dataclass(frozen=True)
class Model(vq_vae.Model):
    """Autoencoder of volumes in [-1, 1] with a latent for each slice, of which ``window`` are decoded at once.

    The other fields are those of the autoencoder of slices. Training sees windows: patches of ``window`` slices.
    """

    window: Count = 5

    @property
    def slices(self) -> vq_vae.Model:
        """The autoencoder of slices."""
        return vq_vae.sliced(self)

    @property
    def mixed(self) -> ca_ldm.MultiSliceDecoder:
        """The decoder with adaptors."""
        return ca_ldm.MultiSliceDecoder(**self.planar, slices=self.window)

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        adaptors = parted(self.mixed.init(jax.random.fold_in(key, 1)))[1]
        return {"slices": self.slices.init(jax.random.fold_in(key, 0)), "adaptors": adaptors}

    def encode(self, params: dict, image: Float[Array, "B D H W C"]) -> tuple[Array, Array]:
        """The latent of every slice before it is quantised, and its log-variance, -inf."""
        return self.slices.encode(params["slices"], image)

    def decode(self, params: dict, z: Float[Array, "B D h w L"], keep: int = 1) -> Float[Array, "B D H W C"]:
        """The volume of the latents of its slices, which are quantised here; see :func:`windows`."""
        depth, k = z.shape[1], self.window
        starts, firsts, _ = np.array([*windows(depth, k, keep)], np.int32).T
        slices, cut = jnp.arange(k)[:, None, None, None], jax.lax.dynamic_slice_in_dim

        def put(out: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
            start, first = at
            new = self.opened(params, cut(z, start, k, 1), lean=True)
            new = jnp.where(start + slices >= first, new, cut(out, start, k, 1))  # a later window puts its own there
            return jax.lax.dynamic_update_slice_in_dim(out, new, start, 1), None

        like = jax.eval_shape(lambda z: self.slices.decode(params["slices"], z), z)
        return jax.lax.scan(put, jnp.zeros(like.shape, like.dtype), (starts, firsts))[0]

    def opened(self, params: dict, z: Float[Array, "B k h w L"], lean: bool = False) -> Float[Array, "B k H W C"]:
        """The slices of windows of latents, which are quantised here. ``lean``: where no gradient is taken, in less
        memory."""
        q = self.book.apply(params["slices"]["codebook"], z)[0]
        decoder = merged(params["slices"]["decoder"], params["adaptors"])
        return self.mixed.apply(decoder, affine(params["slices"]["post_quant_conv"], q), lean)

    def rebuild(self, params: dict, image: Float[Array, "B D H W C"], key: Key[Array, " B"]) -> Rebuilt:
        """All slices of each window."""
        y = self.opened(params, self.encode(params, image)[0])
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        return Rebuilt(flat(y), flat(image), {})

    def last(self, params: dict) -> Array:
        """The last kernel that is trained."""
        return params["adaptors"]["adaptor_out"]["conv"]["kernel"]


def parted(params: dict) -> tuple[dict, dict]:
    """The parameters of a decoder of several slices: those of the decoder of one, and those of its adaptors."""
    flat = traverse_util.flatten_dict(params)
    mine = {path for path in flat if any(name.startswith("adaptor") for name in path)}
    rest, adaptors = ({path: x for path, x in flat.items() if (path in mine) == of} for of in (False, True))
    return traverse_util.unflatten_dict(rest), traverse_util.unflatten_dict(adaptors)


def merged(decoder: dict, adaptors: dict) -> dict:
    """What :func:`parted` parted."""
    flat = traverse_util.flatten_dict(decoder) | traverse_util.flatten_dict(adaptors)
    return traverse_util.unflatten_dict(flat)
