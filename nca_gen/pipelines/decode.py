"""Samples of an autoencoder's prior: latents z ~ N(0, 1), keyed by coordinates, decoded to images of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from nca_gen import arrays, hosts, screen
from nca_gen.contracts import Autoencoder, Condition, Part, Parts
from nca_gen.errors import UserError
from nca_gen.pipelines import files, sampling


@partial(jax.jit, static_argnums=(0, 3))
def decoded(model: Any, params: PyTree, key: Key[Array, " B"], places: tuple[int, ...]) -> Float[Array, "B *T C"]:
    """The images of random latents on a grid of ``places``."""
    return model.decode(params, arrays.cell_normal(key, 0, arrays.coords(places), model.latent_channels))


@dataclass(frozen=True)
class Pipeline:
    """Samples of the part "model", an autoencoder.

    ``dtype``: of their values in files; ``mpp``: micrometres of a pixel, for all axes or for each. Where these are left
    open, training fills in what its data have. ``volume_format``: NIfTI, DICOM (a file of OCT, or a folder of CT or MR
    slices) or OME-Zarr.
    """

    parts: Parts
    dtype: files.Depth = ""
    mpp: files.Microns = ()
    volume_format: files.Format = "nifti"

    @cached_property
    def part(self) -> Part:
        """The autoencoder. Raises UserError for any other part."""
        part = self.parts["model"]
        if not isinstance(part.task.model, Autoencoder):
            raise UserError("config.generate.name=decode is for autoencoders, and this run is none: use sample")
        return part

    @property
    def kind(self) -> str:
        """Images or volumes, by the axes of what the autoencoder learned."""
        return files.kind(len(self.part.config.data.patch))

    def title(self) -> list[str]:
        """What two folders of samples may differ in."""
        return sampling.title(self.part.config)

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "*T C"]]:
        """A sample of ``size`` for each key; a side that is no multiple of the autoencoder's factor is cut off there.

        They are made ``config.sample.batch`` at a time, spread over the devices of this host.
        """
        part, config = self.part, self.part.config
        model = part.task.model
        places = tuple(-(-side // model.factor) for side in size)
        for start in range(0, len(key), config.sample.batch):
            here, near, _ = sampling.spread(key[start : start + config.sample.batch], part)
            for image in np.asarray(decoded(model, near.params, here, places)):
                yield image[tuple(map(slice, size))]

    def write(self, folder: Path) -> list[str]:
        """``config.sample.n`` samples of ``config.sample.size`` in ``folder``, and one grid beside it.

        Sample i depends on ``config.seed`` and i alone; those that are there already are kept, and
        several processes share them.
        """
        sample = self.part.config.sample
        size = tuple(sample.size)
        ends = files.endings(self.kind, self.volume_format, self.mpp)
        todo = files.missing(folder, sample.n, sample.batch, ends)
        for some in screen.track(todo, f"decoding {sample.n}", quiet=not hosts.first()):
            for i, image in zip(
                some, self.draw(arrays.keys(self.part.config.seed, len(some), some.start), size), strict=True
            ):
                files.write(folder / f"{i:05d}", image, self.dtype, self.mpp, self.volume_format)
        return files.beside(folder, sample.n, 1, self.kind)
