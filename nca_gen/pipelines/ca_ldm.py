"""Volumes by a latent of the whole, those of its slices, and a decoder of several slices (CA-LDM: Huang et al. 2024).

A volume is drawn in four steps. The part "diff3d" draws the latent of the whole, from which "nhae" says one for each
slice; "refiner" draws each of these anew, told what was said of it; windows of them are decoded by "model". The first
two need the whole, which is small. The others take a few slices at a time, so their memory does not grow with the
volume, and devices and hosts share the slices.

On disk every slice is a file, so what is killed anywhere goes on to the same volume. The noise of a slice is a hash of
the seed and the number of the slice, so neither batches nor the number of devices and hosts change it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key, PyTree

from nca_gen import arrays, devices, hosts, screen
from nca_gen.contracts import Calls, Condition, Part, Parts
from nca_gen.data import latents
from nca_gen.diffusion import samplers
from nca_gen.errors import UserError
from nca_gen.io import images, write
from nca_gen.io.stored import Stack, Stored, runs
from nca_gen.models import multislice, nhae
from nca_gen.models.multislice import Window, windows
from nca_gen.pipelines import files, label_maps, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.ranges import Count

DIFFUSES = ("diff3d", "refiner")
WHOLE, SLICES = 0, 1  # what a key draws
SAID = "said.npy"  # latents of slices, as the latent of the whole says them


class Scale(NamedTuple):
    """Mean and deviation of each channel of the latents that a network learned, by which they are standardised."""

    mean: Float[np.ndarray, " L"]
    std: Float[np.ndarray, " L"]

    @classmethod
    def of(cls, part: Part) -> Scale:
        """Of the latents of a trained part. Raises UserError where they are gone, or were never all encoded."""
        scale = latents.index(part.config.data.path)["scale"]
        return cls(np.array(scale["mean"], np.float32), np.array(scale["std"], np.float32))

    def raw(self, x: Float[np.ndarray, "*S L"]) -> Float[np.ndarray, "*S L"]:
        """Latents of standardised ones."""
        return x * self.std + self.mean

    def standard(self, z: Float[np.ndarray, "*S L"]) -> Float[np.ndarray, "*S L"]:
        """The inverse of :meth:`raw`."""
        return (z - self.mean) / self.std


def lighter(part: Part, dtype: str) -> Part:
    """``part`` with its kernels in the type of its products, as which they are read all the same."""
    cast = lambda path, x: x.astype(dtype) if path[-1].key == "kernel" else x
    return replace(part, params=jax.tree.map_with_path(cast, part.params)) if dtype == "bfloat16" else part


def local() -> Mesh:
    """The devices of this host."""
    return devices.mesh(jax.local_devices(), len(jax.local_devices()))


# The four steps, each a compiled program.


@cache
def saying(model: nhae.Model) -> Any:
    """(params, z [1, d, h, w, L]) -> the latents of slices [1, D, h, w, L]."""
    return jax.jit(model.latents)


@cache
def refining(task: Any, settings: Settings, grid: Mesh) -> Any:
    """The way from noise to latents of slices, each by itself, as many as ``grid`` has devices or a multiple of that.

    (params, keys as words [B, 2], what they are told: "image" [B, h, w, L] and perhaps "map" [B, h, w, K]) -> [B, h, w,
    L], standardised like the image.
    """
    model, process, codec = settings.stage(task.model).inference(), task.process, task.codec
    how = settings.sampler, settings.clip, settings.guidance, settings.heredity, settings.young(model)
    run, times = sampling.stretch(model, process, codec, *how), settings.times(process)

    def refine(params: PyTree, words: Array, told: dict[str, Array]) -> Array:
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        told = told | {"image": codec.encode(told["image"])}
        noise = samplers.initial_noise(key, told["image"].shape[1:-1], model.reads)
        return codec.decode(run(params, samplers.begin(noise), jnp.asarray(times), key, told).x)

    lay = P(devices.AXES)
    return jax.jit(jax.shard_map(refine, mesh=grid, in_specs=(P(), lay, lay), out_specs=lay, check_vma=False))


@cache
def decoding(model: multislice.Model, mixed: bool, grid: Mesh) -> Any:
    """(params, latents of windows [B, k, h, w, L]) -> their slices [B, k, H, W, C], a window on each device at once."""
    lay, decode = P(devices.AXES), partial(model.opened, lean=True) if mixed else partial(apart, model)
    return jax.jit(jax.shard_map(decode, mesh=grid, in_specs=(P(), lay), out_specs=lay, check_vma=False))


def apart(model: multislice.Model, params: PyTree, z: Float[Array, "B k h w L"]) -> Float[Array, "B k H W C"]:
    """The slices of latents, each decoded by itself."""
    return model.slices.decode(params["slices"], z)


def keys(key: Key[Array, " 1"], slices: Sequence[int]) -> Key[Array, " n"]:
    """One for each slice, of its number and ``key`` alone."""
    root = arrays.fold(key, SLICES)[0]
    return jax.vmap(lambda d: jax.random.fold_in(root, d))(np.array(slices, np.uint32))


def filled(rows: Sequence[Any], n: int) -> list[Any]:
    """``rows``, the last over again until there are ``n``: one program for any number."""
    return [*rows, *[rows[-1]] * (n - len(rows))]


def finite(x: np.ndarray, name: str) -> np.ndarray:
    """``x``. Raises UserError where what the part ``name`` drew is no number."""
    if not np.isfinite(x).all():
        raise UserError(f"the part {name} draws what is not finite: train it anew")
    return x


def stacked(folder: Path, shape: Sequence[int], dtype: Any) -> Stack:
    """The slices in ``folder``, as they are there, or none yet."""
    with write.refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Stack(folder, tuple(shape), np.dtype(dtype))


# The command.


@dataclass(frozen=True)
class Pipeline:
    """Volumes by the parts "diff3d", "nhae" and "refiner" and the part "model", a decoder of several slices
    (:mod:`nca_gen.models.multislice`). Those that diffuse sample by their own ``config.sample``.

    ``config.sample.n`` volumes are drawn, of ``config.sample.size`` voxels. ``keep``: slices of a window that stay, the
    middle ones; 1 is published, and as many as a window has cost least: each slice is decoded once, those at the ends
    of a window in sight of neighbours on one side. ``batch``: slices that are refined on each device at once.
    ``refine``, ``mixed``: off, the latents of slices stay as the whole says them, and each slice is decoded by itself
    (the paper's ablation). ``label_maps``: a volume of classes, or a folder of them, one for each volume in turn, which
    these follow as far as ``config.sample.guidance`` of the parts says. ``dtype``: of the voxels in files; ``mpp``:
    micrometres of a voxel, for all axes or for each. Where these are left open, training fills in what its data have.
    ``volume_format``: NIfTI, DICOM (a file of OCT, or a folder of CT or MR slices) or OME-Zarr.
    """

    parts: Parts
    keep: Count = 5
    batch: Count = 16
    refine: bool = True
    mixed: bool = True
    label_maps: str = ""
    dtype: files.Depth = ""
    mpp: files.Microns = ()
    volume_format: files.Format = "nifti"
    kind: ClassVar[str] = "volumes"

    @property
    def config(self) -> Any:
        """Of the decoder."""
        return self.parts["model"].config

    @cached_property
    def model(self) -> multislice.Model:
        """The decoder, in the products of ``config.sample.dtype``. UserError for another network, or for ``keep``."""
        model = self.parts["model"].task.model
        if not isinstance(model, multislice.Model):
            raise UserError("config.generate.name=ca_ldm is for the run of a decoder of several slices")
        if self.keep > model.window:
            raise UserError(f"config.generate.keep={self.keep}: a window has {model.window} slices")
        return Settings.of(self.config.sample).stage(model)

    @property
    def names(self) -> list[str]:
        """Of the parts that it needs beside "model"."""
        return ["diff3d", "nhae", *(["refiner"] if self.refine else [])]

    def opened(self, name: str) -> Part:
        """The part ``name``. Raises UserError for one that is not trained, with the command that trains it."""
        try:
            return self.parts[name]
        except (KeyError, UserError) as e:
            raise UserError(
                f"the part {name} is missing ({e}); train it in the forms of the others: python -m nca_gen.main "
                f"--config=configs/ca_ldm.py:{name} --workdir=RUNS/{name}"
            ) from e

    def diffuser(self, name: str, guided: bool) -> tuple[Part, Settings, int]:
        """A part that diffuses, how, and how many classes it is told of, where it is ``guided`` by a label map.

        Raises UserError for one that learned without.
        """
        part = sampling.denoiser(self.opened(name))
        settings, classes = Settings.of(part.config.sample), part.task.model.conditions.get("map", 0)
        if guided and not classes:
            raise UserError(f"the part {name} learned without label maps: train it with them, or set label_maps to ''")
        settings = settings if guided else settings._replace(guidance=1.0)  # towards what is said, and nothing is
        return lighter(part, settings.dtype), settings, classes

    def title(self) -> list[str]:
        """The size, and all else that voxels depend on but the seed, in 10 hexadecimal digits."""
        return [*sampling.title(self.config), self.identity()]

    def identity(self) -> str:
        """Names all that the voxels depend on, beside the size and the seed."""
        digest = hashlib.sha256(f"{self.keep} {self.refine} {self.mixed} {self.model}".encode())
        for name in (*self.names, "model"):
            part = self.opened(name)
            digest.update(f"{name} {part.task.model}".encode())
            if name in DIFFUSES:
                how = part.task.process, part.task.codec, Settings.of(part.config.sample), Scale.of(part)
                digest.update(f"{how}".encode())
            for path, leaf in jax.tree.leaves_with_path(part.params):
                digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
        for labels in self.maps():
            for some in runs(labels):
                digest.update(np.ascontiguousarray(some).tobytes())
        return digest.hexdigest()[:10]

    def map_classes(self) -> int:
        """Of the label maps that its parts learned to follow; 0 where one of them learned without."""
        parts = (sampling.denoiser(self.opened(name)) for name in self.names if name in DIFFUSES)
        return min(part.task.model.conditions.get("map", 0) for part in parts)

    def maps(self) -> list[Stored]:
        """The label maps of ``config.sample.n`` volumes; none where none are given."""
        sample = self.config.sample
        return label_maps.opened(self.label_maps, sample.n, tuple(sample.size)) if self.label_maps else []

    def places(self, size: Sequence[int]) -> tuple[int, ...]:
        """Sides of the latent of a volume of ``size`` voxels. Raises UserError for one that does not come out even."""
        factor = self.opened("nhae").task.model.factor
        if len(size) != 3 or any(side % factor for side in size):
            raise UserError(f"config.sample.size={tuple(size)}: give three multiples of {factor}")
        return tuple(side // factor for side in size)

    def plan(self, depth: int) -> tuple[int, list[Window]]:
        """How many slices are decoded at once, and which."""
        k = self.model.window if self.mixed else 1
        return k, [*windows(depth, k, self.keep if self.mixed else 1)]

    def said(
        self,
        key: Key[Array, " 1"],
        size: tuple[int, ...],
        labels: Stored | None = None,
        bar: screen.Bar = screen.SILENT,
    ) -> Float[np.ndarray, "D h w L"]:
        """The latents of slices that a drawn latent of the whole says."""
        (part, settings, classes), coder = self.diffuser("diff3d", labels is not None), self.opened("nhae")
        scale, places, cond, space = Scale.of(part), self.places(size), None, part.config.mesh.space
        if labels is not None:
            cond = {"map": jnp.asarray(label_maps.shares_of_all(labels, coder.task.model.factor, classes)[None])}
        bar.begin("drawing the latent of the whole", settings.steps, unit="steps")
        draw = partial(sampling.images, batch=1, space=space, frames=settings.steps, bar=bar)  # a frame a step
        [z] = draw(part, arrays.fold(key, WHOLE), places, settings, cond)
        return finite(np.asarray(saying(coder.task.model)(coder.params, scale.raw(z)))[0], "diff3d")

    def refined(
        self,
        said: np.ndarray,
        key: Key[Array, " 1"],
        labels: Stored | None,
        stack: Stack,
        share: hosts.Share,
        bar: screen.Bar,
    ) -> None:
        """Draws what is missing of the latents of slices, told what the latent of the whole says of them."""
        part, settings, classes = self.diffuser("refiner", labels is not None)
        each = (1, *(self.opened("nhae").task.model.factor,) * 2)
        scale, grid = Scale.of(part), local()
        run, most = refining(part.task, settings, grid), self.batch * grid.size
        params, missing = jax.device_put(part.params, devices.replicated(grid)), {*stack.missing}
        bar.begin("refining", len(said), len(said) - len(missing))
        share.meet()  # all have looked what is there
        todo = [d for d in share.dealt(range(len(said))) if d in missing]
        for first in range(0, len(todo), most):
            some = todo[first : first + most]
            rows = filled(some, most)
            words, told = jax.random.key_data(keys(key, rows)), {"image": scale.standard(said[rows])}
            if labels is not None:
                told["map"] = np.concatenate([label_maps.shares(labels, d, d + 1, each, classes) for d in rows])
            drawn = finite(scale.raw(np.asarray(run(params, words, told))), "refiner")
            for d, z in zip(some, drawn, strict=False):
                stack.append(d, z[None])
            bar.advance(len(some) * share.count)
        share.meet()

    def decoded(self, z: Stored, stack: Stack, share: hosts.Share, bar: screen.Bar) -> None:
        """Decodes what is missing of the slices, window by window."""
        grid, (k, plan) = local(), self.plan(z.shape[0])
        run, part = decoding(self.model, self.mixed, grid), lighter(self.parts["model"], self.model.dtype)
        params, missing = jax.device_put(part.params, devices.replicated(grid)), {*stack.missing}
        bar.begin("decoding", z.shape[0], z.shape[0] - len(missing))
        share.meet()
        todo = [some for some in share.dealt(plan) if missing.intersection(range(some.first, some.stop))]
        for first in range(0, len(todo), grid.size):
            some = todo[first : first + grid.size]
            given = np.stack([z[one.start : one.start + k, :, :] for one in filled(some, grid.size)])
            for one, slices in zip(some, finite(np.asarray(run(params, given)), "model"), strict=False):
                own = np.clip(slices[one.first - one.start : one.stop - one.start], -1, 1)
                stack.append(one.first, images.from_float(own, stack.dtype))
                bar.advance(len(own) * share.count)
        share.meet()

    def made(
        self,
        work: Path,
        key: Key[Array, " 1"],
        size: tuple[int, ...],
        labels: Stored | None = None,
        dtype: Any = np.float32,
        share: hosts.Share = hosts.ALONE,
        bar: screen.Bar = screen.SILENT,
    ) -> Stack:
        """Draws the volume of ``key`` in the folder ``work``, or what is missing of it; returns its slices."""
        file, model = work / SAID, self.model
        self.plan(size[0])  # a volume that is no window is refused before anything is drawn
        if not share.index and not file.is_file():
            work.mkdir(parents=True, exist_ok=True)
            said = self.said(key, size, labels, bar)
            with write.whole(file) as draft:
                np.save(draft, said)
        share.meet()
        z: Any = np.load(file, mmap_mode="r")
        if self.refine:
            stack = stacked(work / "latents", z.shape, np.float32)
            self.refined(z, key, labels, stack, share, bar)
            z = stack
        slices = stacked(work / "slices", (*size, model.image_channels), dtype)
        self.decoded(z, slices, share, bar)
        return slices

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "D H W C"]]:
        """A volume of ``size`` for each key, made in a temporary folder; each is in memory when it is yielded.

        ``cond``: "label_map", classes [n, D, H, W, 1]; without it the maps of ``config.generate`` count for nothing.
        """
        for i in range(len(key)):
            labels: Any = None if cond is None else np.asarray(cond["label_map"][i])
            with TemporaryDirectory() as scratch:
                yield self.made(Path(scratch), key[i : i + 1], size, labels)[:, :, :]

    def counts(self, size: tuple[int, ...]) -> dict[str, Calls]:
        """Of every network."""
        places, (k, plan) = self.places(size), self.plan(size[0])
        n, nhae = self.model.latent_channels, self.opened("nhae").task.model
        networks = {name: self.diffuser(name, bool(self.label_maps))[1] for name in self.names if name in DIFFUSES}
        each = {name: how.steps * (1 if how.guidance == 1 else 2) for name, how in networks.items()}
        found = {"diff3d": Calls(1, each["diff3d"], (*places, n))}
        found["nhae"] = Calls(1, 1, (*places, n), nhae.latents)
        if self.refine:
            found["refiner"] = Calls(size[0], each["refiner"], (*places[1:], n))
        decode = partial(self.model.opened, lean=True) if self.mixed else partial(apart, self.model)
        found["model"] = Calls(len(plan), 1, (k, *places[1:], n), decode)
        return found

    def write(self, folder: Path) -> list[str]:
        """``config.sample.n`` volumes in ``folder``, see :meth:`follow`, under the maps of ``label_maps`` in turn."""
        maps = self.maps()
        return self.follow(folder, self.config.sample.n, lambda i: maps[i] if maps else None)

    def follow(self, folder: Path, n: int, label_map: Callable[[int], Stored | None]) -> list[str]:
        """``n`` volumes of ``config.sample.size`` in ``folder``, and one picture of them beside it.

        Volume i follows ``label_map(i)``, if that is one, and depends on it, ``config.seed`` and i alone; those that
        are there already are kept. Started again, it goes on where it was stopped, on any number of processes: they
        share the slices, and the first writes the file.
        """
        config, [ending] = self.config, files.endings(self.kind, self.volume_format, self.mpp)
        size, sizes = tuple(config.sample.size), files.sides(self.mpp, 3)
        depth = files.depth(self.dtype, self.volume_format)
        targets = [folder / f"{i:05d}{ending}" for i in range(n)]
        there = [target.exists() for target in targets]
        hosts.meet()  # all have looked
        with screen.bar(unit="slices", quiet=not hosts.first()) as bar:
            for i, target in enumerate(targets):
                work = target.with_name(f".{target.name}.part")
                if not there[i]:
                    key = arrays.keys(config.seed, 1, i)
                    slices = self.made(work, key, size, label_map(i), depth, hosts.shared(), bar)
                    if hosts.first():
                        bar.begin("writing", size[0])
                        files.volume(folder / f"{i:05d}", slices, sizes, self.volume_format)
                if hosts.first():
                    shutil.rmtree(work, ignore_errors=True)  # also where a run was killed just before
                hosts.meet()
        return files.beside(folder, n, 1, self.kind)
