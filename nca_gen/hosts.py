"""Several processes at one piece of work: what is whose, and where they meet.

One idea for all verbs. What is to be made has indices, and process p of P makes those that leave the rest p when they
are divided by P. A file is written by the process that made what is in it, in a folder that all of them see; arrays
that all need are gathered by jax. Alone, a process makes everything and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Num

Item = TypeVar("Item")
LONG = 7 * 24 * 3600  # seconds; one that dies is noticed by jax
MOST = 64  # arrays of each process that are gathered at once: jax lays all of them on every device


def first() -> bool:
    """Whether this process speaks for all, and writes what belongs to none."""
    return jax.process_index() == 0


def dealt(items: Sequence[Item]) -> Sequence[Item]:
    """Those of ``items`` that this process makes."""
    return items[jax.process_index() :: jax.process_count()]


class Share(NamedTuple):
    """How one piece of work is shared: process ``index`` of ``count`` makes what of a list is ``dealt`` to it, all of
    them ``meet``, and the first makes what cannot be shared."""

    dealt: Callable[[Any], Any]
    meet: Callable[[], None]
    index: int
    count: int


def shared() -> Share:
    """By all processes."""
    return Share(dealt, meet, jax.process_index(), jax.process_count())


ALONE = Share(lambda items: items, lambda: None, 0, 1)
"""By nobody: each process makes a piece of its own."""


def anywhere(flag: bool) -> bool:
    """Whether ``flag`` holds on any process. With several, all must call it, and it waits for the slowest."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def meet() -> None:
    """Returns when every process has come here, however late; files that were written before are there for all."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.sync_global_processes("meet", timeout=LONG, processes={*range(jax.process_count())})


def together(make: Callable[[slice], Iterable[Num[np.ndarray, "..."]]], n: int) -> Num[np.ndarray, "{n} ..."]:
    """``n`` arrays of one shape, of 32 bits or less, of which each process makes its share, on all of them.

    ``make``: the arrays of a slice of the indices, in order. A process for which there is none makes the first.
    """
    count, index = jax.process_count(), jax.process_index()
    own = np.stack([*make(slice(index if index < n else 0, n, count))])
    if count == 1:
        return own
    from jax.experimental import multihost_utils

    meet()  # a collective waits for seconds only until all have begun it
    own = np.resize(own, (-(-n // count), *own.shape[1:]))  # all give as many
    pieces = [multihost_utils.process_allgather(own[at : at + MOST]) for at in range(0, len(own), MOST)]
    return np.concatenate(pieces, 1).swapaxes(0, 1).reshape(-1, *own.shape[1:])[:n]
