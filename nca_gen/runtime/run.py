"""A run on disk: which file is where, and how a trained part is opened again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from nca_gen import build
from nca_gen import config as configs
from nca_gen.contracts import Averaged, Part, Parts, Published, Standing, Transfer
from nca_gen.data import latents
from nca_gen.errors import UserError
from nca_gen.io import exports, mirror, weights
from nca_gen.runtime import ahead, checkpoint
from nca_gen.runtime.log import say


def config_file(workdir: str | os.PathLike) -> Path:
    """The config that the run was last trained with."""
    return Path(workdir, "config.json")


def evaluation(workdir: str | os.PathLike, step: int) -> Path:
    """The folder of the evaluation of a step."""
    return Path(workdir, "eval", f"{step:08d}")


def open_run(path: str | os.PathLike, step: int | None = None) -> Part:
    """The trained part at ``path``: frozen, on the first device.

    A workdir (the newest good checkpoint, or that of ``step``); an export, also of the zoo ("zoo:NAME") or in the cache
    of a model hub; a folder of latents, which holds their autoencoder; or a published file of weights with the page
    that says of what, PAGE[:FORM]@FILE. A folder may lie in an object store. Raises UserError for anything else.
    """
    path = mirror.fetched(path)
    page, at, file = str(path).partition("@")
    if at and Path(page.partition(":")[0]).is_file():
        return published(configs.load(page), Path(file).expanduser())
    root = Path(exports.located(str(path))).expanduser()
    if config_file(root).is_file():
        return part(configs.saved(config_file(root)), root, step)
    if (latents.folder(root) / latents.INDEX).is_file():
        return encoding(root)
    raise UserError(
        f"{path} is no trained part: give a workdir, an export, zoo:NAME, a folder of latents, or PAGE@FILE of "
        "published weights"
    )


def part(config: Any, workdir: str | os.PathLike, step: int | None = None) -> Part:
    """What ``config`` builds, with the averaged parameters of the newest good checkpoint, or of ``step``; of an export
    with those that it holds.

    Raises UserError without any.
    """
    task, config = build.task(config), searched(config, workdir)
    abstract = state_shapes(task)
    if exports.is_export(workdir):
        config = at_hand(config, workdir)
        params, step = exported(Path(workdir, exports.MODEL), jax.eval_shape(task.eval_params, abstract), step)
        return Part(frozen(config), task, params, step, build.decoder(config))
    params, meta = checkpoint.restore_params(workdir, abstract, step, task.eval_params)
    some = task.averages if isinstance(task, Averaged) else None
    averages = some and (lambda: checkpoint.restore_params(workdir, abstract, meta["step"], some)[0])
    return Part(frozen(config), task, params, meta["step"], build.decoder(config), averages)


@lru_cache(ahead.TASKS)
def state_shapes(task: Any) -> PyTree:
    """The shapes of the state of ``task``, traced once for equal tasks: a cascade opens the same parts many times."""
    return jax.eval_shape(task.init, jax.random.key(0, impl="threefry2x32"))


def searched(config: Any, workdir: str | os.PathLike) -> Any:
    """``config`` with the times of the grid that it names, where that is one that the evaluator "grid" has found for
    the run in ``workdir``: those of the newest page. Raises UserError where there is none."""
    name = config.get("sample", {}).get("grid", "")
    if not name.startswith("searched_"):
        return config
    for page in sorted(Path(workdir).glob("eval/*/*.json"), key=lambda p: p.parent.name, reverse=True):
        if times := json.loads(page.read_text(encoding="utf-8")).get("grids", {}).get(name):
            config = config.copy_and_resolve_references()
            config.sample.update(grid=times, steps=1 + times.count("+"))
            return config
    raise UserError(
        f"config.sample.grid={name}: {workdir} has no such grid; search it by --mode=evaluate "
        f"--config.evals.grid.calls={name.removeprefix('searched_')}"
    )


def at_hand(config: Any, root: str | os.PathLike) -> Any:
    """``config`` of the export in ``root``, whose latents are decoded by what lies there, unless it names another."""
    if not (Path(root, "latents", latents.INDEX).is_file() and not config.data.get("path", "")):
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.path = str(root)
    return config


def exported(file: Path, abstract: PyTree, step: int | None = None) -> tuple[PyTree, int]:
    """The parameters in the ``file`` of an export, of the shapes of ``abstract``, on the first device; and their step.

    Raises UserError where it holds those of another model, or of another ``step`` than is asked for.
    """
    state, known = weights.read(file), int(weights.about(file).get("step", 0))
    if step not in (None, known):
        raise UserError(f"{file} is of step {known}, and of no other; step {step} is asked for")
    there, here = ({name: list(x.shape) for name, x in some.items()} for some in (state, named(abstract)))
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            shapes = [tuple(some[name]) if name in some else "absent" for some in (there, here)]
            raise UserError(
                f"{file} is of another model: {name} is {shapes[0]} there and {shapes[1]} here; use the config.json "
                "beside it"
            )
    leaves = [
        jax.device_put(state[name].astype(x.dtype), jax.local_devices()[0]) for name, x in named(abstract).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves), known


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves of ``tree`` in their order, by the names that they have in a file of weights."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}


def published(config: Any, file: Path) -> Part:
    """What ``config`` builds, with the parameters of a published ``file``.

    Raises UserError where the model is of those that have no published weights, and where the file is of another one.
    """
    task = build.task(config)
    if not isinstance(task.model, Published):
        raise UserError(f"{file}: no weights of {config.model.name} are published; give a workdir or an export of it")
    return Part(frozen(config), task, task.model.load(file))


def encoding(root: Path) -> Part:
    """The autoencoder of a folder of latents; it decodes them as they are there, standardised."""
    from ml_collections import ConfigDict

    stated = configs.tuples(latents.index(root)["config"]) | {"task": {"name": "autoencode"}}
    config = build.completed(ConfigDict(stated))
    task = build.task(config)
    return Part(frozen(config), task, latents.restored(root, task.model), decode=latents.decoder(root))


@dataclass(frozen=True)
class Beside(Mapping):
    """Parts by name, each opened when it is first asked for: networks that are trained at the same time, one day to be
    used together, need not be there before.

    What is asked for by a path, such as zoo:NAME or runs/NAME, is opened too, and is none of them."""

    paths: Mapping[str, str | Path]
    opened: dict[str, Part] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Part:
        """The part, opened by :func:`open_run`. UserError where its path is empty."""
        path = name if name not in self.paths and {*name} & {":", "/"} else self.paths[name]
        if not path:
            raise UserError(f"config.parts.{name} is empty: say which trained run it is, --config.parts.{name}=RUN")
        if name not in self.opened:
            self.opened[name] = open_run(path)
        return self.opened[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.paths)

    def __len__(self) -> int:
        """The number of parts."""
        return len(self.paths)


def beside(config: Any, workdir: str | os.PathLike) -> Beside:
    """The parts of ``config.parts``. A path that begins with a dot is seen from ``workdir``, others from here."""
    return Beside({name: seen(str(path), workdir) for name, path in config.get("parts", {}).items()})


def first(config: Any, workdir: str | os.PathLike, task: Any) -> Part | None:
    """The trained part ``config.train.init``, with whose weights ``task`` begins; None where these are random.

    It is the name of one of ``config.parts``, or a path. Its weights are those that generate: averaged where the part
    has an average. A path that begins with a dot is seen from ``workdir``. Raises UserError for weights of other
    shapes, and where a model that stands on another one has none.
    """
    if not (path := config.train.get("init", "")):
        if isinstance(task.model, Standing):
            raise UserError(
                "config.train.init is empty, and this model stands on an autoencoder of slices: give a trained run of "
                "one, whose fields config.model has too"
            )
        return None
    near = beside(config, workdir)
    found = near[path] if path in near.paths else open_run(seen(path, workdir))
    if not isinstance(task, Transfer):
        raise UserError(f"config.train.init={path}: this task cannot begin with weights, see contracts.Transfer")
    here = checkpoint.leaves(jax.eval_shape(lambda state: task.inherits(task.eval_params(state)), state_shapes(task)))
    there = checkpoint.leaves(found.params)
    for leaf in [*here, *there]:
        shapes = [tuple(some[leaf][0]) if leaf in some else "absent" for some in (there, here)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"config.train.init={path} is of another model: {leaf} is {shapes[0]} there and {shapes[1]} here; give "
                "a run of the same config.model"
            )
    step = f", step {found.step}" if found.step else ""
    say(f"training begins with the {len(here)} arrays that {path}{step}, generates with; all else begins anew")
    return found


def begin(task: Transfer, state: PyTree, first: Part) -> PyTree:
    """``state``, before its first step, with the weights of ``first``, where and in the precision that it has them."""
    own = task.inherits(task.eval_params(state))
    params = jax.tree.map(lambda x, old: jax.device_put(jnp.asarray(x, old.dtype), old.sharding), first.params, own)
    return jax.jit(task.begin, out_shardings=jax.tree.map(lambda x: x.sharding, state))(state, params)


def seen(path: str, workdir: str | os.PathLike) -> str | Path:
    """``path`` as it is seen from ``workdir``, if it begins with a dot."""
    return Path(workdir, path) if path.startswith(".") else path


def parts(config: Any, workdir: str | os.PathLike) -> Parts:
    """All that a pipeline of the run needs: the "model" itself, and what is :func:`beside` it."""
    near = beside(config, workdir)
    return Beside({"model": Path(workdir), **near.paths}, {"model": part(config, workdir)})


def frozen(config: Any) -> Any:
    """``config`` as it cannot be changed, and can be an argument of what is compiled."""
    from ml_collections import FrozenConfigDict

    return FrozenConfigDict(config)
