"""Networks of a cascade that say what they are told, so that what a cascade paints is known, and little to compile.

`python echo.py FOLDER` writes a slide of theirs there, in a process of its own, or in one of several.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nca_gen.contracts import Part
from nca_gen.diffusion import continuous
from nca_gen.diffusion.codec import Codec
from nca_gen.pipelines import urcdm
from nca_gen.runtime import mesh
from nca_gen.tasks.denoise import Task
from nca_gen.tasks.learner import Learner

SAMPLE = {"sampler": "ddim", "steps": 2, "clip": "dynamic", "guidance": 1.0, "heredity": "none", "growth": ()}


@dataclass(frozen=True)
class Model:
    """Says, by v, what x0 is: the smaller image where it is told one; else the middle of its context, where it is told
    one, enlarged by ``factor``; else what x_t is around a pixel. ``mixed``: of all, a third each, whatever it is told.
    """

    context: bool = False
    low: bool = False
    factor: int = 2
    mixed: bool = False
    ndim: int = 2

    reads = predicts = 3

    @property
    def conditions(self):
        return ((self.context and {"context": 3}) or {}) | ((self.low and {"low": 3, "low_log_snr": 1}) or {})

    def init(self, key):
        return {"scale": jnp.ones(())}

    def apply(self, params, x, told, cond, memory, key, place=None):
        near = jnp.tanh(x + jnp.roll(x, 1, 1) + jnp.roll(x, -1, 2))
        said = [near]
        if self.context:
            k, p = self.factor, x.shape[1]
            inner = slice((p - p // k) // 2, (p + p // k) // 2)
            said.append(jnp.repeat(jnp.repeat(cond["context"][:, inner, inner], k, 1), k, 2))
        if self.low:
            said.append(cond["low"])
        x0 = params["scale"] * (sum(said) / 3 if self.mixed else said[-1])
        a, s = (jnp.sqrt(jax.nn.sigmoid(sign * told)).reshape(-1, 1, 1, 1) for sign in (1, -1))
        return (a * x - x0) / s, memory

    def inference(self):
        return self


def part(model, patch, low=0, scale=1.0, codec=Codec(), **data):  # noqa: B008
    """``model`` as if it had been trained on patches of so many pixels; ``data``: fields of that section."""
    task = Task(model, Learner(), continuous.Process(prediction="v", clock="log_snr"), codec, low=low, low_time=0.0)
    config = {"seed": 1, "sample": SAMPLE | {"n": 2, "batch": 4, "size": (patch, patch)}, "mesh": {"space": 1}}
    config |= {"data": {"patch": (patch, patch), "context_factor": 1, "pad": ()} | data}
    return Part(ConfigDict(config), task, {"scale": jnp.full((), scale)})


def cascade(patch=16, mixed=False, pad=(), size=None, codec=Codec()):  # noqa: B008
    """Two magnifications, twice as fine, of two networks each, twice as large: the parts of the last."""
    parts = {}
    for m in (0, 1):
        for stage in (1, 2):
            model = Model(context=m > 0, low=stage > 1, mixed=mixed)
            side = patch * stage
            parts[f"mag{m}_stage{stage}"] = part(
                model, side, low=2 * (stage > 1), codec=codec, context_factor=2 if m else 1, pad=pad
            )
    parts["model"] = parts.pop("mag1_stage2")
    if size:
        parts["model"].config.sample.size = size
    return parts


PLACE, SIZE = "mag1_stage2", (88, 120)


def write(folder, **how):
    """A slide of all that networks are told, in its folder."""
    folder.mkdir(exist_ok=True)
    return urcdm.Pipeline(cascade(mixed=True, size=SIZE), place=PLACE, **how).write(folder)


if __name__ == "__main__":
    mesh.connect()
    write(Path(sys.argv[1]), glass=False)
