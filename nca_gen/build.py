"""Names in a config become objects, and every section is completed by the defaults of what it configures.

A section's ``name`` without a dot is a module of a room of this package; one with a dot is anybody's module, found like
any import: in the current folder or on PYTHONPATH. The other fields are arguments. Nothing else imports by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from nca_gen import ranges
from nca_gen import sections as own
from nca_gen.errors import UserError, unknown

NAMED = {  # sections with a name: the room of its modules, and what in them the other fields configure
    "model": ("models", "Model"),
    "diffusion": ("diffusion", "Process"),
    "task": ("tasks", "Task"),
    "data": ("data", "splits"),
    "generate": ("pipelines", "Pipeline"),
    "evals": ("evaluators", "evaluate"),
}
OF_VERBS = ("budget", "expand", "encode", "classify", "segment", "study", "readers", "view", "tables", "bench")
OF_VERBS += ("export",)
FIXED = {  # sections without one
    "codec": ("diffusion.codec", "Codec"),
    "optimizer": ("tasks.learner", "Learner"),
    "sample": ("pipelines.sampling", "Settings"),
    **{section: ("sections", section.capitalize()) for section in ("train", "held", "mesh", *OF_VERBS)},
}
BESIDE = {"sample": own.Drawing, "data": own.Patches, "evals": own.Turn}  # fields that these have too
GIVEN = {"model": ("timesteps",), "task": ("model", "learner", "process", "codec"), "generate": ("parts",)}  # by us
ASKED = (("learner", "optimizer"), ("codec", "codec"), ("process", "diffusion"), ("process", "generate"))  # by a task
USUAL = {"diffusion": "discrete", "generate": "sample"}  # names
SECTIONS = ("seed", "model", "codec", "diffusion", "task", "optimizer", "data", "train", "sample", "generate", "held")
SECTIONS += ("evals", "parts", *OF_VERBS, "mesh")


def named(room: str, entry: str, name: str) -> ModuleType:
    """The module ``name`` that has ``entry``: of ``room``, or with a dot anybody's. UserError with the nearest."""
    if "." in name:
        return _outside(room, entry, name)
    names = [m.name for m in iter_modules(import_module(f"nca_gen.{room}").__path__)]
    if name in names and _defines(module := import_module(f"nca_gen.{room}.{name}"), entry):
        return module
    raise unknown(f"name in {room}", name, [n for n in names if _defines(import_module(f"nca_gen.{room}.{n}"), entry)])


def _defines(module: ModuleType, entry: str) -> bool:
    """Whether ``entry`` is of ``module``, and not imported by it."""
    return entry in vars(module) and vars(module)[entry].__module__ == module.__name__


def _outside(room: str, entry: str, name: str) -> ModuleType:
    try:
        module = import_module(name)
    except ModuleNotFoundError as e:
        raise UserError(
            f"{name!r} for {room}: there is no module {e.name}; modules of your own are found in the current folder or "
            "on PYTHONPATH"
        ) from e
    if entry not in vars(module):
        raise UserError(f"{name!r} for {room}: {module.__file__} has no {entry}")
    return module


def entry(section: str, name: str = "") -> Callable:
    """What the fields of ``section`` configure; of a section with a name, in the module ``name``."""
    if section in NAMED:
        room, member = NAMED[section]
        return vars(named(room, member, name))[member]
    path, member = FIXED[section]
    return vars(import_module(f"nca_gen.{path}"))[member]


def makes(section: str, name: str = "") -> list[Callable]:
    """What takes the fields of ``section``."""
    return [entry(section, name), *([BESIDE[section]] if section in BESIDE else [])]


def known(section: str, name: str = "") -> dict[str, ranges.Field]:
    """The fields of ``section``."""
    fields = {field: of for make in makes(section, name) for field, of in ranges.arguments(make).items()}
    return {field: of for field, of in fields.items() if field not in GIVEN.get(section, ())}


def defaults(section: str, name: str = "") -> dict[str, Any]:
    """The fields of ``section`` and their defaults."""
    return {field: of.default for field, of in known(section, name).items()}


def whole(path: str, stated: Any, section: str, name: str) -> dict[str, Any]:
    """``stated``, the fields of the section at ``path``, after the defaults of those that it leaves out.

    Raises UserError with the nearest for a field that there is not.
    """
    fields = ({"name": name} if section in NAMED else {}) | defaults(section, name)
    for field in stated:
        if field not in fields:
            raise unknown("field", f"config.{path}.{field}", (f"config.{path}.{known}" for known in fields))
    return {k: v for k, v in fields.items() if v is not ranges.EMPTY} | dict(stated)


