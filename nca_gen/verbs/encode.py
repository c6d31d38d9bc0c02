"""--mode=encode: every image of a data set through an autoencoder, once; what is written is data for another model."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree, UInt8

from nca_gen import build, hosts, screen
from nca_gen.contracts import Autoencoder, Paired, Published
from nca_gen.data import flips, latents
from nca_gen.data.source import SPLITS, Example, Source
from nca_gen.errors import UserError
from nca_gen.io import images, weights, write
from nca_gen.pipelines import label_maps
from nca_gen.runtime import mesh, record, run
from nca_gen.runtime.log import say
from nca_gen.sections import Encode

Tile = tuple[int, ...]
"""The number of an image, and a corner in it."""


def main(config: Any, args: Namespace) -> None:
    """--mode=encode."""
    with mesh.joined(config):
        encode(config, args.workdir, args.out)


class Set(NamedTuple):
    """Latents that are to be written into ``root``, with the parameters ``params`` of their autoencoder ``model``.

    ``facts``: of their index. ``columns``: of a shard of some tiles, each of which is ``rows`` latents.
    """

    root: Path
    model: Autoencoder
    params: PyTree
    facts: dict[str, Any]
    columns: Callable[[Source, Sequence[Tile]], dict[str, Any]]
    rows: int = 1


def encode(config: Any, workdir: str | Path, out: str | Path | None = None) -> Path:
    """Writes ``out``/latents, by default ``workdir``/latents (see :mod:`nca_gen.data.latents`) and returns it.

    Images are encoded in pieces of ``config.encode.patch``, from the first corner; what is left at the edges is not. Of
    an autoencoder of slices (``config.data.slices``) three sides are a piece of a volume, with a latent for each. A
    shard is written whole or not at all, and those that are there stay: the same command again goes on. Each process
    takes every n-th shard. An autoencoder that says of slices what their volume does (a :class:`contracts.Paired`) also
    makes latents of every slice, with that as their context: ``slices``. Raises UserError where there is nothing to
    encode with, where the patch does not fit, and where the folder holds the latents of another autoencoder, or of
    other data; images that have moved are not. So too where there are no label maps of ``config.encode.classes``.
    """
    if "encode" not in config:
        raise UserError("--mode=encode is for autoencoders, and this config is of none: train one first, see configs/")
    plan = Encode(**build.fields(config, "encode"))
    root, patch = Path(out or workdir), tuple(plan.patch or config.data.patch)
    config = config.copy_and_resolve_references()
    config.data.patch = patch
    if len(patch) == 3 and config.data.get("slices", False):
        config.data.slices = False
    variants = flips.variants(plan.flips, len(patch), "config.encode.flips")
    model, params, origin = autoencoder(config, plan, workdir)
    sources = build.splits(config)
    if plan.classes and ("label_map" not in sources["train"].fields or len(variants) > 1):
        raise UserError(
            "config.encode.classes is for data with label maps, see config.data, encoded once: set config.encode.flips "
            "to none, or classes to 0"
        )
    tiles = {split: list(pieces(sources[split], patch)) for split in SPLITS}
    facts = {"version": latents.VERSION, "origin": origin, "labels": [*sources.labels], "classes": plan.classes}
    facts["images"] = {split: sources[split].digest() for split in SPLITS}
    first = sources["train"].read(0, [(0, 1)] * len(patch))
    facts["pixels"] = {"dtype": str(first["image"].dtype), "mpp": list(first.get("mpp", ()))}
    write_set(images_of(model, params, config, plan, root / "latents", facts, variants), sources, tiles, plan.shard)
    if isinstance(model, Paired):
        write_set(slices_of(model, params, config, plan, root / "slices", facts), sources, tiles, plan.shard)
    return root / "latents"


def images_of(
    model: Autoencoder,
    params: PyTree,
    config: Any,
    plan: Encode,
    root: Path,
    facts: dict[str, Any],
    variants: Sequence[tuple[int, ...]],
) -> Set:
    """The latents of images, or of volumes."""
    patch = tuple(config.data.patch)
    about = {
        "config": {"model": config.model.to_dict(), "data": absolute(config.data.to_dict())},
        "flips": plan.flips,
        "shape": [*latent(model, patch).shape[1:]],
        "variants": len(variants),
    }
    return Set(root, model, params, facts | about, encoder(model, params, patch, variants, plan.batch, plan.classes))


def latent(model: Autoencoder, patch: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """The latent of one image. Raises UserError where the patch does not fit."""
    image = jax.ShapeDtypeStruct((1, *patch, model.image_channels), jnp.float32)
    return jax.eval_shape(lambda x: model.encode(model.init(jax.random.key(0)), x)[0], image)


def slices_of(model: Paired, params: PyTree, config: Any, plan: Encode, root: Path, facts: dict[str, Any]) -> Set:
    """The latents of the slices of volumes, with what the volume says of them."""
    depth, *sides = config.data.patch
    name = type(model.slices).__module__.removeprefix("nca_gen.models.")
    inner = build.known("model", name)
    fields = {field: value for field, value in config.model.to_dict().items() if field in inner}
    about = {
        "config": {
            "model": fields | {"name": name},
            "data": absolute(config.data.to_dict()) | {"slices": True, "patch": tuple(sides)},
        },
        "flips": "none",
        "shape": [*(side // model.factor for side in sides), model.latent_channels],
        "variants": 1,
        "context": True,
    }
    about["pixels"] = facts["pixels"] | {"mpp": facts["pixels"]["mpp"][1:]}
    paired = latents.batched(lambda params, x: jnp.stack(model.pairs(params, x), 2), params, plan.batch)

    def columns(source: Source, tiles: Sequence[Tile]) -> dict[str, Any]:
        moments, rows = [], []
        for i, *corner in tiles:
            example = source.read(i, box(corner, (depth, *sides)))
            own, context = np.moveaxis(paired(images.to_float(example["image"][None]))[0], 1, 0)
            certain = np.full_like(own, -np.inf)
            moments.append(np.stack([own, certain, context], 1)[:, None])
            one, mine = row(example, source.shapes[i], corner, (depth, *sides)), [{}] * depth
            if plan.classes:
                some = shares(example["label_map"], plan.classes, (1, *(model.factor,) * 2), example["name"])
                mine = [{"label_map": x} for x in some]
            rows += [one | {"name": np.array(f"{one['name']}@{d}")} | mine[d] for d in range(depth)]
        return {"arr_0": np.concatenate(moments)} | {name: np.stack([r[name] for r in rows]) for name in rows[0]}

    return Set(root, model.slices, params["slices"], facts | about, columns, depth)


def write_set(some: Set, sources: Any, tiles: dict[str, list[Tile]], size: int) -> None:
    """Writes what of the latents is not there yet, ``size`` a file or a little less, and their scale at the end."""
    root, each = some.root, max(1, size // some.rows)
    shards = {split: names(split, len(tiles[split]), each) for split in SPLITS}
    counts = {split: len(tiles[split]) * some.rows for split in SPLITS}
    facts = some.facts | {"counts": counts, "shards": shards}
    finished = claim(root, facts)
    if hosts.anywhere(not finished):
        if hosts.first():
            latents.keep(root, some.model, some.params)
        todo = [(split, i, name) for split in SPLITS for i, name in enumerate(shards[split])]
        share = [item for item in hosts.dealt(todo) if not (root / item[2]).is_file()]
        for split, i, name in screen.track(share, "encoding", quiet=not hosts.first()):
            rows = some.columns(sources[split], tiles[split][i * each : (i + 1) * each])
            with write.whole(root / name) as draft, draft.open("wb") as file:
                np.savez(file, **rows)
        hosts.meet()  # all have written
        if hosts.first():
            scale = spread([root / name for name in shards["train"]])
            write.facts(root / latents.INDEX, facts | {"scale": scale})
    numbers = ", ".join(f"{n} {split}" for split, n in counts.items())
    shape = "x".join(map(str, facts["shape"]))
    say(f"latents of {shape} ({numbers}) are in {root}; use them with --config.data.path={root}")


def autoencoder(config: Any, plan: Encode, workdir: str | Path) -> tuple[Autoencoder, PyTree, dict[str, Any]]:
    """Model, parameters, and which ones they are. Raises UserError for a model that is no autoencoder."""
    model = build.model(config)
    if not isinstance(model, Autoencoder):
        raise UserError(
            f"--mode=encode is for autoencoders, and {config.model.name} is none: train one first, see configs/"
        )
    if plan.weights:
        path = Path(plan.weights).expanduser()
        if not isinstance(model, Published):
            raise UserError(f"config.encode.weights is for published networks, and {config.model.name} is none")
        return model, model.load(path), {"weights": weights.digest(path)}
    part = run.part(config, workdir)
    return part.task.model, part.params, {"step": part.step}


def absolute(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` whose path leads there from anywhere on this machine."""
    path = data.get("path") and {"path": str(Path(data["path"]).expanduser().resolve())}
    return data | (path or {})


