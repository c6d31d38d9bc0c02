"""Images by a cascade (Ho et al. 2022): the first network draws them small, each other resolves what the last drew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from annotated_types import Predicate
from jaxtyping import Array, Float, Key

from nca_gen import arrays, hosts, screen
from nca_gen.contracts import Condition, Part, Parts
from nca_gen.errors import UserError
from nca_gen.pipelines import files, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.tiling import tiles


def placed(place: str) -> bool:
    """Whether ``place`` says a magnification and a stage, such as mag0_stage1; or nothing."""
    return re.fullmatch(r"([a-z]+\d+_[a-z]+\d+)?", place) is not None


Place = Annotated[str, Predicate(placed)]


def groups(names: Mapping[str, object], place: str) -> list[list[str]]:
    """The networks that come before the one at ``place``, and it, by magnification: "mag0_stage1" and so on, in order.

    Raises UserError for a place that is no such word.
    """
    if not place or not placed(place):
        raise UserError(f"config.generate.place={place!r} says no place in a cascade: write it like mag0_stage1")
    every = sorted({*names, place} - {"model"})
    heads = dict.fromkeys(name.partition("_")[0] for name in every)
    return [[name for name in every if name.startswith(f"{head}_")] for head in heads]


def opened(parts: Parts, name: str, place: str) -> Part:
    """The network ``name``; the part "model" is that at ``place``.

    Raises UserError for one that is not trained, with the command that trains it.
    """
    if name == place:
        return sampling.denoiser(parts["model"])
    try:
        return sampling.denoiser(parts[name])
    except UserError as e:
        form = name.replace("_", ",")
        raise UserError(
            f"the network {name} is missing ({e}); train it in the forms of the others: python -m nca_gen.main "
            f"--config=configs/urcdm.py:{form} --config.data.path=DIR --workdir=RUNS/{name}"
        ) from e


def resolving(part: Part, images: Float[np.ndarray, "B *S C"], size: Sequence[int] = ()) -> Condition:
    """The condition of a network that resolves ``images``, which are in [-1, 1], to ``size`` pixels.

    () is all that they cover; of cells that reach beyond it, the last places are repeated.
    """
    codec, low = part.task.codec, part.task.low
    sides = images.shape[1:-1]
    pixels = [cells * codec.block for cells in codec.cells(size or [side * low for side in sides])]
    index = [tiles.below(0, n, low, side) for n, side in zip(pixels, sides, strict=True)]
    return {"low": codec.encode(jnp.asarray(np.asarray(images)[(slice(None), *np.ix_(*index))]))}


@dataclass(frozen=True)
class Pipeline:
    """Images by the networks of ``config.parts`` and the part "model", which is at ``place`` ("mag2_stage3") of a
    cascade: those of its magnification draw one after the other, from noise, each with its own ``config.sample``.

    ``dtype``: of their values in files; ``mpp``: micrometres of a pixel, for all axes or for each. Where these are left
    open, training fills in what its data have.
    """

    parts: Parts
    place: Place = ""
    dtype: files.Depth = ""
    mpp: files.Microns = ()

    @property
    def kind(self) -> str:
        """Images or volumes, by the axes of the model."""
        return files.kind(self.parts["model"].task.model.ndim)

    @property
    def networks(self) -> list[str]:
        """Those of the magnification of ``place``."""
        return groups(self.parts, self.place)[-1]

    @property
    def side(self) -> int:
        """Of an image, in pixels: that of the first network's patches, as often enlarged as there are others."""
        first, *others = (opened(self.parts, name, self.place) for name in self.networks)
        return int(first.config.data.patch[0] * np.prod([part.task.low for part in others], dtype=int))

    def title(self) -> list[str]:
        """Which networks draw."""
        return [self.place]

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "*T C"]]:
        """An image for each key: of the whole cascade, or where ``cond`` is given of its last network alone.

        ``size``: of the images of the last network. Raises UserError for a network that is not trained.
        """
        part = self.parts["model"]
        batch = part.config.sample.batch
        if cond is not None:
            for images in sampling.images(part, key, size, Settings.of(part.config.sample), cond, batch=batch):
                yield from images
            return
        networks = [opened(self.parts, name, self.place) for name in self.networks]
        for start in range(0, len(key), batch):
            images: Any = None
            for number, stage in enumerate(networks):
                scale = int(np.prod([later.task.low for later in networks[number + 1 :]]))
                low = None if images is None else resolving(stage, images)
                some, sides = arrays.fold(key[start : start + batch], number), tuple(side // scale for side in size)
                [images] = sampling.images(stage, some, sides, Settings.of(stage.config.sample), low, batch=batch)
            yield from images

    def write(self, folder: Path) -> list[str]:
        """``config.sample.n`` images in ``folder``, and one grid beside it; those that are there already are kept."""
        config = self.parts["model"].config
        n, size = config.sample.n, (self.side,) * self.parts["model"].task.model.ndim
        todo = files.missing(folder, n, config.sample.batch, files.endings(self.kind))
        for some in screen.track(todo, f"sampling {n} of {size}", quiet=not hosts.first()):
            drawn = self.draw(arrays.keys(config.seed, len(some), some.start), size)
            for i, image in zip(some, drawn, strict=True):
                files.write(folder / f"{i:05d}", image, self.dtype, self.mpp)
        return files.beside(folder, n, 1, self.kind)
