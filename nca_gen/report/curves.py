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


def scatter(points: Sequence[tuple[float, float, str]], label: str, *, log: bool = False) -> str:
    """Single points (x, y, name), at least one, x above 0 on a logarithmic axis, and with ``log`` y on one too; each
    with its name where it covers the least of others, at best by turns above and below from left to right."""
    height = np.log10 if log else np.asarray
    x, y = np.log10([a for a, _, _ in points]), height([float(b) for _, b, _ in points])
    (left, right), (low, high) = _roomy(x, 0.3), _roomy(y, 0.3 if log else 0.01 * float(np.abs(y).max()) or 1.0)

    def place(px: float, py: float) -> tuple[float, float]:
        u, v = (px - left) / (right - left), (py - low) / (high - low)
        return LEFT + u * (RIGHT - LEFT), BOTTOM - v * (BOTTOM - TOP)

    parts = []
    for mark in ticks(10**low, 10**high, log) if log else ticks(low, high):
        v = place(left, float(height(mark)))[1]
        parts.append(f'<path class="rule" d="M{LEFT} {v:.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{v + 3.5:.1f}" text-anchor="end">{short(mark)}</text>')
    for mark in ticks(10**left, 10**right, log=True):
        u = place(math.log10(mark), low)[0]
        parts.append(f'<text x="{u:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{short(mark)}</text>')
    spots = [place(float(px), float(py)) for px, py in zip(x, y, strict=True)]
    beyond = [(float(RIGHT), 0.0, 2.0 * RIGHT, float(HEIGHT)), (-float(RIGHT), 0.0, 0.0, float(HEIGHT))]
    fixed = beyond + [(u - 4, v - 4, u + 4, v + 4) for u, v in spots]
    said: dict[int, tuple[int, int, Box]] = {}
    for _ in range(2):  # the second time, each has seen where all others are
        for turn, i in enumerate(map(int, np.argsort(x, kind="stable"))):
            (u, v), name = spots[i], points[i][2]
            sides = (-1, 1) if u > (LEFT + RIGHT) / 2 else (1, -1)
            heights = (13, -5) if turn % 2 else (-5, 13)
            taken = fixed + [box for j, (_, _, box) in said.items() if j != i]
            free = [(side, up, _box(u + 7 * side, v + up, side, name)) for side in sides for up in heights]
            said[i] = min(free, key=lambda one: sum(_overlap(one[2], other) for other in taken))
    for i, (side, up, _) in said.items():
        (u, v), anchor = spots[i], "start" if side > 0 else "end"
        parts.append(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="4"/>')
        parts.append(
            f'<text x="{u + 7 * side:.1f}" y="{v + up:.1f}" text-anchor="{anchor}">{escape(points[i][2])}</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _roomy(values: Float[np.ndarray, " n"], least: float) -> tuple[float, float]:
    """The ends of an axis on which no value lies at the rim; it is ``least`` wider than they are, on either side."""
    low, high = float(values.min()), float(values.max())
    room = max(0.12 * (high - low), least)
    return low - room, high + room


Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle, in pixels."""


def _box(u: float, v: float, side: int, name: str) -> Box:
    """About where ``name`` lies, whose line starts (``side`` 1) or ends (-1) at ``u``, ``v``."""
    width = 6.0 * len(name)
    left = u if side > 0 else u - width
    return left, v - 10, left + width, v + 3


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(high, 0.0)
