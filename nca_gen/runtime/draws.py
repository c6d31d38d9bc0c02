"""The random numbers of a program, drawn at once: one by one they take longest of all to compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from nca_gen import arrays

SMALL = 2**16
"""Up to how many numbers a draw is made with others; a larger one would be copied, and takes less time to compile than
to make."""


def together(function: Callable) -> Callable:
    """``function`` of arrays, with the same results to the bit, for :func:`jax.jit`; its small draws are made at once.

    The start of a network of 160 arrays draws 66 times, from as many keys which are folded from one: each of these is
    a threefry of its own, which is compiled once more. Here all that wait for the same thing are one threefry of long
    arrays, two in all. Draws of words of other than 32 bits, from other kinds of keys, and those within loops and
    branches are made as they were.
    """

    @wraps(function)
    def drawn(*args: Any) -> Any:
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        slots: list[Any] = jax.tree.leaves(args)
        steps: list[_Step] = []
        results = _listed(closed, range(len(slots)), slots, steps)
        _computed(steps, slots)
        return jax.tree.unflatten(jax.tree.structure(out), [slots[i] for i in results])

    return drawn


class _Step(NamedTuple):
    """An equation, and the slots that it reads and fills."""

    equation: Any
    reads: Sequence[int]
    fills: Sequence[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its first result."""
        return self.equation.outvars[0].aval.shape

    def small(self) -> bool:
        """Whether it is a small draw, or folds a key."""
        name, params = self.equation.primitive.name, self.equation.params
        if name not in ("random_bits", "random_fold_in") or params.get("bit_width", 32) != 32:
            return False
        key, *data = (x.aval for x in self.equation.invars)
        return (
            str(key.dtype) in arrays.THREEFRY and prod(key.shape) == 1 and not any(x.shape for x in data) and self.few()
        )

    def few(self) -> bool:
        """Whether it makes few numbers."""
        return prod(self.shape) <= SMALL


def _listed(closed: Any, given: Sequence[int], slots: list[Any], steps: list[_Step]) -> list[int]:
    """The slots of the results of ``closed``, whose equations join ``steps``, those of the programs within it too."""

    def slot(value: Any = None) -> int:
        slots.append(value)
        return len(slots) - 1

    known = dict(zip(closed.jaxpr.invars, given, strict=True))
    known |= {name: slot(value) for name, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)}
    at = lambda x: slot(x.val) if isinstance(x, core.Literal) else known[x]
    for equation in closed.jaxpr.eqns:
        reads = [at(x) for x in equation.invars]
        if equation.primitive.name == "jit":
            fills = _listed(equation.params["jaxpr"], reads, slots, steps)
        else:
            fills = [slot() for _ in equation.outvars]
            steps.append(_Step(equation, reads, fills))
        known.update(zip(equation.outvars, fills, strict=True))
    return [at(x) for x in closed.jaxpr.outvars]


def _computed(steps: list[_Step], slots: list[Any]) -> None:
    """Fills the slots: all that can be without a small draw, then the draws that have what they need, and so on."""
    empty = {i for step in steps for i in step.fills}
    while steps:
        later, draws = [], []
        for step in steps:
            if empty & {*step.reads}:
                later.append(step)
                continue
            if step.small():
                draws.append(step)
                continue
            primitive, params = step.equation.primitive, step.equation.params
            with step.equation.ctx.manager:
                made = primitive.bind(*(slots[i] for i in step.reads), **primitive.get_bind_params(params))
            _fill(step, made if primitive.multiple_results else [made], slots, empty)
        if draws:
            for step, made in zip(draws, _draw(draws, slots), strict=True):
                _fill(step, [made], slots, empty)
        steps = later


def _fill(step: _Step, made: Sequence[Any], slots: list[Any], empty: set[int]) -> None:
    for i, value in zip(step.fills, made, strict=True):
        slots[i] = value
        empty.discard(i)


def _draw(draws: Sequence[_Step], slots: Sequence[Any]) -> list[Any]:
    """What each of ``draws`` gives: jax's bits, by one threefry."""
    keys, counts = [], []
    for step in draws:
        key, *data = (slots[i] for i in step.reads)
        count = jnp.asarray(data[0], np.uint32)[None] if data else lax.iota(np.uint32, prod(step.shape))
        counts.append(count)
        keys.append(jnp.broadcast_to(jax.random.key_data(key).reshape(2), (len(count), 2)))
    k0, k1 = jnp.concatenate(keys).T
    x0, x1 = arrays.threefry(k0, k1, jnp.uint32(0), jnp.concatenate(counts))
    made, ends = [], [*accumulate(map(len, counts))]
    for step, start, end in zip(draws, [0, *ends], ends, strict=False):
        first, second = x0[start:end], x1[start:end]
        if step.equation.primitive.name == "random_bits":
            made.append((first ^ second).reshape(step.shape))
        else:
            impl = jax.random.key_impl(slots[step.reads[0]])
            words = jnp.stack([first[0], second[0]]).reshape(*step.shape, 2)
            made.append(jax.random.wrap_key_data(words, impl=impl))
    return made
