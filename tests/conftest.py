"""Every test runs on 4 virtual CPU devices, with shapes and types checked, and compiled code kept between runs.

Environment variables, set before jax is imported, so that the processes that tests start have the same.
"""

import gc
import os
import sys
from pathlib import Path

import jaxtyping

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # the package, and the toys that several tests share

import checks  # noqa: E402

from nca_gen.runtime import effort  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "nca_gen", "tests")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = f"--xla_force_host_platform_device_count=4 {effort.flags()}"  # tests compile for long what runs for a moment
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

jaxtyping.jaxtyped = checks.jaxtyped  # where the hook looks it up
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
