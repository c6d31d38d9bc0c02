"""What is true of a drawn retina: its surfaces, its vessels, and how it reflects.

Lengths are in micrometres: on a plane from the middle of the fovea, into the depth from the first row, or of vessels.
There are only sums, products, quotients, square roots and roundings here, which are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, UInt8

from nca_gen.data import layers

FIELD, DEPTH = 4000.0, 700.0  # along D and W, and along H
STEP = 40.0  # from a point of a vessel to the next
SHADOW = -40  # grey levels below a large vessel
AT_ONCE = 2**18  # numbers that are in memory at once where vessels are laid
Plane = Float64[np.ndarray, "D W"]
Grid = tuple[int, int]
Edge = tuple[Plane, Any]


class Anatomy(NamedTuple):
    """What is true of a volume: its ``surfaces`` in rows, and its ``vessels`` by class (:mod:`nca_gen.data.layers`).

    How it reflects: ``base``, the grey level above the retina, and E edges along each A-scan: the row ``at`` which the
    level changes, from there to the back, and by how many sixteenths of a level (``steps``).
    """

    surfaces: Float32[np.ndarray, "6 D W"]
    vessels: UInt8[np.ndarray, "D W"]
    base: Int16[np.ndarray, "D W"]
    at: Float32[np.ndarray, "E D W"]
    steps: Int16[np.ndarray, "E D W"]


def anatomy(size: Sequence[int], seed: int, index: int) -> Anatomy:
    """What is true of volume ``index``, of ``size`` (D, H, W)."""
    depth, height, width = size
    grid, rows, pixel = (depth, width), height / DEPTH, FIELD / min(depth, width)
    rng = np.random.default_rng([seed, index])
    nose = -1.0 if rng.random() < 0.5 else 1.0  # the eye is a left or a right one
    shift = rng.uniform(-150, 150, 2)
    y = ((np.arange(depth) + 0.5) / depth - 0.5)[:, None] * FIELD - shift[0]
    x = nose * (((np.arange(width) + 0.5) / width - 0.5) * FIELD - shift[1])  # away from the nose
    far = np.sqrt(y * y + x * x)
    bounds = _bounds(rng, grid, far, x)
    rim = far * (1 + 0.25 * smooth(rng, grid, 11)) - rng.uniform(240, 340)  # of the FAZ
    paths = [path * (1, nose, 1) + (*shift, 0) for path in _vessels(rng)]
    arteries, veins = (_calibres(np.concatenate(some), grid) for some in (paths[::2], paths[1::2]))
    mesh = (_cells(rng, grid, max(110.0, 5 * pixel)) < max(18.0, pixel)) | (rim < max(25.0, pixel))
    vessels = np.where(rim < 0, 4, mesh)
    vessels = np.where(np.maximum(arteries, veins) > 0, np.where(arteries >= veins, 2, 3), vessels)
    edges = [
        *_layers(bounds),
        *_choroid(rng, grid, bounds["BM"]),
        *_blood(bounds["ILM"] + 50, arteries, 54, rows),
        *_blood(bounds["ILM"] + 64, veins, 38, rows),
        *_capillaries(bounds, vessels == 1, rows),
    ]
    base = 22 + 7 * smooth(rng, grid, 4) + rng.uniform(-2, 2, (depth, 1))
    return Anatomy(
        (np.stack([bounds[name] for name in layers.SURFACES]) * rows).astype(np.float32),
        vessels.astype(np.uint8),
        np.rint(base).astype(np.int16),
        np.stack([(at * rows).astype(np.float32) for at, _ in edges]),
        np.stack([np.broadcast_to(np.rint(16 * np.asarray(step)), grid).astype(np.int16) for _, step in edges]),
    )


def smooth(rng: np.random.Generator, grid: Grid, cells: int) -> Plane:
    """Smooth noise, mostly within [-1, 1]: a cubic B-spline on ``cells`` an axis, the same on any grid."""
    plane = rng.uniform(-2, 2, (cells + 3, cells + 3))
    for axis, side in enumerate(grid):
        at = (np.arange(side) + 0.5) / side * cells
        first = np.floor(at).astype(int)
        t = (at - first).reshape(-1, *[1] * (1 - axis))
        u = 1 - t
        weights = u * u * u / 6, (3 * t * t * t - 6 * t * t + 4) / 6, (3 * u * u * u - 6 * u * u + 4) / 6, t * t * t / 6
        plane = sum(weight * plane.take(first + k, axis) for k, weight in enumerate(weights))
    return plane


def _bounds(rng: np.random.Generator, grid: Grid, far: Plane, x: np.ndarray) -> dict[str, Plane]:
    """Where layers begin, from the back to the front; a name is that of the layer that ends there, or of a surface."""

    def near(width: int | float) -> Plane:
        """1 at the fovea, and a quarter at that distance."""
        return 1 / (1 + (far / width) ** 2) ** 2

    drift = 9 * smooth(rng, (grid[0], 1), 5) + 4 * smooth(rng, (grid[0], 1), 24)
    tilt = rng.uniform(-25, 25, 2) / FIELD
    rise = tilt[0] * x + tilt[1] * FIELD * np.linspace(-1, 1, grid[0])[:, None] + rng.uniform(4, 12) * (far / 1000) ** 2
    bounds = {"BM": 470 - rise + drift + 8 * smooth(rng, grid, 5)}
    thickness = {
        "RPE": 20,
        "EZ": 16 + 8 * near(450),
        "IS/OS": 16,
        "OPL": 62 + 55 * near(600),
        "INL": 12 + 20 * (1 - near(420)),
        "IPL": 7 + 34 * (1 - near(420)),
        "NFL": 11 + (72 + 26 * near(1700)) * (1 - near(480)),
        "ILM": 6 + 30 * (1 - 0.4 * x / FIELD) * (1 - near(800)),
    }
    at = bounds["BM"]
    for name, mean in thickness.items():
        at = at - mean * rng.uniform(0.9, 1.1) * (1 + 0.1 * smooth(rng, grid, 5))
        bounds[name] = at
    return bounds


def _layers(bounds: Mapping[str, Plane]) -> Iterator[Edge]:
    """Where the grey level changes, and by how much, from the vitreous into the choroid."""
    steps = {"ILM": 140, "NFL": -48, "IPL": -36, "INL": 30, "OPL": -52, "IS/OS": 112, "EZ": -46, "RPE": 72, "BM": -38}
    yield from ((bounds[name], step) for name, step in steps.items())
    limiting = bounds["OPL"] + 0.8 * (bounds["IS/OS"] - bounds["OPL"])  # the external membrane
    yield limiting, 20
    yield limiting + 7, -20
    yield from ((bounds["BM"] + 18 * k, -9) for k in range(1, 13))


def _choroid(rng: np.random.Generator, grid: Grid, back: Plane) -> Iterator[Edge]:
    """The dark lumens of choroidal vessels, in two storeys."""
    for below, cells, radius in ((45, 15, 16), (105, 9, 38)):
        half = radius * np.clip(2 * smooth(rng, grid, cells), 0, 1)
        middle = back + below + 12 * smooth(rng, grid, 6)
        yield middle - half, np.where(half > 0, -38, 0)
        yield middle + half, np.where(half > 0, 38, 0)


def _blood(middle: Plane, half: Plane, bright: int, rows: int | float) -> Iterator[Edge]:
    """Vessels of such ``half`` calibres: their ``bright`` walls, a darker lumen between, and the shadow below."""
    wall, there = max(9.0, 1 / rows), np.minimum(half / 20, 1)
    yield middle - half, bright * there
    yield middle - half + wall, (6 - bright) * there
    yield middle + half - wall, (bright - 16) * there
    yield middle + half, (SHADOW + 10 - bright) * there


def _capillaries(bounds: Mapping[str, Plane], mesh: Bool[np.ndarray, "D W"], rows: int | float) -> Iterator[Edge]:
    """A little brighter than what is around them, in two storeys."""
    for name, below in (("NFL", 14), ("IPL", -4)):
        yield bounds[name] + below, np.where(mesh, 20, 0)
        yield bounds[name] + below + max(10.0, 1 / rows), np.where(mesh, -20, 0)


def _cells(rng: np.random.Generator, grid: Grid, pitch: int | float) -> Plane:
    """How much farther the second of scattered points, one in each square of ``pitch``, is than the nearest."""
    n = int(FIELD / pitch) + 1
    points = rng.random((n + 2, n + 2, 2))
    at = [(np.arange(side) + 0.5) / side * (FIELD / pitch) for side in grid]
    row, column = (np.floor(a).astype(int) for a in at)
    first = second = np.full(grid, np.inf)
    for i in range(3):
        for j in range(3):
            dy, dx = np.moveaxis(points[row[:, None] + i, column + j], -1, 0)
            dy, dx = dy + (row - at[0] + i - 1)[:, None], dx + (column - at[1] + j - 1)
            distance = np.sqrt(dy * dy + dx * dx)
            first, second = np.minimum(first, distance), np.minimum(second, np.maximum(first, distance))
    return (second - first) * pitch


def _vessels(rng: np.random.Generator) -> list[Float64[np.ndarray, "n 3"]]:
    """Points (y, x, radius) of vessels, arteries and veins by turns: arcades that branch, and branches that branch."""
    draws = iter(rng.random(2**15).tolist())
    paths: list[np.ndarray] = []
    for sign in (-1.0, 1.0):
        for reach, radius in ((1250.0, 44.0), (1500.0, 58.0)):
            reach *= 0.88 + 0.24 * next(draws)
            tip = (sign * reach * math.sqrt(1 / 3), -2400.0, sign * 0.3, 1.0, radius)
            paths.append(np.array([*_grown(tip, sign * reach, 0, draws)]))
    return paths


def _grown(
    tip: tuple[float, ...], arch: int | float, order: int, draws: Iterator[float]
) -> Iterator[tuple[float, ...]]:
    """The points of a vessel and of its branches, from its ``tip`` (y, x, direction in y and in x, radius).

    An ``arch`` crosses the middle of the fovea's column at that height, and begins 3600 before it as a parabola does.
    """
    y, x, dy, dx, radius = tip
    turn, since, side = 0.0, 0.0, 1.0 if next(draws) < 0.5 else -1.0
    gap, left = 250 + 500 * next(draws), 5200.0 if order == 0 else (700 + 1500 * next(draws)) / order
    while left > 0 and radius > 9 and max(abs(y), abs(x)) < 2500:
        far = math.sqrt(y * y + x * x)
        if order and far < 520:
            return
        turn = 0.85 * turn + 0.12 * (next(draws) - 0.5)
        if order == 0:
            to_y, to_x, pull = arch * math.sqrt(max(0.0, (x + 4000) / 3600)) - y, 400.0, 0.35
        else:
            to_y, to_x, pull = -y, -x, 0.05 if y * dy + x * dx < 0 else 0.0  # those that go inwards seek the fovea
        length = math.sqrt(to_y * to_y + to_x * to_x) or 1.0
        dy, dx = dy - turn * dx + pull * to_y / length, dx + turn * dy + pull * to_x / length
        length = math.sqrt(dy * dy + dx * dx)
        dy, dx = dy / length, dx / length
        y, x, radius, left, since = y + STEP * dy, x + STEP * dx, radius * 0.994, left - STEP, since + STEP
        yield y, x, radius
        if since > gap and order < 2:
            gap, since, side = 250 + 500 * next(draws), 0.0, -side
            child = (y, x, 0.7 * dy - side * 0.7 * dx, 0.7 * dx + side * 0.7 * dy, radius * (0.5 + 0.2 * next(draws)))
            yield from _grown(child, arch, order + 1, draws)


def _calibres(points: Float64[np.ndarray, "n 3"], grid: Grid) -> Plane:
    """Half of how thick the vessels are that balls at ``points`` of the field make, seen from the front; 0 outside.

    Seen from there none is narrower than the grid can show; what is much narrower is not seen.
    """
    pitch = [FIELD / side for side in grid]
    points = _denser(points, min(pitch) / 2)
    points = points[points[:, 2] > min(0.2 * max(pitch), 28.0)]
    radius = np.maximum(points[:, 2], 0.75 * max(pitch))
    at = [(points[:, k] / FIELD + 0.5) * grid[k] - 0.5 for k in (0, 1)]
    squares = np.zeros(grid[0] * grid[1])
    reach = [int(radius.max(initial=0) / p) + 1 for p in pitch]
    offsets = [np.arange(-r, r + 1) for r in reach]
    share = max(1, AT_ONCE // (len(offsets[0]) * len(offsets[1])))
    for start in range(0, len(points), share):
        some = slice(start, start + share)
        place = [np.rint(a[some, None]).astype(int) + o for a, o in zip(at, offsets, strict=True)]
        off = [((n - a[some, None]) * p) ** 2 for n, a, p in zip(place, at, pitch, strict=True)]
        inside = [(n >= 0) & (n < side) for n, side in zip(place, grid, strict=True)]
        left = 1 - (off[0][:, :, None] + off[1][:, None, :]) / radius[some, None, None] ** 2
        there = (left > 0) & inside[0][:, :, None] & inside[1][:, None, :]
        flat = place[0][:, :, None] * grid[1] + place[1][:, None, :]
        np.maximum.at(squares, flat[there], (left * points[some, 2, None, None] ** 2)[there])
    return np.sqrt(squares).reshape(grid)


def _denser(points: Float64[np.ndarray, "n 3"], gap: int | float) -> Float64[np.ndarray, "m 3"]:
    """Points between those of a vessel, at most ``gap`` apart."""
    k = int(STEP / gap) + 1
    a, b = points[:-1], points[1:]
    joined = (np.abs(b - a)[:, :2] < 1.5 * STEP).all(1)  # and not the end of one and the begin of another
    a, b = a[joined], b[joined]
    return np.concatenate([points, *(a + (b - a) * (i / k) for i in range(1, k))])
