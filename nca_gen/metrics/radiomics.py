"""Radiomic features of an image or a volume: 77 numbers of every filtered form of it, as texture analysis defines them.

First order 18, grey level co-occurrence 22, run length 16, size zone 16, neighbouring grey tone difference 5: the
definitions are those of the Image Biomarker Standardisation Initiative (Zwanenburg et al. 2020, Radiology 295) in the
form in which PyRadiomics computes them (van Griethuysen et al. 2017, Cancer Research 77): bins begin at a multiple of
their width, the features of directions are averaged, entropies are in bits.

Any number of axes of space: neighbours are the cells that touch, 8 in two dimensions and 26 in three.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy import ndimage, sparse

WIDTH, SHIFT = 5.0, 300.0  # of a bin of grey levels; what is added before squares are taken
COIFLET = (np.array([[1, 5, 14, 14, 1, -3], [-1, 1, 2, -2, -1, 1]]).T @ [1.0, math.sqrt(7)])[::-1] / (16 * math.sqrt(2))
LOW, HIGH = COIFLET, COIFLET[::-1] * (-1) ** np.arange(1, 7)  # analysis filters of coif1 (Daubechies 1992, section 8.2)
Features = dict[str, float]


class Region(NamedTuple):
    """An image and which of its cells count; ``levels``: the bin of each, from 1, and 0 for the others, in a frame of
    zeros, flat; ``strides``: how far apart neighbours lie in that, for one of each pair of opposite directions."""

    values: Float64[np.ndarray, " n"]
    levels: Int[np.ndarray, " N"]
    strides: list[int]


def region(image: Float[np.ndarray, "*S"], mask: Bool[np.ndarray, "*S"], width: float = WIDTH) -> Region:
    """The ``mask`` of an image, in bins of ``width``."""
    values = image[mask].astype(np.float64)
    levels = np.zeros(image.shape, int)
    levels[mask] = np.floor(values / width) - np.floor(values.min() / width) + 1
    framed = np.pad(levels, 1)
    steps = np.array(framed.strides) // framed.itemsize
    strides = [int(np.dot(way, steps)) for way in product((-1, 0, 1), repeat=image.ndim)]
    return Region(values, framed.ravel(), [stride for stride in strides if stride > 0])


def features(image: Float[np.ndarray, "*S"], mask: Bool[np.ndarray, "*S"], cell: float = 1.0) -> Features:
    """The 77 features of the cells in ``mask``, each ``cell`` in area or volume, by their published names."""
    of = region(image, mask)
    classes = {
        "firstorder": first_order(of, cell),
        "glcm": co_occurrence(of),
        "glrlm": run_lengths(of),
        "glszm": size_zones(of),
        "ngtdm": tone_differences(of),
    }
    return {f"{kind}_{name}": float(value) for kind, named in classes.items() for name, value in named.items()}


def first_order(of: Region, cell: float = 1.0) -> Features:
    """Features of the histogram."""
    x = of.values
    tenth, quarter, median, three_quarters, ninetieth = np.percentile(x, (10, 25, 50, 75, 90))
    centred = x - x.mean()
    moments = [np.mean(centred**k) for k in (2, 3, 4)]
    variance = moments[0]
    energy = float(((x + SHIFT) ** 2).sum())
    p = _shares(of.levels[of.levels > 0])
    inner = x[(x >= tenth) & (x <= ninetieth)]
    return {
        "10Percentile": tenth,
        "90Percentile": ninetieth,
        "Energy": energy,
        "Entropy": _entropy(p),
        "InterquartileRange": three_quarters - quarter,
        "Kurtosis": moments[2] / variance**2 if variance else 0.0,
        "Maximum": x.max(),
        "MeanAbsoluteDeviation": np.abs(centred).mean(),
        "Mean": x.mean(),
        "Median": median,
        "Minimum": x.min(),
        "Range": np.ptp(x),
        "RobustMeanAbsoluteDeviation": np.abs(inner - inner.mean()).mean(),
        "RootMeanSquared": math.sqrt(energy / len(x)),
        "Skewness": moments[1] / variance**1.5 if variance else 0.0,
        "TotalEnergy": cell * energy,
        "Uniformity": (p**2).sum(),
        "Variance": variance,
    }


def co_occurrence(of: Region) -> Features:
    """Features of the symmetric matrix of the levels of neighbours (Haralick et al. 1973), mean over directions."""
    ways = [pair for stride in of.strides if (pair := _neighbours(of.levels, stride))[0].size]
    return _mean([_co_occurrence(a, b, int(of.levels.max())) for a, b in ways])


def _co_occurrence(a: Int[np.ndarray, " P"], b: Int[np.ndarray, " P"], top: int) -> Features:
    """Of one direction: levels of pairs, of which each counts in both orders."""
    total, apart = a + b, np.abs(a - b)
    p_x = np.bincount(np.concatenate([a, b]))[1:] / (2 * len(a))
    level = np.arange(1, len(p_x) + 1)
    mean = float(p_x @ level)
    variance = float(p_x @ (level - mean) ** 2)
    p_sum, p_apart = _shares(total), np.bincount(apart) / len(a)
    k = np.arange(len(p_apart))
    # An entry of the matrix off the diagonal holds half of the pairs of its two levels.
    code, counts = np.unique(np.minimum(a, b) * (top + 1) + np.maximum(a, b), return_counts=True)
    equal = code // (top + 1) == code % (top + 1)
    p = np.where(equal, 1.0, 0.5) * counts / len(a)
    p_all = np.concatenate([p, p[~equal]])
    entropy, marginal = _entropy(p_all), _entropy(p_x)
    crossed = 2 * marginal  # the entropy of p_x p_y, and so is the cross entropy: rows and columns have one marginal
    average = float(p_apart @ k)
    return {
        "Autocorrelation": np.mean(a * b),
        "JointAverage": mean,
        "ClusterProminence": np.mean((total - 2 * mean) ** 4),
        "ClusterShade": np.mean((total - 2 * mean) ** 3),
        "ClusterTendency": np.mean((total - 2 * mean) ** 2),
        "Contrast": p_apart @ k**2,
        "Correlation": (np.mean(a * b) - mean**2) / variance if variance else 1.0,
        "DifferenceAverage": average,
        "DifferenceEntropy": _entropy(p_apart),
        "DifferenceVariance": p_apart @ (k - average) ** 2,
        "JointEnergy": (p_all**2).sum(),
        "JointEntropy": entropy,
        "Imc1": (entropy - crossed) / marginal if marginal else 0.0,
        "Imc2": math.sqrt(max(0.0, 1 - math.exp(-2 * (crossed - entropy)))),
        "Idm": p_apart @ (1 / (1 + k**2)),
        "Idmn": p_apart @ (1 / (1 + k**2 / top**2)),
        "Id": p_apart @ (1 / (1 + k)),
        "Idn": p_apart @ (1 / (1 + k / top)),
        "InverseVariance": p_apart[1:] @ (1 / k[1:] ** 2),
        "MaximumProbability": p.max(),
        "SumEntropy": _entropy(p_sum),
        "SumSquares": variance,
    }


def run_lengths(of: Region) -> Features:
    """Features of runs of one level along a line (Galloway 1975), mean over directions."""
    each, cells = [], len(of.values)
    for stride in of.strides:
        inside = np.flatnonzero(of.levels)
        level = of.levels[inside]
        starts, ends = (inside[of.levels[inside + step] != level] for step in (-stride, stride))
        # Cells of one line agree modulo the stride: in this order the ends of runs stand as their starts do.
        starts, ends = (at[np.lexsort((at, at % stride))] for at in (starts, ends))
        each.append(_sizes(of.levels[starts], (ends - starts) // stride + 1, cells, RUNS))
    return _mean(each)


def size_zones(of: Region) -> Features:
    """Features of connected zones of one level (Thibault et al. 2009)."""
    n = len(of.levels)
    inside = np.flatnonzero(of.levels)
    same = [inside[of.levels[inside] == of.levels[inside + stride]] for stride in of.strides]
    rows = np.concatenate(same)
    columns = np.concatenate([at + stride for at, stride in zip(same, of.strides, strict=True)])
    graph = sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), (n, n))
    _, zone = sparse.csgraph.connected_components(graph, directed=False)
    _, first, size = np.unique(zone[inside], return_index=True, return_counts=True)
    return _sizes(of.levels[inside[first]], size, len(inside), ZONES)


RUNS = ("RunLength", "Run", "Run", "ShortRun", "LongRun")
ZONES = ("SizeZone", "Zone", "Zone", "SmallArea", "LargeArea")


def _sizes(level: Int[np.ndarray, " R"], size: Int[np.ndarray, " R"], cells: int, words: tuple[str, ...]) -> Features:
    """Features of runs or zones of a ``level`` and a ``size`` each, of so many ``cells``."""
    length, noun, share, short, long = words
    n, i, j = len(level), level.astype(np.float64) ** 2, size.astype(np.float64) ** 2
    of_level, of_size = (np.bincount(x) / n for x in (level, size))
    grey = "GrayLevel"
    return {
        f"{grey}NonUniformity": n * (of_level**2).sum(),
        f"{grey}NonUniformityNormalized": (of_level**2).sum(),
        f"{grey}Variance": level.var(),
        f"High{grey}{noun}Emphasis": i.mean(),
        f"{long}Emphasis": j.mean(),
        f"{long}High{grey}Emphasis": (i * j).mean(),
        f"{long}Low{grey}Emphasis": (j / i).mean(),
        f"Low{grey}{noun}Emphasis": (1 / i).mean(),
        f"{noun}Entropy": _entropy(_shares(level * (size.max() + 1) + size)),
        f"{length}NonUniformity": n * (of_size**2).sum(),
        f"{length}NonUniformityNormalized": (of_size**2).sum(),
        f"{share}Percentage": n / cells,
        f"{noun}Variance": size.var(),
        f"{short}Emphasis": (1 / j).mean(),
        f"{short}High{grey}Emphasis": (i / j).mean(),
        f"{short}Low{grey}Emphasis": (1 / (i * j)).mean(),
    }


def tone_differences(of: Region) -> Features:
    """Features of how far levels are from the mean of their neighbours (Amadasun & King 1989)."""
    inside = np.flatnonzero(of.levels)
    level = of.levels[inside]
    around = [of.levels[inside + way * stride] for stride in of.strides for way in (-1, 1)]
    count = sum((x > 0).astype(int) for x in around)
    has = count > 0
    apart = np.abs(level - sum(around) / np.maximum(count, 1))[has]
    n = np.bincount(level[has])
    i = np.flatnonzero(n).astype(np.float64)
    p = n[n > 0] / has.sum()
    s = np.bincount(level[has], apart)[n > 0]
    weighted, difference = p * s, i[:, None] - i
    both, steps = p[:, None] + p, np.abs(i * p - (i * p)[:, None]).sum()
    groups = len(p) * (len(p) - 1)
    return {
        "Busyness": weighted.sum() / steps if steps else 0.0,
        "Coarseness": 1 / weighted.sum() if weighted.sum() else 1e6,
        "Complexity": (np.abs(difference) * (weighted[:, None] + weighted) / both).sum() / has.sum(),
        "Contrast": (np.outer(p, p) * difference**2).sum() / groups * s.sum() / has.sum() if groups else 0.0,
        "Strength": (both * difference**2).sum() / s.sum() if s.sum() else 0.0,
    }


def _neighbours(levels: Int[np.ndarray, " N"], stride: int) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """The levels of all pairs of cells that are ``stride`` apart."""
    a, b = levels[:-stride], levels[stride:]
    both = (a > 0) & (b > 0)
    return a[both], b[both]


def _shares(x: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " k"]:
    """How often each value occurs, as a share, without those that do not."""
    counts = np.bincount(x)
    return counts[counts > 0] / len(x)


def _entropy(p: Float64[np.ndarray, " k"]) -> float:
    """In bits."""
    p = p[p > 0]
    return -float((p * np.log2(p)).sum())


def _mean(each: list[Features]) -> Features:
    """Of every feature the mean over directions."""
    return {name: float(np.mean([of[name] for of in each])) for name in each[0]}


# Forms of an image, before features are taken.


def normal(image: Float[np.ndarray, "*S"], scale: float = 100.0) -> Float64[np.ndarray, "*S"]:
    """Mean 0 and deviation (ddof 1) ``scale``; the image must not be flat."""
    x = image.astype(np.float64)
    return (x - x.mean()) * (scale / x.std(ddof=1))


def resampled(
    image: Float64[np.ndarray, "*S"], ratios: Sequence[float]
) -> tuple[Float64[np.ndarray, "*T"], Bool[np.ndarray, "*T"]]:
    """The image in cells ``ratios`` times as large along its axes, by cubic B-splines, and which of them count.

    As ITK does it: corners stay where they are, and a cell whose middle lies beyond the last one is 0 and does not
    count. Neither does the first corner of an image that is not resampled: PyRadiomics needs a mask with a hole.
    """
    hole = np.ones(image.shape, bool)
    hole.flat[0] = False
    if np.allclose(ratios, 1.0):
        return image, hole
    sides = [*zip(image.shape, ratios, strict=True)]
    places = [(np.arange(math.ceil(n / ratio)) + 0.5) * ratio - 0.5 for n, ratio in sides]
    inside = [at < n - 0.5 for at, n in zip(places, image.shape, strict=True)]
    counts = reduce(np.logical_and.outer, inside)
    nearest = [np.minimum(np.floor(at + 0.5).astype(int), n - 1) for at, n in zip(places, image.shape, strict=True)]
    spline = ndimage.map_coordinates(image, np.meshgrid(*places, indexing="ij"), order=3, mode="mirror")
    return np.where(counts, spline, 0.0), counts & hole[np.ix_(*nearest)]


def wavelets(image: Float64[np.ndarray, "*S"]) -> Iterator[tuple[str, Float64[np.ndarray, "*S"]]]:
    """The undecimated coif1 transform of one level, periodic: a form for every choice of L or H along the axes.

    The first letter is of the last axis; all L come last. An odd side is made even by its first cell.
    """
    even = np.pad(image, [(0, n % 2) for n in image.shape], "wrap")
    smooth, *rest = product("LH", repeat=image.ndim)
    for letters in [*rest, smooth]:
        x = even
        for axis, letter in zip(range(image.ndim - 1, -1, -1), letters, strict=True):
            x = sum(c * np.roll(x, k - 3, axis) for k, c in enumerate(LOW if letter == "L" else HIGH))
        yield f"wavelet-{''.join(letters)}", x[tuple(slice(n) for n in image.shape)]


def laplacians(
    image: Float64[np.ndarray, "*S"], spacing: float, sigmas: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0)
) -> Iterator[tuple[str, Float64[np.ndarray, "*S"]]]:
    """Laplacians of Gaussians of ``sigmas`` in the unit of ``spacing``, times sigma^2, borders repeated."""
    for sigma in sigmas:
        cells = sigma / spacing
        yield f"log-sigma-{sigma:g}-mm", cells**2 * ndimage.gaussian_laplace(image, cells, mode="nearest", truncate=6.0)
