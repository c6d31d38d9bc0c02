"""Trained parts that were written to be passed on: their files, and where they lie: in a folder, in this package (the
zoo), or in the cache of a model hub."""

from __future__ import annotations

import os
from pathlib import Path

from nca_gen.errors import UserError, unknown

MODEL, CONFIG, CARD, SAMPLER = "model.safetensors", "config.json", "README.md", "sampler.stablehlo"
PAGE = "grow.html"
ZOO, SCHEME = Path(__file__).parents[1] / "zoo", "zoo:"
HUB = "models--"  # how the folder of a model in the cache of a hub begins


def located(path: str) -> str:
    """The folder that ``path`` names: of "zoo:NAME" the one in this package, of a model in the cache of a hub that of
    its newest snapshot, of anything else ``path`` itself.

    Raises UserError with the nearest for a name that the zoo has not, and for a cache without a snapshot to choose.
    """
    if path.startswith(SCHEME):
        name, names = path.removeprefix(SCHEME), sorted(place.parent.name for place in ZOO.glob(f"*/{MODEL}"))
        if name not in names:
            raise unknown("name in the zoo", name, names)
        return str(ZOO / name)
    root = Path(path).expanduser()
    if not root.name.startswith(HUB) or not (root / "snapshots").is_dir():
        return path
    newest = root / "refs" / "main"
    names = [newest.read_text().strip()] if newest.is_file() else sorted(os.listdir(root / "snapshots"))
    if len(names) != 1 or not (root / "snapshots" / names[0]).is_dir():
        raise UserError(f"{path} does not say which of its snapshots is meant: name one, {root / 'snapshots'}/..")
    return str(root / "snapshots" / names[0])


def is_export(root: str | os.PathLike[str]) -> bool:
    """Whether the folder ``root`` is an export, and not the workdir of a run."""
    return Path(root, MODEL).is_file()


def lent(root: str | os.PathLike[str]) -> bool:
    """Whether the folder ``root`` is not the user's own to write to: of the zoo, of a hub's cache, or read-only."""
    place = Path(root).absolute()
    cached = any(parent.name.startswith(HUB) for parent in place.parents)
    return ZOO in place.parents or cached or (is_export(root) and not os.access(root, os.W_OK))
