"""Diff-NCA that resolves a smaller image: a later stage of a cascade (Ho et al. 2022) as an automaton.

A cell reads, beside its part of x_t, the same part of the smaller image, enlarged to the grid and in noise, and never
writes it; how much noise that is, it is told beside the time. It hears as far as Diff-NCA does, so that whatever can be
done to one in parts can be done to the other. It may also read a context, as the networks of URCDM do, whose cell it is
then: what they are told it can be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, Float, Num

from nca_gen.ca.seed import Cells
from nca_gen.contracts import Condition, Place
from nca_gen.errors import UserError
from nca_gen.models import diff_nca
from nca_gen.models.efficient_unet import middle
from nca_gen.ranges import Natural


@dataclass(frozen=True)
class Model(diff_nca.Model):
    """:class:`nca_gen.models.diff_nca.Model` whose condition is {"low": a smaller image, "low_log_snr": its noise}.

    Of the ``channels`` of a cell the first are x_t and, as it reads them, the smaller image and the context. ``told``,
    t/T, comes with s^2 of the smaller image, the share of noise in its variance. ``low_resolution``: whether there is
    one. ``context_channels``: of the condition "context", a picture of the same grid; 0 for none. ``zoom``: in its
    place cells read its middle, enlarged so many times: by the factor of the context, that is what lies there at each
    of them, and otherwise a context is wider than what they paint, and says of each what lies elsewhere. They then
    depend on the whole. 0: as it is.
    """

    context_channels: Natural = 0
    zoom: Annotated[int | float, Ge(0)] = 0
    low_resolution: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.zoom and not self.context_channels:
            raise UserError(f"config.model.zoom={self.zoom} enlarges a context, and config.model.context_channels is 0")

    @property
    def pictures(self) -> dict[str, int]:
        """Channels of what cells read beside x_t, in their order."""
        channels = {"low": self.low_resolution * self.image_channels, "context": self.context_channels}
        return {field: n for field, n in channels.items() if n}

    @property
    def conditions(self) -> Mapping[str, int]:
        """The smaller image, on the grid of x_t, and its log-SNR; the context."""
        return self.pictures | ({"low_log_snr": 1} if self.low_resolution else {})

    @property
    def scalars(self) -> int:
        """Scalars that condition a cell: t, s and the noise of the smaller image."""
        return 2 + self.low_resolution

    @property
    def given(self) -> int:
        """Channels of a cell that are read and never written: those of x_t and of the pictures."""
        return self.image_channels + sum(self.pictures.values())

    @property
    def halo(self) -> int | None:
        """How far a call sees, in cells; None where every cell depends on the whole."""
        return None if self.zoom else super().halo

    def condition(
        self, told: Num[Array, " b"], s: Float[Array, ""], place: Place, cond: Condition = None
    ) -> Float[Array, "r *s K"]:
        """The scalars (t/T, s, s^2 of the smaller image) of every cell, constant over space; ``r`` is ``b``, or where
        that is one time for all, the samples."""
        scalars = super().condition(told, s, place)
        if not self.low_resolution:
            return scalars
        log_snr = (cond or {}).get("low_log_snr", jnp.zeros(1))
        noise = jax.nn.sigmoid(-log_snr).reshape(-1, *[1] * (self.ndim + 1))
        b = max(len(scalars), len(noise))
        return jnp.concatenate([jnp.broadcast_to(part, (b, *part.shape[1:])) for part in (scalars, noise)], -1)

    def begin(
        self, params: dict, x: Float[Array, "B *S I"], told: Num[Array, " b"], place: Place, cond: Condition = None
    ) -> Cells:
        """The cells before the first step; what is left out of a condition is zero.

        Raises UserError for a picture that is not of the grid of x_t.
        """
        seen = {field: self.picture(field, x, cond) for field in self.pictures}
        if self.zoom:
            seen["context"] = middle(seen["context"], self.zoom)
        return super().begin(params, jnp.concatenate([x, *seen.values()], -1), told, place)

    def picture(self, field: str, x: Float[Array, "B *S I"], cond: Condition) -> Float[Array, "B *S C"]:
        """One of the pictures of a condition."""
        shape = (*x.shape[:-1], self.pictures[field])
        picture = (cond or {}).get(field, jnp.zeros(shape, x.dtype))
        if picture.shape != shape:
            raise UserError(f"the condition {field!r} is of {picture.shape}; beside x_t of {x.shape} give {shape}")
        return picture
