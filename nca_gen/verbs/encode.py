"""--mode=encode: every image of a data set through an autoencoder, once; what is written is data for another model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nca_gen import build
from nca_gen.data import latents
from nca_gen.data.source import SPLITS, Example, Source, progress
from nca_gen.errors import UserError, unknown
from nca_gen.io import images, weights
from nca_gen.runtime import mesh
from nca_gen.runtime.log import replace, say, writing
from nca_gen.verbs.generate import restore

FLIPS = {"none": [(1, 1)], "horizontal": [(1, 1), (1, -1)], "all": [*product((1, -1), (1, -1))]}  # steps down, right
Tile = tuple[int, int, int]  # image, and a corner


def encode(config: Any, workdir: str | Path) -> Path:
    """Writes ``workdir``/latents (see :mod:`nca_gen.data.latents`) and returns it.

    The autoencoder is that of the newest checkpoint of ``workdir``, or of the file ``config.encode.weights``. Images
    are encoded in pieces of ``config.data.patch``, from the top left; what is left at the edges is not. A shard is
    written whole or not at all, and found ones are kept: the same command again goes on. Each process takes every n-th
    shard. Raises UserError where there is nothing to encode with, where the patch does not fit, and where the folder
    holds the latents of another autoencoder, or of other data.
    """
    if "encode" not in config:
        raise UserError("--mode=encode is for autoencoders, and this config is of none; see configs/vae_kl.py")
    asked, root = config.encode, Path(workdir, "latents")
    if asked.flips not in FLIPS:
        raise unknown("value of config.encode.flips", asked.flips, FLIPS)
    mesh.connect(config.mesh.get("distributed", False))
    model, params, origin = _autoencoder(config, workdir)
    patch, sources = tuple(config.data.patch), build.splits(config)
    tiles = {split: list(_tiles(sources[split], patch)) for split in SPLITS}
    shards = {split: _shards(split, len(tiles[split]), asked.shard) for split in SPLITS}
    facts = {
        "version": latents.VERSION,
        "origin": origin,
        "config": {"model": config.model.to_dict(), "data": _absolute(config.data.to_dict())},
        "flips": asked.flips,
        "shape": [*(side // model.factor for side in patch), model.latent_channels],
        "variants": len(FLIPS[asked.flips]),
        "counts": {split: len(found) for split, found in tiles.items()},
        "shards": shards,
    }
    finished = _claim(root, facts)
    if mesh.anywhere(not finished):
        if jax.process_index() == 0:
            weights.write(root / latents.AUTOENCODER, model.state(params))
        _write(root, config, model, params, sources, tiles, shards)
        mesh.anywhere(False)  # all have written
        if jax.process_index() == 0:
            scale = _scale([root / name for name in shards["train"]])
            replace(root / latents.INDEX, json.dumps(facts | {"scale": scale}, indent=1))
    counts = ", ".join(f"{n} {split}" for split, n in facts["counts"].items())
    shape = "x".join(map(str, facts["shape"]))
    say(f"latents of {shape} ({counts}) are in {root}; use them with --config.data.path={root}")
    return root


def _autoencoder(config: Any, workdir: str | Path) -> tuple[Any, dict, dict[str, Any]]:
    """Model, parameters, and which ones they are."""
    if config.encode.weights:
        path, model = Path(config.encode.weights).expanduser(), build.model(config)
        return model, model.load(path), {"weights": weights.digest(path)}
    task, params, step = restore(config, workdir)
    return task.model, params, {"step": step}


def _absolute(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` that is found from anywhere on this machine."""
    path = data.get("path") and {"path": str(Path(data["path"]).expanduser().resolve())}
    return data | (path or {})


