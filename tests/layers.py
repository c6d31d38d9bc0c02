"""The parts of a pipeline of volumes, so small that a volume takes a moment; what diffuses says a little of its noise.

`python layers.py FOLDER` writes a volume of theirs there, in a process of its own, or in one of several.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tiny
from ml_collections import ConfigDict

from nca_gen.contracts import Part
from nca_gen.data import latents
from nca_gen.diffusion import continuous
from nca_gen.diffusion.codec import Codec
from nca_gen.io import write as disk
from nca_gen.models import multislice, nhae
from nca_gen.pipelines import ca_ldm
from nca_gen.runtime import mesh
from nca_gen.tasks.autoencode import Task as Coding
from nca_gen.tasks.denoise import Task
from nca_gen.tasks.learner import Learner

SAMPLE = {"sampler": "ddim", "steps": 2, "clip": "none", "guidance": 1.0, "heredity": "none", "growth": ()}
PLANAR = {"width": 4, "multipliers": (1, 1), "blocks": 1, "groups": 2, "attention": False, "entries": 64}
SIZE = (16, 8, 12)
SCALES = {
    "whole": ([0.1, -0.2, 0.3, 0.0], [0.5, 0.4, 0.6, 0.7]),
    "slices": ([-0.3, 0.1, 0.2, 0.4], [0.6, 0.5, 0.3, 0.4]),
}


@dataclass(frozen=True)
class Model:
    """Says, by v, what x0 is: what x_t is around a cell, half of the picture that it is told, where it is one, and the
    class of a label map, where it is told one of so many ``classes``."""

    ndim: int
    told: bool = False
    classes: int = 0

    reads = predicts = 4

    @property
    def conditions(self):
        return ({"image": 4} if self.told else {}) | ({"map": self.classes} if self.classes else {})

    def init(self, key):
        return {"kernel": jnp.ones(())}

    def apply(self, params, x, told, cond, memory, key, place=None):
        x0 = params["kernel"] * jnp.tanh(sum(jnp.roll(x, 1, axis) for axis in range(1, x.ndim - 1)))
        x0 = x0 + 0.5 * cond["image"] if self.told else x0
        x0 = x0 + (cond["map"] @ jnp.arange(self.classes))[..., None] if "map" in (cond or {}) else x0
        a, s = (jnp.sqrt(jax.nn.sigmoid(sign * told)).reshape(-1, *[1] * (x.ndim - 1)) for sign in (1, -1))
        return (a * x - x0) / s, memory

    def inference(self):
        return self


def drawing(folder, model, scale, **sample):
    """``model`` as if it had learned latents of ``scale``, which lie in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = SCALES[scale]
    disk.facts(folder / latents.INDEX, {"version": latents.VERSION, "scale": {"mean": mean, "std": std}})
    task = Task(model, Learner(), continuous.Process(prediction="v", clock="log_snr"), Codec())
    config = {"sample": SAMPLE | sample, "data": {"path": str(folder)}, "mesh": {"space": 1}}
    return Part(ConfigDict(config), task, {"kernel": jnp.full((), 0.9)}, decode=lambda z: z)


def parts(folder, size=SIZE, n=1, classes=0, **sample):
    """All four, whose latents lie in ``folder``; the decoder stands on the autoencoder of slices of the other."""
    whole = nhae.Model(**PLANAR, reduce=1, volume_width=4, volume_multipliers=(1,))
    last = multislice.Model(**PLANAR)
    coder, decoder = tiny.params(whole), tiny.params(last, 1)
    decoder["slices"] = coder["slices"]
    for book in (coder["codebook"], coder["slices"]["codebook"]):
        book["embedding"] = 4 * book["embedding"]  # as far apart as latents are
    config = {"seed": 1, "sample": SAMPLE | {"n": n, "batch": 1, "size": size, "dtype": ""}}
    return {
        "diff3d": drawing(folder / "whole", Model(3, classes=classes), "whole", **sample),
        "refiner": drawing(folder / "slices", Model(2, True, classes), "slices", **sample),
        "nhae": Part(ConfigDict({}), Coding(whole, Learner()), coder),
        "model": Part(ConfigDict(config), Coding(last, Learner()), decoder),
    }


def write(folder, classes=0, **how):
    """A volume in its folder."""
    (folder / "made").mkdir(parents=True, exist_ok=True)
    return ca_ldm.Pipeline(parts(folder, classes=classes), **how).write(folder / "made")


if __name__ == "__main__":
    mesh.connect()
    write(Path(sys.argv[1]))
