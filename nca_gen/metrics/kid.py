"""Kernel inception distance (Binkowski et al. 2018, arXiv 1801.01401): an unbiased estimate, also for few images."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt
from jaxtyping import Float, Float64

from nca_gen.metrics.about import About
from nca_gen.metrics.notes import check, note
from nca_gen.ranges import Count

DRAWS = 2020  # the seed of torch-fidelity: the same draws, whatever the seed of the run

ABOUT = About(
    features="inception:2048",
    elsewhere="kernel_mmd",
    reference="Binkowski et al. 2018, ICLR, arXiv 1801.01401",
    range="from a little below 0",
    least={"generated": 2, "real": 2},
    protocol=(
        "Unbiased squared maximum mean discrepancy of the features under the kernel (x.y / D + 1)^3, in float64, mean "
        "over subsets without replacement (100 of 1,000 images unless the options say otherwise) drawn with "
        f"RandomState({DRAWS}), generated before real; kid_std is the population standard deviation over the subsets. "
        "Lower is better; slightly below 0 is possible, and means no difference. Papers print it times 1,000."
    ),
)


def kernel(x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "M D"]) -> Float64[np.ndarray, "N M"]:
    """(x.y / D + 1)^3 for all pairs."""
    k = x @ y.T / x.shape[1] + 1.0
    return k * k * k


def mmd(x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "N D"]) -> float:
    """The unbiased estimate of the squared discrepancy of two sets of equal number (Gretton et al. 2012, lemma 6)."""
    n = len(x)
    within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
    return float(within / (n * (n - 1)) - 2 * kernel(x, y).mean())


def statistics(features: Float[np.ndarray, "N D"], name: str = "given") -> Float[np.ndarray, "N D"]:
    """The features themselves, as subsets of them are compared.

    Raises UserError for fewer than 2 images, and features that are not finite; it calls the images by ``name``.
    """
    check("kid", 2, **{name: features})
    return features


def merge(one: Float[np.ndarray, "N D"], other: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "K D"]:
    """The features of both sets."""
    return np.concatenate([one, other])


def distance(
    real: Float[np.ndarray, "M D"], generated: Float[np.ndarray, "N D"], subsets: int = 100, size: int | float = 1000
) -> dict[str, float]:
    """``kid`` and ``kid_std`` over ``subsets`` of ``size`` images; a size below 1 is a share of the generated images.

    A size above the smaller set is lowered to it, with a note.
    """
    fewest = min(len(real), len(generated))
    wanted = int(size * len(generated)) if size < 1 else int(size)
    size = min(max(2, wanted), fewest)
    if size != wanted:
        note(
            f"kid: subsets of {size} images, not {wanted}, of {len(generated)} generated and {len(real)} real images; "
            "subsets that are nearly the whole set vary little: kid_std understates the error"
        )
    rng = np.random.RandomState(DRAWS)

    def draw(x: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "n D"]:
        return x[rng.choice(len(x), size, replace=False)].astype(np.float64)

    values = []
    for _ in range(subsets):
        subset = draw(generated)
        values.append(mmd(subset, draw(real)))
    return {"kid": float(np.mean(values)), "kid_std": float(np.std(values))}


def score(
    generated: Float[np.ndarray, "N D"],
    real: Float[np.ndarray, "M D"],
    train: object,
    seed: int,
    *,
    subsets: Count = 100,
    size: Annotated[int | float, Gt(0)] = 1000,
) -> dict[str, float]:
    """KID of ``generated`` against ``real`` (see ``ABOUT`` and :func:`distance`); reads no ``train``, ``seed``."""
    del train, seed
    return distance(statistics(real, "real"), statistics(generated, "generated"), subsets, size)
