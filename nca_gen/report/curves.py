"""Curves as small inline SVG pictures: no library, colours by CSS class, readable at the width of a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 350, 10, 176  # the frame that holds the data
POINTS = 240


def thin(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], points: int = POINTS
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Mean ``x``, and least, mean and greatest ``y``, of at most ``points`` runs of neighbours: no spike is lost."""
    starts = np.unique(np.linspace(0, len(x), min(points, len(x)), endpoint=False).astype(int))
    counts = np.diff(np.append(starts, len(x)))
    at, mean = (np.add.reduceat(v, starts) / counts for v in (x, y))
    return at, np.minimum.reduceat(y, starts), mean, np.maximum.reduceat(y, starts)


def smooth(y: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n"]:
    """Centred moving average over ``width`` values, over fewer at the ends."""
    box = np.ones(min(width, len(y)))
    return np.convolve(y, box, "same") / np.convolve(np.ones(len(y)), box, "same")


def ticks(low: float, high: float, log: bool = False, most: int = 5) -> list[float]:
    """At most about ``most`` round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten, or, for a
    logarithmic axis, such numbers themselves."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1, 2, 5), (1,)):
            marks = [d * 10.0**e for e in decades for d in digits if low <= d * 10.0**e <= high]
            if len(marks) <= most:
                return marks
        return marks[:: -(-len(marks) // most)]
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m * most >= (high - low) * (1 - 1e-9))
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 200k, 1.5M, 0.02, 1.6e-3."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    if 0 < abs(value) < 0.01:
        digits, _, exponent = f"{value:.3e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def draw(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], label: str, *, zero: bool = False, dots: bool = False
) -> str:
    """``y`` over ``x`` (finite, ascending in x, at least one): raw pale, smoothed on top, or with ``dots`` each value.

    Where values are too many to draw, the raw ones are a band from the least to the greatest. The vertical axis starts
    at 0 if ``zero``, and is logarithmic where the smoothed curve is positive and spans a factor above 20. The frame
    cuts off the rarest raw spikes.
    """
    at, least, mean, greatest = thin(x, y)
    line = mean if dots else smooth(mean, max(1, len(mean) // 16))
    low = float(min(line.min(), np.quantile(least, 0.01)))
    high = float(max(line.max(), np.quantile(greatest, 0.99)))
    log = bool(not zero and low > 0 and line.max() > 20 * line.min())
    low = 0.0 if zero else low
    if not log:
        # No axis is so narrow that four digits cannot tell its marks apart.
        room = max(0.06 * (high - low), 0.01 * max(abs(low), abs(high))) or 1.0
        low, high = low if zero else low - room, high + room
    height = np.log10 if log else np.asarray
    first, last = (float(x[0]), float(x[-1])) if len(x) > 1 else (float(x[0]) - 1, float(x[0]) + 1)

    def place(px, py):
        u = (np.asarray(px, float) - first) / (last - first)
        v = (height(np.maximum(py, low * 0.5) if log else py) - height(low)) / (height(high) - height(low))
        return LEFT + u * (RIGHT - LEFT), BOTTOM - v * (BOTTOM - TOP)

    def points(px, py):
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(*place(px, py), strict=True))

    parts = []
    for mark in ticks(low, high, log):
        v = place(first, mark)[1]
        parts.append(f'<path class="rule" d="M{LEFT} {v:.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{v + 3.5:.1f}" text-anchor="end">{short(mark)}</text>')
    for mark in ticks(first, last, most=4):
        u = place(mark, high)[0]
        anchor = "end" if u > RIGHT - 12 else "middle"
        parts.append(f'<text x="{u:.1f}" y="{BOTTOM + 16}" text-anchor="{anchor}">{short(mark)}</text>')
    inside = []
    if dots:
        inside += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in zip(*place(at, mean), strict=True)]
    elif len(at) < len(x):
        around = points(np.append(at, at[::-1]), np.append(least, greatest[::-1]))
        inside.append(f'<polygon class="raw" points="{around}"/>')
    else:
        inside.append(f'<polyline class="raw" points="{points(x, y)}"/>')
    inside.append(f'<polyline class="line" points="{points(at, line)}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}{", logarithmic" * log}">'
        f'{"".join(parts)}<svg x="0" y="{TOP - 4}" width="{WIDTH}" height="{BOTTOM - TOP + 8}" '
        f'viewBox="0 {TOP - 4} {WIDTH} {BOTTOM - TOP + 8}">{"".join(inside)}</svg></svg>'
    )


def scatter(points: Sequence[tuple[float, float, str]], label: str) -> str:
    """Single points (x, y, name), at least one, x above 0 on a logarithmic axis; each with its name beside it, from
    left to right by turns above and below, so that neighbours do not cover each other's."""
    x, y = np.log10([a for a, _, _ in points]), np.asarray([b for _, b, _ in points], float)
    (left, right), (low, high) = _roomy(x, 0.3), _roomy(y, 0.01 * float(np.abs(y).max()) or 1.0)

    def place(px: float, py: float) -> tuple[float, float]:
        u, v = (px - left) / (right - left), (py - low) / (high - low)
        return LEFT + u * (RIGHT - LEFT), BOTTOM - v * (BOTTOM - TOP)

    parts = []
    for mark in ticks(low, high):
        v = place(left, mark)[1]
        parts.append(f'<path class="rule" d="M{LEFT} {v:.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{v + 3.5:.1f}" text-anchor="end">{short(mark)}</text>')
    for mark in ticks(10**left, 10**right, log=True):
        u = place(math.log10(mark), low)[0]
        parts.append(f'<text x="{u:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{short(mark)}</text>')
    for turn, i in enumerate(np.argsort(x, kind="stable")):
        (u, v), name = place(x[i], y[i]), points[i][2]
        side, end = (-7, "end") if u > (LEFT + RIGHT) / 2 else (7, "start")
        height = v + 13 if turn % 2 else v - 5
        parts.append(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="4"/>')
        parts.append(f'<text x="{u + side:.1f}" y="{height:.1f}" text-anchor="{end}">{escape(name)}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _roomy(values: Float[np.ndarray, " n"], least: float) -> tuple[float, float]:
    """The ends of an axis on which no value lies at the rim; it is ``least`` wider than they are, on either side."""
    low, high = float(values.min()), float(values.max())
    room = max(0.12 * (high - low), least)
    return low - room, high + room
