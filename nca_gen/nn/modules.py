"""flax's layers, and a base for modules of our own, that take their parameters as they are.

flax compares the shape of every parameter with that of a fresh start, and to learn that it traces the start again, each
time that a network is traced: two thirds of the time to trace a U-Net. And :func:`start`, by which it is traced once.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

import flax.linen as nn
import jax
from jax.extend import core
from jaxtyping import Key

M = TypeVar("M", bound=nn.Module)


class Module(nn.Module):
    """A module whose parameters, once there, are taken as they are."""

    def param(self, name: str, *how: Any, **more: Any) -> Any:
        """The parameter ``name``, drawn as flax does where it is not there yet."""
        if self.has_variable("params", name):
            return self.get_variable("params", name)
        return super().param(name, *how, **more)


def taking(layer: type[M]) -> type[M]:
    """``layer`` as such a module; of the same name, by which flax numbers what has no name of its own."""
    mixed = type(layer.__name__, (Module, layer), {"__doc__": layer.__doc__, "__module__": __name__})
    return cast("type[M]", mixed)


Dense, Conv, ConvTranspose = taking(nn.Dense), taking(nn.Conv), taking(nn.ConvTranspose)
GroupNorm, LayerNorm, BatchNorm = taking(nn.GroupNorm), taking(nn.LayerNorm), taking(nn.BatchNorm)

NETWORKS = 64
"""How many of them stay traced: what draws the parameters of a network of 160 arrays are some 600 operations."""


def start(network: nn.Module, key: Key[Any, ""], *example: Any) -> dict:
    """The parameters of ``network`` before training. ``example``: the smallest input, as shapes, of which nothing is
    computed.

    The network is traced once: who trains, counts, checks and opens it again asks equal ones for their parameters.
    """
    drawing, form = _drawing(cast("Hashable", network), jax.ShapeDtypeStruct(key.shape, key.dtype), *example)
    return jax.tree.unflatten(form, core.jaxpr_as_fun(drawing)(key))


@lru_cache(NETWORKS)
def _drawing(network: Any, key: jax.ShapeDtypeStruct, *example: Any) -> tuple[core.ClosedJaxpr, Any]:
    """What draws the parameters of ``network`` and nothing else, and their form."""
    closed, like = jax.make_jaxpr(lambda key: network.lazy_init(key, *example)["params"], return_shape=True)(key)
    wanted, steps = {id(x) for x in closed.jaxpr.outvars}, []
    for step in reversed(closed.jaxpr.eqns):
        if any(id(x) in wanted for x in step.outvars):
            steps.append(step)
            wanted |= {id(x) for x in step.invars}
    return closed.replace(jaxpr=closed.jaxpr.replace(eqns=steps[::-1])), jax.tree.structure(like)
