"""Samples from noise, of any size: one file each, and a grid of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, Key

from nca_gen import arrays, hosts, screen
from nca_gen.contracts import Condition, Part, Parts
from nca_gen.pipelines import files, sampling


@dataclass(frozen=True)
class Pipeline:
    """Samples of the part "model", any denoiser. ``torus``: samples without an edge, of cells that know a border.

    ``dtype``: of their values in files; ``mpp``: micrometres of a pixel, for all axes or for each. Where these are left
    open, training fills in what its data have. ``volume_format``: NIfTI, DICOM (a file of OCT, or a folder of CT or MR
    slices) or OME-Zarr.
    """

    parts: Parts
    torus: bool = False
    dtype: files.Depth = ""
    mpp: files.Microns = ()
    volume_format: files.Format = "nifti"

    @cached_property
    def part(self) -> Part:
        """The denoiser, on a torus where one is wanted."""
        return sampling.denoiser(self.parts["model"], self.torus)

    @property
    def kind(self) -> str:
        """Images or volumes, by the axes of the model."""
        return files.kind(self.part.task.model.ndim)

    def title(self) -> list[str]:
        """What two folders of samples may differ in."""
        return sampling.title(self.part.config)

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "*T C"]]:
        """A sample of ``size`` (of latents, where the model learned latents) for each key, under its row of ``cond``.

        They are made ``config.sample.batch`` at a time, spread over the devices of this host. Raises UserError for a
        torus that would end within a cell.
        """
        part, config = self.part, self.part.config
        if self.torus:
            sampling.seamless(size, part.task.codec.block)
        settings, how = sampling.Settings.of(config.sample), {"batch": config.sample.batch, "space": config.mesh.space}
        for drawn in sampling.images(part, key, size, settings, cond, **how):
            yield from part.decode(drawn)

    def write(self, folder: Path) -> list[str]:
        """``config.sample.n`` samples of ``config.sample.size`` in ``folder``, and one grid beside it.

        Sample i depends on ``config.seed`` and i alone; those that are there already are kept, so a stopped run goes
        on, and several processes share them. Of a model of classes they take turns through ``config.sample.labels`` (()
        for all classes), and the grid has a row for each.
        """
        config = self.part.config
        size, n, labels = tuple(config.sample.size), config.sample.n, config.sample.labels
        cond = sampling.conditions(self.part.task.model, labels, n)
        ends = files.endings(self.kind, self.volume_format, self.mpp)
        todo = files.missing(folder, n, config.sample.batch, ends)
        for some in screen.track(todo, f"sampling {n} of {size}", quiet=not hosts.first()):
            key, row = (
                arrays.keys(config.seed, len(some), some.start),
                sampling.rows(cond, slice(some.start, some.stop)),
            )
            for i, sample in zip(some, self.draw(key, size, row), strict=True):
                files.write(folder / f"{i:05d}", sample, self.dtype, self.mpp, self.volume_format)
        classes = 1 if cond is None else min(n, len(labels) or cond["label"].shape[1])
        return files.beside(folder, n, classes, self.kind)
