"""How probable are held-out images to a variational autoencoder? Bounds on their log-likelihood."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from nca_gen import arrays
from nca_gen.contracts import Page, Pipeline, Variational
from nca_gen.errors import UserError
from nca_gen.evaluators.held import Held
from nca_gen.ranges import Count
from nca_gen.tasks import elbo

TERMS = {
    "elbo": "Evidence lower bound, mean over images, in nats per image. Higher is better.",
    "bits_per_dim": "The evidence lower bound, its sign turned, in bits per value of an image. Lower is better.",
    "log_likelihood": "log p(x|z) of images given their latents, z drawn from q(z|x), in nats per image.",
    "kl": "KL divergence of q(z|x) from the standard normal, in nats per image.",
}
WEIGHTED = "Importance-weighted bound of {} draws (Burda et al. 2015), in nats per image. Higher is better."


def evaluate(pipeline: Pipeline, data: Held, folder: Path, /, *, samples: Count = 1) -> Page:
    """The bound of held-out images in nats and in bits per value, its terms, by ``samples`` draws of each latent.

    Of more than one draw the importance-weighted bound too; 128 are usual. Raises UserError for other models.
    """
    part, start = pipeline.parts["model"], time.perf_counter()
    model, real, batch = part.task.model, data.patches, part.config.train.batch
    if not isinstance(model, Variational):
        raise UserError(
            "evals.likelihood is for autoencoders that say how probable an image is, and this does not: leave it out"
        )
    key, n = arrays.keys(data.seed, len(real)), len(real)
    batches = [np.arange(i, i + batch) % n for i in range(0, n, batch)]
    parts = [bounded(model, samples, part.params, real[some], key[some]) for some in batches]
    likelihood, kl, weighted = (np.concatenate(values)[:n] for values in zip(*parts, strict=True))
    bound = float(np.mean(likelihood - kl))
    bits = float(elbo.bits_per_dim(bound, real.shape[1:]))
    scores = dict(zip(TERMS, (bound, bits, float(likelihood.mean()), float(kl.mean())), strict=True))
    protocol = dict(TERMS)
    if samples > 1:
        scores["weighted_bound"] = float(weighted.mean())
        protocol["weighted_bound"] = WEIGHTED.format(samples)
    facts = {
        "protocol": protocol,
        "networks": {},
        "notes": data.notes(("real",)),
        "counts": {"real": n},
        "seed": data.seed,
        "seconds": time.perf_counter() - start,
    }
    return Page("How probable are held-out images?", scores, facts=facts)


@partial(jax.jit, static_argnums=(0, 1))
def bounded(
    model: Any, samples: int, params: PyTree, image: Float[Array, "B *T C"], key: Key[Array, " B"]
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """:func:`nca_gen.tasks.elbo.bounds`, compiled."""
    return elbo.bounds(model, params, image, key, samples)
