"""Every test runs on 4 virtual CPU devices, with shapes and types checked, and compiled code kept between runs.

Environment variables, set before jax is imported, so that the processes that tests start have the same.
"""

import gc
import inspect
import os
import sys
import threading
from functools import partial, wraps
from pathlib import Path
from types import FunctionType

import jaxtyping

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # the package, and the toys that several tests share

from nca_gen.runtime import effort  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "nca_gen", "tests")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = f"--xla_force_host_platform_device_count=4 {effort.flags()}"  # tests compile for long what runs for a moment
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

eager = jaxtyping.jaxtyped
called = threading.local()  # the function that a check of many is made for
shared = {}  # such checks, by the code of their functions


def lazy(fn=None, *, typechecker):
    """``jaxtyping.jaxtyped`` that makes the checks of a function where it is first called: two thirds of what it takes
    to import the package went into checks, most of them of functions that a process never calls. Functions within
    functions share theirs, as each is made anew at every call of the one around it, and a check takes 2 ms to make."""
    if fn is None:
        return partial(lazy, typechecker=typechecker)
    if not inspect.isfunction(fn):
        return eager(fn, typechecker=typechecker)
    checked = None

    @wraps(fn)
    def call(*args, **kwargs):
        nonlocal checked
        checked = checked or eager(fn, typechecker=typechecker)
        return checked(*args, **kwargs)

    @wraps(fn)
    def inner(*args, **kwargs):
        if fn.__code__ not in shared:
            shared[fn.__code__] = eager(stand_in(fn), typechecker=typechecker)
        called.fn = fn
        return shared[fn.__code__](*args, **kwargs)

    within = "<locals>" in fn.__qualname__ and not fn.__defaults__ and not fn.__kwdefaults__
    return inner if within and all(isinstance(hint, str) for hint in fn.__annotations__.values()) else call


def stand_in(fn):
    """A function with the signature of ``fn``, which calls ``called.fn``."""
    now = called

    def call(*args, **kwargs):
        return now.fn(*args, **kwargs)

    made = FunctionType(
        call.__code__, fn.__globals__, fn.__name__, closure=call.__closure__
    )  # where its hints are read
    made.__signature__, made.__qualname__, made.__module__ = inspect.signature(fn), fn.__qualname__, fn.__module__
    return made


jaxtyping.jaxtyped = lazy  # where the hook looks it up
jaxtyping.install_import_hook("nca_gen", "beartype.beartype")
gc.set_threshold(200_000, 50, 1000)  # tracing makes many small objects that live on; to search them took a tenth

LONGEST = (
    *("readme", "colabs", "local", "configs", "devices", "gigapixel", "inpaint", "urcdm", "ca_ldm", "conditional"),
    *("describe", "geca", "denoise", "generate", "export", "open", "train", "mirror", "diff_nca", "fourier_diff_nca"),
    *("resume", "rivals", "checkpoint", "segment", "profile", "sampling", "bench", "chain", "export_page"),
)


def pytest_collection_modifyitems(items):
    """The files that take longest begin, longest first, or one process would wait for another at the end.

    Several processes keep that order where xdist is told to (--no-loadscope-reorder, as launch/test.sh does).
    """
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem.removeprefix("test_"), len(LONGEST)))
