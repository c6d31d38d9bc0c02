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
import json as json_
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nca_gen import arrays, build
from nca_gen.errors import UserError, unknown
from nca_gen.metrics import features, fid
from nca_gen.pipelines import inpaint
from nca_gen.pipelines.sampling import painting
from nca_gen.report import curves, markup
from nca_gen.runtime import mesh
from nca_gen.verbs.describe import call_gflop, examples, matmul_flop

PEERS = Path(__file__).parents[2] / "tests" / "peers"
TOLD = {  # fields of config.model that tests/peers/torch_NAME.py takes
    "diff_nca": ("channels", "hidden", "steps", "norm"),
    "geca": ("image_channels", "hidden", "embed", "heads", "mlp", "steps", "fire_rate", "classes"),
}
WAYS = {  # its forms
    "diff_nca": {", gates once an image": {"maps": False}, ", gates in every cell": {"maps": True}},
    "geca": {"": {}},
}
WORK = ("pixels", "cell_updates")  # of a call; a pixel of a picture takes config.sample.steps of them
TARGETS = {"seconds": 0.6, "memory_mb": 0.25}  # of eager PyTorch's, on a CPU
FASTER = 2.5  # times eager PyTorch's calls
TILE = 2048  # pixels a side, of a picture that is made in tiles
SLIDE = 41344  # pixels a side: what nine A100 made in 24 hours (URCDM, Cechnicka et al. 2024)
PICTURE = 512  # pixels a side, of a picture with a hole
RIVALS = ("geca", "dit", "unet")
NO_PEER = "eager PyTorch: not measured; give configs/diff_nca.py or geca.py, --config.bench.peer_python=PATH with torch"
HOLES = (8, 16, 32, 64, 128, 256, 512)  # pixels a side
INCEPTION = {"batch": 32, "size": 64}
FLAT = 1.25  # what a gradient of 60 steps may take, by one of 20
FORMS = ("shifted", "gathered", "scattered", "split", "convolved")
DTYPES = ("float32", "bfloat16")
ENVIRONMENT = {
    "GOMP_SPINCOUNT": "1000",  # threads of PyTorch that spin slow it down ten times where others use the cores
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
Row = dict[str, Any]


def bench(config: Any, workdir: str | Path | None = None, json: bool = False) -> Row:
    """Measures, prints a table (or JSON), and writes bench.json into ``workdir``. Returns what was written.

    ``config.bench.what`` names the parts: "model" (a training step, and then "sampling"), "sampling" (calls of the
    network alone), "peer" (both beside eager PyTorch's alone), "rivals" (calls of several models), "hole" (inpainting),
    "judge" (features and FID). Raises UserError for any other.
    """
    if "diffusion" not in config:
        raise UserError(f"bench measures denoisers; {config.model.name} is none: --mode=describe tells what it takes")
    for part in config.bench.what:
        if part not in PARTS:
            raise unknown("part of config.bench.what", part, PARTS)
    say = (lambda *_: None) if json else lambda text: print(text, flush=True)
    name = _entry("/proc/cpuinfo", "model name") or platform.machine()
    facts = {
        "machine": f"{name}, {os.cpu_count()} cores, jax {jax.__version__} on {jax.devices()[0].device_kind}",
        "date": datetime.date.today().isoformat(),
    }
    for part in config.bench.what:
        facts |= PARTS[part](config, say)
    if workdir:
        Path(workdir, "bench.json").write_text(json_.dumps(facts, indent=2))
        if "hole" in facts:
            Path(workdir, "hole.html").write_text(plot(facts))
            say(f"the curve is {Path(workdir, 'hole.html')}")
    if json:
        print(json_.dumps(facts, indent=2))
    say(f"{facts['machine']}, {facts['date']}")
    return facts


def model(config: Any, say: Callable[[str], None]) -> Row:
    """A training step and a call of sampling, beside eager PyTorch's and the machine's own rate of products."""
    rows: list[Row] = []
    rate: dict[str, float] = {}
    case = lambda kind, **changes: ours(config, kind, **changes)  # noqa: E731

    def compare(cases: dict[str, list[str]]) -> list[Row]:
        found = measure(cases, config.bench.rounds)
        for row in found:
            if row.get("dtype") in rate:
                row["fraction_of_matrix_rate"] = row["gflop"] / row["seconds"] / rate[row["dtype"]]
            say(line(row))
        rows.extend(found)
        return found

    plain = compare({f"matrix product in {dtype}": case("matmul", dtype=dtype) for dtype in DTYPES})
    rate |= {row["dtype"]: row["gflop"] / row["seconds"] for row in plain}
    mine, *theirs = compare({"training step": case("train")} | peers(config))
    compare({f"training step, perception {form}": case("train", conv=form) for form in FORMS})
    for conv in dict.fromkeys((config.model.conv, config.model.conv if plain[0]["backend"] == "cpu" else "convolved")):
        for name, kind in {"training step": "train", "sampling call": "call"}.items():
            compare({f"{name}, {conv}, {dtype}": case(kind, conv=conv, dtype=dtype) for dtype in DTYPES})
    growth = {}
    for remat in ("nested", "step", "seen", "none"):
        sizes = [_program(changed(config, steps=n, remat=remat))[1] for n in (20, 40, 60)]
        growth[remat] = sizes[-1] / sizes[0]
        said = ", ".join(f"{size:.0f}" for size in sizes)
        say(f"gradient of 20, 40, 60 steps, remat {remat}: {said} MB of buffers, x {growth[remat]:.2f}")
    facts = {
        **{"model": config.model.to_dict(), "image": list(config.data.patch), "batch": config.bench.batch},
        "rows": rows,
        "ratio_to_pytorch": {row["name"]: ratios(mine, row) for row in theirs},
        "memory_60_to_20_steps": growth,
        "targets": TARGETS | {"memory_60_to_20_steps": FLAT},
    }
    for name, ratio in facts["ratio_to_pytorch"].items():
        say(f"ours by {name}: {against(ratio)}")
    if not theirs:
        say(NO_PEER)
    say(f"gradient of 60 steps by 20, nested: {growth['nested']:.2f} x its buffers (target {FLAT})")
    return facts | sampling(config, say)


def sampling(config: Any, say: Callable[[str], None]) -> Row:
    """Calls as in sampling, of a batch of patches and of one large picture by the local rule, beside eager PyTorch's.

    And from their rates the hours of a whole slide, and what the halo of its tiles costs: measured where the tiles are
    small and it is large. Every group of rows has the machine's rate of products in its turns.
    """
    large, tile = (changed(config, norm="cell") for _ in range(2))
    large.data.patch, large.bench.batch = tuple(config.sample.large), 1
    halo = config.model.steps * config.diffusion.block
    tile.data.patch, tile.bench.batch = tuple(side + 2 * halo for side in config.sample.large), 1
    groups = {
        "patches": {"ours": ours(config, "call")} | peers(config, "call"),
        "large": {"ours": ours(large, "call")} | peers(large, "call"),
        "halo": {"without halo": ours(large, "call"), "with halo": ours(tile, "call")},
    }
    rows: dict[str, list[Row]] = {}
    times: dict[str, dict[str, float]] = {}  # of ours, or of that without a halo
    for group, cases in groups.items():
        product, mine, *others = measure({"matrix product": ours(config, "matmul")} | cases, config.bench.rounds)
        for row in (mine, *others):
            if "gflop" in row:
                row["fraction_of_matrix_rate"] = row["gflop"] / row["seconds"] / product["gflop"] * product["seconds"]
            row |= {k: row.get(k, mine[k]) for k in WORK}
            row |= {f"{k}_per_second": row[k] / row["seconds"] for k in WORK}
        rows[group], times[group] = [mine, *others], {row["name"]: row["seconds"] / mine["seconds"] for row in others}
        say(f"{group}, {size(config.data.patch if group == 'patches' else config.sample.large)}")
        for row in rows[group]:
            say(line(row))
        for name, factor in times[group].items() if group != "halo" else ():
            say(f"ours by {name}: {factor:.2f} x its pixels a second (target {FASTER})")
    more = {"computed": math.prod(tile.data.patch) / math.prod(large.data.patch) - 1}
    more |= {"measured": times["halo"]["with halo"] - 1, "large_tiles": (1 + 2 * halo / TILE) ** 2 - 1}
    said = ", ".join(f"{k.replace('_', ' ')} {v:.1%}" for k, v in more.items())
    say(f"more work for a halo of {halo} pixels: {said} (those are of {TILE} pixels)")
    best = max(rows["large"][:1] + rows["halo"], key=lambda row: row["pixels_per_second"])
    pixels = SLIDE**2 * (1 + more["large_tiles"])
    slide = {"side": SLIDE, "hours": pixels / best["pixels_per_second"] / 3600}
    slide["exaflop"] = pixels * best["gflop"] / best["pixels"] / 1e9
    work = f"{slide['exaflop']:.3g} EFLOP in matrix products, {slide['hours']:.3g} hours at the best rate above"
    say(f"{SLIDE} x {SLIDE} pixels in {config.sample.steps} steps: {work}")
    return {
        "sampling": rows,
        "times_pytorch": {k: times[k] for k in ("patches", "large")},
        "halo": more,
        "slide": slide,
    }


def ratios(mine: Row, theirs: Row) -> dict[str, float]:
    return {k: mine[k] / theirs[k] for k in TARGETS}


def against(ratio: dict[str, float]) -> str:
    return ", ".join(f"{ratio[k]:.2f} x its {k} (target {TARGETS[k]})" for k in TARGETS)


def peer(config: Any, say: Callable[[str], None]) -> Row:
    """A training step and a call, in both dtypes, beside eager PyTorch's."""
    rows: list[Row] = []
    ratio: dict[str, dict[str, float]] = {}
    for name, kind in {"training step": "train", "call": "call"}.items():
        mine = {f"{name}, {dtype}": ours(config, kind, dtype=dtype) for dtype in DTYPES}
        theirs = {f"{name}, {other}": command for other, command in peers(config, kind).items()}
        found = measure(mine | theirs, config.bench.rounds)
        rows += found
        for row in found:
            say(line(row))
        for row in found[: len(mine)] if theirs else ():
            ratio[row["name"]] = ratios(row, found[-1])
            say(f"{row['name']}, by eager PyTorch: {against(ratio[row['name']])}")
    if not ratio:
        say(NO_PEER)
    return {"peer": rows, "ratio": ratio, "targets": TARGETS}


def rivals(config: Any, say: Callable[[str], None]) -> Row:
    """Calls of the config's model, as it is and made cheaper, and of its rivals; as pictures a second."""
    shared = {k: config.model[k] for k in ("image_channels", "classes", "learned_variance", "dtype")}
    rival = lambda name: ConfigDict(config.to_dict() | {"model": {"name": name} | shared})  # noqa: E731
    double = ConfigDict(config.to_dict())
    double.bench.batch *= 2
    name, steps = config.model.name, config.model.steps
    cases = {f"{name}, {dtype}": ours(config, "call", dtype=dtype) for dtype in DTYPES}
    cases |= {f"{name}, {n} cell steps": ours(config, "call", steps=n) for n in dict.fromkeys((steps // 2, steps // 3))}
    cases |= {f"{name}, two batches in one call": ours(double, "call")}
    cases |= {f"{other}": ours(rival(other), "call") for other in RIVALS if other != name}
    found = measure(cases, config.bench.rounds)
    for row in found:
        say(line(row))
    return {"rivals": found}


def size(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))


def hole(config: Any, say: Callable[[str], None]) -> Row:
    """What a step of inpainting costs, by the area of the hole, in a picture of which the local rule is a part."""
    task = build.task(changed(config, norm="cell"))
    image = np.zeros((PICTURE, PICTURE, task.model.image_channels // task.diffusion.block**2), np.float32)
    steps, params = 2, task.model.init_params(jax.random.key(0))
    cost = partial(inpaint.curve, task.model, task.diffusion, params, image, flop=matmul_flop, steps=steps)
    rows = cost(HOLES, rounds=config.bench.rounds)
    (whole,) = cost(HOLES[-1:], rounds=config.bench.rounds, whole=True)
    say(f"a step of inpainting in a picture of {size((PICTURE, PICTURE))}, by the side of the hole")
    for row in (*rows, whole):
        row |= {k: row[k] / steps for k in ("gflop", "seconds")}
        name = f"{math.isqrt(row['pixels'])} pixels" if row is not whole else "the whole picture"
        say(f"{name:<20} {row['cells']:>8} cells {row['gflop']:10.2f} GFLOP {row['seconds']:9.4f} s")
    return {"hole": rows, "whole": whole}


def plot(facts: Row) -> str:
    """A page with the curves of :func:`hole`."""
    area = np.array([row["pixels"] for row in facts["hole"]], float)
    of = lambda name: np.array([row[name] for row in facts["hole"]], float)  # noqa: E731
    titles = {"gflop": "GFLOP (matrix products) a step", "seconds": "seconds a step"}
    cards = (
        f'<div class="card"><h3>{title}</h3>{curves.draw(area, of(name), title, zero=True, dots=True)}</div>'
        for name, title in titles.items()
    )
    intro = f"Over the pixels of a square hole, in a picture of {size((PICTURE, PICTURE))}. {facts['machine']}"
    return markup.page("nca_gen: holes", [markup.section("The cost of a hole", markup.grid(cards), intro)])


def judge(config: Any, say: Callable[[str], None]) -> Row:
    """Inception features, beside torch-fidelity's, and one FID of 50,000 x 2048 features a set."""
    cases = {"Inception features": ours(config, "inception")}
    if python := peer_python(config, "torch_fidelity"):
        case = json_.dumps(INCEPTION)
        cases["Inception features, torch-fidelity"] = [python, str(PEERS / "inception_speed.py"), case]
    found = measure(cases, config.bench.rounds)
    for row in found:
        say(line(row))
    distance = _in_turn({"fid": ours(config, "fid")}, 0)["fid"][0] | {"name": "FID of 50,000 x 2048 features a set"}
    say(line(distance))
    if len(found) == 1:
        say("torch-fidelity: not measured; give --config.bench.peer_python=PATH of a Python that has it")
        return {"judge": [*found, distance]}
    mine, theirs = (row["images_per_second"] for row in found)
    say(f"ours by torch-fidelity: {mine / theirs:.2f} x its images a second (target 1)")
    return {"judge": [*found, distance], "ratio_to_torch_fidelity": mine / theirs}


PARTS = {"model": model, "peer": peer, "rivals": rivals, "sampling": sampling, "hole": hole, "judge": judge}


def line(row: Row) -> str:
    """A row of the table."""
    text = f"{row['name']:<44} {row['seconds']:8.3f} s {row['cpu_seconds']:8.2f} CPU s {row['memory_mb']:6.0f} MB"
    text += f" {row['device_mb']:6.0f} MB on the device" if "device_mb" in row else ""
    text += f" {row['gflop'] / row['seconds']:6.0f} GFLOP/s" if "gflop" in row else ""
    text += f" ({row['fraction_of_matrix_rate']:.0%})" if "fraction_of_matrix_rate" in row else ""
    if "pixels_per_second" in row:
        return text + f" {row['pixels_per_second']:8.3g} pixels/s {row['cell_updates_per_second']:8.3g} cell updates/s"
    return text + (f" {row['images_per_second']:8.3g} images/s" if "images_per_second" in row else "")


def _entry(path: str, name: str) -> str:
    """The first value of ``name`` in a file of the kernel's; empty where there is none."""
    with contextlib.suppress(OSError):
        return next((x.split(":")[1].strip() for x in Path(path).read_text().splitlines() if x.startswith(name)), "")
    return ""


def peer_python(config: Any, module: str) -> str | None:
    """The interpreter that has ``module``: ``config.bench.peer_python``, or this one, or None.

    Raises UserError for a ``config.bench.peer_python`` without it.
    """
    python = config.bench.peer_python or sys.executable
    there = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    found = shutil.which(python) and subprocess.run([python, "-c", there], check=False).returncode == 0
    if config.bench.peer_python and not found:
        raise UserError(f"config.bench.peer_python={python} has no {module}")
    return python if found else None


def peers(config: Any, kind: str = "train") -> dict[str, list[str]]:
    """The commands of eager PyTorch's training steps, or calls, where there is a PyTorch and it knows the model."""
    python, name = peer_python(config, "torch"), config.model.name
    square = len(set(config.data.patch)) == 1
    if not python or name not in TOLD or config.diffusion.block > 1 or not square:
        return {}
    spec = {"kind": kind, "size": config.data.patch[0], "batch": config.bench.batch}
    told = {k: config.model[k] for k in TOLD[name]}
    command = lambda more: [python, str(PEERS / f"torch_{name}.py"), json_.dumps(spec | {"model": told | more})]  # noqa: E731
    return {f"eager PyTorch{way}": command(more) for way, more in WAYS[name].items()}


def changed(config: Any, **changes: Any) -> ConfigDict:
    """A copy of ``config`` with some fields of the model changed."""
    return ConfigDict(config.to_dict() | {"model": config.model.to_dict() | changes})


def ours(config: Any, kind: str, **changes: Any) -> list[str]:
    """The command of a worker of ``kind`` (see :data:`KINDS`) for ``config`` with some fields of the model changed."""
    spec = {"kind": kind, "config": changed(config, **changes).to_dict()}
    return [sys.executable, "-m", "nca_gen.verbs.bench", json_.dumps(spec)]


def measure(cases: dict[str, list[str]], rounds: int) -> list[Row]:
    """A row for each command: of ``rounds`` after a warm-up, the medians; its memory, also in its first process."""
    first = _in_turn(cases, 0)
    rows = _in_turn(cases, rounds)
    for name, found in rows.items():
        times = {k: statistics.median(answer[k] for answer in found[1:]) for k in ("seconds", "cpu_seconds")}
        row = rows[name] = {"name": name, **found[-1], **times, "first_mb": first[name][0]["memory_mb"]}
        if "images" in row:
            row["images_per_second"] = row["images"] / row["seconds"]
    return list(rows.values())


def _in_turn(cases: dict[str, list[str]], rounds: int) -> dict[str, list[Row]]:
    """Starts the commands together and asks them for one step after the other, ``rounds`` times and once before."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    where = {"cwd": PEERS.parents[1], "env": ENVIRONMENT | os.environ}
    found: dict[str, list[Row]] = {name: [] for name in cases}
    with contextlib.ExitStack() as stack:
        workers = {k: stack.enter_context(subprocess.Popen(c, **pipes, **where)) for k, c in cases.items()}
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
    return found


def _batch(config: Any, task: Any) -> dict[str, jax.ShapeDtypeStruct]:
    return examples(task, config.bench.batch, tuple(config.data.patch))


def _devices(config: Any) -> Mesh:
    """All devices: over the batch as far as it goes, then over the rows of an image."""
    data = math.gcd(config.bench.batch, jax.device_count())
    return mesh.make(data, math.gcd(config.data.patch[0], jax.device_count() // data))


def _program(config: Any) -> tuple[Any, float]:
    """The compiled training step, and what it allocates beside its arguments on all devices, in 10^6 bytes."""
    task, devices = build.task(config), _devices(config)
    state = mesh.abstract(jax.eval_shape(task.init, jax.random.key(0, impl="threefry2x32")), devices)
    put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=mesh.batch_sharding(devices, x.ndim))  # noqa: E731
    step = jax.jit(task.step, donate_argnums=0).lower(state, jax.tree.map(put, _batch(config, task))).compile()
    return step, step.memory_analysis().temp_size_in_bytes * devices.size / 1e6


def _train(config: Any) -> tuple[Callable[[], Any], Row]:
    """A training step on a random batch, and its work: products once forward and twice backward."""
    task, key, (step, buffers) = build.task(config), jax.random.key(0, impl="threefry2x32"), _program(config)
    state = jax.jit(task.init, out_shardings=mesh.replicated(_devices(config)))(key)
    shapes = _batch(config, task)
    batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    batch["image"] = jax.random.uniform(key, shapes["image"].shape, jnp.float32, -1, 1)
    batch = mesh.put(batch, _devices(config))

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    work = 3 * config.bench.batch * call_gflop(task, shapes["image"].shape[1:])
    return run, {"gflop": work, "images": config.bench.batch, "buffers_mb": buffers}


def _call(config: Any) -> tuple[Callable[[], Any], Row]:
    """One call of the network on a batch, as in a step of sampling."""
    task, devices = build.task(config), _devices(config)
    params = jax.jit(task.model.init_params, out_shardings=mesh.replicated(devices))(jax.random.key(0))
    key = arrays.keys(0, config.bench.batch)
    shape = _batch(config, task)["image"].shape
    x = task.diffusion.encode(jnp.zeros(shape))
    x = arrays.cell_normal(key, 0, arrays.coords(x.shape[1:-1]), x.shape[-1])
    x = mesh.put({"x": x}, devices)["x"]
    model = painting(task.model)
    call = jax.jit(lambda p, x: model.apply(p, x, jnp.zeros(1, jnp.int32), None, (), key)[0])
    facts = {"gflop": config.bench.batch * call_gflop(task, shape[1:])}
    facts |= {"images": config.bench.batch / config.sample.steps}
    facts |= {"pixels": config.bench.batch * math.prod(config.data.patch) / config.sample.steps}
    return partial(call, params, x), facts | {"cell_updates": x[..., 0].size * getattr(model, "steps", 1)}


def _matmul(config: Any) -> tuple[Callable[[], Any], Row]:
    """The machine's own rate: a product of two square matrices."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (side, side), config.model.dtype)
    return partial(jax.jit(jnp.matmul), a, a), {"gflop": 2 * side**3 / 1e9}


def _inception(config: Any) -> tuple[Callable[[], Any], Row]:
    """Features of a batch, with random weights."""
    size = INCEPTION["size"]
    images = np.random.default_rng(0).integers(0, 256, (INCEPTION["batch"], size, size, 3), np.uint8)
    return partial(features.loaded("inception-random", layers=("2048",)), images), {"images": len(images)}


def _fid(config: Any) -> tuple[Callable[[], Any], Row]:
    rng = np.random.default_rng(0)
    real, generated = (rng.standard_normal((50_000, 2048), np.float32) for _ in range(2))
    return partial(fid.score, generated, real, None, 0), {}


KINDS = {"train": _train, "call": _call, "matmul": _matmul, "inception": _inception, "fid": _fid}


def peak_mb() -> float:
    """The largest resident set of this process so far, in 10^6 bytes."""
    if known := _entry("/proc/self/status", "VmHWM"):  # ru_maxrss begins with that of the process that started it
        return int(known.split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def answers(kind: str, config: Any, requests: Any) -> Iterator[Row]:
    """Does the work of ``kind`` once for every line of ``requests``; its seconds, and the peak memory until then."""
    run, facts = KINDS[kind](config)
    device = jax.devices()[0]
    facts |= {"dtype": config.model.dtype, "backend": jax.default_backend(), "device": device.device_kind}
    for _ in requests:
        start, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        row = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "memory_mb": peak_mb()}
        on_device = (device.memory_stats() or {}).get("peak_bytes_in_use")
        yield row | facts | ({"device_mb": on_device / 1e6} if on_device else {})


if __name__ == "__main__":
    asked = json_.loads(sys.argv[1])
    for answer in answers(asked["kind"], ConfigDict(asked["config"]), sys.stdin):
        print(json_.dumps(answer), flush=True)
