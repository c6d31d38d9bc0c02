"""The rows of --mode=bench as they are read."""

from __future__ import annotations

import math
from typing import Any

from nca_gen import screen
from nca_gen.contracts import Page
from nca_gen.report import report
from nca_gen.verbs.bench_harness import Row

COLUMNS = {  # of a table, each only where a row has it
    "seconds": "s",
    "cpu_seconds": "CPU s",
    "memory_mb": "MB",
    "device_mb": "MB on the device",
    "rate": "GFLOP/s",
    "fraction_of_matrix_rate": "of products",
    "pixels_per_second": "pixels/s",
    "cell_updates_per_second": "cell updates/s",
    "images_per_second": "images/s",
}
COUNTS = ("rate", "pixels_per_second", "cell_updates_per_second")  # large numbers


def show(rows: list[Row], title: str = "") -> None:
    """Prints a table of ``rows``."""
    rows = [row | ({"rate": row["gflop"] / row["seconds"]} if "gflop" in row else {}) for row in rows]
    known = {field: head for field, head in COLUMNS.items() if any(field in row for row in rows)}
    cells = [[row["name"], *(cell(field, row.get(field)) for field in known)] for row in rows]
    screen.table(["", *known.values()], cells, title)


def cell(field: str, value: Any) -> Any:
    """A value of a row, in the form of its column."""
    if value is None:
        return ""
    if field == "fraction_of_matrix_rate":
        return f"{value:.0%}"
    return screen.count(value) if field in COUNTS else value


def size(sides: tuple[int, ...]) -> str:
    """Sides in words."""
    return "x".join(map(str, sides))


def holes(rows: list[Row], whole: Row, sides: tuple[int, ...]) -> None:
    """Prints what a step of inpainting costs, by the side of the hole."""
    cells = [
        [f"{math.isqrt(row['pixels'])} pixels" if row is not whole else "the whole picture"]
        + [row[field] for field in ("cells", "gflop", "seconds")]
        for row in (*rows, whole)
    ]
    title = f"a step of inpainting in a picture of {size(sides)}, by the side of the hole"
    screen.table(["hole", "cells", "GFLOP", "s"], cells, title)


def page(facts: Row, sides: tuple[int, ...]) -> str:
    """The same as curves, for a browser; ``facts``: of a bench with its part "hole"."""
    curves = {
        title: [(row["pixels"], row[field]) for row in facts["hole"]]
        for field, title in {"gflop": "GFLOP (matrix products) a step", "seconds": "seconds a step"}.items()
    }
    intro = f"Over the pixels of a square hole, in a picture of {size(sides)}. {facts['machine']}"
    return report.render(
        "nca_gen: holes", [Page("The cost of a hole", curves=curves, intro=intro)], over="nca_gen · bench"
    )
