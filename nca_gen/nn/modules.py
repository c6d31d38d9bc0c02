"""flax's layers, and a base for modules of our own, that take their parameters as they are.

flax compares the shape of every parameter with that of a fresh start, and to learn that it traces the start again, each
time that a network is traced: two thirds of the time to trace a U-Net.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import flax.linen as nn

M = TypeVar("M", bound=nn.Module)


class Module(nn.Module):
    """A module whose parameters, once there, are taken as they are."""

    def param(self, name: str, *start: Any, **more: Any) -> Any:
        """The parameter ``name``, drawn as flax does where it is not there yet."""
        if self.has_variable("params", name):
            return self.get_variable("params", name)
        return super().param(name, *start, **more)


def taking(layer: type[M]) -> type[M]:
    """``layer`` as such a module; of the same name, by which flax numbers what has no name of its own."""
    mixed = type(layer.__name__, (Module, layer), {"__doc__": layer.__doc__, "__module__": __name__})
    return cast("type[M]", mixed)


Dense, Conv, ConvTranspose = taking(nn.Dense), taking(nn.Conv), taking(nn.ConvTranspose)
GroupNorm, LayerNorm, BatchNorm = taking(nn.GroupNorm), taking(nn.LayerNorm), taking(nn.BatchNorm)
