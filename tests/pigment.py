"""A denoiser of which every sample is known: the colour of its class, brighter for each step that its cells take.

What it says does not depend on x, and is x0 itself, so that DDIM ends in it. What a step hands on counts the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from nca_gen import build
from nca_gen.contracts import Part
from nca_gen.diffusion.codec import Codec
from nca_gen.evaluators.held import Held
from nca_gen.runtime import run
from nca_gen.tasks.denoise import Task
from nca_gen.tasks.learner import Learner

STEP, COLOUR, AGE = 0.1, 0.5, 0.01  # what a step of the cells, the class and a step that was handed on add


class Memory(NamedTuple):
    hidden: Any
    out: Any


@dataclass(frozen=True)
class Paint:
    """An Automaton and an Heir of ``channels`` colours that knows as many classes."""

    steps: int = 3
    channels: int = 3
    ndim: int = 2
    dtype: str = "float32"

    @property
    def reads(self):
        return self.channels

    predicts = reads

    @property
    def conditions(self):
        return {"label": self.channels}

    def init(self, key):
        return {"gain": jnp.ones(())}

    def newborn(self, x, key, place=None):
        return Memory(jnp.zeros_like(x), jnp.zeros_like(x))

    def apply(self, params, x, told, cond, memory, key, place=None):
        age = memory.hidden if memory and memory.hidden is not None else jnp.zeros_like(x)
        colour = 0.0 if cond is None else cond["label"].reshape(len(x), *[1] * self.ndim, -1)
        output = params["gain"] * (STEP * self.steps + COLOUR * colour + AGE * age) + 0 * x
        return output, Memory(age + 1, output)

    def inference(self):
        return self

    def grown(self, steps):
        return replace(self, steps=steps)

    def growth(self, params, x, told, cond, key):
        ages = [replace(self, steps=n) for n in range(self.steps + 1)]
        return jnp.stack([model.apply(params, x, told, cond, (), key)[0] for model in ages])


def config(**changes):
    """Of samples by DDIM in 4 steps."""
    sample = {"sampler": "ddim", "clip": "none", "guidance": 1.0, "heredity": "none"}
    return build.completed(tiny.conditional(**{f"sample.{k}": v for k, v in sample.items()} | changes))


def asked(splits=None, model=None, **changes):
    """Pipeline and data of an evaluation of the painter at step 1,234."""
    c = run.frozen(config(**changes))
    process = build.process(config(**{"diffusion.prediction": "x0"}))
    task = Task(model or Paint(), Learner(), process, Codec())
    splits = splits or tiny.graded()
    part = Part(c, task, task.model.init(jax.random.key(0)), 1234, splits.decode)
    return build.pipeline(c, {"model": part}), Held(c, task, splits)


def painted(cond, size=(16, 16), steps=3, age=0):
    """The samples under the rows of ``cond``, [n, K]."""
    colours = STEP * steps + COLOUR * np.asarray(cond) + AGE * age
    return np.broadcast_to(
        colours.reshape(len(colours), *[1] * len(size), -1), (len(colours), *size, colours.shape[-1])
    )
