"""Weights of published torch networks in flax modules whose paths, joined by dots, are torch's names.

Only the last part differs: ``kernel`` and ``scale`` are torch's ``weight``, ``mean`` and ``var`` its ``running_mean``
and ``running_var``. Kernels ``[*taps, inputs, outputs]`` are ``[outputs, inputs, *taps]`` there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np

from nca_gen.errors import UserError
from nca_gen.io import weights

COUNTERS = ("*num_batches_tracked",)  # of batches that torch's normalisation has seen
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
State = dict[str, np.ndarray]


def as_it_is(name: str) -> str:
    """``name``."""
    return name


def variables(
    state: State,
    module: nn.Module,
    example: Any,
    ignore: Sequence[str] = COUNTERS,
    spelled: Callable[[str], str] = as_it_is,
) -> dict[str, Any]:
    """The variables of ``module`` (``params``, ``batch_stats``) from the tensors of a torch network, in float32.

    ``example`` is an input, or its ``ShapeDtypeStruct``; several are a tuple. Raises UserError for the first tensor
    that is missing, has another shape, is no float or not finite, or that nobody asks for and no pattern in ``ignore``
    names. A beginning that the names of the whole network have ("module.", "first_stage_model.") is left out, and what
    lies beside it is of other networks. ``spelled``: of a name here, the one in ``state``, where they differ. An affine
    map may be a convolution of one tap there.
    """
    filled: dict[str, Any] = {}
    leaves = _leaves(module, example)
    names = {spelled(_name(path)) for path, _, _ in leaves}
    state = _below(state, names)
    for path, leaf, shape in leaves:
        name = spelled(_name(path))
        if name not in state:
            raise UserError(f"the weights lack {name} {_torch_shape(leaf, shape)}: they are of another network")
        if state[name].dtype.kind != "f":
            raise UserError(f"{name} is of type {state[name].dtype}: weights are floats; save the network unquantised")
        tensor = np.asarray(state[name], np.float32)
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{name} holds NaN or infinite numbers: the weights are damaged, or their training diverged"
            )
        if leaf == "kernel" and len(shape) == 2 and {*tensor.shape[2:]} == {1}:
            tensor = tensor.reshape(tensor.shape[:2])
        tensor = np.moveaxis(tensor, (0, 1), (-1, -2)) if leaf == "kernel" and tensor.ndim > 1 else tensor
        if tensor.shape != shape:
            raise UserError(
                f"the weights are of another network: {name} is {state[name].shape}, not {_torch_shape(leaf, shape)}"
            )
        inner = filled
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[leaf] = np.ascontiguousarray(tensor)
    for name in state:
        if name not in names and not any(fnmatchcase(name, pattern) for pattern in ignore):
            raise UserError(f"the weights are of another network: {name} {state[name].shape} has no place in it")
    return filled


def load(path: str | Path, read: Callable[[State], dict], what: str) -> dict:
    """What ``read`` makes of the tensors in the file at ``path``.

    Raises UserError, with the path, for a file that cannot be read, and for what ``read`` refuses: ``what`` to give.
    """
    state = weights.read(path)
    try:
        return read(state)
    except UserError as error:
        raise UserError(f"{path}: {error}; give {what}") from None


def _below(state: State, names: set[str]) -> State:
    """``state`` without what stands before all ``names``. Raises UserError where it has the network more than once."""
    longest = max(names, key=len, default="")  # of a network without any tensor
    starts = [name.removesuffix(longest) for name in state if name.endswith(f".{longest}")]
    starts = [start for start in starts if all(start + name in state for name in names)]
    if names <= state.keys() or not starts:
        return state
    if len(starts) > 1:
        raise UserError(f"the weights hold this network as {' and as '.join(starts)}: save one of them alone")
    return {name.removeprefix(starts[0]): tensor for name, tensor in state.items() if name.startswith(starts[0])}


def state(variables: dict[str, Any]) -> State:
    """The inverse of :func:`variables`."""
    tensors = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(variables):
        path, tensor = tuple(key.key for key in keys), np.asarray(leaf)
        turned = np.moveaxis(tensor, (-1, -2), (0, 1)) if path[-1] == "kernel" and tensor.ndim > 1 else tensor
        tensors[_name(path)] = np.ascontiguousarray(turned)
    return tensors


def random_state(module: nn.Module, example: Any, seed: int) -> State:
    """Random tensors for a torch network of the same names, equal on every machine.

    Kernels are normal with the deviation of He et al. 2015 (arXiv 1502.01852), factors and variances uniform in
    [0.75, 1.25], whatever else is normal with a deviation of 0.1.
    """
    rng, state = np.random.RandomState(seed), {}
    leaves = _leaves(module, example)
    for path, leaf, shape in sorted(leaves, key=lambda item: _name(item[0])):
        size = _torch_shape(leaf, shape)
        if leaf in ("scale", "g", "var"):
            tensor = rng.uniform(0.75, 1.25, size)
        else:
            tensor = rng.standard_normal(size) * (np.sqrt(2 / np.prod(shape[:-1])) if leaf == "kernel" else 0.1)
        state[_name(path)] = tensor.astype(np.float32)
    return state


Leaves = list[tuple[tuple[str, ...], str, tuple[int, ...]]]


def _leaves(module: nn.Module, example: Any) -> Leaves:
    """Path, its last part, and shape of every variable; nothing is computed."""
    inputs = example if isinstance(example, tuple) else (example,)
    return _declared(cast("Any", module), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs))


@cache
def _declared(module: Any, inputs: tuple[Any, ...]) -> Leaves:
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    paths = ((tuple(key.key for key in keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes))
    return [(path, path[-1], leaf.shape) for path, leaf in paths]


def _name(path: tuple[str, ...]) -> str:
    """``("params", "fc", "kernel")`` -> ``fc.weight``."""
    return ".".join((*path[1:-1], LEAVES.get(path[-1], path[-1])))


def _torch_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-3:-1], *shape[:-2]) if leaf == "kernel" else shape
