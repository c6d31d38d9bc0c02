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
from jax.core import Tracer
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
        _computed(steps, slots, results)
        return jax.tree.unflatten(jax.tree.structure(out), [_plain(slots[i]) for i in results])

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
        if str(key.dtype) not in arrays.THREEFRY or any(x.shape for x in data):
            return False
        return self.few() and (prod(key.shape) == 1 if name == "random_bits" else not key.shape)

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


def _computed(steps: list[_Step], slots: list[Any], wanted: Sequence[int]) -> None:
    """Fills the ``wanted`` slots: all that can be without a small draw, then the draws that have what they need, and so
    on."""
    steps = _needed(steps, wanted)
    empty = {i for step in steps for i in step.fills}
    while steps:
        later, folds, draws = [], [], []
        for step in steps:
            if empty & {*step.reads}:
                later.append(step)
                continue
            if step.small():
                (draws if step.equation.primitive.name == "random_bits" else folds).append(step)
                continue
            primitive, params = step.equation.primitive, step.equation.params
            with step.equation.ctx.manager:
                made = primitive.bind(*(_plain(slots[i]) for i in step.reads), **primitive.get_bind_params(params))
            _fill(step, made if primitive.multiple_results else [made], slots, empty)
        for some, at_once in ((folds, _fold), (draws, _draw)):
            for step, made in zip(some, at_once(some, slots) if some else (), strict=True):
                _fill(step, [made], slots, empty)
        steps = later


def _needed(steps: list[_Step], wanted: Sequence[int]) -> list[_Step]:
    """Those of ``steps`` that the ``wanted`` slots depend on: a network folds a key for every array of zeros too."""
    read, kept = {*wanted}, []
    for step in reversed(steps):
        if read & {*step.fills} or step.equation.effects:
            read |= {*step.reads}
            kept.append(step)
    return kept[::-1]


def _fill(step: _Step, made: Sequence[Any], slots: list[Any], empty: set[int]) -> None:
    for i, value in zip(step.fills, made, strict=True):
        slots[i] = value
        empty.discard(i)


class _Row(NamedTuple):
    """A key: row ``i`` of the words (n, 2) of keys that were folded at once."""

    words: Any
    i: int
    impl: Any


def _plain(value: Any) -> Any:
    """``value``, as a key of its own where it is a row of them."""
    return jax.random.wrap_key_data(value.words[value.i], impl=value.impl) if isinstance(value, _Row) else value


def _words(steps: Sequence[_Step], slots: Sequence[Any]) -> Any:
    """The keys (n, 2) that ``steps`` read."""
    rows = [slots[step.reads[0]] for step in steps]
    rows = [x if isinstance(x, _Row) else _Row(jax.random.key_data(x).reshape(1, 2), 0, None) for x in rows]
    tables = {id(row.words): row.words for row in rows}
    starts = dict(zip(tables, accumulate(map(len, tables.values()), initial=0), strict=False))
    return jnp.concatenate([*tables.values()])[np.array([starts[id(row.words)] + row.i for row in rows])]


def _fold(folds: Sequence[_Step], slots: Sequence[Any]) -> list[_Row]:
    """The key that each of ``folds`` gives: jax's, by one threefry."""
    k0, k1 = _words(folds, slots).T
    impl = jax.random.key_impl(_plain(slots[folds[0].reads[0]]))
    data = [slots[step.reads[1]] for step in folds]
    known = not any(isinstance(x, Tracer) for x in data)
    words = arrays.threefry(k0, k1, jnp.uint32(0), jnp.asarray((np if known else jnp).stack(data), np.uint32))
    folded = jnp.stack(words, axis=1)
    return [_Row(folded, i, impl) for i in range(len(folds))]


def _draw(draws: Sequence[_Step], slots: Sequence[Any]) -> list[Any]:
    """The bits that each of ``draws`` gives: jax's, by one threefry."""
    ends = np.cumsum([prod(step.shape) for step in draws])
    starts = np.array([0, *ends[:-1]])
    each = lax.iota(np.uint32, ends[-1])
    of = jnp.searchsorted(jnp.asarray(ends, np.uint32), each, side="right")
    k0, k1 = _words(draws, slots)[of].T
    first, second = arrays.threefry(k0, k1, jnp.uint32(0), each - jnp.asarray(starts, np.uint32)[of])
    bits = first ^ second
    return [bits[a:b].reshape(step.shape) for step, a, b in zip(draws, starts, ends, strict=True)]
