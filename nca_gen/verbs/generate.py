"""--mode=generate: what the pipeline of ``config.generate`` makes of a trained workdir."""

from __future__ import annotations

import math
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
from nca_gen.verbs import describe_slide

COUNTED = 2**18  # pixels: smaller pictures are drawn sooner than their networks are counted


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
    fresh = not any(folder.iterdir())
    hosts.meet()  # all have looked
    begun, busy = time.perf_counter(), time.process_time()
    for line in pipeline.write(folder):
        say(f"step {step}: {line}")
    took = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - busy}
    # What goes on after a stop takes less, and what is only asked about leaves nothing.
    if fresh and pipeline.kind == "slides" and hosts.first() and any(folder.iterdir()):
        size, memory = config.sample.size, {"memory_mb": memory_mb(), "processes": jax.process_count()}
        counted = work(config, pipeline) if math.prod(size) >= COUNTED else {}
        write.facts(cost_file(folder), {"size": size, **took, **memory, **counted})
    return folder


def cost_file(folder: Path) -> Path:
    """Where stands what the slide in ``folder`` took, where nothing interrupted it: its "size", "seconds" by the clock,
    with compilation, "cpu_seconds" and "memory_mb", the most that was held, both of the first of the "processes" (or of
    its accelerator); and :func:`work`, of :data:`COUNTED` pixels or more."""
    return folder.with_name(f"{folder.name}.json")


def work(config: Any, pipeline: Pipeline) -> dict[str, Any]:
    """The "parameters" of all networks of a pipeline that counts its calls, and the "flop" of one picture
    (:func:`nca_gen.verbs.describe_slide.counted`); {} of another."""
    parts = pipeline.parts
    known = describe_slide.counted(config, parts)
    if not known:
        return {}
    networks = [parts.get(row["network"], parts["model"]) for row in known["networks"]]
    parameters = sum(x.size for part in networks for x in jax.tree.leaves(part.params))
    return {"parameters": parameters, "flop": known["exaflop"] * 1e18}


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
