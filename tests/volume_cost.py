"""What a published volume takes at every stage: of the programs that draw it, compiled here; nothing is allocated.

`PYTHONPATH=. python tests/volume_cost.py` prints a table, in a minute. Buffers are what a program has beside its
parameters: what it is given, what it returns and what lies between, in float32. On a CPU a program of bfloat16 also
holds a copy of its parameters in float32, so float32 is what says something of other devices: an upper bound.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nca_gen import arrays, build, devices, screen
from nca_gen.config import override, stages
from nca_gen.contracts import Part
from nca_gen.diffusion import samplers
from nca_gen.pipelines import ca_ldm, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.verbs.describe_work import matmul_flop

PAGE = f"{Path(__file__).resolve().parents[1]}/configs/ca_ldm.py"


class Cost(NamedTuple):
    """Bytes of buffers, and of parameters were their kernels bfloat16; FLOP of products, and as XLA counts them where
    loops count once."""

    buffers: int
    parameters: int
    flop: float
    compiled: float


def abstract(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@cache
def pipeline():
    """That of the page, untrained."""
    found = {stage.name: override(stage.config, []) for stage in stages(PAGE)}
    parts = {name: Part(config, build.task(config), None) for name, config in found.items()}
    parts["model"] = parts["multislice"]
    return build.pipeline(parts["model"].config, parts)


def cost(run, params, *given):
    """Of a function of ``params`` and all else."""
    traced = jax.jit(run, keep_unused=True).trace(params, *given)
    program = traced.lower().compile()
    memory, held = program.memory_analysis(), devices.size(params)
    buffers = memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes - held
    half = sum(x.size * (2 if path[-1].key == "kernel" else 4) for path, x in jax.tree.leaves_with_path(params))
    return Cost(buffers, half, matmul_flop(traced.jaxpr.jaxpr), program.cost_analysis()["flops"])


def untrained(part):
    """The shapes of the parameters of a part, and how it samples, in float32."""
    params = jax.eval_shape(part.task.model.init, jax.random.key(0))
    return params, Settings.of(part.config.get("sample", {}))._replace(dtype="float32")


@cache
def diff3d():
    """All steps of sampling."""
    part = pipeline().parts["diff3d"]
    params, how = untrained(part)
    task, x = part.task, abstract(1, *pipeline().places(pipeline().config.sample.size), 4)
    model = how.stage(task.model)
    run = sampling.stretch(model, task.process, task.codec, how.sampler, how.clip, how.guidance, how.heredity)
    times = task.process.times(how.steps)
    carry = samplers.Carry(x, (), x, abstract())
    key = jax.eval_shape(lambda: arrays.keys(0, 1))
    return cost(run, params, carry, jax.ShapeDtypeStruct(times.shape, times.dtype), key, None)


@cache
def nhae():
    """From the latent of the whole to those of slices."""
    model = pipeline().parts["nhae"].task.model
    params = jax.eval_shape(model.init, jax.random.key(0))
    return cost(ca_ldm.saying(model), params, abstract(1, *pipeline().places(pipeline().config.sample.size), 4))


def grid():
    """One device."""
    return devices.mesh(jax.local_devices(), 1)


@cache
def refiner(batch=16):
    """A batch of slices, all steps of sampling."""
    part = pipeline().parts["refiner"]
    params, how = untrained(part)
    words = jax.ShapeDtypeStruct((batch, 2), jnp.uint32)
    run = ca_ldm.refining(part.task, how, grid())
    told = {"image": abstract(batch, *pipeline().places(pipeline().config.sample.size)[1:], 4)}
    return cost(run, params, words, told)


@cache
def window(mixed=True):
    """A window of slices, or one slice that is decoded by itself."""
    part = pipeline().parts["model"]
    params, how = untrained(part)
    model = how.stage(part.task.model)
    z = abstract(1, model.window if mixed else 1, *pipeline().places(pipeline().config.sample.size)[1:], 4)
    return cost(ca_ldm.decoding(model, mixed, grid()), params, z)


STAGES = {
    "latent of the whole, 64 x 64 x 64, all steps": diff3d,
    "latents of slices of it": nhae,
    "latents of 16 slices, all steps": refiner,
    "window of 5 slices of 512 x 512": window,
    "a slice of 512 x 512 by itself": lambda: window(False),
}


if __name__ == "__main__":
    rows = []
    for name, stage in STAGES.items():
        found = stage()
        rows.append((name, found.flop / 1e12, found.buffers / 1e9, found.parameters / 1e9))
    screen.table(("stage", "TFLOP", "GB of buffers", "GB of parameters"), rows)
