"""--mode=export: a trained part as a folder that can be passed on: weights, config, card, and a program that draws.

``model.safetensors`` has the averaged parameters, ``config.json`` how they were trained, without where files lie.
``README.md`` is a model card with the metadata of a hub (:mod:`nca_gen.verbs.export_card`), ``sampler.stablehlo`` runs
with jax alone (:mod:`nca_gen.verbs.export_sampler`), ``grow.html``, where one is asked for, in a browser
(:mod:`nca_gen.verbs.export_page`). Parts of ``config.parts`` lie in ``parts``, the autoencoder of
latents in ``latents``. Every verb takes the folder where it takes a workdir.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nca_gen import build
from nca_gen.contracts import Autoencoder, Denoiser, Part
from nca_gen.data import latents
from nca_gen.errors import UserError
from nca_gen.io import exports, weights, write
from nca_gen.runtime import run
from nca_gen.runtime.log import say
from nca_gen.sections import Export
from nca_gen.verbs import export_card, export_page, export_sampler

HERE = ("bench", "budget", "study", "mesh", "export")  # sections that say how something is done on this machine
PLACES = ("data.path", "data.cache", "data.label_maps", "train.init", "encode.weights")  # wherever they lead


def main(config: Any, args: Namespace) -> None:
    """--mode=export."""
    export(config, args.workdir, args.out)


def export(config: Any, workdir: str | Path, out: str | Path | None = None) -> Path:
    """Writes the part in ``workdir`` to ``config.export.path``, by default the folder export of ``out``; returns it.

    Raises UserError for latents whose autoencoder is not at hand, and where the folder is a run, or this very part.
    """
    plan = Export(**build.fields(config, "export"))
    folder = Path(plan.path or Path(out or workdir, "export")).expanduser()
    if run.config_file(folder).is_file() and (not exports.is_export(folder) or folder.samefile(workdir)):
        raise UserError(f"{folder} is what a run is kept in; choose another --export.path")
    parts = {name: stored(part, plan.dtype) for name, part in run.parts(config, workdir).items()}
    pipeline = build.pipeline(config, parts)
    draws = isinstance(parts["model"].task.model, Denoiser | Autoencoder)
    size = plan.size or tuple(config.get("sample", {}).get("size", ()))
    page = export_page.page(pipeline, size, plan.name or folder.resolve().name, plan.licence) if plan.html else ""
    program = export_sampler.serialized(pipeline, size) if draws else b""
    beside = {name: f"./parts/{name}" for name in config.get("parts", {})}
    written(parts["model"], folder, beside)
    for name, place in beside.items():
        written(parts[name], folder / place)
    write.text(folder / exports.CARD, export_card.card(parts["model"], plan, workdir, folder.resolve().name))
    if draws:
        write.data(folder / exports.SAMPLER, program)
    if page:
        write.text(folder / exports.PAGE, page)
    room = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"step {parts['model'].step}: {room / 1e3:,.0f} kB are in {folder}; read its card, {folder / exports.CARD}")
    return folder


def stored(part: Part, dtype: str) -> Part:
    """``part`` with its weights in the type that they have in the files."""
    if dtype == "float32":
        return part
    half = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, part.params)
    return replace(part, params=half)


def written(part: Part, folder: Path, beside: Mapping[str, str] | None = None) -> None:
    """Writes weights and config of ``part`` into ``folder``, with what decodes its latents. ``beside``: its parts."""
    with write.refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = {name: np.asarray(leaf) for name, leaf in run.named(jax.device_get(part.params)).items()}
    weights.write(folder / exports.MODEL, state, {"step": str(part.step)})  # more than one comes in any order
    stated = {section: fields for section, fields in part.config.to_dict().items() if section not in HERE}
    stated |= {"parts": dict(beside or {})}
    if build.known_of_data(part.config, "decoding"):
        latents.carry(part.config.data.path, folder)
    write.facts(folder / exports.CONFIG, placeless(stated))


def placeless(value: Any, field: str = "") -> Any:
    """A value of a config without the paths of this machine: they lead nowhere else, and name people and machines."""
    if isinstance(value, dict):
        return {name: placeless(inner, f"{field}.{name}".lstrip(".")) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [placeless(inner) for inner in value]
    path = isinstance(value, str) and (field in PLACES or value.startswith("~") or Path(value).is_absolute())
    return "" if path else value
