"""Inception score (Salimans et al. 2016, arXiv 1606.03498): classes that are sure in each image, and varied in all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from nca_gen.metrics.about import About
from nca_gen.metrics.notes import check, note
from nca_gen.ranges import Count

ORDER = 2020  # the seed of torch-fidelity: the same splits, whatever the seed of the run

ABOUT = About(
    features="inception:logits_unbiased",
    reads=frozenset(),
    elsewhere="class_score",
    reference="Salimans et al. 2016, NeurIPS, arXiv 1606.03498",
    range="1 to the number of classes, 1,008",
    least={"generated": 10},
    protocol=(
        "exp of the mean Kullback-Leibler divergence of p(class | image) from p(class), softmax of the logits in "
        "float64, mean over splits (10 unless the option says otherwise) of the images in the order of "
        f"RandomState({ORDER}); inception_score_std is the population standard deviation over the splits. Higher is "
        "better. No real image is looked at, and the classes are those of ImageNet: it says little about medical "
        "images."
    ),
)


def score(
    generated: Float[np.ndarray, "N C"], real: object, train: object, seed: int, *, splits: Count = 10
) -> dict[str, float]:
    """``inception_score`` and ``inception_score_std`` of the logits ``generated`` (see ``ABOUT``); reads only them.

    Raises UserError for fewer images than ``splits``; notes fewer images in a split than classes.
    """
    del real, train, seed
    check("inception_score", splits, generated=generated)
    n, classes = generated.shape
    if n < splits * classes:
        note(
            f"inception_score of {n} images in {splits} splits: a split has fewer images than there are classes "
            f"({classes}), and the score is biased downwards"
        )
    logits = generated[np.random.RandomState(ORDER).permutation(n)].astype(np.float64)
    values = []
    for i in range(splits):
        split = logits[i * n // splits : (i + 1) * n // splits]
        log_p = split - logsumexp(split, 1, keepdims=True)
        log_mean = logsumexp(log_p, 0) - np.log(len(split))
        values.append(np.exp((np.exp(log_p) * (log_p - log_mean)).sum(1).mean()))
    return {"inception_score": float(np.mean(values)), "inception_score_std": float(np.std(values))}