def sections(config: Any, verb: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The sections of ``config`` and their fields, whole; also those that its task and ``verb`` cannot do without."""
    task = signature(entry("task", config["task"]["name"])).parameters if "task" in config else {}
    needed = {"held", "evals", "parts", "mesh", verb}
    needed |= {section for argument, section in ASKED if argument in task}
    if "generate" in needed | set(config):
        needed.add("sample")
    for section in config:
        if section not in SECTIONS:
            raise unknown("section", f"config.{section}", (f"config.{known}" for known in SECTIONS))
    for section in SECTIONS:
        stated = config.get(section, {})
        if section == "seed":
            yield section, config.get(section, 0)
        elif section == "parts":
            yield section, stated
        elif section == "evals":
            yield section, {key: _evaluator(key, fields) for key, fields in stated.items()}
        elif section in config or section in needed:
            yield section, whole(section, stated, section, stated.get("name", USUAL.get(section, "")))


def _evaluator(key: str, stated: Any) -> dict[str, Any]:
    return whole(f"evals.{key}", stated, "evals", stated.get("name") or key)


def completed(config: Any, verb: str = "") -> Any:
    """``config``, a ConfigDict, with every section whole; also the section of ``verb``.

    Raises UserError with the nearest for names and fields that there are not.
    """
    filled = type(config)(dict(sections(config, verb)))
    if "sample" in filled and not filled.sample.size and "data" in filled:
        filled.sample.size = tuple(filled.data.patch)
    return filled


def renamed(config: Any, names: Mapping[str, str]) -> None:
    """Takes out of every section whose name is no longer that of ``names`` what only the former one takes."""
    for section, former in names.items():
        now = config[section].get("name", "") if section in config else ""
        if now in ("", former):
            continue
        gone = defaults(section, former).keys() - defaults(section, now).keys()
        for field in gone & set(config[section]):
            del config[section][field]


def names(config: Any) -> dict[str, str]:
    """The names that the sections of ``config`` have, said or usual."""
    found = {s: config[s].get("name", USUAL.get(s)) for s in NAMED if s != "evals" and s in config}
    return {section: name for section, name in found.items() if name}


def fields(config: Any, section: str) -> dict[str, Any]:
    """The arguments that a section has for what it configures, defaults included."""
    stated = config.get(section, {})
    name = stated.get("name", USUAL.get(section, ""))
    beside = {"name", *(BESIDE[section]._fields if section in BESIDE else ())} if section in NAMED else ()
    return {k: v for k, v in whole(section, stated, section, name).items() if k not in beside}


def made(config: Any, section: str, *given: Any, **more: Any) -> Any:
    """What a section configures. The errors of its constructor name the field; here they get the path in the config."""
    name = config.get(section, {}).get("name", USUAL.get(section, ""))
    try:
        return entry(section, name)(*given, **more, **fields(config, section))
    except UserError as e:
        raise UserError(re.sub(rf"(?<![\w.]){section}\.(?=\w)", f"config.{section}.", str(e))) from e


def model(config: Any) -> Any:
    """The network; where it reads a fraction of the time, its ``timesteps`` are the span of the process."""
    takes = signature(entry("model", config.model.name)).parameters
    span = {"timesteps": process(config).span} if "timesteps" in takes and "diffusion" in config else {}
    return made(config, "model", **span)


def process(config: Any) -> Any:
    """The process in whose time the model denoises."""
    return made(config, "diffusion")


def codec(config: Any) -> Any:
    """What makes x0 of an image, and an image of x0."""
    return made(config, "codec")


def learner(config: Any) -> Any:
    """How parameters move; a cosine of -1 steps is as long as training."""
    found = made(config, "optimizer")
    return replace(found, cosine_steps=config.train.steps) if found.cosine_steps < 0 else found


def task(config: Any) -> Any:
    """What is learned, of all that its constructor asks for."""
    takes = signature(entry("task", config.task.name)).parameters
    given = {"model": model, "learner": learner, "process": process, "codec": codec}
    return made(config, "task", **{name: make(config) for name, make in given.items() if name in takes})


def splits(config: Any) -> Any:
    """The sources of the data set; of volumes those of their slices, where ``config.data.slices`` says so."""
    found = made(config, "data")
    return named("data", "sliced", "source").sliced(found) if config.data.get("slices", False) else found


def decoder(config: Any) -> Callable:
    """What makes images in [-1, 1] of what the data set holds, without reading it."""
    from nca_gen.contracts import unchanged  # and with it jax, which a misspelt flag need not wait for

    module = named(*NAMED["data"], config.data.name)
    return vars(module).get("decoder", lambda path: unchanged)(config.data.get("path", ""))


def known_of_data(config: Any, what: str) -> Any:
    """What the module of the data set says by its function ``what`` (path); None where it has none.

    "decoding": a pure function of (parameters, latents), and its parameters. "origin": where the data come from.
    """
    make = vars(named(*NAMED["data"], config.data.name)).get(what)
    return make and make(config.data.get("path", ""))


def pipeline(config: Any, parts: Any) -> Any:
    """How ``parts`` generate; nothing, where ``config`` has no section that says it."""
    if "generate" not in config:
        return named("pipelines", "Pipeline", "nothing").Pipeline(parts)
    return made(config, "generate", parts)


def evaluators(config: Any) -> dict[str, tuple[int, Callable]]:
    """Every how many steps, and what evaluates (pipeline, data, folder), by the names of ``config.evals``."""
    found = {}
    for key, stated in config.evals.items():
        section = _evaluator(key, stated)
        arguments = {field: value for field, value in section.items() if field not in ("name", "every")}
        found[key] = section["every"], partial(entry("evals", section["name"]), **arguments)
    return found


def verb(name: str) -> ModuleType:
    """The module of a verb of the command line."""
    return import_module(f"nca_gen.verbs.{name}")


def metric(name: str) -> ModuleType:
    """A module of the metrics."""
    return named("metrics", "score", name)
