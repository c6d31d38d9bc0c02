"""What a network is given, as shapes, and the work that it takes: counted, with nothing computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from nca_gen import arrays, devices
from nca_gen.contracts import Autoencoder, Classifier, Denoiser
from nca_gen.tasks.denoise import fields


def matmul_flop(jaxpr: Any) -> int:
    """Floating-point operations of all matrix products and convolutions of a jaxpr, scans times their length.

    Of two branches that of a condition that holds: in this package, the usual one.
    """
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            total += 2 * eqn.outvars[0].aval.size * prod(eqn.invars[0].aval.shape[i] for i in contract)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel, spec = eqn.invars[1].aval, eqn.params["dimension_numbers"].rhs_spec
            total += 2 * eqn.outvars[0].aval.size * kernel.size // kernel.shape[spec[0]]
        else:
            parts = [*jaxprs_in_params(eqn.params)]
            inner = sum(matmul_flop(j) for j in (parts[-1:] if eqn.primitive.name == "cond" else parts))
            total += inner * eqn.params.get("length", 1)
    return total


def examples(task: Any, n: int, size: tuple[int, ...], grid: Mesh | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch for ``task``: ``n`` images of ``size``, with all that the model is told beside.

    As they lie on ``grid``, where one is given.
    """
    model, axes = task.model, len(size)
    if isinstance(model, Denoiser):
        read = fields(model).items()
        colours = {name: task.codec.colours(k, axes) if name in ("image", "context") else k for name, k in read}
    elif isinstance(model, Autoencoder):
        colours = {"image": model.image_channels}
    else:
        colours = {"image": 3} | ({"label": model.classes} if isinstance(model, Classifier) else {})
    sides = lambda name: () if name == "label" else size
    shapes = {name: (n,) if name == "level" else (n, *sides(name), k) for name, k in colours.items()}
    lay = lambda shape: devices.dealt(grid, len(shape)) if grid else None
    kind = {"label_map": jnp.uint8}  # shares of classes
    return {
        name: jax.ShapeDtypeStruct(shape, kind.get(name, jnp.float32), sharding=lay(shape))
        for name, shape in shapes.items()
    }


def asked_gflop(model: Any, shape: tuple[int, ...], ask: Callable[[PyTree, Array], Array]) -> float:
    """GFLOP (matrix products) of ``ask``, a function of the parameters of ``model`` and of one input of ``shape``."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    return matmul_flop(jax.make_jaxpr(ask)(params, x).jaxpr) / 1e9


@lru_cache(64)
def call_gflop(task: Any, shape: tuple[int, ...]) -> float:
    """GFLOP (matrix products) of one call of the network on one image of ``shape`` [*S, C], under no condition.

    Counted once for equal tasks: networks of a chain may be alike, and rivals are asked again and again.
    """
    x = jax.eval_shape(task.codec.encode, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    params = jax.eval_shape(task.model.init, jax.random.key(0))
    told, key = task.process.told(jnp.asarray(task.process.times(1)[:1])), arrays.keys(0, 1)
    return matmul_flop(jax.make_jaxpr(lambda p, x: task.model.apply(p, x, told, None, (), key))(params, x).jaxpr) / 1e9
