"""Frechet inception distance (Heusel et al. 2017, arXiv 1706.08500): two sets of features as normal distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy.linalg.lapack import dpstrf

from nca_gen.errors import UserError
from nca_gen.io import cache
from nca_gen.metrics.about import About
from nca_gen.metrics.distances import blocks
from nca_gen.metrics.notes import check, note

ABOUT = About(
    features="inception:2048",
    elsewhere="frechet",
    reference="Heusel et al. 2017, NeurIPS, arXiv 1706.08500",
    range="from 0",
    least={"generated": 2, "real": 2},
    protocol=(
        "Frechet distance |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the normal distributions with the means and "
        "covariances (ddof 1 unless the option says 0) of the features of generated and real images, in float64. Lower "
        "is better. It falls with the number of images: compare values at equal numbers only."
    ),
)


class Stats(NamedTuple):
    """What is kept of a set: the number of images, their mean, and the sum of (x - mean)(x - mean)^T."""

    n: int
    mean: Float64[np.ndarray, " D"]
    scatter: Float64[np.ndarray, "D D"]


def statistics(features: Float[np.ndarray, "N D"], name: str = "given") -> Stats:
    """Moments of ``features`` in float64, a block of rows at a time.

    Raises UserError for no image, or features that are not finite; it calls the images by ``name``.
    """
    check("fid", 1, **{name: features})
    mean = features.mean(0, dtype=np.float64)
    scatter = np.zeros((len(mean), len(mean)))
    for at in blocks(len(features)):
        centred = features[at].astype(np.float64) - mean
        scatter += centred.T @ centred
    return Stats(len(features), mean, scatter)


def merge(a: Stats, b: Stats) -> Stats:
    """The statistics of two sets together (Chan et al. 1979), for features that come batch by batch. Associative."""
    n, delta = a.n + b.n, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n)
    return Stats(n, a.mean + delta * (b.n / n), scatter)


def kept(facts: Sequence[Any], make: Callable[[], Stats]) -> Stats:
    """What ``make`` returns, kept on disk under ``facts`` of JSON that say what it is of."""
    path = cache.folder("features") / f"moments-{cache.key(*facts)}.npz"
    stored = cache.arrays(path, lambda: {name: np.asarray(x) for name, x in make()._asdict().items()})
    return Stats(int(stored["n"]), stored["mean"], stored["scatter"])


def published(mean: Float[np.ndarray, " D"], covariance: Float[np.ndarray, "D D"], n: int, ddof: int = 1) -> Stats:
    """The statistics that a file of mean and covariance stands for, such as other systems publish."""
    return Stats(n, mean.astype(np.float64), covariance.astype(np.float64) * (n - ddof))


def _root(covariance: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, "R D"]:
    """A matrix R with R^T R = ``covariance`` and as many rows as that has directions: Cholesky with pivots."""
    factor, pivots, rank, _ = dpstrf(covariance)
    root = np.empty((rank, len(covariance)))
    root[:, pivots - 1] = np.triu(factor)[:rank]
    return root


def trace_root(a: Float64[np.ndarray, "D D"], b: Float64[np.ndarray, "D D"]) -> float:
    """Tr (A B)^(1/2) of two covariances, from the eigenvalues of R B R^T, where A = R^T R.

    R B R^T is symmetric, which A B is not, and without the null space of A: let A be that of the lower rank, and none
    of the eigenvalues is rounding noise, which the square root would blow up.
    """
    root = _root(a)
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root.T), 0)).sum())


def distance(real: Stats, generated: Stats, ddof: int = 1) -> dict[str, float]:
    """``fid`` of two sets of statistics; ``ddof`` 1 as torch-fidelity, pytorch-fid and clean-fid, 0 as StyleGAN.

    Notes sets with no more images than features. Raises UserError for sets of one image, or of different features.
    """
    width = len(real.mean)
    if width != len(generated.mean):
        raise UserError(f"fid compares features of one network, got {len(generated.mean)} against {width} of them")
    if min(real.n, generated.n) < 2:
        raise UserError(f"fid needs at least 2 images a set, got {generated.n} generated and {real.n} real")
    if min(real.n, generated.n) <= width:
        note(
            f"{generated.n} generated and {real.n} real images with {width} features: with no more images than "
            "features the value is mostly bias, and is to be compared at equal numbers only; kid has no such bias"
        )
    return {"fid": squared_distance(real, generated, ddof)}


def squared_distance(real: Stats, generated: Stats, ddof: int = 1) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of at least two images each; not below 0, where rounding leads."""
    smaller, larger = (s.scatter / (s.n - ddof) for s in sorted((real, generated), key=lambda s: s.n))
    spread = np.trace(smaller) + np.trace(larger) - 2 * trace_root(smaller, larger)
    return max(0.0, float(((real.mean - generated.mean) ** 2).sum() + spread))


def score(
    generated: Float[np.ndarray, "N D"] | Stats,
    real: Float[np.ndarray, "M D"] | Stats,
    train: object,
    seed: int,
    *,
    ddof: Literal[0, 1] = 1,
) -> dict[str, float]:
    """FID of ``generated`` against ``real``, features or their statistics (see ``ABOUT``); reads nothing else."""
    del train, seed
    real = real if isinstance(real, Stats) else statistics(real, "real")
    generated = generated if isinstance(generated, Stats) else statistics(generated, "generated")
    return distance(real, generated, ddof)
