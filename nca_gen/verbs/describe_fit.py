"""Whether a page fits on some devices, and how long it takes there: --mode=describe --for=h100:8

The step is compiled here, for as many virtual devices of this CPU, and nothing of it is allocated. Memory is that of
the compiled program; another compiler may take more or less for what lies between. FLOP are those of matrix products,
and what is moved is what the compiled program moves, times how often its loops run. The time is the longer one of both,
at :data:`EFFICIENCY` of the rates of the device: what well-fed training reaches, not a measurement.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh
from jaxtyping import PyTree

from nca_gen import build, devices, screen
from nca_gen.errors import UserError, chosen
from nca_gen.runtime import ahead, mesh, run
from nca_gen.sections import Mesh as Layout
from nca_gen.verbs.describe_work import examples, matmul_flop

EFFICIENCY = {"products": 0.4, "memory": 0.6}
QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0"
}  # the same buffers in half the time; this program never runs
FRUGAL = QUICK | {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_disable_hlo_passes": "cse,cse_barrier_expander",
}
"""As the compilers of accelerators do: what is computed again (``remat``) stays so, and comes when it is needed. That
of a CPU finds what is equal and computes it once, and orders for speed."""


class Device(NamedTuple):
    """Bytes of memory and bytes a second; FLOP a second of products by dtype. ``share``: of memory that JAX takes."""

    name: str
    memory: float
    bandwidth: float
    rates: Mapping[str, float]
    share: float
    source: str


PREALLOCATED = 0.75  # XLA_PYTHON_CLIENT_MEM_FRACTION, where it is not set
DEVICES = {
    "h100": Device(
        *("H100 SXM5", 80e9, 3.35e12, {"bfloat16": 989e12, "float32": 494e12}, PREALLOCATED),
        "NVIDIA, H100 datasheet: 80 GB HBM3, 3.35 TB/s, 989 TFLOP/s in bfloat16, 494 in TF32, which float32 is (dense)",
    ),
    "a100": Device(
        *("A100 SXM4", 80e9, 2.039e12, {"bfloat16": 312e12, "float32": 156e12}, PREALLOCATED),
        "NVIDIA, A100 datasheet: 80 GB HBM2e, 2.039 TB/s, 312 TFLOP/s in bfloat16 and 156 in TF32, which float32 is",
    ),
    "t4": Device(
        *("T4", 16e9, 0.32e12, {"bfloat16": 8.1e12, "float32": 8.1e12}, PREALLOCATED),
        "NVIDIA, T4 datasheet: 16 GB GDDR6, 320 GB/s, 8.1 TFLOP/s in float32; it has no bfloat16",
    ),
    "v5e": Device(
        *("TPU v5e", 16e9, 0.819e12, {"bfloat16": 197e12, "float32": 197e12}, 1.0),
        "Google Cloud, TPU v5e: 16 GB HBM2, 819 GB/s, 197 TFLOP/s in bfloat16, which products of float32 are",
    ),
}
KINDS = (*DEVICES, "cpu")


class Compiled(NamedTuple):
    """What a compiled step takes on each device: bytes of the state, of the batch and of what lies between."""

    state: int
    batch: int
    between: int
    flop: float
    moved: float

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.state + self.batch + self.between


def parsed(asked: str) -> tuple[str, int]:
    """KIND and how many, of KIND[:N]."""
    kind, _, count = asked.partition(":")
    chosen(dict.fromkeys(KINDS), "--for", kind)
    if count and not (count.isdecimal() and int(count)):
        raise UserError(f"--for={asked}: write KIND:N, such as h100:8")
    return kind, int(count or 1)


def virtual(n: int) -> list[jax.Device]:
    """``n`` devices of this CPU, as long as no other was touched."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", n)
        except RuntimeError:
            pass  # they are there already: perhaps enough
    there = jax.devices("cpu")
    if len(there) < n:
        raise UserError(f"--for: {n} devices are asked for, and XLA_FLAGS or JAX_NUM_CPU_DEVICES allow {len(there)}")
    return there[:n]


def measured() -> Device:
    """This CPU: its memory, and its rates, each by the best of a few repetitions."""
    a = jnp.ones((1024, 1024))
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    many = jnp.ones(2**24)

    def best(run: Any) -> float:
        run().block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run().block_until_ready()
            times.append(time.perf_counter() - start)
        return min(times)

    rate = 2 * 1024**3 / best(lambda: product(a, a))
    bandwidth = 2 * many.nbytes / best(lambda: copy(many))
    return Device(
        "this CPU",
        *(ahead.memory(), bandwidth, {"float32": rate, "bfloat16": rate}, 1.0),
        f"measured now: {rate / 1e9:.0f} GFLOP/s in float32, {bandwidth / 1e9:.0f} GB/s",
    )


class Step(NamedTuple):
    """A training step before it is compiled; ``flop`` and ``operand``, the largest of a product, are of one device."""

    state: PyTree
    flop: float
    operand: float
    lowered: jax.stages.Lowered


