"""Shapes and types, checked at run time in every function of the package, so that it takes little of the tests' time.

What ``jaxtyping.jaxtyped`` makes of a function takes 2 ms, and was made by the thousand.
"""

import inspect
import threading
import typing
from functools import partial, wraps
from types import FunctionType

import jaxtyping
from beartype import BeartypeConf, beartype

whole = jaxtyping.jaxtyped
plain = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
called = threading.local()  # the function that a check of many is made for
shared = {}  # such checks, by the names and the code of their functions


def jaxtyped(fn=None, *, typechecker):
    """``jaxtyping.jaxtyped``, but: checks are made when a function is first called, as a process calls few of those
    that it imports; what has no arrays is checked by beartype alone; and functions within functions share their checks,
    as they are made anew whenever the one around them is called."""
    if fn is None:
        return partial(jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(fn):
        return whole(fn, typechecker=typechecker)
    return inner(fn, typechecker) if within(fn) else outer(fn, typechecker)


def outer(fn, typechecker):
    checked = None

    @wraps(fn)
    def call(*args, **kwargs):
        nonlocal checked
        checked = checked or (whole(fn, typechecker=typechecker) if has_shapes(fn) else plain(fn))
        return checked(*args, **kwargs)

    return call


def inner(fn, typechecker):
    key = fn.__module__, fn.__qualname__, fn.__code__  # code alone is equal to that of another module

    @wraps(fn)
    def call(*args, **kwargs):
        if key not in shared:
            shared[key] = whole(stand_in(fn), typechecker=typechecker)
        before, called.fn = getattr(called, "fn", None), fn
        try:
            return shared[key](*args, **kwargs)
        finally:
            called.fn = before  # checks look into sequences, which may call what is checked so

    return call


def within(fn):
    """Whether ``fn`` is made by another function, and all that are made so say the same of their arguments."""
    hints, defaults = fn.__annotations__.values(), fn.__defaults__ or fn.__kwdefaults__
    return "<locals>" in fn.__qualname__ and not defaults and all(isinstance(hint, str) for hint in hints)


def has_shapes(fn):
    """Whether hints of ``fn`` may say something of the shapes of arrays."""
    try:
        hints = [*typing.get_type_hints(fn).values()]
    except (NameError, TypeError):
        return True
    while hints:
        hint = hints.pop()
        if getattr(hint, "__module__", "").startswith("jaxtyping") or isinstance(hint, str | typing.ForwardRef):
            return True
        hints += typing.get_args(hint)
    return inspect.isgeneratorfunction(fn)  # whose results beartype would also check


def stand_in(fn):
    """A function with the signature of ``fn`` that calls ``called.fn``."""
    now = called

    def call(*args, **kwargs):
        return now.fn(*args, **kwargs)

    # With the globals of fn, in which its hints are read.
    made = FunctionType(call.__code__, fn.__globals__, fn.__name__, closure=call.__closure__)
    made.__signature__, made.__qualname__, made.__module__ = inspect.signature(fn), fn.__qualname__, fn.__module__
    return made