def _tiles(source: Source, patch: tuple[int, int]) -> Iterator[Tile]:
    """Whole pieces of ``patch`` of every image. Raises UserError for an image that has none."""
    for i, (height, width, *_) in enumerate(source.shapes):
        if height < patch[0] or width < patch[1]:
            raise UserError(f"{source[i]['name']} of {height} x {width} is smaller than config.data.patch={patch}")
        yield from ((i, y * patch[0], x * patch[1]) for y, x in np.ndindex(height // patch[0], width // patch[1]))


def _shards(split: str, n: int, size: int) -> list[str]:
    count = -(-n // size)
    return [f"{split}-{i:05d}-of-{count:05d}.npz" for i in range(count)]


def _claim(root: Path, facts: dict[str, Any]) -> bool:
    """Whether ``root`` holds these latents already, all of them. Raises UserError where it holds others."""
    file, facts = root / latents.INDEX, json.loads(json.dumps(facts))
    try:
        there = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError:
        there = {}  # its shards are whole all the same
    for name in ("origin", "config", "flips", "counts", "shards"):
        if there and there.get(name) != facts[name]:
            old, new = (json.dumps(found.get(name)) for found in (there, facts))
            what = "" if name in ("config", "shards") else f": {old}, not {new}"
            raise UserError(f"{root} holds latents of another {name}{what}; move it away, or delete it, to encode anew")
    mesh.anywhere(False)  # all have looked
    if not there and jax.process_index() == 0:
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
        replace(file, json.dumps(facts, indent=1))
    whole = all((root / name).is_file() for names in facts["shards"].values() for name in names)
    return "scale" in there and whole


def _write(
    root: Path,
    config: Any,
    model: Any,
    params: dict,
    sources: dict[str, Source],
    tiles: dict[str, list[Tile]],
    shards: dict[str, list[str]],
) -> None:
    """The shards of this process that are not there."""
    patch, batch, size = tuple(config.data.patch), config.encode.batch, config.encode.shard
    encoded = latents.batched(lambda params, x: jnp.stack(model.encode(params, x), 1), params, batch)

    def columns(source: Source, some: Sequence[Tile]) -> dict[str, np.ndarray]:
        parts, rows = [], []
        for start in range(0, len(some), batch):
            found = [(tile, source[tile[0]]) for tile in some[start : start + batch]]
            pieces = np.stack([e["image"][y : y + patch[0], x : x + patch[1]] for (_, y, x), e in found])
            pixels = images.to_float(pieces)
            variants = [encoded(pixels[:, ::down, ::right]) for down, right in FLIPS[config.encode.flips]]
            parts.append(np.stack(variants, 1))
            rows += [_row(tile, example, patch) for tile, example in found]
        return {"arr_0": np.concatenate(parts)} | {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    todo = [(split, i, name) for split in SPLITS for i, name in enumerate(shards[split])]
    mine = [item for item in todo[jax.process_index() :: jax.process_count()] if not (root / item[2]).is_file()]
    for split, i, name in progress(mine, "encoding", len(mine)):
        found = columns(sources[split], tiles[split][i * size : (i + 1) * size])
        new = root / f"{name}.new"
        with writing(new):
            with new.open("wb") as file:
                np.savez(file, **found)
            new.replace(root / name)


def _row(tile: Tile, example: Example, patch: tuple[int, int]) -> dict[str, np.ndarray]:
    """What stands beside the moments; a piece of an image is named by its corner."""
    _, y, x = tile
    height, width = example["image"].shape[:2]
    alone = height < 2 * patch[0] and width < 2 * patch[1]
    name = example["name"] if alone else f"{example['name']}@{y},{x}"
    label = {"label": example["label"]} if "label" in example else {}
    return {"name": np.array(name), "patient": np.array(example["patient"])} | label


def _scale(paths: Sequence[Path]) -> dict[str, list[float]]:
    """Mean and deviation of each channel over draws from all the latents in ``paths``."""
    n, total, square = 0, 0.0, 0.0
    for path in paths:
        mean, logvar = (latents.shard(path, resident=False)["arr_0"][:, :, i].astype(np.float64) for i in (0, 1))
        axes = tuple(range(mean.ndim - 1))
        n += mean[..., 0].size
        total += mean.sum(axes)
        square += (mean**2 + np.exp(logvar)).sum(axes)
    level = total / n
    return {"mean": level.tolist(), "std": np.sqrt(square / n - level**2).tolist()}
