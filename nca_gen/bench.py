"""--mode=bench: seconds and peak memory of a training step and of sampling, on this machine, as ratios in one run.

Every row is a process of its own, so that its peak memory (the largest resident set since it began: interpreter,
libraries and compiler included; on a GPU also the device's own peak) is its own. Rows to be compared take their steps
in turn, so that a busy machine slows all of them.
"""

from __future__ import annotations

import contextlib
import datetime
import json as json_
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nca_gen.errors import UserError

PEER = Path(__file__).parents[1] / "tests" / "peers" / "torch_diff_nca.py"
REPEATS = 5  # of the matrix product, which is short
Row = dict[str, Any]


def bench(config: Any, workdir: str | Path | None = None, json: bool = False) -> Row:
    """Measures, prints a table (or JSON), and writes bench.json into ``workdir``. Returns what was written."""
    plan = config.bench
    rows: list[Row] = []
    say = (lambda *_: None) if json else lambda row: print(line(row), flush=True)

    def compare(cases: dict[str, list[str]], rounds: int = plan.rounds) -> list[Row]:
        found = measure(cases, rounds)
        rows.extend(found)
        for row in found:
            say(row)
        return found

    case = lambda kind, **changes: ours(config, kind, **changes)  # noqa: E731
    rate = compare({"matrix product 2048^3": case("matmul")})[0]
    rate["tflop_per_second"] = 2 * 2048**3 / rate["seconds"] / 1e12
    train = {"training step": case("train")}
    peer = with_torch(plan.peer_python)
    if peer and config.model.name == "diff_nca":
        model = config.model
        spec = {"channels": model.channels, "hidden": model.hidden, "steps": model.steps}
        spec |= {"size": config.data.patch[0], "batch": plan.batch}
        for name, maps in (("eager PyTorch, gates once an image", False), ("eager PyTorch, gates in every cell", True)):
            train[name] = [peer, str(PEER), json_.dumps(spec | {"maps": maps})]
    mine, *theirs = compare(train)
    ratios = {row["name"]: {k: mine[k] / row[k] for k in ("seconds", "memory_mb")} for row in theirs}
    forms = ("shifted", "gathered", "scattered", "split", "convolved")
    compare({f"perception {form}": case("train", conv=form) for form in forms})
    compare({f"products in {dtype}": case("train", dtype=dtype) for dtype in ("float32", "bfloat16")})
    kept = {}
    for remat in ("nested", "step"):
        for steps in (20, 40, 60):
            name = f"gradient of {steps} steps, remat {remat}"
            kept[remat, steps] = compare({name: case("train", steps=steps, remat=remat)}, 1)[0]
    compare({f"sampling call, {plan.batch} images": case("call")})

    facts = {
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "model": config.model.to_dict(),
        "image": list(config.data.patch),
        "batch": plan.batch,
        "rows": rows,
        "ratio_to_pytorch": ratios or "not measured: no PyTorch; name an interpreter with --config.bench.peer_python",
        "memory_60_to_20_steps": {r: kept[r, 60]["memory_mb"] / kept[r, 20]["memory_mb"] for r in ("nested", "step")},
    }
    for row in rows:
        if "gflop" in row:
            row["fraction_of_matrix_rate"] = row["gflop"] / 1e3 / row["seconds"] / rate["tflop_per_second"]
    if workdir:
        Path(workdir, "bench.json").write_text(json_.dumps(facts, indent=2))
    if json:
        print(json_.dumps(facts, indent=2))
    else:
        keys = ("machine", "date", "ratio_to_pytorch", "memory_60_to_20_steps")
        print("\n".join(f"{key}: {facts[key]}" for key in keys))
    return facts


def line(row: Row) -> str:
    work = f"{row['gflop'] / row['seconds']:7.0f} GFLOP/s" if "gflop" in row else ""
    return f"{row['name']:<40} {row['seconds']:8.3f} s  {row['memory_mb']:7.0f} MB  {work}"


