"""The autoencoding task: images through a small latent and back (Rombach et al. 2022, section 3.1 and appendix G).

loss = reconstruction + perceptual + ``kl`` * KL + ``adversarial`` * weight * -mean D(reconstruction), where images are
means over values and the KL is that of an image over its number of values: the published sums, divided by that number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from nca_gen import arrays, ranges
from nca_gen.contracts import Autoencoder, Parts
from nca_gen.errors import UserError
from nca_gen.metrics import lpips
from nca_gen.nn import random_features
from nca_gen.nn.patch_discriminator import PatchDiscriminator
from nca_gen.ranges import Count, Natural, OneOf, Share, Weight
from nca_gen.tasks.learner import Learner, average

LOSSES: dict[str, Callable[[Array], Array]] = {
    "l1": lambda d: jnp.mean(jnp.abs(d)),
    "l2": lambda d: jnp.mean(jnp.square(d)),
}
SEEN = 24  # pixels a side, for a logit
LARGEST = 1e4  # factor by which the adaptive weight follows the reconstruction's gradient

ruler = cache(lpips.load)
PERCEPTUAL = {
    "none": lambda a, b: jnp.zeros(len(a)),
    "random": random_features.between,
    "lpips": lambda a, b: lpips.between("vgg", ruler("vgg"), a, b),
}


class State(NamedTuple):
    """Everything that training changes: two players, each with its optimiser. ``key`` never changes.

    Without an adversarial term there is no critic: its fields are ().
    """

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    optimizer: Any
    critic: PyTree
    critic_optimizer: Any
    key: Key[Array, ""]


def divergence(mean: Float[Array, "B *S L"], logvar: Float[Array, "B *S L"]) -> Float[Array, " B"]:
    """KL of N(mean, exp(logvar)) from the standard normal, in nats per image."""
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar, tuple(range(1, mean.ndim)))


def hinge(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """The critic's loss (Lim & Ye 2017, arXiv 1705.02894), halved: real logits above 1, others below -1."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


