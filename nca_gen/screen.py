"""What a person sees while something runs, and after: one bar, one table, one way to say how long and how many.

On a terminal by rich, which is imported when something is shown; elsewhere as plain lines.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from datetime import timedelta
from numbers import Real
from typing import Any, TypeVar

Item = TypeVar("Item")
Show = Callable[[int | float, int | float, str], None]  # (done, total, text) of a bar
EVERY = 60.0  # seconds between two lines where there is no terminal
BLINK = 0.2  # seconds between two looks of a bar
UNITS = ("", " k", " M", " G", " T")


# Numbers.


def count(n: int | float) -> str:
    """Says ``n`` in three digits and a letter: 93.2 k, 1.07 G."""
    power = max((i for i in range(1, len(UNITS)) if abs(n) >= 999.5 * 1000 ** (i - 1)), default=0)
    return f"{n / 1000**power:.3g}{UNITS[power]}"


def number(value: Any) -> str:
    """Says ``value`` in four digits, thousands separated, or in a word where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return "n/a"
    x = float(value)
    if not math.isfinite(x):
        return "not finite"
    return f"{x:,.0f}" if abs(x) >= 1000 or x.is_integer() else f"{x:.4g}".replace("e-0", "e-")


def duration(seconds: int | float) -> str:
    """Says a time in two digits, or whole units, of what reads best: seconds, minutes, hours, days."""
    unit, name = next((u for u in ((86400, "days"), (3600, "hours"), (60, "min")) if seconds >= 2 * u[0]), (1, "s"))
    value = seconds / unit
    return f"{value:.0f} {name}" if value >= 10 else f"{value:.2g} {name}"


def eta(left: int | float, rate: int | float) -> str:
    """Says when ``left`` units are done at ``rate`` units a second: hours:minutes:seconds, or "?"."""
    return str(timedelta(seconds=round(left / rate))) if rate > 0 else "?"


# Bars.


class Bar:
    """How far something is, drawn by ``show``; made by :func:`bar`.

    ``what`` is done, which may be set at any time; ``unit`` is what is counted, as in images/s, where a stretch does
    not say its own.
    """

    def __init__(self, show: Show, what: str = "", total: int | float = 0, unit: str = ""):
        """``total`` is how many units there are in all."""
        self.show, self.usual, self.drawn = show, unit, -math.inf
        self.begin(what, total)

    def begin(self, what: str, total: int | float, done: int | float = 0, unit: str = "") -> None:
        """Starts another stretch, of ``total``, of which ``done`` was done before."""
        self.unit = unit or self.usual
        self.what, self.total, self.done, self.first, self.clock = what, total, done, done, time.perf_counter()
        self.show(done, total, what)

    def advance(self, n: int | float = 1) -> None:
        """Counts ``n`` more as done."""
        self.reach(self.done + n)

    def reach(self, done: int | float, text: str = "") -> None:
        """Says that ``done`` are done in all. ``text``, where given, stands beside the bar in place of :meth:`text`."""
        self.done, now = done, time.perf_counter()
        if now - self.drawn > BLINK or done >= self.total:
            self.drawn = now
            self.show(done, self.total, text or self.text())

    def text(self) -> str:
        """What is done, how far, how fast, and when it will be finished."""
        seconds = time.perf_counter() - self.clock
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        speed = f"{count(rate)} {self.unit}/s  " if self.unit else ""
        return f"{self.what}  {count(self.done)}/{count(self.total)}  {speed}ETA {eta(self.total - self.done, rate)}"


SILENT = Bar(lambda done, total, text: None)
"""A bar for loops that nobody watches."""


@contextmanager
def bar(
    what: str = "",
    total: int | float = 0,
    unit: str = "",
    *,
    every: int | float = EVERY,
    stay: bool = False,
    quiet: bool = False,
) -> Generator[Bar, None, None]:
    """Yields a :class:`Bar` that is shown while the block runs.

    On a terminal as one line, which goes away at the end or may ``stay``. Elsewhere as a line each ``every`` seconds:
    what is done sooner says nothing; infinity is never. ``quiet`` shows nothing, for all processes but the first.
    """
    if quiet or not sys.stdout.isatty():
        yield Bar(_lines(math.inf if quiet else every), what, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(None)
    with Progress(*columns, console=Console(), refresh_per_second=4, transient=not stay) as progress:
        row = progress.add_task(what, total=total)

        def draw(done: int | float, total: int | float, text: str) -> None:
            progress.update(row, completed=done, total=total, description=text)

        yield Bar(draw, what, total, unit)


def _lines(every: int | float) -> Show:
    """A way to show a bar as a line each ``every`` seconds."""
    spoken = time.perf_counter()

    def say(done: int | float, total: int | float, text: str) -> None:
        nonlocal spoken
        if time.perf_counter() - spoken >= every:
            spoken = time.perf_counter()
            print(text, flush=True)

    return say


def track(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "", *, quiet: bool = False
) -> Iterator[Item]:
    """Yields ``items`` under a :func:`bar`. ``total`` is their number, where they have no length."""
    n = len(items) if isinstance(items, Sized) else total or 0
    with bar(what, n, unit, quiet=quiet) as shown:
        for item in items:
            yield item
            shown.advance()


# Tables. Columns are names; of the cells of a row, text stands as it is and a number as :func:`number` says it.


def words(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> tuple[list[list[str]], list[int]]:
    """The lines of a table, its heads first, as text, and the width of each column. None is an empty cell."""
    lines = [*([columns] if columns else []), *rows]
    cells = [["" if x is None else x if isinstance(x, str) else number(x) for x in line] for line in lines]
    return cells, [max(map(len, column)) for column in zip(*cells, strict=True)]


def aligned(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table as lines of text, the first column to the left and the others to the right; without heads if there are
    no ``columns``."""
    cells, widths = words(columns, rows)
    sides = [str.ljust, *[str.rjust] * len(widths[1:])]
    return ["  ".join(to(x, n) for to, x, n in zip(sides, line, widths, strict=True)).rstrip() for line in cells]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table as lines of Markdown, whose columns stand below each other."""
    (heads, *body), widths = words(columns, rows)
    rule = ["-" * width for width in widths]
    return [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in (heads, rule, *body)]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Prints a table: drawn on a terminal, else as :func:`aligned` lines below the ``title``."""
    if not sys.stdout.isatty():
        for line in ([title] if title else []) + aligned(columns, rows):
            print(line, flush=True)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    (heads, *body), _ = words(columns, rows)
    drawn = Table(title=title and escape(title))
    for i, name in enumerate(heads):
        drawn.add_column(escape(name), justify="right" if i else "left")
    for line in body:
        drawn.add_row(*map(escape, line))
    Console().print(drawn)
