"""--mode=chain: the stages that a page lists, one after the other, each an ordinary run that resumes."""

from __future__ import annotations

import contextlib
import gc
import os
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax

from nca_gen import build
from nca_gen import config as configs
from nca_gen.config import Stage
from nca_gen.errors import UserError, unknown
from nca_gen.runtime import budget, checkpoint, course, effort, mesh, record
from nca_gen.runtime.log import say
from nca_gen.tiling import streaming


def main(_: Any, args: Namespace) -> None:
    """--mode=chain."""
    chain(args.config, args.workdir, args.rest, args.stage)


def chain(page: str | None, workdir: str | Path, rest: Sequence[str] = (), first: str | None = None) -> None:
    """Runs the stages of ``page``, from the stage ``first`` on, each in its folder of ``workdir``.

    What is finished is passed over. ``rest``: overrides, --config.STAGE.field=value, or --config.field=value of all
    stages, where these do not differ in it; --config.data.field=value of those whose data no other stage makes. Raises
    UserError for a page without a chain, a stage that there is not, and whatever a stage refuses.
    """
    if page is None:
        raise UserError(f"name the page of the chain with --config=FILE, one of: {configs.pages()}")
    stages = [stage._replace(config=whole(stage, Path(workdir), rest)) for stage in listed(page, rest, first)]
    names = [stage.name for stage in stages]
    effort.spend(*(stage.config for stage in stages))
    left = stages[names.index(first or names[0]) :]
    brief = all(stage.config.get("train", {}).get("effort") == "little" for stage in left)
    soon: dict[str, Future] = {}
    background, compilers = ThreadPoolExecutor(1), ThreadPoolExecutor(2)
    try:
        for stage in left:
            with mesh.joined(stage.config):
                if brief and not soon and jax.process_count() == 1:
                    soon = {
                        one.name: background.submit(foresee, one, Path(workdir, one.name), compilers)
                        for one in left[1:]
                    }
                if stage.name in soon:
                    wait(soon[stage.name].result())
                follow(stage, Path(workdir, stage.name))
            forget(not brief)
    finally:
        compilers.shutdown(wait=False, cancel_futures=True)  # where a stage ends badly, nothing more is begun
        background.shutdown(cancel_futures=True)
        compilers.shutdown()


def follow(stage: Stage, folder: Path) -> None:
    """Runs what is left of ``stage`` in ``folder``."""
    for mode in stage.modes:
        if mode == "train" and finished(stage, folder):
            say(f"{stage.name}: trained to step {checkpoint.steps(folder)[-1]} already")
            continue
        say(f"{stage.name}: {mode}")
        folder.mkdir(parents=True, exist_ok=True)
        vars(build.verb(mode))[mode](stage.config, folder)


def foresee(stage: Stage, folder: Path, pool: ThreadPoolExecutor) -> list[Future]:
    """Has ``pool`` compile the programs of ``stage`` while the one before it trains, where they are known by then: with
    few steps a chain waits for little else, and for that on one core, as long as a program is traced."""
    if "train" in stage.modes and not checkpoint.steps(folder) and not stage.config.get("budget", {}).get("of", ""):
        with contextlib.suppress(Exception):  # of which the stage will tell, or which will be mended by then
            return course.foresee(stage.config, folder, pool)
    return []


def forget(programs: bool) -> None:
    """Gives back the memory that a stage leaves free, and the ``programs`` that it has compiled.

    What stages share is then compiled for each of them, in some 2 seconds: too long only for those of a few steps.
    """
    if programs:
        jax.clear_caches()
        gc.collect()
    streaming.trim()


def listed(page: str, rest: Sequence[str], first: str | None) -> list[Stage]:
    """The stages of ``page``. Raises UserError for a form that chooses one, where an override, or ``first``, is of none
    of them, and for an override of all of a field in which they differ."""
    stages = configs.stages(page)
    names = [stage.name for stage in stages]
    if chosen := configs.places(page):
        raise UserError(
            f"a chain trains all its stages, of which the form {' or '.join(chosen)} chooses none: leave it out; "
            f"--stage=NAME begins at one of {', '.join(names)}"
        )
    if first and first not in names:
        raise unknown("stage", first, names)
    for word in rest:
        path = word.partition("=")[0].removeprefix("--")
        if not word.startswith("--config.") or "=" not in word:
            raise unknown("flag", f"--{path}", [f"--config.{name}.FIELD=VALUE" for name in names])
        _, stage, *rest_of = path.split(".")
        if stage in names:
            continue
        if stage not in build.SECTIONS:
            raise unknown("stage in", path, (".".join(("config", name, *rest_of)) for name in names))
        about = [one for one in stages if stage != "data" or not made(one)]
        if not about:
            raise UserError(f"{path} is of no stage: the data of each are made by another one")
        values = [stated(one.config, [stage, *rest_of]) for one in about]
        if differ := next((one.name for one, value in zip(about, values, strict=True) if value != values[0]), ""):
            few = " or ".join(f"--config.{name}.{'.'.join([stage, *rest_of])}" for name in (about[0].name, differ))
            raise UserError(f"the stages differ in {path}: say which one, {few}")
    return stages


def made(stage: Stage) -> bool:
    """Whether another stage makes the data of ``stage``."""
    return stage.config.data.get("path", "").startswith(".")


def stated(config: Any, path: Sequence[str]) -> Any:
    """What a page says at ``path``; None for nothing."""
    for name in path:
        config = config.get(name) if config is not None else None
    return config


def whole(stage: Stage, workdir: Path, rest: Sequence[str]) -> Any:
    """The config of ``stage``, whole and locked, with its overrides; its data are seen from its folder."""
    start = f"--config.{stage.name}."
    section = lambda word: word.removeprefix("--config.").partition("=")[0].split(".")[0]
    sections = {*build.SECTIONS} - ({"data"} if made(stage) else set())
    of_all = [word for word in rest if section(word) in sections]
    own = of_all + [word.replace(start, "--config.", 1) for word in rest if word.startswith(start)]
    config = configs.override(stage.config, own, verb=next((mode for mode in stage.modes if mode != "train"), ""))
    if (path := config.data.get("path", "")).startswith("."):
        with config.unlocked():
            config.data.path = os.path.normpath(workdir / stage.name / path)
    return config


def finished(stage: Stage, folder: Path) -> bool:
    """Whether the run in ``folder`` is trained to its last step, with this config."""
    steps = checkpoint.steps(folder)
    if not steps:
        return False
    config = budget.settled(stage.config, folder)
    return steps[-1] >= config.train.steps and record.check_config(folder, config)
