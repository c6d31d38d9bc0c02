"""What does an autoencoder keep of an image? Reconstructions from the means of the latents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nca_gen.contracts import Figure, Page, Part, Pipeline
from nca_gen.errors import chosen
from nca_gen.evaluators import pictures
from nca_gen.evaluators.held import Held
from nca_gen.metrics import ms_ssim
from nca_gen.metrics.notes import collecting
from nca_gen.ranges import OneOf
from nca_gen.tasks.autoencode import divergence, look

SHOWN = 8  # pairs in a row


class Looks(NamedTuple):
    """Images, what became of them, clipped to [-1, 1], and the means and log-variances of their latents."""

    real: Float[np.ndarray, "N *T C"]
    fake: Float[np.ndarray, "N *T C"]
    mean: Float[np.ndarray, "N *S L"]
    logvar: Float[np.ndarray, "N *S L"]
    batch: int

    @property
    def error(self) -> Float[np.ndarray, "N *T C"]:
        """What the reconstruction adds."""
        return self.fake - self.real


def psnr(x: Looks) -> Float[np.ndarray, " N"]:
    """In dB, of every image."""
    return 10 * np.log10(4 / np.maximum(np.square(x.error).mean(tuple(range(1, x.real.ndim))), 1e-10))


def l1(x: Looks) -> Float[np.ndarray, "N *T C"]:
    """Absolute errors."""
    return np.abs(x.error)


def similarity(x: Looks) -> Float[np.ndarray, " N"]:
    """MS-SSIM of every image with its reconstruction."""
    bits, parts = [(image + 1) * 127.5 for image in (x.real, x.fake)], range(0, len(x.real), x.batch)
    return np.concatenate([ms_ssim.similarity(*(image[i : i + x.batch] for image in bits)) for i in parts])


def kl(x: Looks) -> Float[Array, " N"]:
    """KL of every latent from the standard normal, in nats."""
    return divergence(jnp.asarray(x.mean), jnp.asarray(x.logvar))


def latent_mean(x: Looks) -> Float[np.ndarray, "N *S L"]:
    """Means of the latents."""
    return x.mean


def latent_std(x: Looks) -> float:
    """Standard deviation of all values of the latents that a training sees, samples as they are."""
    return float(np.sqrt(np.var(x.mean) + np.exp(x.logvar).mean()))


METRICS = {  # of which each score is the mean
    "psnr": (psnr, "Peak signal-to-noise ratio in dB, mean over images. Higher is better."),
    "l1": (l1, "Mean absolute error of values in [-1, 1]. Lower is better."),
    "ms_ssim": (similarity, "MS-SSIM of each image with its reconstruction, 1 at best. Higher is better."),
    "kl": (kl, "KL divergence of the latent from the standard normal, in nats per image."),
    "latent_mean": (latent_mean, "Mean of all values of the latents."),
    "latent_std": (latent_std, "Standard deviation of all values of sampled latents."),
}


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    metrics: Sequence[Annotated[str, OneOf(METRICS)]] = tuple(METRICS),
) -> Page:
    """Scores, and rows of originals with what became of them below. Raises UserError for an unknown metric."""
    part = pipeline.parts["model"]
    rules = {name: chosen(METRICS, "evals.reconstruction.metrics", name) for name in metrics}
    start = time.perf_counter()
    with collecting() as caveats:
        x = looked(part, data)
        scores = {name: float(np.mean(rule(x))) for name, (rule, _) in rules.items()}
    columns = min(len(x.real), SHOWN)
    rows = [np.concatenate([side[i : i + SHOWN] for side in (x.real, x.fake)]) for i in range(0, 2 * SHOWN, SHOWN)]
    whole = [row for row in rows if len(row) == 2 * columns]
    pictures.grid(folder / "reconstructions.png", np.concatenate(whole), columns)
    caption = (
        f"Rows in pairs: images of the {data.split} split, and below each what became of it at step {part.step:,}."
    )
    facts = {
        "protocol": {name: words for name, (_, words) in rules.items()},
        "networks": {},
        "notes": data.notes(("real",)) | ({"reconstruction": caveats} if caveats else {}),
        "counts": {"real": len(x.real)},
        "seed": data.seed,
        "seconds": time.perf_counter() - start,
    }
    return Page("Reconstructions", scores, [Figure("reconstructions.png", caption, "strip")], facts=facts)


def looked(part: Part, data: Held) -> Looks:
    """The real patches through the autoencoder and back, a batch of training at a time."""
    real, batch = data.patches, part.config.train.batch
    n = len(real)
    parts = [look(part.task.model, part.params, real[np.arange(i, i + batch) % n]) for i in range(0, n, batch)]
    fake, mean, logvar = (np.concatenate(values)[:n] for values in zip(*parts, strict=True))
    return Looks(real, np.clip(fake, -1.0, 1.0), mean, logvar, batch)
