"""The denoising task: learn what was added to an image (Ho et al. 2020, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, Float, Int, Key, PyTree

from nca_gen import arrays, ranges
from nca_gen.contracts import Aging, Condition, Denoiser, Parts, Process
from nca_gen.diffusion import continuous, discrete, guidance, variance
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import noised, target
from nca_gen.errors import UserError
from nca_gen.ranges import Natural, OneOf, Share, Weight
from nca_gen.tasks import posthoc
from nca_gen.tasks.learner import Learner, average


def l1(error: Float[Array, "B *S C"], weight: Float[Array, "B *s 1"]) -> Float[Array, ""]:
    """Mean of the absolute values."""
    return jnp.mean(weight * jnp.abs(error))


def l2(error: Float[Array, "B *S C"], weight: Float[Array, "B *s 1"]) -> Float[Array, ""]:
    """Mean of the squares."""
    return jnp.mean(weight * jnp.square(error))


def l1_l2(error: Float[Array, "B *S C"], weight: Float[Array, "B *s 1"]) -> Float[Array, ""]:
    """Both, 1 : 1 (Kalkhof et al. 2024, section 3.2)."""
    return l2(error, weight) + l1(error, weight)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {"l1_l2": l1_l2, "l2": l2, "l1": l1}
PICTURES = ("image", "context", "low")  # conditions that are encoded as images are
FIELDS = {"image": "context", "map": "label_map"}  # fields of a batch whose name is not that of the condition
_DROP = -4  # the step that names which conditions are dropped; -1 is the noise, -2 the times
_LOW, LOW_TIME = -5, -6  # those that name the noise of the smaller image, and its time in training
_AGE = -7  # the one that names the age at which cells are asked on the way


def fields(model: Denoiser) -> dict[str, int]:
    """The fields of a batch that ``model`` learns from, and their channels when they are encoded.

    A smaller image is none of them: it is made of the image.
    """
    told = {FIELDS.get(name, name): k for name, k in model.conditions.items() if name not in guidance.LOW}
    return {"image": model.reads} | told


class State(NamedTuple):
    """Everything that training changes. ``key`` never changes: randomness is named by (key, step)."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    optimizer: Any
    key: Key[Array, ""]
    averages: Any = ()  # posthoc.Averages


