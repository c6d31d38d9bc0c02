"""Feature likelihood divergence and the generalisation gap (Jiralerspong et al. 2023, arXiv 2302.04440).

A mixture of isotropic normal distributions, one around each generated image, is given the variances that make the
training images most likely. Around a copy the variance shrinks to nothing: training images become far likelier than
held-out ones, and the gap between the two tells.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float32, Float64

from nca_gen.metrics.about import About
from nca_gen.metrics.bootstrap import interval
from nca_gen.metrics.distances import blocks, squares
from nca_gen.metrics.notes import check, note

CENTRES = 10_000  # at most so many generated images, drawn at random
BATCH, EPOCHS, RATE, CLAMP = 10_000, 50, 0.5, 40.0
NARROWED = 0.9**2  # of the squared distances to the common component
MEMORISED = -1000.0
CELLS = 2**18  # numbers of a block while fitting: what a core's cache holds

ABOUT = About(
    features="inception:2048",
    reads=frozenset({"real", "train"}),
    reference="Jiralerspong et al. 2023, NeurIPS, arXiv 2302.04440",
    range="any number",
    least={"real": 2, "train": 2},
    protocol=(
        "Features scaled by the mean and standard deviation (ddof 1) of held-out real images; a mixture of isotropic "
        f"normal distributions around the generated images (at most {CENTRES:,}), the variances fitted to the training "
        "images. n(x) is an image's negative log density under it, over the number of features. fld = 100 (mean "
        "n(real) - the same under a mixture around one half of the training images, fitted to the other half). Lower "
        "is better. fld_gg, the generalisation gap, = 100 (mean n(train) - mean n(real)): negative means memorised "
        "training images, about 0 means none; its interval is 95 %, bootstrapped over the train and real images."
    ),
)


def scaling(real: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " D"]:
    """Deviation (ddof 1) of the held-out features; 1, with a note, for one that is constant.

    Only distances are compared, so the mean need not be taken out.
    """
    flat = np.ptp(real, 0) == 0
    if flat.any():
        note(f"fld: {flat.sum()} of {len(flat)} features are constant over the real images and are not scaled")
    return np.where(flat, 1.0, real.std(0, ddof=1, dtype=np.float64))


def distances(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"], std: Float64[np.ndarray, " D"]
) -> Float32[np.ndarray, "N M"]:
    """Squared distances float32 ``[N, M]`` of features divided by ``std``: 4 N M bytes, 2 GB for 50,000 and 10,000."""
    square = np.empty((len(a), len(b)), np.float32)
    origin = b.mean(0, dtype=np.float64) / std
    for at in blocks(len(a)):
        for of in blocks(len(b)):
            square[at, of] = squares(a[at] / std, b[of] / std, origin)
    return square


def _log_densities(
    square: Float[np.ndarray, "N M"], log_variance: Float64[np.ndarray, " M"], width: int
) -> Float64[np.ndarray, "N M"]:
    """log N(x; g, exp(log_variance) I) / M for every pair."""
    offset = 0.5 * width * (log_variance + math.log(2 * math.pi)) + math.log(len(log_variance))
    logs = square * (-0.5 * np.exp(-log_variance))
    logs -= offset
    return logs


def _summed(logs: Float64[np.ndarray, "N M"], floor: Float64[np.ndarray, " N"] | float) -> tuple[np.ndarray, ...]:
    """logsumexp of each row and its ``floor``, and exp(logs - that), in the place of ``logs``."""
    top = np.maximum(logs.max(1), floor)
    logs -= top[:, None]
    np.exp(logs, out=logs)
    total = logs.sum(1) + np.exp(floor - top)
    logs /= total[:, None]
    return top + np.log(total), logs


def fit(
    square: Float32[np.ndarray, "T M"], spread: Float64[np.ndarray, " T"], width: int, seed: int
) -> Float64[np.ndarray, " M"]:
    """The log variances of the M components under which the T training images are most likely.

    ``square`` holds squared distances of images and components, ``spread`` those of the images to their own mean, where
    one component more, of weight 1 and ``NARROWED`` distances, keeps far images from ruling. Adam on the mean negative
    log density over ``width``; ends early where the last five epochs differ by less than 5e-4.
    """
    order = np.random.default_rng(seed).permutation(len(square))
    rows = max(1, CELLS // square.shape[1])
    logs = np.append(np.log((square.min(0).astype(np.float64) + 1e-3) / width), 0.0)  # the common one is the last
    first, second, losses, step = np.zeros_like(logs), np.zeros_like(logs), [], 0
    for epoch in range(EPOCHS):
        loss = []
        for batch in blocks(len(order), BATCH):
            taken = order[batch]
            weight, moment, value = np.zeros_like(logs), np.zeros_like(logs), 0.0
            for at in blocks(len(taken), rows):
                d, c = square[taken[at]].astype(np.float64), NARROWED * spread[taken[at]]
                common = -0.5 * c * np.exp(-logs[-1]) - 0.5 * width * (logs[-1] + math.log(2 * math.pi))
                total, share = _summed(_log_densities(d, logs[:-1], width), common)
                rest = np.exp(common - total)
                weight += np.append(share.sum(0), rest.sum())
                d *= share
                moment += np.append(d.sum(0), rest @ c)
                value -= total.sum()
            gradient = 0.5 * (weight - moment * np.exp(-logs) / width) / len(taken)
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            logs -= RATE * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            logs[:-1] = np.clip(logs[:-1], -CLAMP, CLAMP)
            loss.append(value / len(taken) / width)
        losses.append(np.mean(loss))
        if epoch > 5 and max(abs(losses[-1] - before) for before in losses[-5:]) < 5e-4:
            break
    return logs[:-1]


def surprise(
    square: Float[np.ndarray, "N M"], log_variance: Float64[np.ndarray, " M"], width: int
) -> Float64[np.ndarray, " N"]:
    """n(x) = -log of the mixture's density, over ``width``, for every row of squared distances."""
    surprises = np.empty(len(square))
    for at in blocks(len(square), max(1, CELLS // square.shape[1])):
        logs = _log_densities(square[at].astype(np.float64), log_variance, width)
        surprises[at] = -_summed(logs, -np.inf)[0] / width
    return surprises


def mixture(
    centres: Float[np.ndarray, "M D"],
    train: Float[np.ndarray, "T D"],
    real: Float[np.ndarray, "N D"],
    std: Float64[np.ndarray, " D"],
    seed: int,
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " N"]]:
    """n of ``train`` and of ``real`` under the mixture around ``centres`` that is fitted to ``train``."""
    width = train.shape[1]
    mean = train.mean(0, dtype=np.float64)
    spread = np.concatenate([(((train[at] - mean) / std) ** 2).sum(1) for at in blocks(len(train))])
    square = distances(train, centres, std)
    logs = fit(square, spread, width, seed)
    of_train = surprise(square, logs, width)
    del square
    of_real = [surprise(distances(real[at], centres, std), logs, width) for at in blocks(len(real))]
    return of_train, np.concatenate(of_real)


def baseline(train: Float[np.ndarray, "T D"], real: Float[np.ndarray, "N D"], count: int, seed: int) -> float:
    """Mean n of ``real`` under a mixture around ``count`` (at most half) training images, fitted to the others."""
    check("fld", 2, real=real, train=train)
    order = np.random.default_rng([seed, 1]).permutation(len(train))
    cut = min(count, CENTRES, len(train) // 2)
    return float(mixture(train[order[:cut]], train[order[cut:]], real, scaling(real), seed)[1].mean())


def difference(of_train: Float64[np.ndarray, " T"], of_real: Float64[np.ndarray, " N"]) -> float:
    """The generalisation gap: 100 times the difference of the means of n."""
    return 100 * float(of_train.mean() - of_real.mean())


def score(
    generated: Float[np.ndarray, "N D"],
    real: Float[np.ndarray, "M D"],
    train: Float[np.ndarray, "T D"],
    seed: int,
    *,
    perfect: float | None = None,
) -> dict[str, float]:
    """``fld``, ``fld_gg`` and its interval (see ``ABOUT``); ``perfect`` is a kept value of :func:`baseline`.

    Raises UserError for no generated, or less than 2 real or training images, or features that are not finite.
    """
    check("fld", 1, generated=generated)
    check("fld", 2, real=real, train=train)
    if len(generated) > CENTRES:
        generated = generated[np.random.default_rng([seed, 2]).choice(len(generated), CENTRES, replace=False)]
    std = scaling(real)
    of_train, of_real = mixture(generated, train, real, std, seed)
    if perfect is None:
        perfect = baseline(train, real, len(generated), seed)
    gap = difference(of_train, of_real)
    low, high = interval((of_train, of_real), seed, difference)
    if gap < MEMORISED:
        note("fld: the gap is that of generated images that are copies, or nearly, of training images")
    return {
        "fld": 100 * (float(of_real.mean()) - perfect),
        "fld_gg": gap,
        "fld_gg_low": low,
        "fld_gg_high": high,
    }
