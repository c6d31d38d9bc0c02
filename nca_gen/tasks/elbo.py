"""The task of a variational autoencoder: the evidence lower bound (Kingma & Welling 2013, arXiv 1312.6114).

log p(x) >= E_q(z|x) log p(x|z) - KL(q(z|x) | N(0, I)), one z drawn by reparametrisation, the KL in closed form; all in
nats per image. What p(x|z) is the model says (:class:`nca_gen.contracts.Variational`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from nca_gen import arrays, ranges
from nca_gen.ca.damage import damaged
from nca_gen.ca.rollout import nested
from nca_gen.contracts import Parts, Regenerator, Variational
from nca_gen.errors import UserError
from nca_gen.ranges import Decay, Natural, Weight
from nca_gen.tasks.autoencode import divergence
from nca_gen.tasks.learner import Learner, average

CORNER = -2  # names the randomness of where cells are damaged; -1 is that of z, steps from 0 on those of the bound


class State(NamedTuple):
    """Everything that training changes; ``ema``, the averaged parameters, are what generates. ``key`` stays."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    optimizer: Any
    key: Key[Array, ""]


def bits_per_dim(nats: float | Array, shape: tuple[int, ...]) -> float | Array:
    """A log-likelihood of an image of ``shape``, in nats, as bits per value; lower is better."""
    return -nats / (prod(shape) * log(2))


@dataclass(frozen=True)
class Task:
    """A :class:`nca_gen.contracts.Task` for variational autoencoders.

    batch: {"image": [B, *T, C] in [-1, 1)}. The loss is ``beta`` * KL - log p(x|z), 1 the bound itself; published for
    VNCA's faces with 1 and with 100. ``regrow``, not 0, of cells that can be damaged: in a square of half the sides,
    anywhere, they become zero after growth, take so many steps, and half of log p(x|z) is of what they are then.
    Published for VNCA without doublings, from a pool of grown cells; without a pool here, and 0 for the doubling one.
    ``ema``: decay of the average of the parameters, which generates; 0, as published, is none.
    """

    model: Variational
    learner: Learner
    beta: Weight = 1.0
    regrow: Natural = 0
    ema: Decay = 0.0

    def __post_init__(self):
        if not isinstance(self.model, Variational):
            raise UserError(
                "task.name=elbo is for autoencoders that say how probable an image is, and config.model does not: "
                "choose another name of one"
            )
        ranges.check_fields(self, "task")
        if self.regrow and not isinstance(self.model, Regenerator):
            raise UserError("task.regrow is for models whose cells can be damaged, and these cannot: set it to 0")

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any] | None = None) -> State:
        """The state before the first step. Raises UserError where the images of ``batch`` do not fit the model."""
        if batch is not None and (given := batch["image"].shape[-1]) != self.model.image_channels:
            raise UserError(
                f"the images have {given} channels; set --config.model.image_channels={given} (it is "
                f"{self.model.image_channels})"
            )
        params = self.model.init(arrays.written_out(key))
        if batch is not None:
            jax.eval_shape(self.model.encode, params, batch["image"])
        # A copy, because a donated state must not hold one buffer twice.
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), self.learner.init(params), key)

    def objective(
        self, params: PyTree, image: Float[Array, "B *T C"], key: Key[Array, " B"]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss, and its terms: means over images. ``key``: one a sample."""
        mean, logvar = self.model.encode(params, image)
        outputs = self.model.outputs(params, latent(mean, logvar, key, -1)[0])
        likelihood, kl = self.model.log_likelihood(outputs, image).mean(), divergence(mean, logvar).mean()
        terms = {"elbo": likelihood - kl, "log_likelihood": likelihood, "kl": kl}
        terms["bits_per_dim"] = jnp.asarray(bits_per_dim(terms["elbo"], image.shape[1:]))
        if self.regrow:
            assert isinstance(self.model, Regenerator)  # __post_init__ has seen to it
            grown = nested(self.model.step(params), self.regrow)(anywhere(outputs, key))
            terms["regrown_log_likelihood"] = self.model.log_likelihood(grown, image).mean()
            likelihood = (likelihood + terms["regrown_log_likelihood"]) / 2
        return self.beta * kl - likelihood, terms

    def step(
        self, state: State, batch: Mapping[str, Array], parts: Parts | None = None
    ) -> tuple[State, dict[str, Array]]:
        """One step of gradient descent and of the average; metrics "loss", its terms, "grad_norm", "lr"."""
        image = batch["image"]
        key = arrays.numbered(jax.random.fold_in(state.key, state.step), len(image))
        (loss, terms), grads = jax.value_and_grad(self.objective, has_aux=True)(state.params, image, key)
        params, optimizer, moved = self.learner.update(grads, state.optimizer, state.params, state.step)
        ema = average(state.ema, params, state.step, self.ema, False)
        metrics = {"loss": loss, **terms, **moved}
        return State(state.step + 1, params, ema, optimizer, state.key), metrics

    def inherits(self, params: PyTree) -> PyTree:
        """All of ``params``."""
        return params

    def begin(self, state: State, params: PyTree) -> State:
        """``state`` with ``params``, of which the average begins too."""
        return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))

    def eval_params(self, state: State) -> PyTree:
        """The averaged parameters."""
        return state.ema


def latent(
    mean: Float[Array, "B *S L"], logvar: Float[Array, "B *S L"], key: Key[Array, " B"], number: int | Int[Array, ""]
) -> tuple[Float[Array, "B *S L"], Float[Array, " B"]]:
    """Draw ``number`` of z from q(z|x) by reparametrisation, and its log p(z) - log q(z|x) in nats."""
    noise = arrays.cell_normal(key, number, arrays.coords(mean.shape[1:-1]), mean.shape[-1])
    z = mean + jnp.exp(logvar / 2) * noise
    ratio = (jnp.square(noise) + logvar - jnp.square(z)) / 2
    return z, ratio.sum(tuple(range(1, z.ndim)))


def anywhere(cells: Float[Array, "B *S C"], key: Key[Array, " B"]) -> Float[Array, "B *S C"]:
    """``cells``, in each sample without those in a square of half the sides, somewhere within."""
    size = np.array(cells.shape[1:-1])
    sides = np.maximum(size // 2, 1)
    share = arrays.cell_uniform(key, CORNER, (), len(size))
    return damaged(cells, jnp.floor(share * (size - sides + 1)).astype(jnp.int32), tuple(map(int, sides)))


def bounds(
    model: Variational, params: PyTree, image: Float[Array, "B *T C"], key: Key[Array, " B"], samples: int
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """E_q log p(x|z) as the mean of ``samples`` draws of z, the KL in closed form, and the importance-weighted bound.

    The last is log (1/K sum_k p(x, z_k) / q(z_k|x)) (Burda et al. 2015, arXiv 1509.00519), which grows with K towards
    log p(x); of one draw it is the evidence lower bound with its KL estimated. All in nats per image.
    """
    mean, logvar = model.encode(params, image)

    def weigh(number: Int[Array, ""]) -> tuple[Array, Array]:
        z, ratio = latent(mean, logvar, key, number)
        likelihood = model.log_likelihood(model.outputs(params, z), image)
        return likelihood, likelihood + ratio

    likelihood, weight = jax.lax.map(weigh, jnp.arange(samples))
    return likelihood.mean(0), divergence(mean, logvar), jax.nn.logsumexp(weight, 0) - log(samples)