def operand(jaxpr: Any) -> int:
    """Bytes of the largest operand of all products of a jaxpr."""
    largest = 0
    for eqn in jaxpr.eqns:
        inner = [operand(j) for j in jaxprs_in_params(eqn.params)]
        own = [x.aval.size * x.aval.dtype.itemsize for x in eqn.invars] if eqn.primitive.name == "dot_general" else []
        largest = max(largest, *inner, *own, 0)
    return largest


def traced(config: Any, grid: Mesh, batch: int, parts: Any) -> Step:
    """A training step with ``batch`` images on ``grid``."""
    task, layout = build.task(config), Layout(**build.fields(config, "mesh"))
    images = examples(task, batch, tuple(config.data.patch), grid)
    key = jax.random.key(0, impl="threefry2x32")
    state = devices.laid(jax.eval_shape(partial(task.init, batch=images), key), grid, layout.shard)
    step, _ = ahead.traced(task, state, images, parts, grid)
    jaxpr = step.jaxpr.jaxpr
    return Step(state, matmul_flop(jaxpr) / grid.size, operand(jaxpr) / grid.size, step.lower())


def compiled(step: Step, packs: bool) -> Compiled:
    """What a device does in ``step``; ``packs``: a CPU, whose products copy their larger operand first."""
    program = step.lowered.compile(QUICK if packs else FRUGAL)
    memory, cost = program.memory_analysis(), program.cost_analysis()
    assert memory
    assert cost
    loops = max(1.0, step.flop / cost["flops"])
    own = devices.share(step.state)
    between = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    between += int(step.operand) if packs else 0
    return Compiled(own, memory.argument_size_in_bytes - own, between, step.flop, loops * cost["bytes accessed"])


def fit(config: Any, asked: str) -> dict[str, Any]:
    """What the page of ``config`` takes on ``asked``, KIND:N. Raises UserError for devices that there are not."""
    kind, count = parsed(asked)
    layout, batch = Layout(**build.fields(config, "mesh")), config.train.batch
    places = virtual(count)
    if count % layout.space:
        raise UserError(f"--for={asked}: {count} devices do not divide by config.mesh.space={layout.space}")
    grid = devices.mesh(places, count // layout.space, layout.space)
    dealt = grid.shape["data"]
    mesh.check_batch(grid, batch, config.data.patch[0])
    other = batch // 2 if batch % (2 * dealt) == 0 else 2 * batch
    parts = run.beside(config, ".")
    todo = [traced(config, grid, n, parts) for n in (batch, other)]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(partial(compiled, packs=kind == "cpu"), todo)
    device = measured() if kind == "cpu" else DEVICES[kind]
    room = device.memory * device.share
    shared = count if kind == "cpu" else 1  # devices of a CPU have one memory, and one rate
    each = (two.total - one.total) / (other - batch)  # of one more image in the batch
    most = int((room / shared - one.total) / each + batch) // dealt * dealt if each > 0 else batch
    rate = device.rates[config.model.get("dtype", "float32")]
    products = one.flop * shared / rate / EFFICIENCY["products"]
    moving = one.moved * shared / device.bandwidth / EFFICIENCY["memory"]
    seconds = max(products, moving)
    return {
        "devices": count,
        "device": device.name,
        "source": device.source,
        "state_mb": one.state / 1e6,
        "batch_mb": one.batch / 1e6,
        "between_mb": one.between / 1e6,
        "peak_mb": one.total / 1e6,
        "room_mb": room / shared / 1e6,
        "fits": one.total <= room / shared,
        "largest_batch": max(most, 0),
        "step_gflop": one.flop * count / 1e9,
        "step_moved_gb": one.moved * count / 1e9,
        "bound": "products" if products > moving else "memory",
        "efficiency": dict(EFFICIENCY),
        "step_seconds": seconds,
        "hours": seconds * config.train.steps / 3600,
        "steps": config.train.steps,
        "batch": batch,
    }


def show(known: Mapping[str, Any]) -> None:
    """Prints :func:`fit`."""
    gb = lambda name: f"{known[name] / 1000:.3g} GB"
    verdict = "it fits" if known["fits"] else "it does NOT fit"
    print(f"on {known['devices']} x {known['device']} ({known['source']}), by the program compiled here:")
    rows = [
        ("parameters, moments, average", gb("state_mb")),
        (f"a batch of {known['batch']:,}", gb("batch_mb")),
        ("what lies between", gb("between_mb")),
        ("peak of a device", f"{gb('peak_mb')} of {gb('room_mb')}: {verdict}"),
        ("largest batch", f"{known['largest_batch']:,}"),
        (
            "a step, on all of them",
            f"{known['step_gflop']:,.4g} GFLOP of products, {known['step_moved_gb']:,.4g} GB moved",
        ),
    ]
    screen.table(("each device holds", ""), rows, "")
    share = {name: f"{100 * part:.0f} %" for name, part in known["efficiency"].items()}
    took, rates = screen.duration(3600 * known["hours"]), " and ".join(f"{s} of that of {k}" for k, s in share.items())
    print(f"{known['steps']:,} steps        {took}, {known['step_seconds']:.3g} s each, bound by {known['bound']}")
    print(f"                   assumed rates: {rates}; reading, compiling and evaluating come on top")
