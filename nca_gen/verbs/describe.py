"""--mode=describe: what a config builds, before anything is spent on it."""

from __future__ import annotations

import json as json_
from argparse import Namespace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from nca_gen import arrays, build


def matmul_flop(jaxpr: Any) -> int:
    """Floating-point operations of all matrix products and convolutions of a jaxpr, scans times their length."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            total += 2 * eqn.outvars[0].aval.size * prod(eqn.invars[0].aval.shape[i] for i in contract)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel, spec = eqn.invars[1].aval, eqn.params["dimension_numbers"].rhs_spec
            total += 2 * eqn.outvars[0].aval.size * kernel.size // kernel.shape[spec[0]]
        else:
            inner = sum(matmul_flop(j) for j in jaxprs_in_params(eqn.params))
            total += inner * eqn.params.get("length", 1)
    return total


def examples(task: Any, n: int, size: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch for ``task``: ``n`` images of ``size``, with labels where the model is told of them."""
    block = task.diffusion.block if hasattr(task, "diffusion") else 1
    channels, classes = getattr(task.model, "image_channels", 3), getattr(task.model, "classes", 0)
    batch = {"image": jax.ShapeDtypeStruct((n, *size, channels // block ** len(size)), jnp.float32)}
    return batch | ({"label": jax.ShapeDtypeStruct((n, classes), jnp.float32)} if classes else {})


def call_gflop(task: Any, shape: tuple[int, ...]) -> float:
    """GFLOP (matrix products) of one call of the network on one image of ``shape`` [*S, C]."""
    x = jax.eval_shape(task.diffusion.encode, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    params = jax.eval_shape(task.model.init_params, jax.random.key(0))
    t, key = jnp.zeros(1, jnp.int32), arrays.keys(0, 1)
    return matmul_flop(jax.make_jaxpr(lambda p, x: task.model.apply(p, x, t, None, (), key))(params, x).jaxpr) / 1e9


def facts(config: Any) -> dict[str, Any]:
    """Parameters per module and memory of a training step; of a denoiser also its reach and the cost of a call.

    A call is on one image of ``config.data.patch``.
    """
    task = build.task(config)
    model, size = task.model, tuple(config.data.patch)
    key = jax.random.key(0, impl="threefry2x32")
    batch = examples(task, config.train.batch, size)
    state = jax.eval_shape(task.init, key, batch)
    memory = jax.jit(task.step, donate_argnums=0).lower(state, batch).compile().memory_analysis()
    leaves, _ = jax.tree.flatten_with_path(state.params)
    sizes: dict[str, int] = {}
    for path, leaf in leaves:  # two names deep: the side, and its layer
        name = ".".join(entry.key for entry in path[:2])
        sizes[name] = sizes.get(name, 0) + leaf.size
    image = batch["image"].shape[1:]
    known = {
        "model": config.model.name,
        "parameters": sizes,
        "trainable": sum(sizes.values()),
        "image": list(image),
    }
    if hasattr(task, "diffusion"):
        known["halo"] = "global" if model.halo is None else model.halo * task.diffusion.block
        known["gflop_per_call"] = call_gflop(task, image)
    return known | {
        "training_batch": config.train.batch,
        "training_step_peak_mb": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6,
    }


def main(config: Any, args: Namespace) -> None:
    """--mode=describe."""
    describe(config, args.json)


def describe(config: Any, json: bool = False) -> dict[str, Any]:
    """Prints :func:`facts` as a table, or as JSON."""
    known = facts(config)
    if json:
        print(json_.dumps(known, indent=2))
        return known
    from rich import print as show
    from rich.table import Table

    table = Table("module", title=known["model"])
    table.add_column("trainable", justify="right")
    for name, size in known["parameters"].items():
        table.add_row(name, f"{size:,}")
    table.add_section()
    table.add_row("all", f"{known['trainable']:,}")
    show(table)
    image, batch = "x".join(map(str, known["image"])), known["training_batch"]
    if "halo" in known:
        reach = known["halo"] if known["halo"] == "global" else f"{known['halo']} pixels around it"
        print(f"a call sees        {reach}")
        print(f"a call on {image:<8} {known['gflop_per_call']:.3f} GFLOP (matrix products)")
    print(f"a training step    {known['training_step_peak_mb']:.0f} MB at batch {batch}, as compiled for this device")
    return known
