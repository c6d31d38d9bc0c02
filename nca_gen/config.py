"""Configs as ConfigDicts: from a page of configs/, from the folder of a run, with what the flags change."""

from __future__ import annotations

import ast
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nca_gen.errors import UserError, unknown


def load(spec: str) -> Any:
    """The ConfigDict of ``FILE:form,form``: the file's ``get_config()``, edited by each form, a function of the file.

    Raises UserError for a file or a form that does not exist.
    """
    path, _, forms = spec.partition(":")
    if not Path(path).is_file():
        raise UserError(f"there is no config {path}; name one of: {pages()}")
    page = runpy.run_path(path, run_name="config")
    known = {k: v for k, v in page.items() if getattr(v, "__module__", "") == "config" and not k.startswith("_")}
    if "get_config" not in known:
        raise UserError(f"{path} is no config: it has no get_config()")
    config = known.pop("get_config")()
    for form in filter(None, forms.split(",")):
        if form not in known:
            raise unknown(f"form of {path}:", form, known)
        known[form](config)
    return config


def saved(path: Path) -> Any:
    """The ConfigDict that a run left behind, with tuples for the lists of JSON: configs hold no lists."""
    from ml_collections import ConfigDict

    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: restored(v) for k, v in value.items()}
        return tuple(map(restored, value)) if isinstance(value, list) else value

    try:
        return ConfigDict(restored(json.loads(path.read_text())))
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); name the config with --config=FILE") from e


def override(config: Any, rest: list[str], flags: tuple[str, ...] = ()) -> Any:
    """``config``, locked, with every ``--config.a.b=value`` (or ``--config.a.b value``) of ``rest`` applied.

    Raises UserError for a field that does not exist, a value of another type, and whatever is no override; ``flags``
    are the others that might have been meant.
    """
    fields = dict(_fields("config", config))
    words = iter(rest)
    for word in words:
        if not word.startswith("-"):
            raise UserError(f"unexpected argument {word!r}; flags are written --name=value")
        path, equals, text = word.removeprefix("--").partition("=")
        if not path.startswith("config."):
            raise unknown("flag", word.partition("=")[0], flags)
        if path not in fields:
            section, _, name = path.rpartition(".")
            namesakes = [f for f in fields if f.endswith(f".{name}")]
            siblings = [f for f in fields if f.startswith(f"{section}.")]
            raise unknown("field", path, namesakes or siblings or fields)
        if not equals and (text := next(words, None)) is None:
            raise UserError(f"{path} needs a value, like --{path}={fields[path]}")
        config.update_from_flattened_dict({path.removeprefix("config."): _value(path, text, fields[path])})
    return config.lock()


def pages() -> str:
    """The names of all pages."""
    return ", ".join(sorted(map(str, Path("configs").glob("*.py"))))


def _fields(path: str, config: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path."""
    for name, value in config.items():
        inner = f"{path}.{name}"
        yield from _fields(inner, value) if hasattr(value, "items") else [(inner, value)]


def _value(path: str, text: str, old: Any) -> Any:
    """``text`` as a value of ``old``'s type: anything is a str, 1e5 an int, 3 a float, true a bool, 64,64 a tuple."""
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        if isinstance(old, (int, float)) and type(old)(value) == value:
            value = type(old)(value)
    except (SyntaxError, ValueError, TypeError, OverflowError):
        value = tuple(text.split(",")) if isinstance(old, tuple) else text
    if isinstance(old, tuple):
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    members = (*value, *old) if isinstance(old, tuple) else (value, old)
    if old is not None and len(set(map(type, members))) > 1:
        raise UserError(f"{path} is of type {type(old).__name__}, like {old!r}; got {text!r}")
    return value
