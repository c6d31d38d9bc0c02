"""The autoencoding task: images through a small latent and back (Rombach et al. 2022, section 3.1 and appendix G).

loss = reconstruction + perceptual + ``kl`` * KL + ``adversarial`` * weight * -mean D(reconstruction), where images are
means over values and the KL is that of an image over its number of values: the published sums, divided by that number.
Of an autoencoder with a codebook (van den Oord et al. 2017), and of those that see some slices of a volume, what the
loss has in the place of the KL is theirs to say (:class:`nca_gen.contracts.Rebuilder`).
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
from nca_gen.contracts import Autoencoder, Parts, Rebuilder, Rebuilt, Standing
from nca_gen.errors import UserError
from nca_gen.metrics import lpips
from nca_gen.nn import modules, random_features
from nca_gen.nn.patch_discriminator import PatchDiscriminator
from nca_gen.ranges import Count, Natural, OneOf, Share, Weight
from nca_gen.tasks.learner import Learner, average

LOSSES: dict[str, Callable[[Array], Array]] = {
    "l1": lambda d: jnp.mean(jnp.abs(d)),
    "l2": lambda d: jnp.mean(jnp.square(d)),
}
RECENT = 100  # steps: an entry of a codebook that stood for nothing so long is not in use
LARGEST = 1e4  # factor by which the adaptive weight follows the reconstruction's gradient

ruler = cache(lpips.load)
PERCEPTUAL = {
    "none": lambda a, b: jnp.zeros(len(a)),
    "random": random_features.between,
    "lpips": lambda a, b: lpips.between("vgg", ruler("vgg"), a, b),
}


class State(NamedTuple):
    """Everything that training changes: two players, each with its optimiser. ``key`` never changes.

    Without an adversarial term there is no critic: its fields are (). ``frozen``: where the model stands on another one
    the parameters of that, which do not change. ``idle``: for how many steps each entry of the codebook that learns has
    stood for nothing; without one ().
    """

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    optimizer: Any
    critic: PyTree
    critic_optimizer: Any
    key: Key[Array, ""]
    frozen: PyTree = ()
    idle: Any = ()


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
    used afterwards; with ``ema_warmup`` less at first. Of pictures only (two axes, or slices), ``perceptual``: "lpips"
    (VGG16, published weights), "random" (no file) or "none"; ``adversarial``, not 0: the weight of a critic of patches,
    ``critic`` wide, which halves them ``critic_layers`` times, from step ``start`` on; with ``adaptive`` times the
    ratio of the gradients of both at the last layer (Esser et al. 2021, arXiv 2012.09841, equation 7).
    ``revive``, not 0: an entry of the codebook that stood for nothing in so many steps becomes a latent of the batch.
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
    critic_layers: Count = 3
    revive: Natural = 0
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
        drawn = arrays.written_out(key)
        params = self.model.init(drawn)
        if batch is not None and (self.adversarial or self.perceptual != "none"):
            self.check(params, batch["image"])
        own, frozen = self.parted(params)
        ema = jax.tree.map(jnp.copy, own)  # a donated state must not hold one buffer twice
        critic, critic_optimizer = (), ()
        if self.adversarial:
            example = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
            critic = modules.start(self.network, jax.random.fold_in(drawn, 1), example)
            critic_optimizer = self.learner.init(critic)
        start, optimizer = jnp.zeros((), jnp.int32), self.learner.init(own)
        return State(start, own, ema, optimizer, critic, critic_optimizer, key, frozen, self.idle(own))

    def check(self, params: PyTree, image: Any) -> None:
        """Raises UserError where what becomes of ``image`` (a batch, or its shape) is nothing for a critic."""
        shape = image.shape
        if isinstance(self.model, Rebuilder):  # which may look at slices of it
            shape = jax.eval_shape(lambda p, x: self.forward(p, x, arrays.keys(0, len(x))), params, image).fake.shape
        _, *sides, _ = shape
        if len(sides) != 2:
            raise UserError("task.adversarial and task.perceptual look at pictures: of volumes set them to 0 and none")
        if self.adversarial and min(sides) < (least := 3 * 2**self.critic_layers):
            raise UserError(f"the critic needs images of {least} pixels a side: enlarge config.data.patch")

    def parted(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """Parameters of the model: those that are trained, and those of the one on which it stands."""
        if not isinstance(self.model, Standing):
            return params, ()
        return {name: tree for name, tree in params.items() if name != "slices"}, params["slices"]

    def whole(self, own: PyTree, frozen: PyTree) -> PyTree:
        """What :meth:`parted` parted."""
        return {"slices": frozen, **own} if isinstance(self.model, Standing) else own

    def idle(self, own: PyTree) -> Any:
        """Zeros for the entries of the codebook that learns. Raises UserError for ``revive`` without one."""
        if isinstance(self.model, Rebuilder) and "codebook" in own:
            return jnp.zeros(len(own["codebook"]["embedding"]), jnp.int32)
        if self.revive:
            raise UserError("task.revive is for models whose codebook learns, and this one has none: set it to 0")
        return ()

    @property
    def network(self) -> PatchDiscriminator:
        """The critic."""
        return PatchDiscriminator(self.critic, self.critic_layers)

    def logits(self, critic: PyTree, image: Float[Array, "B H W C"]) -> Float[Array, "B h w 1"]:
        """What the critic thinks of every patch of an image; high is real."""
        return jnp.asarray(self.network.apply({"params": critic}, image))

    def forward(self, params: PyTree, image: Float[Array, "B *T C"], key: Key[Array, " B"]) -> Rebuilt:
        """What became of images, of a sample of their latents where these are not certain: then the penalty is the KL,
        in nats per image."""
        if isinstance(self.model, Rebuilder):
            return self.model.rebuild(params, image, key)
        mean, logvar = self.model.encode(params, image)
        noise = arrays.cell_normal(key, -1, arrays.coords(mean.shape[1:-1]), mean.shape[-1])
        fake = self.model.decode(params, mean + jnp.exp(logvar / 2) * noise)
        return Rebuilt(fake, image, {"kl": divergence(mean, logvar).mean()})

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
        key = arrays.numbered(here, len(image))
        shares = {"kl": self.kl * len(image) / image.size}  # of an image's KL in the loss; all other penalties have 1

        def forward(own: PyTree) -> tuple[tuple[Array, Array], Rebuilt]:
            rebuilt = self.forward(self.whole(own, state.frozen), image, key)
            penalty = sum(shares.get(name, 1.0) * x for name, x in rebuilt.penalties.items())
            return (rebuilt.fake, jnp.asarray(penalty, jnp.float32)), rebuilt

        (fake, penalty), pull, rebuilt = jax.vjp(forward, state.params, has_aux=True)
        lost, cotangent = jax.value_and_grad(self.reconstruction)(fake, rebuilt.real)
        metrics, rivals = {"reconstruction": lost} | rebuilt.penalties, (state.critic, state.critic_optimizer)
        lost = lost + penalty
        if self.adversarial:
            pulled = lambda g: pull((g, jnp.zeros(())))[0]
            cotangent, rivals, more = self.contest(state, rebuilt.real, fake, cotangent, pulled)
            metrics |= more
            lost = lost + more["adversarial_weight"] * more["adversarial"]
        (grads,) = pull((cotangent, jnp.ones(())))
        params, optimizer, moved = self.learner.update(grads, state.optimizer, state.params, state.step)
        ema = average(state.ema, params, state.step, self.ema, self.ema_warmup)
        params, ema, idle, use = self.kept(state, params, ema, rebuilt, here)
        metrics = {"loss": lost, **metrics, **use, **moved}
        return State(state.step + 1, params, ema, optimizer, *rivals, state.key, state.frozen, idle), metrics

    def kept(
        self, state: State, params: PyTree, ema: PyTree, rebuilt: Rebuilt, key: Key[Array, ""]
    ) -> tuple[PyTree, PyTree, Any, dict[str, Array]]:
        """``params`` and ``ema``, with dead entries of the codebook revived; what is idle now; how all are used.

        "usage": the share of the entries that stood for something in the last ``RECENT`` steps; "perplexity": how many
        equally frequent ones would be as diverse as those of this batch.
        """
        if isinstance(state.idle, tuple):
            return params, ema, (), {}
        assert rebuilt.z is not None  # it is the codebook that learns
        assert rebuilt.codes is not None
        n, codes, z = len(state.idle), rebuilt.codes.reshape(-1), rebuilt.z.reshape(-1, rebuilt.z.shape[-1])
        counts = jnp.zeros(n).at[codes].add(1.0)
        p = counts / len(codes)
        idle = jnp.where(counts > 0, 0, state.idle + 1)
        use = {"usage": (idle < RECENT).mean(), "perplexity": jnp.exp(-jax.scipy.special.xlogy(p, p).sum())}
        if self.revive:
            dead = idle >= self.revive
            drawn = z[jax.random.randint(jax.random.fold_in(key, 1), (n,), 0, len(z))]
            revived = lambda tree: (
                tree | {"codebook": {"embedding": jnp.where(dead[:, None], drawn, tree["codebook"]["embedding"])}}
            )
            params, ema, idle = revived(params), revived(ema), jnp.where(dead, 0, idle)
        return params, ema, idle, use

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
            ours, theirs = (optax.tree.norm(self.last(pull(g))) for g in (cotangent, push))
            weight *= jnp.clip(ours / (theirs + 1e-4), 0.0, LARGEST)
        metrics = {"adversarial": fooled, "critic": error, "adversarial_weight": weight}
        return cotangent + weight * push, rivals, metrics

    def last(self, params: PyTree) -> Array:
        """The last kernel that is trained."""
        if isinstance(self.model, Rebuilder):
            return self.model.last(params)
        return params["decoder"]["conv_out"]["kernel"]

    def inherits(self, params: PyTree) -> PyTree:
        """What of ``params`` another run has trained: all, or those of the autoencoder on which this one stands."""
        return params["slices"] if isinstance(self.model, Standing) else params

    def begin(self, state: State, params: PyTree) -> State:
        """``state`` with ``params``, of which the average begins too; or with what the model stands on."""
        if isinstance(self.model, Standing):
            return state._replace(frozen=params)
        return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))

    def eval_params(self, state: State) -> PyTree:
        """The averaged parameters of the autoencoder, and of the one on which it stands."""
        return self.whole(state.ema, state.frozen)


@partial(jax.jit, static_argnums=0)
def look(model: Any, params: PyTree, image: Array) -> tuple[Array, Array, Array]:
    """The reconstruction from the latent's mean, that mean, and its log-variance."""
    mean, logvar = model.encode(params, image)
    return model.decode(params, mean), mean, logvar
