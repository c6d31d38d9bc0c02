"""Pictures of tiny models; `python painting.py FILE JSON` paints them in a process of its own, or in one of several."""

import json
import sys
from functools import cache

import jax
import numpy as np
import tiny
from ml_collections import ConfigDict

from nca_gen import arrays
from nca_gen.contracts import Part
from nca_gen.diffusion import discrete
from nca_gen.diffusion.codec import Codec
from nca_gen.pipelines import sampling
from nca_gen.runtime import mesh
from nca_gen.tasks.denoise import Task
from nca_gen.tasks.learner import Learner

KINDS = {"diff": tiny.diff, "fourier": tiny.fourier}
PROCESS = discrete.Process("cosine", tiny.T, "v")
SAMPLE = {"sampler": "ddpm", "steps": 4, "clip": "static", "guidance": 1.0, "heredity": "none", "growth": ()}
SAMPLE |= {"labels": (), "n": 4, "batch": 4, "size": (16, 12), "large": ()}
params = cache(tiny.params)


def part(model, process=PROCESS, codec=Codec(), weights=None, **sample):  # noqa: B008
    """``model`` as if it had been trained; ``sample``: fields of that section of its config."""
    config = {"seed": 1, "sample": SAMPLE | sample, "mesh": {"space": 1}, "data": {"patch": (16, 12)}}
    task = Task(model, Learner(), process, codec)
    return Part(ConfigDict(config), task, params(model) if weights is None else weights)


def settings(**changes):
    """How the pictures of tests are drawn."""
    return sampling.Settings.of(SAMPLE | changes)


def paint(kind="diff", norm="cell", n=1, size=(16, 12), devices=None, space=1):
    """``n`` pictures of a model, of one batch, over the first ``devices`` of all hosts, rows over ``space`` of them."""
    key, how = arrays.keys(1, n), {"batch": n, "space": space, "over": jax.devices()[:devices]}
    [drawn] = sampling.images(part(KINDS[kind](norm=norm)), key, tuple(size), settings(), **how)
    return drawn


if __name__ == "__main__":
    mesh.connect()
    np.savez(sys.argv[1], *(paint(**case) for case in json.loads(sys.argv[2])))
