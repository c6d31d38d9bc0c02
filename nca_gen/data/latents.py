"""Images as an autoencoder sees them: what --mode=encode has written, mean and log-variance of every latent.

The folder has an ``index.json``, shards ``train-00000-of-00004.npz`` with the rows ``arr_0`` (moments ``[n, V, 2, h, w,
c]`` float32 of V flipped variants), ``name``, ``patient`` and perhaps ``label``, and the autoencoder itself, so that it
can be moved. Latents come standardised, (z - mean) / std of each channel over the training split, and are drawn from
their distribution each time a batch wants them (see :mod:`nca_gen.data.pipeline`). Those of slices have a third one
beside the moments: what the latent of their volume says of them, the ``context``, standardised like them. Where label
maps were encoded too, ``label_map`` are the shares of 255 that classes have of each place, uint8 ``[*S, K]``.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from nca_gen import build
from nca_gen.contracts import Autoencoder, Republished
from nca_gen.data.source import SPLITS, Example, Origin, Source, Splits, digest, fits
from nca_gen.errors import UserError
from nca_gen.io import npy, weights, write
from nca_gen.io.images import Unreadable
from nca_gen.ranges import Gigabytes

INDEX, AUTOENCODER = "index.json", "autoencoder.safetensors"
VERSION = 1
BATCH = 8  # latents decoded at a time; of volumes one
AGAIN = "run --mode=encode again on the autoencoder's workdir"


def splits(path: str | Path = "", strict: bool = False, memory_gb: Gigabytes = 2.0) -> Splits:
    """The three splits of the latents in ``path``, a folder or the workdir that has it.

    Examples have ``image``, the standardised mean ``[h, w, c]``, and ``moments`` ``[V, 2, h, w, c]``, the standardised
    means and log-variances of the variants; ``dtype`` and ``mpp`` are those of the images. ``strict`` changes nothing:
    a damaged shard is an error. Up to ``memory_gb`` stay in memory, more are read from disk. ``decode`` of the splits
    is :func:`decoder`'s, ``pixels`` are the images that were encoded. Raises UserError where the folder is missing,
    unfinished or damaged.
    """
    del strict
    facts = index(path)
    if "shards" not in facts:
        raise UserError(
            f"{folder(path)} decodes latents and holds none: point --config.data.path at what it was made of"
        )
    mean, std = (np.float32(facts["scale"][name]) for name in ("mean", "std"))
    shape, context, maps = tuple(facts["shape"]), facts.get("context", False), facts.get("classes", 0)
    sizes = (facts["variants"] * (3 if context else 2), *shape)
    resident = fits([sizes] * sum(facts["counts"].values()), 4, memory_gb)

    def source(split: str) -> Source:
        shards = [shard(folder(path) / name, resident) for name in facts["shards"][split]]
        at = [(s, i) for s, rows in enumerate(shards) for i in range(len(rows["name"]))]
        if len(at) != facts["counts"][split]:
            raise UserError(f"{folder(path)} holds {len(at)} of {facts['counts'][split]} rows of {split}: {AGAIN}")

        def about(i: int) -> Example:
            s, row = at[i]
            columns = {field: values[row] for field, values in shards[s].items() if field not in ("arr_0", "label_map")}
            return columns | {field: str(columns[field]) for field in ("name", "patient")} | facts.get("pixels", {})

        def load(i: int) -> Example:
            s, row = at[i]
            moments = np.array(shards[s]["arr_0"][row])
            moments[:, 0] = (moments[:, 0] - mean) / std
            moments[:, 1] -= 2 * np.log(std)
            beside = {"context": (moments[0, 2] - mean) / std} if context else {}  # of the one variant that there is
            beside |= {"label_map": shards[s]["label_map"][row]} if maps else {}
            return {"image": moments[0, 0], "moments": moments[:, :2]} | beside | about(i)

        paths = [folder(path) / name for name in facts["shards"][split]]
        fields = (*(["context"] if context else []), *(["label_map"] if maps else []))
        return Source(load, [shape] * len(at), resident, fields=fields, about=about, digest=lambda: content(paths))

    labels = tuple(facts.get("labels", ()))
    return Splits({split: source(split) for split in SPLITS}, labels, decoder(path), lambda: originals(path))


def originals(path: str | Path) -> Splits:
    """The splits of the images that the latents in ``path`` were encoded from. Raises UserError where they are gone."""
    from ml_collections import ConfigDict

    try:
        return build.splits(ConfigDict({"data": source(path)}))
    except UserError as error:
        again = "where they have moved, run --mode=encode again with their --config.data.path"
        raise UserError(f"of the images that {folder(path)} was encoded from: {error}; {again}") from None


def source(path: str | Path) -> dict[str, Any]:
    """The section ``data`` of the config that the latents were encoded from: of the pixels."""
    return _tuples(index(path)["config"]["data"])


def decoder(path: str | Path) -> Callable[[Float32[np.ndarray, "n h w c"]], Float32[np.ndarray, "n H W 3"]]:
    """What turns standardised latents into images in [-1, 1], a few at a time, on all devices of this process.

    The autoencoder is opened by the first call.
    """

    @cache
    def decode() -> Callable[[np.ndarray], np.ndarray]:
        return batched(*decoding(path), BATCH if len(index(path)["shape"]) == 3 else 1)

    return lambda z: decode()(z)


def decoding(path: str | Path) -> tuple[Callable[[Any, Any], Any], Any]:
    """The function (parameters, standardised latents) -> images in [-1, 1], and its parameters."""
    import jax.numpy as jnp
    from ml_collections import ConfigDict

    facts = index(path)
    model = build.model(ConfigDict({"model": _tuples(facts["config"]["model"])}))
    mean, std = (np.float32(facts["scale"][name]) for name in ("mean", "std"))

    def image(params: Any, z: Any) -> Any:
        return jnp.clip(model.decode(params, z * std + mean), -1.0, 1.0)

    return image, restored(path, model)


def carry(path: str | Path, root: Path) -> None:
    """Writes into ``root``/latents what decodes the latents of ``path``, and of the latents themselves nothing."""
    facts = index(path)
    config = {"model": facts["config"]["model"], "data": {"name": facts["config"]["data"]["name"]}}
    known = {name: facts[name] for name in ("version", "shape", "labels", "pixels", "scale") if name in facts}
    (root / "latents").mkdir(parents=True, exist_ok=True)
    write.data(root / "latents" / AUTOENCODER, (folder(path) / AUTOENCODER).read_bytes())
    write.facts(root / "latents" / INDEX, known | {"config": config})


def keep(path: str | Path, model: Autoencoder, params: Any) -> None:
    """Writes the parameters of the autoencoder into the folder ``path``: by their published names, or by their own."""
    import jax

    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    own = {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}
    weights.write(Path(path, AUTOENCODER), model.state(params) if isinstance(model, Republished) else own)


def restored(path: str | Path, model: Autoencoder) -> Any:
    """The parameters that :func:`keep` wrote."""
    import jax

    file = folder(path) / AUTOENCODER
    if isinstance(model, Republished):
        return model.load(file)
    state, like = weights.read(file), jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map_with_path(lambda at, leaf: state[jax.tree_util.keystr(at)].astype(leaf.dtype), like)


def batched(f: Callable, params: Any, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """``f(params, x)`` for any number of rows x, ``batch`` at a time, dealt over the devices of this process."""
    import jax

    from nca_gen import devices

    grid = devices.fitting(jax.local_devices(), batch)
    params, dealt, f = jax.device_put(params, devices.replicated(grid)), devices.dealt(grid), jax.jit(f)

    def all_of(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float32)
        parts = [x[np.arange(i, i + batch) % len(x)] for i in range(0, len(x), batch)]  # the last one is filled up
        return np.concatenate([f(params, jax.device_put(part, dealt)) for part in parts])[: len(x)]

    return all_of


def folder(path: str | Path) -> Path:
    """Where the latents of ``path`` are: it, or in a workdir its ``latents``."""
    root = Path(path).expanduser()
    return root / "latents" if (root / "latents").is_dir() else root


def index(path: str | Path) -> dict[str, Any]:
    """``index.json`` of finished latents. Raises UserError where there are none, or not yet all."""
    file = folder(path) / INDEX
    if not str(path) or not file.is_file():
        raise UserError(
            f"no latents in {str(path)!r}: make them with --mode=encode --workdir=RUN, RUN an autoencoder's, and point "
            "--config.data.path at RUN"
        )
    try:
        facts = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): {AGAIN}") from None
    if facts.get("version") != VERSION:
        raise UserError(f"{file} has format {facts.get('version')} and this program reads {VERSION}: {AGAIN}")
    if "scale" not in facts:
        raise UserError(f"{file.parent} is not finished: {AGAIN}")
    return facts


def content(paths: Sequence[Path]) -> str:
    """What names the rows of some shards, by the check sums that they hold."""
    members = []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            members += [(item.filename, item.CRC, item.file_size) for item in archive.infolist()]
    return digest(str(members))


def shard(path: Path, resident: bool = True) -> dict[str, np.ndarray]:
    """The columns of a shard, checked; ``arr_0`` in memory if ``resident``, else mapped. UserError if damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"{bad} has changed")
        with np.load(path, allow_pickle=False) as columns:
            beside = {name: columns[name] for name in columns if name != "arr_0"}
        moments = npy.mapped(path)
        return {"arr_0": np.array(moments) if resident else moments} | beside
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, Unreadable) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
        raise UserError(f"{path} is damaged ({reason.lower()}): delete it, and {AGAIN}") from None


def _tuples(value: Any) -> Any:
    """What JSON read, with the tuples that a config has."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def origin(path: str | Path = "") -> Origin | None:
    """Of the images that were encoded."""
    from ml_collections import ConfigDict

    return build.known_of_data(ConfigDict({"data": {"path": "", **source(path)}}), "origin")
