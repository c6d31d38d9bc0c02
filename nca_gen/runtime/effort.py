"""How hard XLA works on the programs of a process, which its flags say before it begins."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

LEVEL = "xla_backend_optimization_level"


def flags() -> str:
    """Those of little effort: programs are compiled in less than half the time, and may take several times as long.

    Older emitters of fusions take two thirds of the time, and a module that is not split for several threads a fifth
    less. Sums are rounded in another order than with more effort.
    """
    words = f"--{LEVEL}=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib").startswith(
        "0.10."
    ):  # later ones have none but the new emitters, and end at a flag that is gone
        words += " --xla_cpu_use_fusion_emitters=false"
    return words


def stated() -> bool:
    """Whether XLA's flags already say how hard it works."""
    return LEVEL in os.environ.get("XLA_FLAGS", "")


def spend(*configs: Any) -> None:
    """Sets XLA's flags as ``config.train.effort`` of all of ``configs`` says, where they do not say it themselves.

    After the first program of the process this changes nothing.
    """
    if all(config.get("train", {}).get("effort") == "little" for config in configs) and not stated():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags()}".strip()