@dataclass(frozen=True)
class Task:
    """A :class:`nca_gen.contracts.Task` of one player, or of two.

    batch: {"image": [B, *T, C] in [-1, 1]}. ``loss``: of the reconstruction, "l1" or "l2". ``kl``: the weight of the
    divergence of the latent from the standard normal. ``ema``: decay of the average of the parameters, which is what is
    used afterwards; with ``ema_warmup`` less at first. Of pictures only (two axes), ``perceptual``: "lpips" (VGG16,
    published weights), "random" (no file) or "none"; ``adversarial``, not 0: the weight of a critic of patches,
    ``critic`` wide, from step ``start`` on; with ``adaptive`` times the ratio of the gradients of reconstruction and
    critic at the last layer (Esser et al. 2021, arXiv 2012.09841, equation 7).
    """

    model: Autoencoder
    learner: Learner
    loss: Annotated[str, OneOf(LOSSES)] = "l1"
    kl: Weight = 1e-6
    perceptual: Annotated[str, OneOf(PERCEPTUAL)] = "none"
    perceptual_weight: Weight = 1.0
    adversarial: Weight = 0.0
    start: Natural = 0
    adaptive: bool = True
    critic: Count = 64
    ema: Share = 0.999
    ema_warmup: bool = True

    def __post_init__(self):
        if not isinstance(self.model, Autoencoder):
            raise UserError(
                "task.name=autoencode is for autoencoders, and config.model is none: choose another name of one"
            )
        ranges.check_fields(self, "task")
        if self.ema == 1 and not self.ema_warmup:
            raise UserError("task.ema=1 is an average that never moves: lower it, or set task.ema_warmup")

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any] | None = None) -> State:
        """The state before the first step. Raises UserError where the images of ``batch`` do not fit the model."""
        channels = self.model.image_channels
        if batch is not None and (given := batch["image"].shape[-1]) != channels:
            raise UserError(
                f"the images have {given} channels; set --config.model.image_channels={given} (it is {channels})"
            )
        if batch is not None and (self.adversarial or self.perceptual != "none") and len(batch["image"].shape) != 4:
            raise UserError("task.adversarial and task.perceptual look at pictures: of volumes set them to 0 and none")
        if batch is not None and self.adversarial and min(batch["image"].shape[1:3]) < SEEN:
            raise UserError(f"the critic needs images of {SEEN} pixels a side: enlarge config.data.patch")
        params = self.model.init(key)
        ema = jax.tree.map(jnp.copy, params)  # a donated state must not hold one buffer twice
        critic, critic_optimizer = (), ()
        if self.adversarial:
            critic = self.network.init(jax.random.fold_in(key, 1), jnp.zeros((1, 32, 32, channels)))["params"]
            critic_optimizer = self.learner.init(critic)
        return State(jnp.zeros((), jnp.int32), params, ema, self.learner.init(params), critic, critic_optimizer, key)

    @property
    def network(self) -> PatchDiscriminator:
        """The critic."""
        return PatchDiscriminator(self.critic)

    def logits(self, critic: PyTree, image: Float[Array, "B H W C"]) -> Float[Array, "B h w 1"]:
        """What the critic thinks of every patch of an image; high is real."""
        return jnp.asarray(self.network.apply({"params": critic}, image))

    def forward(
        self, params: PyTree, image: Float[Array, "B *T C"], key: Key[Array, " B"]
    ) -> tuple[Float[Array, "B *T C"], Float[Array, ""]]:
        """Images from a sample of their latents, and the KL, in nats per image."""
        mean, logvar = self.model.encode(params, image)
        noise = arrays.cell_normal(key, -1, arrays.coords(mean.shape[1:-1]), mean.shape[-1])
        return self.model.decode(params, mean + jnp.exp(logvar / 2) * noise), divergence(mean, logvar).mean()

    def reconstruction(self, fake: Float[Array, "B *T C"], image: Float[Array, "B *T C"]) -> Float[Array, ""]:
        """How far apart, with the perceptual term."""
        seen = PERCEPTUAL[self.perceptual](fake, image).mean()
        return LOSSES[self.loss](fake - image) + self.perceptual_weight * seen

    def step(
        self, state: State, batch: Mapping[str, Array], parts: Parts | None = None
    ) -> tuple[State, dict[str, Array]]:
        """One step of both players and of the average; metrics "loss", its terms, "grad_norm", "lr"."""
        image = batch["image"]
        here = jax.random.fold_in(state.key, state.step)
        key = jax.vmap(lambda i: jax.random.fold_in(here, i))(jnp.arange(len(image)))
        (fake, kl), pull = jax.vjp(lambda p: self.forward(p, image, key), state.params)
        share = self.kl * len(image) / image.size  # of an image's KL in the loss
        lost, cotangent = jax.value_and_grad(self.reconstruction)(fake, image)
        metrics, rivals = {"reconstruction": lost, "kl": kl}, (state.critic, state.critic_optimizer)
        lost = lost + share * kl
        if self.adversarial:
            cotangent, rivals, more = self.contest(state, image, fake, cotangent, lambda g: pull((g, jnp.zeros(())))[0])
            metrics |= more
            lost = lost + more["adversarial_weight"] * more["adversarial"]
        (grads,) = pull((cotangent, jnp.asarray(share)))
        params, optimizer, rate = self.learner.update(grads, state.optimizer, state.params, state.step)
        ema = average(state.ema, params, state.step, self.ema, self.ema_warmup)
        metrics = {"loss": lost, **metrics, "grad_norm": optax.tree.norm(grads), "lr": rate}
        return State(state.step + 1, params, ema, optimizer, *rivals, state.key), metrics

    def contest(
        self, state: State, image: Array, fake: Array, cotangent: Array, pull: Any
    ) -> tuple[Array, tuple[PyTree, Any], dict[str, Float[Array, ""]]]:
        """From ``start`` on: ``cotangent`` and what fools the critic, the critic after its own step, and metrics.

        ``pull``: what a cotangent of the reconstruction is for the parameters.
        """

        def fight():
            fooled, push = jax.value_and_grad(lambda y: -self.logits(state.critic, y).mean())(fake)
            error, grads = jax.value_and_grad(lambda p: hinge(self.logits(p, image), self.logits(p, fake)))(
                state.critic
            )
            critic, optimizer, _ = self.learner.update(grads, state.critic_optimizer, state.critic, state.step)
            return (critic, optimizer), push, fooled, error

        def wait():
            zero = jnp.zeros(())
            return (state.critic, state.critic_optimizer), jnp.zeros_like(fake), zero, zero

        on = state.step >= self.start
        rivals, push, fooled, error = jax.lax.cond(on, fight, wait)
        weight = jnp.where(on, self.adversarial, 0.0)
        if self.adaptive:
            # Only the last kernel's gradient is computed: nothing else of ``pull`` is asked for.
            ours, theirs = (optax.tree.norm(pull(g)["decoder"]["conv_out"]["kernel"]) for g in (cotangent, push))
            weight *= jnp.clip(ours / (theirs + 1e-4), 0.0, LARGEST)
        metrics = {"adversarial": fooled, "critic": error, "adversarial_weight": weight}
        return cotangent + weight * push, rivals, metrics

    def begin(self, state: State, params: PyTree) -> State:
        """``state`` with ``params``, of which the average begins too."""
        return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))

    def eval_params(self, state: State) -> PyTree:
        """The averaged parameters of the autoencoder."""
        return state.ema


@partial(jax.jit, static_argnums=0)
def look(model: Any, params: PyTree, image: Array) -> tuple[Array, Array, Array]:
    """The reconstruction from the latent's mean, that mean, and its log-variance."""
    mean, logvar = model.encode(params, image)
    return model.decode(params, mean), mean, logvar
