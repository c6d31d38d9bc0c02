"""Pictures of tiny models; `python painting.py FILE JSON` paints them in a process of its own, or in one of several."""

import json
import sys

import jax
import numpy as np
import tiny

from nca_gen.diffusion.discrete import Diffusion
from nca_gen.pipelines import sampling
from nca_gen.runtime import mesh

KINDS = {"diff": tiny.diff, "fourier": tiny.fourier}


def paint(kind="diff", norm="cell", n=1, size=(16, 12), devices=None, space=1):
    """``n`` pictures of a model, of one batch, over the first ``devices`` of all hosts, rows over ``space`` of them."""
    model, diffusion = KINDS[kind](norm=norm), Diffusion("cosine", tiny.T, "v")
    how = {"sampler": "ddpm", "steps": 4, "clip": "static", "space": space, "devices": jax.devices()[:devices]}
    [drawn] = sampling.images(model, diffusion, tiny.params(model), 1, n, tuple(size), n, **how)
    return drawn


if __name__ == "__main__":
    mesh.connect()
    np.savez(sys.argv[1], *(paint(**case) for case in json.loads(sys.argv[2])))
