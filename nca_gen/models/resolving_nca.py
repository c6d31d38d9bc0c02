"""Diff-NCA that resolves a smaller image: a later stage of a cascade (Ho et al. 2022) as an automaton.

A cell reads, beside its part of x_t, the same part of the smaller image, enlarged to the grid and in noise, and never
writes it; how much noise that is, it is told beside the time. It hears as far as Diff-NCA does, so that whatever can be
done to one in parts can be done to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from nca_gen.ca.seed import Cells
from nca_gen.contracts import Condition, Place
from nca_gen.errors import UserError
from nca_gen.models import diff_nca


@dataclass(frozen=True)
class Model(diff_nca.Model):
    """:class:`nca_gen.models.diff_nca.Model` whose condition is {"low": a smaller image, "low_log_snr": its noise}.

    Of the ``channels`` of a cell the first 2 ``image_channels`` are x_t and the smaller image. ``told``, t/T, comes
    with s^2 of that image, the share of noise in its variance.
    """

    @property
    def conditions(self) -> Mapping[str, int]:
        """The smaller image, on the grid of x_t, and its log-SNR."""
        return {"low": self.image_channels, "low_log_snr": 1}

    @property
    def scalars(self) -> int:
        """Scalars that condition a cell: t, s and the noise of the smaller image."""
        return 3

    @property
    def given(self) -> int:
        """Channels of a cell that are read and never written: those of x_t and of the smaller image."""
        return 2 * self.image_channels

    def condition(
        self, told: Num[Array, " b"], s: Float[Array, ""], place: Place, cond: Condition = None
    ) -> Float[Array, "r *s K"]:
        """The scalars (t/T, s, s^2 of the smaller image) of every cell, constant over space; ``r`` is ``b``, or where
        that is one time for all, the samples."""
        scalars = super().condition(told, s, place)
        log_snr = (cond or {}).get("low_log_snr", jnp.zeros(1))
        noise = jax.nn.sigmoid(-log_snr).reshape(-1, *[1] * (self.ndim + 1))
        b = max(len(scalars), len(noise))
        return jnp.concatenate([jnp.broadcast_to(part, (b, *part.shape[1:])) for part in (scalars, noise)], -1)

    def begin(
        self, params: dict, x: Float[Array, "B *S I"], told: Num[Array, " b"], place: Place, cond: Condition = None
    ) -> Cells:
        """The cells before the first step; without a condition the smaller image is zero.

        Raises UserError where it is not of the grid of x_t.
        """
        low = (cond or {}).get("low", jnp.zeros_like(x))
        if low.shape != x.shape:
            raise UserError(f"the condition 'low' is of {low.shape}; beside x_t of {x.shape} give {x.shape}")
        return super().begin(params, jnp.concatenate([x, low], -1), told, place)
