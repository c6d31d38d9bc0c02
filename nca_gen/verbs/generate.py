"""--mode=generate: what the pipeline of ``config.generate`` makes of a trained workdir."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from nca_gen import build, hosts
from nca_gen.contracts import Pipeline
from nca_gen.io import write
from nca_gen.runtime import mesh, run
from nca_gen.runtime.log import memory_mb, say


def main(config: Any, args: Namespace) -> None:
    """--mode=generate."""
    with mesh.joined(config):
        generate(config, args.workdir, args.out)


def generate(config: Any, workdir: str | Path, out: str | Path | None = None) -> Path:
    """Writes what ``config.generate`` asks for into ``out``, by default ``workdir``; returns the folder that holds it.

    Several processes share the work. Raises UserError for an unknown pipeline and for whatever that pipeline refuses.
    """
    config = run.searched(config, workdir)  # whose times are part of the folder's name
    parts = run.parts(config, workdir)
    pipeline = build.pipeline(config, parts)
    step = parts["model"].step
    folder = Path(out or workdir, "generated", "_".join(title(config, pipeline, step)))
    folder.mkdir(parents=True, exist_ok=True)
    fresh, begun, busy = not any(folder.iterdir()), time.perf_counter(), time.process_time()
    for line in pipeline.write(folder):
        say(f"step {step}: {line}")
    if fresh and hosts.first() and any(folder.iterdir()):  # what was cut off, or was only asked about, took less
        took = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - busy}
        where = {"device": jax.local_devices()[0].device_kind, "processes": jax.process_count()}
        asked = {name: config[name].to_dict() for name in ("sample", "generate") if name in config}
        write.facts(cost_file(folder), took | {"memory_mb": memory_mb()} | where | asked)
    return folder


def cost_file(folder: Path) -> Path:
    """Where stands what it took to make all that is in ``folder``, where nothing interrupted it: "seconds" by the clock
    with compilation, "cpu_seconds", "memory_mb", the most that the process or its device has held; and what was asked,
    the sections "sample" and "generate" of the config."""
    return folder.with_name(f"{folder.name}.json")


def title(config: Any, pipeline: Pipeline, step: int) -> Iterator[str]:
    """Whatever two folders of one run may differ in: the pipeline, what it was asked, how it samples, the seed."""
    asked, sample = config.get("generate", {}), config.sample
    yield f"{step:08d}"
    if (name := asked.get("name", "sample")) != "sample":
        yield name.rpartition(".")[2]
    yield from map(str, pipeline.title())
    if "diffusion" in config:
        yield f"{sample.sampler}{sample.steps}"
        usual: dict[str, Any] = {
            "clip": "none",
            "guidance": 1.0,
            "heredity": "none",
            "growth": (),
            "labels": (),
            "dtype": "",
        }
        usual |= {"grid": "uniform", "growth_guidance": 0.0}
        if sample.get("growth_guidance"):
            usual |= {"growth_age": 0, "growth_levels": (0.0, 1.0)}
        for field, value in usual.items():
            if (now := sample.get(field, value)) != value:
                words = "-".join(map(str, now)) if isinstance(now, tuple) else str(now)
                yield words if field in ("clip", "grid") else field + words
    if asked.get("torus", False):
        yield "torus"
    if (dtype := asked.get("dtype", "")) not in ("", "uint8"):
        yield dtype
    if mpp := asked.get("mpp", ()):
        yield "mpp" + "x".join(f"{size:g}" for size in (mpp if len(set(mpp)) > 1 else mpp[:1]))
    yield f"seed{config.seed}"
