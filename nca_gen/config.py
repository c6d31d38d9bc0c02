"""Configs as ConfigDicts: from a page of configs/, from the folder of a run, with what the flags change.

A page states what differs from the defaults; what comes out of this module is whole (:func:`nca_gen.build.completed`).
"""

from __future__ import annotations

import json
import runpy
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from nca_gen import build, ranges
from nca_gen.errors import UserError, unknown


class Stage(NamedTuple):
    """An ordinary run of a chain, in the folder ``name`` of its workdir: ``config``, and the ``modes`` that make it.

    A ``data.path`` that begins with a dot is seen from that folder, as are the paths of ``config.parts``.
    """

    name: str
    config: Any
    modes: tuple[str, ...] = ("train",)


# Where configs come from.


def load(spec: str, verb: str = "") -> Any:
    """The ConfigDict of ``FILE:form,form``, whole: the file's ``get_config()``, edited by each form.

    A form is a function of the file. ``verb``: whose section is wanted too. Raises UserError for a file or a form that
    does not exist, and for names and fields that there are not.
    """
    config = build.completed(stated(spec), verb)
    check(config)
    return config


def stated(spec: str) -> Any:
    """What the page and its forms say, and no more; see :func:`load`."""
    path, asked, found = page(spec)
    if "get_config" not in found:
        raise UserError(f"{path} is no config: it has no get_config()")
    config = found["get_config"]()
    for form in formed(path, asked, found):
        names = build.names(config)
        form(config)
        build.renamed(config, names)
    return config


def stages(spec: str) -> list[Stage]:
    """The stages of the chain of a page, as its forms say. Raises UserError for a page without one."""
    path, asked, found = page(spec)
    if "chain" not in found:
        raise UserError(f"{path} lists no stages: it has no chain(forms); see configs/geca_chain.py")
    formed(path, asked, found)
    return found["chain"](asked)


def page(spec: str) -> tuple[str, list[str], dict[str, FunctionType]]:
    """The file of ``spec``, the names of the forms that it asks for, and the functions of the file.

    The forms are in the order of the file's ``ORDER``, groups of names, however they are written: one that makes a
    config anew undoes nothing then that another one asks for. Within a group, and those of none, which come last, they
    are as written. Raises UserError for an ``ORDER`` that is something else.
    """
    path, _, asked = spec.partition(":")
    found = _read(path)
    order = found.get("ORDER", ())
    if not isinstance(order, tuple) or any(isinstance(group, str) for group in order):
        raise UserError(f"{path}: ORDER is a tuple of groups of forms, such as (('laptop',), ('brief',))")
    rank = {form: number for number, group in enumerate(order) for form in group}
    in_turn = sorted(filter(None, asked.split(",")), key=lambda form: rank.get(form, len(order)))
    return path, in_turn, {k: v for k, v in found.items() if isinstance(v, FunctionType)}


def places(spec: str) -> list[str]:
    """The forms of ``spec`` that choose a stage, of which the page's ``PLACES`` are the names."""
    path, _, asked = spec.partition(":")
    known = _read(path).get("PLACES", ())
    return [form for form in dict.fromkeys(asked.split(",")) if form in known]


def forms(found: Mapping[str, FunctionType]) -> dict[str, FunctionType]:
    """The forms among the functions of a page: public, of one argument, ``config``; its own and those it imports."""
    return {k: v for k, v in found.items() if not k.startswith("_") and [*signature(v).parameters] == ["config"]}


def formed(path: str, asked: Sequence[str], found: Mapping[str, FunctionType]) -> list[FunctionType]:
    """The forms that are ``asked`` for. Raises UserError with the nearest for one that there is not."""
    known = forms(found)
    if wrong := [name for name in asked if name not in known]:
        raise unknown(f"form of {path}:", wrong[0], known)
    return [known[name] for name in asked]


def _read(path: str) -> dict[str, Any]:
    """All that the page at ``path`` defines. Raises UserError where there is none."""
    if not Path(path).is_file():
        raise UserError(f"there is no config {path}; name one of: {pages()}")
    with _beside(Path(path).resolve().parent, Path("configs").resolve()):
        return runpy.run_path(path, run_name="config")


@contextmanager
def _beside(*folders: Path) -> Iterator[None]:
    """Pages share parts by importing each other: whatever lies in their ``folders``, and nothing of it afterwards."""
    before = {*sys.modules}
    sys.path[:0] = map(str, folders)
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(str(folder))
        for name in {*sys.modules} - before:
            if {*folders} & {*Path(vars(sys.modules[name]).get("__file__") or "/").parents}:
                del sys.modules[name]


