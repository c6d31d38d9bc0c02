"""Time as a combinator: a rule applied n times is again a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Rule = Callable[[Any], Any]  # cells -> cells, same structure and shapes; closed over weights and fire masks


def repeated(rule: Rule, n: int, remat: bool = True, policy: Callable | None = None) -> Rule:
    """``rule`` applied ``n`` times in one ``lax.scan``.

    A rule finds its randomness by ``cells.age``, so nesting changes nothing but memory:
    ``repeated(repeated(step, 5), 4)`` equals ``repeated(step, 20)``, and its gradient keeps 4 + 5 states
    instead of 20. ``remat=False`` keeps every intermediate; ``policy`` says which ones to keep
    (``jax.checkpoint_policies``).
    """

    def rolled(cells: Any) -> Any:
        body = jax.checkpoint(rule, prevent_cse=False, policy=policy) if remat else rule
        return jax.lax.scan(lambda c, _: (body(c), None), cells, length=n)[0]

    return rolled


def nested(rule: Rule, n: int) -> Rule:
    """``rule`` applied ``n`` times; the gradient keeps about 2 sqrt(n) states, for one more forward pass."""
    inner = max(1, round(n**0.5))
    whole, rest = repeated(repeated(rule, inner), n // inner), repeated(rule, n % inner)
    return lambda cells: rest(whole(cells))


def rollout(rule: Rule, n: int, remat: str, saved: Mapping[str, Sequence[str]]) -> Rule:
    """``rule`` applied ``n`` times; ``remat`` says what the gradient keeps.

    "none": everything. "nested": :func:`nested`. Any other is a word of ``saved``: the state of each step and, of what
    the rule computes on the way, the arrays of those names (``jax.ad_checkpoint.checkpoint_name``).
    """
    if remat == "nested":
        return nested(rule, n)
    if remat == "none":
        return repeated(rule, n, remat=False)
    return repeated(rule, n, policy=jax.checkpoint_policies.save_only_these_names(*saved[remat]))


def remembered(rule: Rule, age: Int[Array, " a"], frame: Callable[[Any], Array]) -> Rule:
    """``rule`` of (cells, f): f of each sample becomes ``frame`` of its cells, [B, ..], when they are of this ``age``.

    ``age``: in steps, one number a sample or one for all.
    """

    def step(both: tuple[Any, Array]) -> tuple[Any, Array]:
        cells = rule(both[0])
        now = frame(cells)
        return cells, jnp.where((cells.age == age).reshape(-1, *[1] * (now.ndim - 1)), now, both[1])

    return step


def trajectory(rule: Rule, n: int, frame: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """cells -> ``frame`` of the cells before the first of ``n`` steps and after each, along a new first axis."""

    def step(cells: Any, _: None) -> tuple[Any, Any]:
        cells = rule(cells)
        return cells, frame(cells)

    def rolled(cells: Any) -> Any:
        _, frames = jax.lax.scan(step, cells, length=n)
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), frame(cells), frames)

    return rolled
