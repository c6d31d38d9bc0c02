"""A run on disk: which file is where, and how a trained part is opened again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

from nca_gen import build
from nca_gen import config as configs
from nca_gen.contracts import Part, Parts
from nca_gen.data import latents
from nca_gen.errors import UserError
from nca_gen.runtime import checkpoint


def config_file(workdir: str | os.PathLike) -> Path:
    """The config that the run was last trained with."""
    return Path(workdir, "config.json")


def evaluation(workdir: str | os.PathLike, step: int) -> Path:
    """The folder of the evaluation of a step."""
    return Path(workdir, "eval", f"{step:08d}")


def open_run(path: str | os.PathLike, step: int | None = None) -> Part:
    """The trained part at ``path``: frozen, on the first device.

    A workdir (the newest good checkpoint, or that of ``step``); a folder of latents, which holds their autoencoder; or
    a published file of weights with the page that says of what, PAGE[:FORM]@FILE. Raises UserError for anything else.
    """
    page, at, file = str(path).partition("@")
    if at and Path(page.partition(":")[0]).is_file():
        return published(configs.load(page), Path(file).expanduser())
    root = Path(path).expanduser()
    if config_file(root).is_file():
        return part(configs.saved(config_file(root)), root, step)
    if (latents.folder(root) / latents.INDEX).is_file():
        return exported(root)
    raise UserError(
        f"{path} is no trained part: give a workdir, a folder of latents, or PAGE@FILE of published weights"
    )


def part(config: Any, workdir: str | os.PathLike, step: int | None = None) -> Part:
    """What ``config`` builds, with the averaged parameters of the newest good checkpoint, or of ``step``.

    Raises UserError without one.
    """
    task = build.task(config)
    abstract = jax.eval_shape(task.init, jax.random.key(config.seed, impl="threefry2x32"))
    state, meta = checkpoint.restore_params(workdir, abstract, step)
    return Part(frozen(config), task, task.eval_params(state), meta["step"], build.decoder(config))


def published(config: Any, file: Path) -> Part:
    """What ``config`` builds, with the parameters of a published ``file``. UserError where that is of another model."""
    task = build.task(config)
    return Part(frozen(config), task, task.model.load(file))


def exported(root: Path) -> Part:
    """The autoencoder of a folder of latents; it decodes them as they are there, standardised."""
    from ml_collections import ConfigDict

    stated = configs.tuples(latents.index(root)["config"]) | {"task": {"name": "autoencode"}}
    config = build.completed(ConfigDict(stated))
    task = build.task(config)
    return Part(frozen(config), task, latents.restored(root, task.model), decode=latents.decoder(root))


def beside(config: Any, workdir: str | os.PathLike) -> Parts:
    """The parts of ``config.parts``. A path that begins with a dot is seen from ``workdir``, others from here."""
    paths = {name: str(path) for name, path in config.get("parts", {}).items()}
    return {name: open_run(Path(workdir, path) if path.startswith(".") else path) for name, path in paths.items()}


def parts(config: Any, workdir: str | os.PathLike) -> Parts:
    """All that a pipeline of the run needs: the "model" itself, and what is :func:`beside` it."""
    return {"model": part(config, workdir), **beside(config, workdir)}


def frozen(config: Any) -> Any:
    """``config`` as it cannot be changed, and can be an argument of what is compiled."""
    from ml_collections import FrozenConfigDict

    return FrozenConfigDict(config)
