"""What a field of a config can be, read off its annotation: its kind.

``Annotated[int, Ge(1)]`` has a range, in the terms of :mod:`annotated_types`; ``Annotated[str, OneOf(TABLE)]`` is a
word of a table; ``|`` gives a choice. Numbers without an upper bound are finite, and fit in 32 bits.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt, MaxLen, MinLen, Predicate

from nca_gen.errors import UserError, unknown


class OneOf(tuple):
    """The words, or the keys of a table, of which a field is one."""


class SomeOf(OneOf):
    """The words of which a field is one, or several that are joined by "+"."""


Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Weight = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Fraction = Annotated[float, Interval(gt=0, le=1)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
Axes = Annotated[int, Interval(ge=1, le=3)]
Percent = Annotated[int | float, Interval(ge=0, le=100)]
Gigabytes = Annotated[int | float, Ge(0)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]  # all that the generators of numpy, grain and jax tell apart

EMPTY = Parameter.empty
RULES: dict[type, tuple[Callable[[Any, Any], bool], str]] = {
    Ge: (operator.ge, "at least"),
    Gt: (operator.gt, "more than"),
    Le: (operator.le, "at most"),
    Lt: (operator.lt, "less than"),
    MinLen: (lambda value, n: len(value) >= n, "of length at least"),
    MaxLen: (lambda value, n: len(value) <= n, "of length at most"),
    OneOf: (lambda value, words: value in words, "one of"),
    SomeOf: (lambda value, words: {*value.split("+")} <= {*words}, "one, or several joined by +, of"),
    Predicate: (lambda value, rule: bool(rule(value)), ""),  # it may raise a UserError of its own
}
LARGEST = {int: 2**31 - 1, float: 3.4028234663852886e38}  # of int32 and float32
PLAIN = (bool, str, NoneType, Path, Mapping)  # of other classes anything is taken: they are not written in a config
Bounds = dict[type, Any]
"""The limit of each rule that holds."""


class Field(NamedTuple):
    """An argument of a config: its default, ``EMPTY`` where it has to be stated, and its kind."""

    default: Any
    kind: Any


def arguments(make: Callable) -> dict[str, Field]:
    """The arguments of ``make`` that have a name."""
    found, known = {}, kinds(make)
    for field, parameter in signature(make).parameters.items():
        if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            default = parameter.default
            found[field] = Field(default, known.get(field, Any if default is EMPTY else of(default)))
    return found


@cache
def kinds(make: Callable) -> dict[str, Any]:
    """The annotations of the arguments of ``make``; none where they name what its module does not know."""
    try:
        return get_type_hints(make, include_extras=True)
    except NameError:
        return {}


def of(value: Any) -> Any:
    """The kind of a field without an annotation, by its default."""
    if isinstance(value, tuple):
        return tuple[of(value[0]), ...] if value else tuple
    return Any if value is None else type(value)


def choices(kind: Any) -> Iterator[tuple[Any, Bounds]]:
    """The types of which ``kind`` is a choice, each with its bounds."""
    if get_origin(kind) is Annotated:
        inner, *bounds = get_args(kind)
        flat = [one for bound in bounds for one in (bound if isinstance(bound, GroupedMetadata) else [bound])]
        here = {type(one): one if isinstance(one, OneOf) else astuple(one)[0] for one in flat if type(one) in RULES}
        yield from ((type_, more | here) for type_, more in choices(inner))
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from choices(one)
    else:
        yield kind, {}


def members(type_: Any) -> tuple[Any, ...]:
    """The kinds of the members of a tuple: as many as it has, or (kind, ...) for any number. () for no tuple."""
    if get_origin(type_) is tuple:
        return get_args(type_)
    if get_origin(type_) is Sequence:
        return (*get_args(type_), ...)
    return (Any, ...) if type_ is tuple else ()


def words(kind: Any) -> tuple[str, ...]:
    """The words of which ``kind``, or a member of it, is one; () for any."""
    for type_, bounds in choices(kind):
        if found := bounds.get(OneOf, bounds.get(SomeOf)) or (members(type_) and words(members(type_)[0])):
            return found
    return ()


# What a value must be.


def check(path: str, value: Any, kind: Any, like: Any = None) -> None:
    """Raises UserError where the field at ``path`` cannot be ``value``: with what it can be, such as ``like``."""
    if fits(value, kind):
        return
    if not fits(value, kind, bounded=False):
        raise unlike(path, value, kind, like)
    there = words(kind)
    for word in (value if isinstance(value, tuple) else (value,)) if there else ():
        if word not in there:
            raise unknown(f"value of {path}", word, there)
    rule = "finite, and fit in 32 bits" if fits(value, kind, large=True) else span(kind)
    raise UserError(f"{path} must be {rule}; got {value!r}")


def check_fields(one: Any, path: str) -> None:
    """Raises UserError for the first field of ``one``, a dataclass or a NamedTuple, that cannot have its value.

    ``path``: of it all.
    """
    values = one._asdict() if isinstance(one, tuple) else vars(one)
    for field, kind in kinds(type(one)).items():
        check(f"{path}.{field}", values[field], kind)


def unlike(path: str, value: Any, kind: Any, like: Any = None) -> UserError:
    """The error for a ``value`` that is not of the kind of the field at ``path``, such as ``like``."""
    hint = "" if like in (None, EMPTY) else f", like {like!r}"
    return UserError(f"{path} is of type {name(kind).partition('[')[0]}{hint}; got {value!r}")


def fits(value: Any, kind: Any, bounded: bool = True, large: bool = False) -> bool:
    """Whether ``value`` is of ``kind``; unless ``bounded``, whatever its range; if ``large``, whatever holds it."""
    return any(_fits(value, type_, bounds, bounded, large) for type_, bounds in choices(kind))


def _fits(value: Any, type_: Any, bounds: Bounds, bounded: bool, large: bool) -> bool:
    if get_origin(type_) is Literal:
        alike = [one for one in get_args(type_) if isinstance(value, bool) is isinstance(one, bool)]
        return value in alike if bounded else any(isinstance(value, type(one)) for one in alike)
    if inner := members(type_):
        if not isinstance(value, (tuple, list)):
            return False
        each = inner[:1] * len(value) if inner[-1] is ... else inner
        if len(each) != len(value) or not all(fits(*one, bounded, large) for one in zip(value, each, strict=True)):
            return False
    elif type_ in LARGEST:
        if not isinstance(value, Integral if type_ is int else Real) or isinstance(value, bool):
            return False
        if not large and Le not in bounds and Lt not in bounds:
            bounds = {Ge: -LARGEST[type_], Le: LARGEST[type_]} | bounds
    elif (plain := get_origin(type_) or type_) in PLAIN and not isinstance(value, plain):
        return False
    return not bounded or all(RULES[rule][0](value, limit) for rule, limit in bounds.items())


# Kinds in words.


def name(kind: Any) -> str:
    """``kind`` without its ranges: "int", "tuple[int, ...]"."""
    return " | ".join(dict.fromkeys(_name(type_) for type_, _ in choices(kind)))


def _name(type_: Any) -> str:
    base = get_origin(type_) or type_
    if base is Literal:
        return type(get_args(type_)[0]).__name__
    if base is NoneType or not isinstance(base, type):
        return "None" if base is NoneType else str(type_)
    inner = ", ".join("..." if one is ... else name(one) for one in get_args(type_))
    return f"{base.__name__}[{inner}]" if inner else base.__name__


def span(kind: Any) -> str:
    """The range of ``kind``: "at least 1", "at least 0 and less than 1", "zero, torch"; "" where there is none."""
    return ", or ".join(dict.fromkeys(filter(None, (_span(*one) for one in choices(kind)))))


def _span(type_: Any, bounds: Bounds) -> str:
    if get_origin(type_) is Literal:
        return f"{'one of ' if get_args(type_)[1:] else ''}{', '.join(map(str, get_args(type_)))}"
    if bounds.get(MaxLen) == 0:
        return "empty"
    own = [f"{RULES[rule][1]} {_text(limit)}" for rule, limit in bounds.items() if RULES[rule][1]]
    if MinLen in bounds and bounds[MinLen] == bounds.get(MaxLen):
        own = [f"of length {bounds[MinLen]}"]
    each = span(members(type_)[0]) if members(type_) else ""
    return ", ".join(filter(None, (" and ".join(own), each and f"each {each}")))


def _text(limit: Any) -> str:
    return ", ".join(word or '""' for word in limit) if isinstance(limit, OneOf) else str(limit)


# What is written on a command line.


def read(text: str, kind: Any) -> Any:
    """``text`` as ``kind``: 1e5 as an int, 3 as a float, true as a bool, 64,64 as a tuple.

    A tuple of words is what stands between commas, whatever that looks like. What is not of the kind comes back as
    something that does not fit it.
    """
    types = [type_ for type_, _ in choices(kind)]
    inner = next((members(type_)[0] for type_ in types if members(type_)), None)
    literal = _literal(text)
    one = _number(literal, types)
    if any(fits(one, type_, bounded=False) for type_ in types if type_ is not str and not members(type_)):
        return one
    if str in types or inner is None:
        return text if str in types else one
    types = [type_ for type_, _ in choices(inner)]
    if literal == text or (str in types and not fits(literal, tuple[str, ...])):
        literal = tuple(text.split(",")) if text else ()
    return tuple(_number(one, types) for one in (literal if isinstance(literal, (list, tuple)) else (literal,)))


def _literal(text: str) -> Any:
    """What ``text`` says in Python, or itself."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


def _number(value: Any, types: Sequence[Any]) -> Any:
    """``value`` as the first of ``types`` that has a number equal to it."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return value
    able = [type_ for type_ in types if type_ is bool or (type_ in LARGEST and not isinstance(value, bool))]
    return next((type_(value) for type_ in able if type_(value) == value), value)
