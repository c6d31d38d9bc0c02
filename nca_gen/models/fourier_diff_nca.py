"""FourierDiff-NCA (Kalkhof et al. 2024): the automaton first talks in Fourier space, then in image space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, Complex, Float, Key, Num

from nca_gen import arrays
from nca_gen.ca import fourier
from nca_gen.ca.rollout import rollout
from nca_gen.ca.seed import Cells, seed
from nca_gen.contracts import Condition, Place
from nca_gen.models import diff_nca
from nca_gen.nn import modules
from nca_gen.ranges import Count

Spectra = tuple[Complex[Array, "B *K I"], Complex[Array, "B *K H"]]  # of ``out`` and of ``hidden``


def planes(f: Complex[Array, "B *K C"]) -> Float[Array, "B *K D"]:
    """Complex channels as real ones: all real parts, then all imaginary parts."""
    return jnp.concatenate([f.real, f.imag], -1)


def spectrum(x: Float[Array, "B *K D"]) -> Complex[Array, "B *K C"]:
    """The inverse of :func:`planes`."""
    real, imag = jnp.split(x, 2, -1)
    return jax.lax.complex(real, imag)


@dataclass(frozen=True)
class Model(diff_nca.Model):
    """Diff-NCA whose cells wake up informed: ``fourier_steps`` steps on a ``window``^n corner of the spectrum.

    Both sides are conditioned on position, t and s. Every Fourier cell fires at every step; the image's own
    coefficients are read and never written. Images need at least ``2 * window`` pixels a side. Beside its ``halo`` a
    tile must be told ``Place.whole``, see :class:`nca_gen.contracts.Listener`.
    """

    window: Annotated[int, Ge(2)] = 16
    fourier_steps: Count = 32

    @property
    def scalars(self) -> int:
        """Scalars that condition a cell: position, t and s."""
        return self.ndim + 2

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters before training."""
        image, fourier_side = jax.random.split(key)
        return {
            "fourier": modules.start(self.side(2 * self.channels), fourier_side),
            "image": modules.start(self.side(self.channels), image),
        }

    def condition(
        self, told: Num[Array, " b"], s: Float[Array, ""], place: Place, cond: Condition = None
    ) -> Float[Array, "b *s K"]:
        """The scalars (position, t/T, s) of every cell; position falls from 1 to 0 along each axis."""
        t = (told / self.timesteps).reshape(-1, *[1] * self.ndim)
        position = [1.0 - c[None] / (n - 1) for c, n in zip(place.at, place.sides, strict=True)]
        return jnp.stack(jnp.broadcast_arrays(*position, t, jnp.asarray(s)), -1)

    def fourier_phase(self, params: dict, f: Complex[Array, "B *K I"], told: Num[Array, " b"]) -> Spectra:
        """What the spectrum of x_t makes of the first ``out`` and ``hidden``, themselves as spectra.

        Only ``image`` is non-zero in the seed, so only its spectrum is read.
        """
        w = self.side(2 * self.channels).apply({"params": params["fourier"]})
        grid = (self.window,) * self.ndim
        place = Place(arrays.coords(grid), grid)

        def older(cells: Cells) -> Cells:
            scalars = self.condition(told, cells.age / self.window, place)
            return self.update(w, scalars, cells, jnp.ones((), bool), "constant")

        out, hidden = self.image_channels, self.channels - 2 * self.image_channels
        cells = rollout(older, self.fourier_steps, self.remat, diff_nca.SAVED)(seed(planes(f), 2 * out, 2 * hidden))
        return spectrum(cells.out), spectrum(cells.hidden)

    def share(self, x: Float[Array, "B *S I"], place: Place, core: Num[Array, "n 2"]) -> Float[Array, "B *K D"]:
        """What the cells from ``core[:, 0]`` to ``core[:, 1]`` add to the window of the spectrum, as real planes."""
        fourier.roomy(place.sides, self.window)
        return planes(fourier.share(x, self.window, place.at, place.sides, core))

    def heard(self, params: dict, total: Float[Array, "B *K D"], told: Num[Array, " b"]) -> Spectra:
        """``Place.whole`` of every tile, from the sum of all shares."""
        return self.fourier_phase(params, spectrum(total), told)

    def begin(
        self, params: dict, x: Float[Array, "B *S I"], told: Num[Array, " b"], place: Place, cond: Condition = None
    ) -> Cells:
        """The cells after the Fourier phase, which ``place.whole`` tells a tile, and a whole image has itself."""
        if place.whole is None:
            spectra = self.fourier_phase(params, fourier.window(x, self.window), told)
            out, hidden = (fourier.unwindow(f, x.shape[1:-1]) for f in spectra)
        else:
            out, hidden = (fourier.part(f, place.at, place.sides) for f in place.whole)
        return super().begin(params, x, told, place)._replace(out=out, hidden=hidden)
