"""Denoisers of one convolution: all that samplers, tiles, windows and devices ask of one, and little to compile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import jax
import jax.numpy as jnp

from nca_gen.ca import perceive
from nca_gen.ca.rollout import repeated, trajectory
from nca_gen.ca.seed import Cells
from nca_gen.contracts import Place
from nca_gen.models.geca import Genes


def own(key, told, place):
    """A number for every cell, of its coordinates, its key and the time; of whole numbers, so that it is exact."""
    tail = [1] * (len(place.at) + 1)
    word = jax.random.key_data(key)[:, 0].reshape(-1, *tail).astype(jnp.int32)
    where = sum(f * c for f, c in zip((3, 5, 7), place.at, strict=False))[..., None]
    return ((where + word) % 16) / 16 + told.reshape(-1, *tail) / 100


@dataclass(frozen=True)
class Model:
    """Local: what a cell says depends on all within ``halo`` cells, and on its :func:`own` number."""

    channels: int = 3
    halo: int = 4
    border: str = "reflect"
    ndim: int = 2

    @property
    def reads(self):
        return self.channels

    predicts = reads

    @property
    def conditions(self):
        return {}

    def init(self, key):
        return {"kernel": jnp.zeros((2 * self.halo + 1,) * self.ndim + (self.channels, self.channels))}

    def apply(self, params, x, told, cond, memory, key, place=None):
        kernel = params["kernel"]
        heard = perceive.convolved(perceive.pad(x, self.border, self.halo), kernel / prod(kernel.shape[:-1]) ** 0.5)
        return jnp.tanh(heard + own(key, told, place or Place.of(x))), memory

    def bordered(self, border):
        return replace(self, border=border)

    def inference(self):
        return self


@dataclass(frozen=True)
class Family:
    """Local, an Automaton and an Heir that knows classes and the variance of a step."""

    steps: int = 3
    channels: int = 3
    hidden: int = 4
    classes: int = 3
    border: str = "reflect"
    ndim: int = 2
    dtype: str = "float32"

    @property
    def reads(self):
        return self.channels

    @property
    def predicts(self):
        return 2 * self.channels

    @property
    def conditions(self):
        return {"label": self.classes}

    @property
    def halo(self):
        return self.steps

    def init(self, key):
        outputs = self.predicts + self.hidden
        kernel = jnp.zeros((3,) * self.ndim + (self.channels + outputs, outputs))
        return {"kernel": kernel, "label": jnp.zeros((self.classes, outputs))}

    def newborn(self, x, key, place=None):
        born = own(key, jnp.zeros(1), place or Place.of(x))
        return Genes(*(born + jnp.zeros((*x.shape[:-1], n)) for n in (self.predicts, self.hidden)))

    def begin(self, x, memory, key, place):
        fresh = self.newborn(x, key, place)
        genes = [new if old is None else old for old, new in zip(memory or (None, None), fresh, strict=True)]
        return Cells(x, *genes, jnp.zeros((), jnp.int32))

    def step(self, params, told, cond, key, place):
        label = 0.0 if cond is None else cond["label"] @ params["label"]
        given = own(key, told, place) + jnp.reshape(label, (-1, *[1] * self.ndim, jnp.shape(label)[-1] if cond else 1))
        kernel = params["kernel"].astype(self.dtype)

        def older(cells):
            state = jnp.concatenate([cells.image, cells.out, cells.hidden], -1)
            heard = perceive.convolved(perceive.pad(state, self.border).astype(self.dtype), kernel)
            d = jnp.tanh(heard / 9 + given + 0.1 * cells.age) / 2
            out, hidden = cells.out + d[..., : self.predicts], cells.hidden + d[..., self.predicts :]
            return Cells(cells.image, out, hidden, cells.age + 1)

        return older

    def apply(self, params, x, told, cond, memory, key, place=None):
        place = place or Place.of(x)
        step = self.step(params, told, cond, key, place)
        cells = repeated(step, self.steps)(self.begin(x, memory, key, place))
        return cells.out, Genes(cells.out, cells.hidden)

    def growth(self, params, x, told, cond, key):
        place = Place.of(x)
        step = self.step(params, told, cond, key, place)
        return trajectory(step, self.steps, lambda cells: cells.out)(self.begin(x, (), key, place))

    def grown(self, steps):
        return replace(self, steps=steps)

    def bordered(self, border):
        return replace(self, border=border)

    def inference(self):
        return self
