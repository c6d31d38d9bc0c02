"""--mode=describe: what a config builds, before anything is spent on it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

from nca_gen import build, screen
from nca_gen import config as configs
from nca_gen.config import Stage
from nca_gen.contracts import Denoiser, Local
from nca_gen.errors import UserError
from nca_gen.io import write
from nca_gen.runtime import ahead, mesh, run
from nca_gen.verbs import describe_fit, describe_slide
from nca_gen.verbs.describe_work import call_gflop, examples


def facts(config: Any) -> dict[str, Any]:
    """:func:`sizes`, and the memory of a training step; why there is none, where training needs what is not here."""
    task = build.task(config)
    more: dict[str, Any] = {"training_batch": config.train.batch}
    known = sizes(config, task)
    try:
        more["training_step_peak_mb"] = peak_mb(config, task)
    except UserError as e:
        more["training_step"] = str(e)
    return known | more


def sizes(config: Any, task: Any) -> dict[str, Any]:
    """Parameters per module; of a denoiser also its reach and the cost of a call on one image of the data's patch."""
    from clu.parameter_overview import count_parameters

    batch = examples(task, config.train.batch, tuple(config.data.patch))
    state = jax.eval_shape(partial(task.init, batch=batch), jax.random.key(0, impl="threefry2x32"))
    modules: dict[str, dict[str, Any]] = {}
    name = partial(jax.tree_util.keystr, simple=True, separator=".")
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]:  # two names deep: the side, and its layer
        modules.setdefault(name(path[:2]), {})[name(path)] = leaf
    image = batch["image"].shape[1:]
    known = {
        "model": config.model.name,
        "parameters": {module: int(count_parameters(leaves)) for module, leaves in modules.items()},
        "trainable": int(count_parameters(modules)),
        "image": list(image),
    }
    if isinstance(task.model, Denoiser):
        reach = task.model.halo if isinstance(task.model, Local) else None
        known["halo"] = "global" if reach is None else reach * task.codec.block
        known["gflop_per_call"] = call_gflop(task, image)
    return known


def peak_mb(config: Any, task: Any) -> float:
    """Memory of a training step on the first device, in MB: of the program that training there compiles."""
    grid = mesh.make(1, 1)
    batch = examples(task, config.train.batch, tuple(config.data.patch), grid)
    key = jax.random.key(0, impl="threefry2x32")
    program = ahead.compiled(task, key, batch, run.beside(config, "."), grid, fresh=False, left=True)
    memory = program.stepping.result().memory_analysis()
    return (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6


def main(config: Any, args: Namespace) -> None:
    """--mode=describe."""
    describe(config, args.json, vars(args)["for"] or "", beside(config, args))


def beside(config: Any, args: Namespace) -> list[Stage]:
    """The stages of the page's chain up to that of ``config``, and it; none where the page lists no such stage.

    It is the last stage whose parts have the same names.
    """
    if not args.config or args.workdir or "chain" not in configs.page(args.config)[2]:
        return []
    stages = configs.stages(args.config)
    parts = lambda one: {*one.get("parts", {})}
    place = max((i for i, stage in enumerate(stages) if parts(stage.config) == parts(config)), default=-1)
    if place < 0:
        return []
    wholes = [stage._replace(config=configs.override(stage.config, [])) for stage in stages[:place]]
    return [*wholes, stages[place]._replace(config=config)]


def describe(config: Any, json: bool = False, devices: str = "", stages: Sequence[Stage] = ()) -> dict[str, Any]:
    """Prints :func:`facts` as a table, or as JSON; with ``devices`` (KIND:N) what the page takes on these.

    ``stages``: of a chain; where all of them draw a picture patch by patch, what that takes.
    """
    fit = describe_fit.fit(config, devices) if devices else {}
    known: dict[str, Any] = {**sizes(config, build.task(config)), "for": fit} if fit else facts(config)
    if stages and (picture := describe_slide.work(stages)):
        known["picture"] = picture
    if json:
        print(write.notation(known, indent=2))
        return known
    rows = [*known["parameters"].items(), ("all", known["trainable"])]
    screen.table(("module", "trainable"), rows, known["model"])
    image = "x".join(map(str, known["image"]))
    if "halo" in known:
        reach = known["halo"] if known["halo"] == "global" else f"{known['halo']} pixels around it"
        print(f"a call sees        {reach}")
        print(f"a call on {image:<8} {known['gflop_per_call']:.3f} GFLOP (matrix products)")
    if fit:
        describe_fit.show(fit)
    elif "training_step" in known:
        print(f"a training step    cannot be compiled: {known['training_step']}")
    else:
        peak, batch = known["training_step_peak_mb"], known["training_batch"]
        print(f"a training step    {peak:.0f} MB at batch {batch}, as compiled for this device")
    if "picture" in known:
        describe_slide.show(known["picture"])
    return known