def pieces(source: Source, patch: tuple[int, ...]) -> Iterator[Tile]:
    """Whole pieces of ``patch`` of every image. Raises UserError for an image that has none."""
    for i, (*sides, _) in enumerate(source.shapes):
        if len(sides) != len(patch) or any(side < p for side, p in zip(sides, patch, strict=True)):
            size = " x ".join(map(str, sides))
            raise UserError(f"{source.head(i)['name']} of {size} is smaller than config.data.patch={patch}")
        grid = [side // p for side, p in zip(sides, patch, strict=True)]
        yield from ((i, *(n * p for n, p in zip(at, patch, strict=True))) for at in np.ndindex(*grid))


def names(split: str, n: int, size: int) -> list[str]:
    """The files of ``n`` pieces, ``size`` in each."""
    count = -(-n // size)
    return [f"{split}-{i:05d}-of-{count:05d}.npz" for i in range(count)]


def claim(root: Path, facts: dict[str, Any]) -> bool:
    """Whether ``root`` holds these latents already, all of them; it is noted where the images lie now.

    Raises UserError where it holds others.
    """
    file, facts = root / latents.INDEX, json.loads(write.notation(facts))
    try:
        there = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError:
        there = {}  # its shards are whole all the same
    facts |= {"scale": there["scale"]} if "scale" in there else {}
    for name in ("origin", "config", "images", "flips", "counts", "shards"):
        if name in there and settled(name, there) != settled(name, facts):
            old, new = (write.notation(some.get(name)) for some in (there, facts))
            what = f"another {name}" + ("" if name in ("config", "shards") else f": {old}, not {new}")
            what = "other images or labels" if name == "images" else what
            raise UserError(f"{root} holds latents of {what}; move it away, or delete it, to encode anew")
    hosts.meet()  # all have looked
    if there != facts and hosts.first():
        with write.refusals(root):
            root.mkdir(parents=True, exist_ok=True)
        write.facts(file, facts)
    whole = all((root / name).is_file() for names in facts["shards"].values() for name in names)
    return "scale" in there and whole


def settled(name: str, facts: dict[str, Any]) -> Any:
    """What ``facts`` say under ``name`` of which latents they are: not where images lie, nor what has its default."""
    if name != "config":
        return facts[name]
    sections = {section: build.whole(section, x, section, x.get("name", "")) for section, x in facts[name].items()}
    return record.fixed(sections)


def encoder(
    model: Autoencoder,
    params: PyTree,
    patch: tuple[int, ...],
    variants: Sequence[tuple[int, ...]],
    batch: int,
    classes: int,
) -> Callable[[Source, Sequence[Tile]], dict[str, Any]]:
    """What makes the columns of a shard of some tiles of a source; ``batch`` are encoded at a time.

    With ``classes`` also the shares of these in each place.
    """
    each = [side // places for side, places in zip(patch, latent(model, patch).shape[1:], strict=False)]
    encoded = latents.batched(lambda params, x: jnp.stack(model.encode(params, x), 1), params, batch)

    def columns(source: Source, tiles: Sequence[Tile]) -> dict[str, Any]:
        moments, rows = [], []
        for start in range(0, len(tiles), batch):
            some = tiles[start : start + batch]
            examples = [source.read(i, box(corner, patch)) for i, *corner in some]
            pixels = images.to_float(np.stack([example["image"] for example in examples]))
            mirrored = [pixels[(slice(None), *(slice(None, None, step) for step in steps))] for steps in variants]
            moments.append(np.stack([encoded(x) for x in mirrored], 1))
            for example, (i, *corner) in zip(examples, some, strict=True):
                found = row(example, source.shapes[i], corner, patch)
                if classes:
                    found["label_map"] = shares(example["label_map"], classes, each, example["name"])
                rows.append(found)
        return {"arr_0": np.concatenate(moments)} | {name: np.stack([r[name] for r in rows]) for name in rows[0]}

    return columns


def box(corner: Sequence[int], patch: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where the piece at ``corner`` lies in its image."""
    return [(start, start + side) for start, side in zip(corner, patch, strict=True)]


def row(
    example: Example, shape: tuple[int, ...], corner: Sequence[int], patch: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """What stands beside the moments; a piece of an image is named by its corner."""
    alone = all(side < 2 * p for side, p in zip(shape, patch, strict=False))
    name = example["name"] if alone else f"{example['name']}@{','.join(map(str, corner))}"
    label = {"label": example["label"]} if "label" in example else {}
    return {"name": np.array(name), "patient": np.array(example["patient"])} | label


def shares(
    label_map: Int[np.ndarray, "*T 1"], classes: int, each: Sequence[int], name: str
) -> UInt8[np.ndarray, "*S {classes}"]:
    """Of 255, how much of every block of ``each`` places the classes have. UserError for a class beyond ``classes``."""
    if label_map.min() < 0 or label_map.max() >= classes:
        raise UserError(
            f"the label map of {name} has classes from {label_map.min()} to {label_map.max()}, and "
            f"config.encode.classes={classes} are 0 to {classes - 1}"
        )
    return label_maps.reduced(label_map, each, classes)


def spread(paths: Sequence[Path]) -> dict[str, list[float]]:
    """Mean and deviation of each channel over draws from all the latents in ``paths``."""
    n, total, square = 0, np.zeros(1), np.zeros(1)
    for path in paths:
        mean, logvar = (latents.shard(path, resident=False)["arr_0"][:, :, i].astype(np.float64) for i in (0, 1))
        axes = tuple(range(mean.ndim - 1))
        n += mean[..., 0].size
        total = total + mean.sum(axes)
        square = square + (mean**2 + np.exp(logvar)).sum(axes)
    level = total / n
    return {"mean": level.tolist(), "std": np.sqrt(square / n - level**2).tolist()}
