"""What --mode=bench measures, in a process of its own: python -m nca_gen.verbs.bench_worker '{"kind": "train", ..}'

It is given the kind of work (:data:`KINDS`), a config and a batch, as JSON; see :mod:`nca_gen.verbs.bench_harness`.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from nca_gen import arrays, build, devices
from nca_gen.config import tuples
from nca_gen.contracts import Automaton
from nca_gen.io import write
from nca_gen.metrics import features, fid
from nca_gen.pipelines import sampling
from nca_gen.runtime import ahead
from nca_gen.verbs.bench_harness import Row
from nca_gen.verbs.describe_work import call_gflop, examples
from nca_gen.verbs.evaluate import evaluate

INCEPTION = {"batch": 32, "size": 64}
Work = tuple[Callable[[], Any], Row]
"""What is done once a round, and what is known about it."""


def entry(path: str, name: str) -> str:
    """The first value of ``name`` in a file of the kernel's; empty where there is none."""
    with contextlib.suppress(OSError):
        return next((x.split(":")[1].strip() for x in Path(path).read_text().splitlines() if x.startswith(name)), "")
    return ""


def peak_mb() -> float:
    """The largest resident set of this process so far, in 10^6 bytes."""
    if known := entry("/proc/self/status", "VmHWM"):  # ru_maxrss begins with that of the process that started it
        return int(known.split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def layout(config: Any, batch: int) -> Mesh:
    """All devices: over the batch as far as it goes, then over the rows of an image."""
    n = jax.device_count()
    return devices.fitting(jax.devices(), batch, config.data.patch[0], n // math.gcd(batch, n))


def step_of(config: Any, batch: int) -> tuple[Any, float]:
    """The compiled training step, and what it allocates beside its arguments on all devices, in 10^6 bytes."""
    task, mesh = build.task(config), layout(config, batch)
    state = devices.laid(jax.eval_shape(task.init, jax.random.key(0, impl="threefry2x32")), mesh)
    program, _ = ahead.traced(task, state, examples(task, batch, tuple(config.data.patch), mesh), {}, mesh)
    step = program.lower().compile()
    known = step.memory_analysis()
    return step, known.temp_size_in_bytes * mesh.size / 1e6 if known else math.nan


def train(config: Any, batch: int) -> Work:
    """A training step on a random batch, and its work: products once forward and twice backward."""
    task, key = build.task(config), jax.random.key(0, impl="threefry2x32")
    (step, buffers), mesh = step_of(config, batch), layout(config, batch)
    state = jax.jit(task.init, out_shardings=devices.replicated(mesh))(key)
    shapes = examples(task, batch, tuple(config.data.patch))
    some = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    some["image"] = jax.random.uniform(key, shapes["image"].shape, jnp.float32, -1, 1)
    some = {name: jax.device_put(x, devices.dealt(mesh, x.ndim)) for name, x in some.items()}

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, some, {})
        return metrics

    work = 3 * batch * call_gflop(task, shapes["image"].shape[1:])
    return run, {"gflop": work, "images": batch, "buffers_mb": buffers}


def drawn(shapes: PyTree, mesh: Mesh) -> PyTree:
    """Small random numbers of ``shapes`` on every device, as if they had been read: the program that starts a large
    network takes more memory than a call of it."""
    rng, whole = np.random.default_rng(0), devices.replicated(mesh)
    one = lambda leaf: jax.device_put(0.02 * rng.standard_normal(leaf.shape, np.float32), whole)
    return jax.tree.map(lambda leaf: one(leaf).astype(leaf.dtype), shapes)


def call(config: Any, batch: int) -> Work:
    """One call of the network on a batch, as in a step of sampling."""
    task, mesh, size = build.task(config), layout(config, batch), tuple(config.data.patch)
    params = drawn(jax.eval_shape(task.model.init, jax.random.key(0)), mesh)
    shapes = examples(task, batch, size)
    key, cells = arrays.keys(0, batch), task.codec.cells(size)
    x = arrays.cell_normal(key, 0, arrays.coords(cells), task.model.reads)
    x = jax.device_put(x, devices.dealt(mesh, x.ndim))
    model = task.model.inference()
    told = task.process.told(jnp.asarray(task.process.times(1)[:1]))
    cond = task.condition({name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()})
    cond = sampling.augmented(task, cond, key)
    cond = jax.device_put(cond, devices.dealt(mesh))
    run = jax.jit(lambda params, x, cond: model.apply(params, x, told, cond, (), key)[0])
    steps = model.steps if isinstance(model, Automaton) else 1
    return partial(run, params, x, cond), {
        "gflop": batch * call_gflop(task, shapes["image"].shape[1:]),
        "images": batch / config.sample.steps,
        "pixels": batch * math.prod(size) / config.sample.steps,
        "cell_updates": batch * math.prod(cells) * steps,
    }


def evaluation(config: Any, batch: int) -> Work:
    """What the evaluators that come in training do, of a model before training; their files are thrown away."""
    task, splits = build.task(config), build.splits(config)
    params = jax.jit(task.model.init)(jax.random.key(0))
    names = [name for name, section in config.evals.items() if section.every > 0]

    def run() -> dict[str, float]:
        # Standard output is for answers.
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            return evaluate(config, task, params, splits, folder, 1, names)

    return run, {"images": config.held.n}


def matmul(config: Any, batch: int) -> Work:
    """The machine's own rate: a product of two square matrices."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (side, side), dtype(config))
    return partial(jax.jit(jnp.matmul), a, a), {"gflop": 2 * side**3 / 1e9}


def inception(config: Any, batch: int) -> Work:
    """Features of a batch, with random weights."""
    side = INCEPTION["size"]
    images = np.random.default_rng(0).integers(0, 256, (INCEPTION["batch"], side, side, 3), np.uint8)
    return partial(features.loaded("inception-random", layers=("2048",)), images), {"images": len(images)}


def distance(config: Any, batch: int) -> Work:
    """One FID of 50,000 features a set."""
    rng = np.random.default_rng(0)
    real, generated = (rng.standard_normal((50_000, 2048), np.float32) for _ in range(2))
    return partial(fid.score, generated, real, None, 0), {}


def dtype(config: Any) -> str:
    """Of the products of a model."""
    return config.model.get("dtype", "float32")


KINDS = {
    "train": train,
    "call": call,
    "evaluate": evaluation,
    "matmul": matmul,
    "inception": inception,
    "fid": distance,
}


def answers(kind: str, config: Any, batch: int, requests: Iterable[str]) -> Iterator[Row]:
    """Does the work of ``kind`` once for every line of ``requests``; its seconds, and the peak memory until then."""
    run, facts = KINDS[kind](config, batch)
    device = jax.devices()[0]
    facts |= {"dtype": dtype(config), "backend": jax.default_backend(), "device": device.device_kind}
    for _ in requests:
        start, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        row = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "memory_mb": peak_mb()}
        on_device = (device.memory_stats() or {}).get("peak_bytes_in_use")
        yield row | facts | ({"device_mb": on_device / 1e6} if on_device else {})


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    for answer in answers(spec["kind"], ConfigDict(tuples(spec["config"])), spec["batch"], sys.stdin):
        print(write.notation(answer), flush=True)