def saved(path: Path, verb: str = "") -> Any:
    """The ConfigDict that a run left behind, whole, with tuples for the lists of JSON: configs hold no lists."""
    from ml_collections import ConfigDict

    return build.completed(ConfigDict(written(path)), verb)


def empty() -> Any:
    """The ConfigDict of a verb that needs no model and no data set."""
    from ml_collections import ConfigDict

    return ConfigDict()


def written(path: Path) -> dict[str, Any]:
    """What stands in a ``config.json``, in the sections of today. Raises UserError where it is damaged."""
    try:
        return migrated(tuples(json.loads(path.read_text())))
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); name the config with --config=FILE") from e


def tuples(value: Any) -> Any:
    """What JSON read, with tuples for its lists."""
    if isinstance(value, dict):
        return {k: tuples(v) for k, v in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def pages() -> str:
    """The names of all pages."""
    return ", ".join(sorted(map(str, Path("configs").glob("*.py"))))


# What the flags change.


def override(config: Any, rest: Sequence[str], flags: tuple[str, ...] = (), verb: str = "") -> Any:
    """``config``, whole and locked, with every ``--config.a.b=value`` (or ``--config.a.b value``) of ``rest`` applied.

    Another name of a section comes first, with the defaults that go with it. Raises UserError for a field that does not
    exist, a value of another type, and whatever is no override; ``flags`` are the others that might have been meant.
    What is true or false is true where its flag stands alone: ``--export.html``.
    """
    changes = [*_overrides(rest, flags)]
    named = config.to_dict()
    for path, text in changes:
        match path.split(".")[1:]:
            case [section, "name"] if section in build.NAMED and text is not None:
                named.setdefault(section, {})["name"] = text
            case ["evals", key, _]:
                named.setdefault("evals", {}).setdefault(key, {})
            case [section, _] if section in build.FIXED:
                named.setdefault(section, {})
    build.renamed(named, build.names(config))
    config = build.completed(type(config)(named), verb)
    fields = dict(_fields("config", config))
    kinds = {path: field.kind for path, _, field in said(config)}
    for path, text in changes:
        if path not in fields and path not in kinds:
            section, _, name = path.rpartition(".")
            below, siblings = ([f for f in fields if f.startswith(f"{start}.")] for start in (path, section))
            namesakes = [f for f in fields if f.endswith(f".{name}")]
            raise unknown("field", path, below or namesakes or siblings or fields)
        if text is None and kinds.get(path) is bool:
            text = "True"
        if text is None:
            raise UserError(f"{path} needs a value, like --{path}={fields.get(path, '..')}")
        value = _value(path, text, fields.get(path), kinds.get(path))
        with config.ignore_type():
            config.update_from_flattened_dict({path.removeprefix("config."): value})
    if "sample" in config and not named.get("sample", {}).get("size") and "config.sample.size" not in dict(changes):
        config.sample.size = config.data.patch
    check(config)
    return config.lock()


def said(config: Any) -> Iterator[tuple[str, Any, ranges.Field]]:
    """Path, value (``EMPTY`` where it has to be stated, and is not) and field of all in ``config`` but its parts."""
    yield "config.seed", config["seed"], ranges.Field(0, ranges.Seed)
    named = {(section, ""): config[section] for section in config if section not in ("seed", "parts", "evals")}
    named |= {("evals", f".{key}"): fields for key, fields in config.get("evals", {}).items()}
    for (section, key), fields in named.items():
        name = fields.get("name") or key[1:] or build.USUAL.get(section, "")
        for field, of in build.known(section, name).items():
            yield f"config.{section}{key}.{field}", fields.get(field, ranges.EMPTY), of


def check(config: Any) -> None:
    """Raises UserError for the first field of ``config``, whole, that cannot have its value: with what it can be."""
    for path, value, field in said(config.to_dict()):
        if value is ranges.EMPTY:
            raise UserError(f"{path} has no default: give it, like --{path}=VALUE, of type {ranges.name(field.kind)}")
        ranges.check(path, value, field.kind, field.default)


def notes(config: Any) -> Iterator[str]:
    """What ``config`` says of training, and perhaps does not mean."""
    end, steps = config.get("optimizer", {}).get("cosine_steps", 0), config.train.steps
    if 0 < end < steps:
        yield (
            f"the learning rate is 0 from step {end} on, where its cosine ends, and training takes {steps} steps: set "
            "config.optimizer.cosine_steps=-1 for a cosine as long as training"
        )


def _overrides(rest: Sequence[str], flags: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """Path and text of every override of ``rest``; None where a flag stands alone."""
    words = deque(rest)
    while words:
        word = words.popleft()
        if not word.startswith("-"):
            raise UserError(f"unexpected argument {word!r}; flags are written --name=value")
        path, equals, text = word.removeprefix("--").partition("=")
        if not path.startswith("config."):
            raise unknown("flag", word.partition("=")[0], flags)
        follows = words and not words[0].startswith("--")
        yield path, text if equals else words.popleft() if follows else None


def _fields(path: str, config: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path."""
    for name, value in config.items():
        inner = f"{path}.{name}"
        yield from _fields(inner, value) if isinstance(value, type(config)) else [(inner, value)]


def _value(path: str, text: str, old: Any, kind: Any = None) -> Any:
    """``text`` as a value of ``kind``, or else of the type of ``old``. Raises UserError for one of another kind."""
    kind = ranges.of(old) if kind is None else kind
    value = ranges.read(text, kind)
    if not ranges.fits(value, kind, bounded=False):
        raise ranges.unlike(path, text, kind, old)
    return value


# Configs of before.

PAINTED = {  # fields of the pipelines of then: one section had those of all
    "sample": ("torus",),
    "inpaint": ("torus", "image", "mask", "box", "samples", "known"),
    "upscale": ("torus", "image", "samples", "known", "factor"),
    "gigapixel": ("torus", "tile", "calls", "dry_run", "format", "memory_gb"),
}


MOVED = {  # fields of then that are those of one section of today
    **{f"eval.{field}": f"held.{field}" for field in ("split", "n", "train")},
    **{f"diffusion.{field}": f"codec.{field}" for field in ("mean", "std", "block")},
    **{"model.init": "model.start", "eval.samplers": "evals.samplers.rows", "eval.growth": "evals.growth.steps"},
    **{"eval.heredity": "evals.heredity.inherit", "eval.guidance": "evals.heredity.guidance"},
}


EVERYWHERE = {"train.eval_every": "every", "eval.metrics": "metrics"}  # of then; of every evaluator that has one, today


def former(flag: str) -> bool:
    """Whether ``flag`` is one of commands that were written up to commit f212e54."""
    name, equals, _ = flag.removeprefix("--config.").partition("=")
    return bool(equals) and name in {*MOVED, *EVERYWHERE}


def today(config: Any, flag: str) -> list[str]:
    """A :func:`former` ``flag`` by the names of today; ``config``, whole, says which evaluators there are."""
    name, _, value = flag.removeprefix("--config.").partition("=")
    if name in MOVED:
        return [f"--config.{MOVED[name]}={value}"]
    field = EVERYWHERE[name]
    return [f"--config.evals.{key}.{field}={value}" for key, section in config.evals.items() if section.get(field)]


def migrated(old: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it was written up to commit f212e54, in the sections of today; one of today as it is."""
    new = dict(old)
    if "eval" not in old:
        return new
    if "diffusion" in old:
        codec = {k: v for k, v in old["diffusion"].items() if k in ("mean", "std", "block")}
        process = {k: v for k, v in old["diffusion"].items() if k not in codec}
        new |= {"codec": codec, "diffusion": {"name": "discrete"} | process}
    asked = new.pop("eval")
    new["train"] = {k: v for k, v in old["train"].items() if k != "eval_every"}
    if "init" in old["model"]:
        new["model"] = {"start" if k == "init" else k: v for k, v in old["model"].items()}
    new["held"] = {k: asked[k] for k in ("split", "n", "train") if k in asked}
    new["evals"] = _evals(old, asked)
    if old["task"]["name"] == "autoencode":
        new["generate"] = {"name": "decode"}
    elif "generate" in old:
        takes = ("name", *PAINTED[old["generate"]["name"]])
        new["generate"] = {k: v for k, v in old["generate"].items() if k in takes}
    return new


def _evals(old: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What each task of then was asked, every ``train.eval_every`` steps, and only by --mode=evaluate."""
    often = {"every": old["train"].get("eval_every", 0)}
    metrics = {"metrics": asked["metrics"]}
    if old["task"]["name"] != "denoise":
        return {{"autoencode": "reconstruction", "classify": "confusion"}[old["task"]["name"]]: often | metrics}
    grades = {"grades": often} if old["model"].get("classes") else {}
    found = {"scores": often | metrics, "nearest": often, "films": often} | grades
    tables = {"samplers": {"rows": "samplers"}, "heredity": {"inherit": "heredity", "guidance": "guidance"}}
    for name, fields in (tables | {"growth": {"steps": "growth"}}).items():
        if stated := {field: asked[was] for field, was in fields.items() if was in asked}:
            found[name] = {"every": 0} | stated
    return found