def machine() -> str:
    """The processor's name, its cores, and what runs on it."""
    import jax

    names = [x.split(":")[1].strip() for x in _read("/proc/cpuinfo").splitlines() if x.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, jax {jax.__version__} on {jax.default_backend()}"


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""


def with_torch(python: str) -> str | None:
    """An interpreter with PyTorch: ``python``, or this one, or None. Raises UserError for a ``python`` without."""
    for candidate in filter(None, (python, sys.executable)):
        there = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
        with contextlib.suppress(OSError):
            if subprocess.run([candidate, "-c", there], check=False).returncode == 0:
                return candidate
        if python:
            raise UserError(f"config.bench.peer_python={python} has no PyTorch")
    return None


def ours(config: Any, kind: str, **changes: Any) -> list[str]:
    """The command of a worker of ``kind`` (see :data:`KINDS`) for ``config`` with some fields of the model changed."""
    spec = config.to_dict()
    spec["model"] |= changes
    return [sys.executable, "-m", "nca_gen.bench", json_.dumps({"kind": kind, "config": spec})]


def measure(cases: dict[str, list[str]], rounds: int) -> list[Row]:
    """Starts the workers together and lets them step in turn: a row each, the median of ``rounds`` after a warm-up."""
    with contextlib.ExitStack() as stack:
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": PEER.parents[2]}
        workers = {name: stack.enter_context(subprocess.Popen(command, **pipe)) for name, command in cases.items()}
        found: dict[str, list[Row]] = {name: [] for name in cases}
        for _ in range(rounds + 1):
            for name, worker in workers.items():
                with contextlib.suppress(BrokenPipeError):
                    print(file=worker.stdin, flush=True)
                answer = worker.stdout.readline()
                if not answer:
                    raise UserError(f"bench: the worker of {name!r} ended early; its own message stands above")
                found[name].append(json_.loads(answer))
        for worker in workers.values():
            worker.stdin.close()
    median = lambda results: statistics.median(r["seconds"] for r in results[1:])  # noqa: E731
    return [{"name": name, **results[-1], "seconds": median(results)} for name, results in found.items()]


def _train(config: Any) -> tuple[Callable[[], Any], float]:
    """A training step on a random batch, and its work: products once forward and twice backward."""
    import jax
    import jax.numpy as jnp

    from nca_gen import build

    task, key = build.task(config), jax.random.key(0, impl="threefry2x32")
    batch = {"image": jax.random.uniform(key, _shape(config, task), jnp.float32, -1, 1)}
    step = jax.jit(task.step, donate_argnums=0)
    state = [jax.jit(task.init)(key)]

    def run() -> Any:
        state[0], metrics = step(state[0], batch)
        return metrics

    return run, 3 * _flop(config, task)


def _call(config: Any) -> tuple[Callable[[], Any], float]:
    """One call of the network on a batch, as in a step of sampling."""
    import jax
    import jax.numpy as jnp

    from nca_gen import arrays, build

    task = build.task(config)
    params = jax.jit(task.model.init_params)(jax.random.key(0))
    key = arrays.keys(0, config.bench.batch)
    x = task.diffusion.encode(jnp.zeros(_shape(config, task)))
    x = arrays.cell_normal(key, 0, arrays.coords(x.shape[1:-1]), x.shape[-1])
    call = jax.jit(lambda p, x: task.model.apply(p, x, jnp.zeros(1, jnp.int32), None, (), key)[0])
    return lambda: call(params, x), _flop(config, task)


def _matmul(config: Any) -> tuple[Callable[[], Any], float]:
    """The machine's own rate: a product of two square matrices in float32."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (2048, 2048))
    product = jax.jit(jnp.matmul)

    def run() -> Any:
        for _ in range(REPEATS):
            out = product(a, a).block_until_ready()
        return out

    return run, 2 * 2048**3 / 1e9


KINDS = {"train": _train, "call": _call, "matmul": _matmul}


def _shape(config: Any, task: Any) -> tuple[int, ...]:
    size = tuple(config.data.patch)
    return (config.bench.batch, *size, task.model.image_channels // task.diffusion.block ** len(size))


def _flop(config: Any, task: Any) -> float:
    from nca_gen.describe import call_gflop

    return config.bench.batch * call_gflop(task, _shape(config, task)[1:])


def steps(run: Callable[[], Any], gflop: float, kind: str, requests: Any) -> Iterator[Row]:
    """Does the work once for every line of ``requests``; its seconds, and the process's peak memory until then."""
    import jax

    repeats = REPEATS if kind == "matmul" else 1
    for _ in requests:
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds = (time.perf_counter() - start) / repeats
        row = {"seconds": seconds, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
        on_device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        yield row | {"gflop": gflop} | ({"device_mb": on_device / 1e6} if on_device else {})


if __name__ == "__main__":
    from ml_collections import ConfigDict

    asked = json_.loads(sys.argv[1])
    for row in steps(*KINDS[asked["kind"]](ConfigDict(asked["config"])), asked["kind"], sys.stdin):
        print(json_.dumps(row), flush=True)
