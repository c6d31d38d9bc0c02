"""FourierDiff-NCA (Kalkhof et al. 2024): the automaton first talks in Fourier space, then in image space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int, Key

from nca_gen import arrays
from nca_gen.ca import fourier
from nca_gen.ca.seed import Cells, seed
from nca_gen.models import diff_nca


def _planes(f: Array) -> Array:
    """Complex channels as real ones: all real parts, then all imaginary parts."""
    return jnp.concatenate([f.real, f.imag], -1)


def _complex(x: Array) -> Array:
    real, imag = jnp.split(x, 2, -1)
    return jax.lax.complex(real, imag)


@dataclass(frozen=True)
class Model(diff_nca.Model):
    """Diff-NCA whose cells wake up informed: ``fourier_steps`` steps on a ``window``^n corner of the spectrum.

    Both sides are conditioned on position, t and s. Every Fourier cell fires at every step; the image's own
    coefficients are read and never written. Images need at least ``2 * window`` pixels a side.
    """

    window: int = 16
    fourier_steps: int = 32

    @property
    def scalars(self) -> int:
        return self.ndim + 2

    @property
    def halo(self) -> int | None:
        return None

    def init_params(self, key: Key[Array, ""]) -> dict:
        image, spectrum = jax.random.split(key)
        return {
            "fourier": self.side(2 * self.channels).init(spectrum)["params"],
            "image": self.side(self.channels).init(image)["params"],
        }

    def condition(
        self, t: Int[Array, " b"], s: Float[Array, ""], at: arrays.Coords, extent: tuple[int, ...]
    ) -> Float[Array, "b *S K"]:
        """The scalars (position, t/T, s) of every cell; position falls from 1 to 0 along each axis."""
        t = (t / self.timesteps).reshape(-1, *[1] * self.ndim)
        position = [1.0 - c[None] / (n - 1) for c, n in zip(at, extent, strict=True)]
        return jnp.stack(jnp.broadcast_arrays(*position, t, jnp.asarray(s)), -1)

    def hear(
        self, params: dict, spectrum: Complex[Array, "B *K I"], t: Int[Array, " b"]
    ) -> tuple[Complex[Array, "B *K I"], Complex[Array, "B *K H"]]:
        """Fourier phase: what the spectrum of x_t makes of the first ``out`` and ``hidden``, themselves as spectra.

        Only ``image`` is non-zero in the seed, so only its spectrum is read.
        """
        weights = self.side(2 * self.channels).apply({"params": params["fourier"]})
        grid = (self.window,) * self.ndim
        at = arrays.coords(grid)

        def step(cells: Cells) -> Cells:
            scalars = self.condition(t, cells.age / self.window, at, grid)
            return self.update(weights, scalars, cells, jnp.ones((), bool), padding="constant")

        out, hidden = self.image_channels, self.channels - 2 * self.image_channels
        heard = diff_nca.rollout(step, self.fourier_steps, self.remat)(seed(_planes(spectrum), 2 * out, 2 * hidden))
        return _complex(heard.out), _complex(heard.hidden)

    def begin(
        self,
        params: dict,
        x: Float[Array, "B *S I"],
        t: Int[Array, " b"],
        cond: Any = None,
        at: arrays.Coords | None = None,
        extent: tuple[int, ...] | None = None,
    ) -> Cells:
        """The cells after the Fourier phase. ``cond``: None of a whole image, of a tile what :meth:`hear` says."""
        if cond is None:
            heard = self.hear(params, fourier.window(x, self.window), t)
            out, hidden = (fourier.unwindow(f, x.shape[1:-1]) for f in heard)
        else:
            out, hidden = (fourier.part(f, at, extent) for f in cond)
        return super().begin(params, x, t)._replace(out=out, hidden=hidden)