@dataclass(frozen=True)
class Task:
    """A :class:`nca_gen.contracts.Task` for any denoiser, in any process, of any number of spatial axes.

    batch: {"image": [B, *T, C] in [-1, 1], or latents}, and what the model is told beside (see :meth:`condition`):
    {"label": [B, L]}, 0/1 columns or a grade, as :func:`nca_gen.arrays.multi_hot` reads them; {"context": [B, *T, D]},
    a picture of the same grid; {"label_map": [B, *T, _]}, as :func:`nca_gen.arrays.shares` reads it; others under the
    names that the model gives them.
    ``loss``: of the prediction, "l1", "l2" or "l1_l2", their sum. ``ema``: decay of the average of the parameters,
    which samples; with ``ema_warmup`` less at first. ``drop``: the probability with which a condition becomes 0, so
    that the model also learns without. ``label_drop``: "row" drops all conditions of an image, "entry" each class for
    itself, as published for GeCA, and all else by row. ``vb``: the weight of the variational bound, in bits, where the
    model says a variance (:func:`nca_gen.diffusion.variance.bits`).
    ``young``: the weight of the loss of what the cells of an automaton say on the way, after ``young_age`` steps of a
    call; 0 is an age for each image at random, from 1 on. They learn ``young_learns``: "target", as those at the end
    do, or "end", what those say (self-distillation over the number of steps, as in ELT, arXiv 2604.09168).
    ``margin``: in training a picture goes on beyond its sides as its mirror image, for so many cells, in noise of its
    own, and the loss is of the picture alone. A cell near a border hears its own side again, noise and all, and learns
    from less than it hears in a large picture; from the halo of a local model on, no cell that learns hears a border.
    ``posthoc``: also keeps averages and snapshots of them, 51 times the parameters, from which the evaluator "averages"
    makes one of any width (:mod:`nca_gen.tasks.posthoc`).

    A model that is told "low" resolves a smaller image, as a later stage of a cascade does (Ho et al. 2022): the image
    reduced ``low`` times (area mean), enlarged again (nearest), encoded as images are, and in noise of a time of
    ``low_schedule`` (:mod:`nca_gen.diffusion.continuous`): in training uniform in [0, 1), in sampling ``low_time``. It
    is never dropped.
    """

    model: Denoiser
    learner: Learner
    process: Process
    codec: Codec
    loss: Annotated[str, OneOf(LOSSES)] = "l1_l2"
    ema: Share = 0.99
    ema_warmup: bool = False
    label_drop: Annotated[str, OneOf(("row", "entry"))] = "row"
    drop: Share = 0.1
    vb: Weight = 1.0
    low: Literal[0] | Annotated[int, Ge(2)] = 0
    low_schedule: Annotated[str, OneOf(("linear", "cosine"))] = "linear"
    low_time: Share = 0.2
    young: Weight = 0.0
    young_age: Natural = 0
    young_learns: Annotated[str, OneOf(("target", "end"))] = "target"
    margin: Natural = 0
    posthoc: bool = False

    def __post_init__(self):
        if not isinstance(self.model, Denoiser):
            raise UserError("task.name=denoise is for denoisers, and config.model is none: change one of them")
        ranges.check_fields(self, "task")
        if self.ema == 1 and not self.ema_warmup:
            raise UserError("task.ema=1 is an average that never moves: lower it, or set task.ema_warmup")
        if self.learns_variance and not isinstance(self.process, discrete.Process):
            raise UserError("a learned variance needs a discrete process; set model.learned_variance to False")
        if self.resolves and not self.low:
            raise UserError("task.low=0, and the model is told a smaller image: say how many times smaller, such as 4")
        if self.low and not self.resolves:
            raise UserError(f"task.low={self.low}, and the model is told no smaller image: set task.low to 0")
        if self.young and not isinstance(self.model, Aging):
            raise UserError("task.young is for automata, whose cells grow in a call; set it to 0")
        if self.young and isinstance(self.model, Aging) and self.young_age >= (steps := self.model.steps):
            raise UserError(f"task.young_age={self.young_age}: the cells take {steps} steps in a call; choose fewer")

    @property
    def learns_variance(self) -> bool:
        """Whether the model says the variance of a step beside its prediction."""
        return self.model.predicts == 2 * self.model.reads

    @property
    def resolves(self) -> bool:
        """Whether the model is told a smaller image."""
        return "low" in self.model.conditions

    @property
    def low_process(self) -> continuous.Process:
        """In whose time the smaller image gets its noise."""
        return continuous.Process(self.low_schedule)

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any] | None = None) -> State:
        """The state before the first step. Raises UserError where ``batch`` does not fit the model."""
        if batch is not None:
            self.check(batch)
        params = self.model.init(arrays.written_out(key))
        # A copy, because a donated state must not hold one buffer twice.
        ema, averages = jax.tree.map(jnp.copy, params), posthoc.begin(params) if self.posthoc else ()
        return State(jnp.zeros((), jnp.int32), params, ema, self.learner.init(params), key, averages)

    def check(self, batch: Mapping[str, Any]) -> None:
        """Raises UserError where axes, channels or conditions of ``batch`` (arrays or shapes) do not fit the model."""
        axes = len(batch["image"].shape) - 2
        if axes != self.model.ndim:
            raise UserError(
                f"the images have {axes} axes, this model takes {self.model.ndim}: set --config.model.ndim={axes}, "
                f"or give config.data.patch {self.model.ndim} numbers"
            )
        x0 = jax.eval_shape(self.codec.encode, batch["image"])
        if (given := x0.shape[-1]) != self.model.reads:
            raise UserError(
                f"the images have {given} channels; set --config.model.image_channels={given} "
                f"(it is {self.model.reads})"
            )
        read = fields(self.model)
        if "label" in read.keys() - batch.keys():
            raise UserError("these images have no labels; set --config.model.classes=0 to learn without")
        if missing := sorted(read.keys() - batch.keys()):
            raise UserError(f"these images have no {missing[0]!r}, which is a condition of the model: see config.data")
        tree = jax.eval_shape(self.condition, {field: batch[field] for field in read}) or {}
        for name, leaf in tree.items():
            if leaf.ndim > 1 and leaf.shape[-1] != (channels := self.model.conditions[name]):
                raise UserError(f"{FIELDS.get(name, name)!r} has {leaf.shape[-1]} channels, the model takes {channels}")

    def condition(self, batch: Mapping[str, Array]) -> Condition:
        """What the model is told of each image; None where it takes no condition. A picture is encoded as images are;
        a smaller image is still without noise (:meth:`augmented`).

        Raises UserError for labels of another number of classes, and where ``low`` does not divide the sides.
        """
        names = [name for name in self.model.conditions if name not in guidance.LOW]
        tree = {name: jnp.asarray(batch[FIELDS.get(name, name)]) for name in names}
        if "label" in tree:
            tree["label"] = arrays.multi_hot(tree["label"], self.model.conditions["label"])
        if "map" in tree:
            tree["map"] = arrays.shares(tree["map"], self.model.conditions["map"])
        if self.resolves:
            if any(side % self.low for side in batch["image"].shape[1:-1]):
                raise UserError(f"task.low={self.low} does not divide an image of {batch['image'].shape[1:-1]}")
            tree["low"] = arrays.enlarged(arrays.reduced(jnp.asarray(batch["image"]), self.low), self.low)
        pictures = {name: self.codec.encode(tree[name]) for name in PICTURES if name in tree}
        return tree | pictures or None

    def augmented(
        self,
        cond: Condition,
        key: Key[Array, " B"],
        t: Float[Array, " B"] | None = None,
        at: arrays.Coords | None = None,
    ) -> Condition:
        """``cond`` with noise in its smaller image, and the log-SNR of that beside; itself for a model that reads none.

        ``t``: the time of the noise, one a sample; None is that of sampling, ``low_time``. The noise belongs to ``key``
        and to the coordinates ``at``, by default those of a whole image. Raises UserError where there is no smaller
        image.
        """
        if not self.resolves:
            return cond
        if cond is None or "low" not in cond:
            raise UserError("this model only resolves a smaller image, and there is none: it is a stage of a cascade")
        low = cond["low"]
        t = jnp.full(low.shape[:1], self.low_time) if t is None else t
        eps = arrays.cell_normal(key, _LOW, at or arrays.coords(low.shape[1:-1]), low.shape[-1])
        return cond | {"low": noised(self.low_process, low, eps, t), "low_log_snr": self.low_process.log_snr(t)}

    def dropped(self, cond: Condition, key: Key[Array, " B"]) -> Condition:
        """``cond`` without what is dropped: never what a null condition has too (:func:`guidance.kept`)."""
        if cond is None:
            return None
        row = arrays.cell_uniform(key, _DROP, (), 1)[:, 0] >= self.drop
        rest = {name: leaf * row.reshape(-1, *[1] * (leaf.ndim - 1)) for name, leaf in cond.items()}
        rest |= {name: cond[name] for name in guidance.kept(cond)}
        if self.label_drop == "entry" and "label" in cond:
            label = cond["label"]
            rest["label"] = label * (arrays.cell_uniform(key, _DROP, (), label.shape[-1]) >= self.drop)
        return rest

    def objective(self, params: PyTree, batch: Mapping[str, Array], key: Key[Array, " B"]) -> Float[Array, ""]:
        """Loss at a random time of every image, by the weight of that time."""
        batch = self.continued(batch)
        x0 = self.codec.encode(batch["image"])
        t = self.process.draw(key[0], (len(x0),))
        eps = arrays.cell_normal(key, -1, arrays.coords(x0.shape[1:-1]), x0.shape[-1])
        x = noised(self.process, x0, eps, t)
        cond = self.dropped(self.condition(batch), key)
        if self.resolves:
            cond = self.augmented(cond, key, arrays.cell_uniform(key, LOW_TIME, (), 1)[:, 0])
        goal, weight = target(self.process, x0, eps, t), self.process.weight(t).reshape(-1, *[1] * (x.ndim - 1))
        if self.young:
            assert isinstance(self.model, Aging)  # __post_init__ has seen to it
            told, age = self.process.told(t), self.ages(key)
            young, output, _ = self.model.aging(params, x, told, cond, (), key, age)
            young, _ = variance.parted(self.inner(young), x.shape[-1])
        else:
            young, (output, _) = None, self.model.apply(params, x, self.process.told(t), cond, (), key)
        x0, x, goal, output = map(self.inner, (x0, x, goal, output))
        prediction, v = variance.parted(output, x.shape[-1])
        loss = LOSSES[self.loss](prediction - goal, weight)
        if young is not None:
            learned = goal if self.young_learns == "target" else jax.lax.stop_gradient(prediction)
            loss += self.young * LOSSES[self.loss](young - learned, weight)
        if v is None:
            return loss
        assert isinstance(self.process, discrete.Process)  # __post_init__ has seen to it
        return loss + self.vb * variance.bits(self.process, x0, x, prediction, v, t)

    def continued(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """``batch`` with pictures that go on as their mirror images, for ``margin`` cells beyond every side."""
        sides, m = batch["image"].shape[1:-1], self.margin * self.codec.block
        if not m:
            return dict(batch)
        beyond = ((0, 0), *[(m, m)] * len(sides), (0, 0))
        return {
            name: jnp.pad(field, beyond, "symmetric") if field.shape[1:-1] == sides else field
            for name, field in batch.items()
        }

    def inner(self, cells: Float[Array, "B *S C"]) -> Float[Array, "B *T C"]:
        """``cells`` without the ``margin`` beyond every side."""
        m = self.margin
        return cells[(slice(None), *(slice(m, side - m) for side in cells.shape[1:-1]))] if m else cells

    def ages(self, key: Key[Array, " B"]) -> Int[Array, " B"]:
        """After how many steps the cells of each image are asked on the way."""
        assert isinstance(self.model, Aging)
        if self.young_age:
            return jnp.full(len(key), self.young_age)
        return 1 + jnp.int32(arrays.cell_uniform(key, _AGE, (), 1)[:, 0] * (self.model.steps - 1))

    def step(
        self, state: State, batch: Mapping[str, Array], parts: Parts | None = None
    ) -> tuple[State, dict[str, Array]]:
        """One step of gradient descent and of the average; metrics "loss", "grad_norm", "lr"."""
        key = self.keys(state, len(batch["image"]))
        loss, grads = jax.value_and_grad(self.objective)(state.params, batch, key)
        return self.moved(state, loss, grads)

    def keys(self, state: State, n: int) -> Key[Array, " {n}"]:
        """Those of the images of a step."""
        return arrays.numbered(jax.random.fold_in(state.key, state.step), n)

    def moved(self, state: State, loss: Float[Array, ""], grads: PyTree) -> tuple[State, dict[str, Array]]:
        """The state after a step along ``grads``, and its metrics."""
        params, optimizer, moved = self.learner.update(grads, state.optimizer, state.params, state.step)
        ema = average(state.ema, params, state.step, self.ema, self.ema_warmup)
        step = state.step + 1
        averages = posthoc.averaged(state.averages, params, step) if self.posthoc else ()
        return State(step, params, ema, optimizer, state.key, averages), {"loss": loss, **moved}

    def inherits(self, params: PyTree) -> PyTree:
        """All."""
        return params

    def begin(self, state: State, params: PyTree) -> State:
        """``state`` with ``params``, of which the average begins too."""
        averages = posthoc.begin(params) if self.posthoc else ()
        return state._replace(params=params, ema=jax.tree.map(jnp.copy, params), averages=averages)

    def eval_params(self, state: State) -> PyTree:
        """The averaged parameters, which are the ones that sample."""
        return state.ema

    def averages(self, state: State) -> Any:
        """What :func:`nca_gen.tasks.posthoc.rebuilt` takes; () where nothing is kept."""
        return state.averages
