"""--mode=bench: seconds and peak memory of a training step and of sampling, on this machine, as ratios in one run.

Every row is a process of its own, so that its peak memory is its own: the largest resident set since it began, with
interpreter, libraries and compiler (on a GPU also the device's own peak, ``device_mb``). It is measured twice:
``first_mb`` in a process that compiles, ``memory_mb`` in one that finds its programs in the compilation cache, as every
run but the first does. ``buffers_mb`` is what a compiled step allocates beside its arguments; of the gradient it is
all that grows with the number of steps. Rows to be compared take their steps in turn, so that a busy machine slows all
of them; ``cpu_seconds`` are those of all threads. Images per second of sampling count ``config.sample.steps`` calls.
The batch is dealt over the devices, and of a batch that is smaller each image over several, as ``--config.mesh.space``
does in training. Every device holds all parameters: a large model on a CPU takes less memory, and hardly more time,
on one (JAX_NUM_CPU_DEVICES=1). On a GPU, give it work: --config.bench.batch=64.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax

from nca_gen import build
from nca_gen.contracts import Denoiser
from nca_gen.errors import UserError, chosen
from nca_gen.io import write
from nca_gen.runtime.log import say
from nca_gen.sections import Bench
from nca_gen.verbs import bench_tables
from nca_gen.verbs.bench_parts import PARTS, PICTURE
from nca_gen.verbs.bench_worker import entry


def main(config: Any, args: Namespace) -> None:
    """--mode=bench."""
    bench(config, args.workdir, args.json)


def bench(config: Any, workdir: str | Path | None = None, json: bool = False) -> dict[str, Any]:
    """Measures, prints tables (JSON: beside them), and writes bench.json into ``workdir``. Returns what was written.

    ``config.bench.what`` names the parts: "model" (a training step, and then "sampling"), "sampling" (calls of the
    network alone), "peer" (both beside eager PyTorch's alone), "rivals" (calls of several models), "hole" (inpainting),
    "judge" (features and FID), "against" (this program beside another checkout of it). Raises UserError for any other.
    """
    plan = Bench(**build.fields(config, "bench"))
    parts = [chosen(PARTS, "config.bench.what", part) for part in plan.what]
    if "diffusion" not in config or not isinstance(build.model(config), Denoiser):
        raise UserError(f"bench measures denoisers; {config.model.name} is none: --mode=describe tells what it takes")
    name = entry("/proc/cpuinfo", "model name") or platform.machine()
    facts: dict[str, Any] = {
        "machine": f"{name}, {os.cpu_count()} cores, jax {jax.__version__} on {jax.devices()[0].device_kind}",
        "date": datetime.date.today().isoformat(),
    }
    # With --json, standard output is for machines only; the tables go beside it.
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        for part in parts:
            facts |= part(config, plan)
        if workdir:
            write.facts(Path(workdir, "bench.json"), facts)
            if "hole" in facts:
                write.text(Path(workdir, "hole.html"), bench_tables.page(facts, PICTURE))
                say(f"the curve is {Path(workdir, 'hole.html')}")
        say(f"{facts['machine']}, {facts['date']}")
    if json:
        print(write.notation(facts, indent=2))
    return facts
