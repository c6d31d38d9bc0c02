"""Every test runs on 4 virtual CPU devices, with shapes and types checked, and compiled code kept between runs.

Environment variables, set before jax is imported, so that the processes that tests start have the same.
"""

import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path

from jaxtyping import install_import_hook

TESTS = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "nca_gen", "tests")

# Tests spend their time compiling what runs for a moment; older emitters of fusions take two thirds of the time, and
# a module that is not split for several threads a fifth less.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):  # later ones have none but the new emitters, and end at a flag that is gone
    QUICK += " --xla_cpu_use_fusion_emitters=false"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 {QUICK}".strip()
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # the package, and the toys that several tests share

install_import_hook("nca_gen", "beartype.beartype")
gc.set_threshold(200_000, 50, 1000)  # tracing makes many small objects that live on; to search them took a tenth

LONGEST = (
    *("readme", "colabs", "local", "configs", "devices", "gigapixel", "mirror", "inpaint", "geca", "diff_nca", "train"),
    *("fourier_diff_nca", "export", "generate", "open", "rivals", "denoise", "resume", "checkpoint", "profile"),
    *("conditional", "describe", "sampling", "bench"),
)


def pytest_collection_modifyitems(items):
    """The files that take longest begin, longest first, or one process would wait for another at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem.removeprefix("test_"), len(LONGEST)))
