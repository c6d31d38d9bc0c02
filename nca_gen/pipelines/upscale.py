"""Pictures enlarged by a trained model, twice and twice again, without training for it (Diff-NCA, section 4.8)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from jaxtyping import Array, Bool, Float, Key

from nca_gen import arrays, hosts
from nca_gen.contracts import Condition, Part, Parts
from nca_gen.diffusion.inpaint import KNOWN
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import files, inpaint, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.ranges import Count, OneOf

NOISE, BLEND = 0.9, 0.02  # of the paper


def doubled(image: Float[np.ndarray, "*T C"]) -> tuple[Float[np.ndarray, "*U C"], Bool[np.ndarray, "*U"]]:
    """``image`` enlarged to the nearest pixel, and which pixels are new: all but the first of each 2 x 2."""
    n = image.ndim - 1
    for axis in range(n):
        image = image.repeat(2, axis)
    new = np.ones(image.shape[:-1], bool)
    new[(slice(None, None, 2),) * n] = False
    return image, new


def passes(factor: int) -> int:
    """How many doublings make ``factor``. Raises UserError where that is no power of two above one."""
    n = max(factor, 1).bit_length() - 1
    if factor < 2 or factor != 2**n:
        raise UserError(f"config.generate.factor={factor}: pictures are enlarged by 2, 4, 8, ...")
    return n


def enlarge(
    part: Part,
    key: Key[Array, " 1"],
    image: Float[np.ndarray, "*T C"],
    factor: int,
    settings: Settings,
    cond: Condition = None,
    *,
    noise: int | float = NOISE,
    blend: int | float = BLEND,
    **how: Any,
) -> Float[np.ndarray, "*U C"]:
    """``image`` (in [-1, 1]) ``factor`` times as large along every axis, doubled again and again.

    In each doubling the old pixels are kept bit for bit, every first one of 2 x 2; the new ones begin as the enlarged
    image with ``noise`` of the noise, and take in ``blend`` of it at every step. ``how``: as :func:`inpaint.fill` takes
    it. Raises UserError for a ``factor`` that is no power of two.
    """
    for i in range(passes(factor)):
        image, new = doubled(image)
        here = arrays.fold(key, i)
        image = inpaint.fill(part, here, image, new, settings, cond, noise=noise, blend=blend, **how)[0]
    return image


@dataclass(frozen=True)
class Pipeline:
    """``samples`` enlargements of ``image`` by ``factor`` by the part "model".

    ``known``: how the network is shown the pixels that are there, "noised" to the level of the others or "clean".
    ``torus``: the picture has no edge.
    """

    parts: Parts
    image: str = ""
    factor: Annotated[int, Ge(2)] = 2
    samples: Count = 4
    known: Annotated[str, OneOf(KNOWN)] = "noised"
    torus: bool = False

    @cached_property
    def part(self) -> Part:
        """The denoiser, on a torus where one is wanted."""
        return inpaint.of_pixels(sampling.denoiser(self.parts["model"], self.torus), "upscale")

    @property
    def kind(self) -> str:
        """Images."""
        return "images"

    def title(self) -> list[str]:
        """What two folders of enlargements may differ in."""
        return [Path(self.image).stem, f"x{self.factor}", self.known]

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...] = (), cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "H W C"]]:
        """An enlargement for each key. ``size`` is ``factor`` times that of the image."""
        image, settings = inpaint.stored(self.part, self.image)[0], Settings.of(self.part.config.sample)
        for i in range(len(key)):
            some = slice(i, i + 1)
            row = sampling.rows(cond, some)
            yield enlarge(self.part, key[some], images.to_float(image), self.factor, settings, row, known=self.known)

    def write(self, folder: Path) -> list[str]:
        """``samples`` enlargements as files in ``folder``; of a model of classes with ``config.sample.labels`` in turn.

        Beside them the input, and in comparison.png, side by side, the input to the nearest pixel and the enlargements.
        """
        config, begun = self.part.config, time.perf_counter()
        stored, mpp = inpaint.stored(self.part, self.image)
        cond = sampling.conditions(self.part.task.model, config.sample.labels, self.samples)
        size = tuple(self.factor * n for n in stored.shape[:2])
        large = files.drawn(self, config.seed, self.samples, size, cond, "enlarging")
        seconds = time.perf_counter() - begun
        if not hosts.first():
            return []
        files.write(folder / "input", images.to_float(stored), stored.dtype, mpp)
        for i, picture in enumerate(large):
            files.write(folder / f"{i:05d}", picture, stored.dtype, [size / self.factor for size in mpp])
        nearest = images.to_float(stored).repeat(self.factor, 0).repeat(self.factor, 1)
        comparison = inpaint.compared(folder, [nearest, *large])
        sides = " x ".join(map(str, nearest.shape[:2]))
        return [
            f"{self.samples} enlargements to {sides} pixels are in {folder}, {seconds:.1f} s",
            f"side by side with the input: {comparison}",
        ]
