"""Samples from noise by any trained denoiser, of any size where it allows that: the engine of all other pipelines.

It asks of a model what :class:`nca_gen.contracts.Denoiser` says; what only some can do (to inherit, to grow) it asks of
those that satisfy the contract of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval, Predicate
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, Key, Num

from nca_gen import arrays, devices, screen
from nca_gen.contracts import Aging, Automaton, Condition, Denoiser, Heir, Local, Part, Process, Time, unchanged
from nca_gen.diffusion import grids, guidance, heredity, samplers, variance
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import x0_of
from nca_gen.errors import UserError, accepted, chosen
from nca_gen.ranges import Count, Natural, OneOf, Share, Weight
from nca_gen.tasks import denoise

Guidance = Annotated[float, Interval(ge=0, le=100)]
Growth = guidance.Growth | None
LONG = 4097  # times of a program of sampling, or a multiple of it: of the longest published way, 4000 steps


class Settings(NamedTuple):
    """How samples are drawn: the fields of ``config.sample`` by these names.

    ``sampler``: "ddpm", "ddim", "dpm_solver_pp" or, for students of :mod:`nca_gen.tasks.distil`, "consistency", in
    ``steps`` calls of the network, no more than the process has levels. ``clip``: of the image that a call implies,
    "none", "static" (to [-1, 1]) or "dynamic" (Saharia et al. 2022). ``guidance``: how far to go from the null
    condition towards that of a sample (:func:`nca_gen.diffusion.guidance.classifier_free`). ``heredity``: which part of
    a model's memory a step gets as the step before left it (:mod:`nca_gen.diffusion.heredity`). ``growth``: steps of an
    automaton a call, over equal stretches of sampling, from noise on; () its own. ``dtype``: of the products; "" the
    model's own. ``grid``: at which times a call is made: uniform, trailing, log_snr, log_snr_clipped, karras
    (:mod:`nca_gen.diffusion.grids`); times written out, "299+231+65+6"; or "searched_4", what the evaluator "grid" has
    found for the run in four calls, which are then ``steps``. ``growth_guidance``: how far
    to go away from what the cells of an automaton say after ``growth_age`` steps of a call (0: after half of them),
    where the noise level of x_t is within ``growth_levels``; 0 for not at all
    (:func:`nca_gen.diffusion.guidance.growing`).
    """

    sampler: Annotated[str, OneOf(samplers.SAMPLERS)] = "ddpm"
    steps: Count = 300
    clip: Annotated[str, OneOf(guidance.CLIPS)] = "none"
    guidance: Guidance = 1.0
    heredity: Annotated[str, OneOf(heredity.KEPT)] = "none"
    growth: tuple[Count, ...] = ()
    dtype: Annotated[str, OneOf(("", "float32", "bfloat16"))] = ""
    grid: Annotated[str, Predicate(grids.word)] = "uniform"
    growth_guidance: Weight = 0.0
    growth_age: Natural = 0
    growth_levels: tuple[Share, Share] = (0.0, 1.0)

    @classmethod
    def of(cls, section: Any) -> Settings:
        """Those of ``section``, a section ``sample`` of a config."""
        return cls(**{field: section[field] for field in cls._fields if field in section})

    def times(self, process: Process) -> Num[np.ndarray, " n"]:
        """The times of the calls, and last the clean end. Raises UserError for more steps than ``process`` has."""
        return grids.times(process, self.steps, self.grid)

    def stages(self, model: Any) -> list[Any]:
        """``model`` as it is asked in each stretch of sampling. Raises UserError for what it cannot do."""
        chosen(heredity.KEPT, "config.sample.heredity", self.heredity)
        if self.heredity != "none" and not isinstance(model, Heir):
            raise UserError(f"config.sample.heredity={self.heredity}: this model hands nothing on; set it to none")
        if self.growth and not isinstance(model, Automaton):
            raise UserError("config.sample.growth is for automata, which grow in steps; leave it empty: ()")
        if self.dtype:
            model = replace(model, **accepted(type(model), "config.model", {"dtype": self.dtype}))
        stages = [model.grown(steps) for steps in self.growth] or [model]
        for stage in stages:
            self.young(stage)
        return stages

    def stage(self, model: Any) -> Any:
        """The one stage of :meth:`stages`, for pipelines that have no room for more. Raises UserError for several."""
        if len(self.growth) > 1:
            raise UserError(f"config.sample.growth={self.growth}: this pipeline takes one number of steps, or none: ()")
        return self.stages(model)[0]

    def young(self, stage: Any) -> Growth:
        """From which of its words ``stage``, one of :meth:`stages`, is guided away; None where it is not.

        Raises UserError for one that is no automaton, and for an age that it does not pass.
        """
        if not self.growth_guidance:
            return None
        if not isinstance(stage, Aging):
            raise UserError("config.sample.growth_guidance is for automata, whose cells grow in a call; set it to 0")
        age = self.growth_age or stage.steps // 2
        if not 0 < age < stage.steps:
            raise UserError(
                f"config.sample.growth_age={age}: the cells take {stage.steps} steps; choose fewer, above 0"
            )
        if self.growth_levels[0] > self.growth_levels[1]:
            raise UserError(f"config.sample.growth_levels={self.growth_levels}: give the lower level first")
        return guidance.Growth(self.growth_guidance, age, tuple(self.growth_levels))

    def guided(self, cond: Condition) -> bool:
        """Whether every sample takes two rows of a call: its condition, and none."""
        return guidance.guides(cond, self.guidance)


def title(config: Any) -> list[str]:
    """The size of a sample from noise, for the name of its folder."""
    return ["x".join(map(str, config.sample.size))]


def conditions(model: Any, labels: Sequence[int], n: int, first: int = 0) -> Condition:
    """The conditions of samples ``first .. first + n - 1``: each one class, ``labels`` in turn, or () for all classes.

    None for a model that knows no classes. Raises UserError for a class that it does not know, and for a model that
    draws nothing :func:`alone`.
    """
    alone(model)
    return labelled(model, labels, n, first)


def alone(model: Any) -> None:
    """Raises UserError for a model that only resolves a smaller image, which it would have to be given."""
    if "low" in model.conditions:
        raise UserError(
            "this model only resolves a smaller image, which a cascade or --mode=evaluate gives it; by itself it draws "
            "nothing"
        )


def labelled(model: Any, labels: Sequence[int], n: int, first: int = 0) -> Condition:
    """The classes of :func:`conditions` alone."""
    classes = model.conditions.get("label", 0)
    if wrong := [k for k in labels if not 0 <= k < classes]:
        known = f"0 to {classes - 1}" if classes else "none"
        raise UserError(f"config.sample.labels has {wrong[0]}; the classes of this model are {known}")
    if not classes:
        return None
    turn = np.arange(first, first + n) % (len(labels) or classes)
    return {"label": jnp.asarray(np.eye(classes, dtype=np.float32)[np.array(labels)[turn] if labels else turn])}


def rows(cond: Condition, some: Any) -> Condition:
    """The conditions of the samples ``some``, an index or a slice."""
    return jax.tree.map(lambda field: field[some], cond)


def check(config: Any, task: denoise.Task) -> None:
    """Raises UserError, before anything is trained, where samples could not be drawn as ``config`` says."""
    torus, sample = config.get("generate", {}).get("torus", False), config.sample
    model = denoiser(Part(config, task, None), torus).task.model
    settings = Settings.of(sample)
    settings.stages(model)
    settings.times(task.process)
    labelled(model, sample.labels, 1)
    for field, size in (("size", sample.size), ("large", sample.large)):
        if size and len(size) != model.ndim:
            raise UserError(f"config.sample.{field}={tuple(size)}: this model takes {model.ndim} sides")
    if sample.large and task.resolves:
        raise UserError("config.sample.large is of no use: the smaller images of this model are those of patches")


def check_large(config: Any, task: denoise.Task) -> None:
    """Raises UserError where the model refuses samples of ``config.sample.large``, as it says when it is traced."""
    sample = config.sample
    if not sample.large:
        return
    model = denoiser(Part(config, task, None), config.get("generate", {}).get("torus", False)).task.model
    stage, cond = Settings.of(sample).stages(model)[-1], labelled(model, sample.labels, 1)
    x = jax.ShapeDtypeStruct((1, *task.codec.cells(sample.large), model.reads), jnp.float32)
    told = lambda: task.process.told(jnp.asarray(task.process.times(1)[:1]))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    jax.eval_shape(lambda params, x: stage.apply(params, x, told(), cond, (), arrays.keys(0, 1)), params, x)


def denoiser(part: Part, torus: bool = False) -> Part:
    """``part`` as pipelines ask it, on a ``torus`` where its cells shall live on one.

    Raises UserError for a part that is no denoiser, or whose cells know no border.
    """
    model = part.task.model
    if not isinstance(model, Denoiser):
        raise UserError("this run is no denoiser; of an autoencoder, choose config.generate.name=decode")
    if not torus:
        return part
    if not isinstance(model, Local):
        raise UserError("a torus is for automata, whose cells know a border; leave out config.generate.torus")
    return replace(part, task=replace(part.task, model=model.bordered("wrap")))


def tiling(part: Part, name: str) -> Part:
    """``part`` as the pipeline ``name`` asks it, which makes pictures in tiles: on one device.

    Raises UserError for a part of latents, and for one whose steps hand something on.
    """
    if part.decode is not unchanged:
        raise UserError(f"config.generate.name={name} is for images, and this model learned latents: use sample")
    if (kept := Settings.of(part.config.sample).heredity) != "none":
        raise UserError(f"config.sample.heredity={kept}: tiles hand nothing on; set it to none")
    return replace(part, params=jax.device_put(part.params, jax.local_devices()[0]))


def seamless(size: Sequence[int], block: int) -> None:
    """Raises UserError where a torus of ``size`` pixels would end within a cell of ``block`` pixels a side."""
    if any(side % block for side in size):
        raise UserError(f"a torus has whole cells: make config.sample.size multiples of {block}")


def stretch(
    model: Any,
    process: Any,
    codec: Codec,
    sampler: str,
    clip: str,
    scale: int | float,
    inherits: str,
    growth: Growth = None,
) -> Callable[..., samplers.Carry]:
    """A stretch of sampling: (params, carry, times [n], key [B], cond) -> the carry at the last of the times; with a
    span, see :func:`nca_gen.diffusion.samplers.sample`, at the last one of that."""
    step = chosen(samplers.SAMPLERS, "config.sample.sampler", sampler)
    bound = chosen(guidance.CLIPS, "config.sample.clip", clip)

    def run(
        params: Any,
        carry: samplers.Carry,
        times: Num[Array, " n"],
        key: Key[Array, " B"],
        cond: Condition,
        span: Int[Array, " 2"] | None = None,
    ) -> samplers.Carry:
        denoise = guidance.classifier_free(guidance.network(process, model, params, growth), cond, scale)
        denoise = heredity.inherited(denoise, heredity.KEPT[inherits])
        if bound:
            denoise = guidance.constrained(denoise, process, codec, bound)
        return samplers.sample(step, process, denoise, carry, times, key, span=span)

    return run


@cache
def _segment(model: Any, *settings: Any, **more: Any) -> Any:
    """A compiled :func:`stretch`; cached, so that every batch and every evaluation shares it."""
    return jax.jit(stretch(model.inference(), *settings, **more))


@partial(jax.jit, static_argnums=(0, 1, 2))
def newborn(model: Any, inherits: str, guided: bool, x: Float[Array, "B *S C"], key: Key[Array, " B"]) -> Any:
    """What the first step gets as its memory: newborn cells, in what the next ones get of the step before."""
    if not isinstance(model, Heir):
        return ()
    if guided:
        x, key = guidance.rows(x, x), guidance.both(key)
    return heredity.heirs(model.newborn(x, key), heredity.KEPT[inherits])


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def begin(
    model: Any, process: Any, cells: tuple[int, ...], inherits: str, guided: bool, t: Any, key: Key[Array, " B"]
) -> samplers.Carry:
    """The carry at the start of sampling, at time ``t``: noise, and the memory of :func:`newborn`."""
    x = samplers.initial_noise(key, cells, model.reads)
    return samplers.begin(x, newborn(model, inherits, guided, x, arrays.fold(key, process.tag(jnp.asarray(t)))))


def augmented(task: Any, cond: Condition, key: Key[Array, " B"]) -> Condition:
    """``cond`` as a model is told it in sampling: a smaller image has its noise (:meth:`denoise.Task.augmented`)."""
    return _augmented(task, cond, key) if isinstance(task, denoise.Task) and task.resolves else cond


_augmented = jax.jit(denoise.Task.augmented, static_argnums=0)


def trajectory(
    part: Part,
    key: Key[Array, " B"],
    size: tuple[int, ...],
    settings: Settings,
    cond: Condition = None,
    *,
    frames: int = 1,
    lay: NamedSharding | None = None,
) -> Iterator[samplers.Carry]:
    """The carry after each of ``frames`` stretches of sampling; ``part.task.codec.decode`` of its ``.x`` is the sample.

    A side of ``size`` pixels that a block does not divide is grown up to the next one. ``cond``: a row a sample; None,
    and for each row of zeros, is none at all; a smaller image in it gets its noise here. ``lay``: how the samples lie
    on the devices, see :func:`spread`; default as ``key`` does. UserError for what this model cannot do.

    Equal for every value of ``frames``, to the bit: one program goes any stretch of a way, of whatever number of steps
    below ``LONG``. One sample a key.
    """
    model, process, codec = part.task.model, part.task.process, part.task.codec
    stages = settings.stages(model)
    times = settings.times(process)
    run = partial(_segment, process=process, codec=codec, sampler=settings.sampler, clip=settings.clip)
    how = {"scale": settings.guidance, "inherits": settings.heredity}
    runs = [run(stage, **how, growth=settings.young(stage)) for stage in stages]
    laid = lambda tree: jax.device_put(tree, jax.tree.map(partial(_over, lay), tree)) if lay else tree
    if cond is not None:
        cond = jax.tree.map(jnp.asarray, cond)
        cond = jax.device_put(cond, devices.dealt(lay.mesh)) if lay else cond
    cond = augmented(part.task, cond, key)
    carry = laid(begin(stages[0], process, codec.cells(size), settings.heredity, settings.guided(cond), times[0], key))
    some = np.pad(times, (0, -len(times) % LONG))
    stops, turns = (np.linspace(0, settings.steps, n + 1).round().astype(int) for n in (frames, len(runs)))
    for start, stop in pairwise(np.union1d(stops, turns)):
        segment = runs[np.searchsorted(turns, start, "right") - 1]
        # Laid again, or XLA's layout would be compiled anew.
        carry = laid(segment(part.params, carry, some, key, cond, np.array([start, stop], np.int32)))
        if stop in stops:
            yield carry


def _over(lay: NamedSharding, x: Array) -> NamedSharding:
    """How ``x`` of a carry lies where images lie like ``lay``: like them, or if it is a number, everywhere."""
    return lay if x.ndim else devices.replicated(lay.mesh)


def sample(
    part: Part,
    key: Key[Array, " B"],
    size: tuple[int, ...],
    settings: Settings,
    cond: Condition = None,
    *,
    frames: int = 1,
    lay: NamedSharding | None = None,
    bar: screen.Bar = screen.SILENT,
) -> Float[Array, "B *S C"]:
    """The samples of ``size`` at the end of a :func:`trajectory`, in the units that the model learned.

    ``bar`` counts the frames, each when it is done.
    """
    for last in trajectory(part, key, size, settings, cond, frames=frames, lay=lay):
        jax.block_until_ready(last.x)
        bar.advance()
    return part.task.codec.decode(last.x)[(slice(None), *map(slice, size))]


def spread(
    key: Key[Array, " B"], part: Part, rows: int = 1, space: int = 1, over: Sequence[jax.Device] | None = None
) -> tuple[Key[Array, " B"], Part, NamedSharding]:
    """``key`` and the parameters of ``part`` laid over devices (default: those of this host), and how images lie.

    The ``rows`` of cells of an image are cut over ``space`` devices, and the batch is dealt over all that leaves
    (:func:`nca_gen.devices.fitting`). Where a host would be left out, each of them does all on its own devices.
    """
    over = over or jax.local_devices()
    grid = devices.fitting(over, len(key), rows, space)
    if {d.process_index for d in grid.devices.flat} != {d.process_index for d in over}:
        return spread(key, part, rows, space)
    words = jax.device_put(jax.random.key_data(key), devices.dealt(grid))  # keys themselves do not go to other hosts
    key = jax.random.wrap_key_data(words, impl=jax.random.key_impl(key))
    params = jax.device_put(part.params, devices.replicated(grid))
    return key, replace(part, params=params), devices.dealt(grid, 4)


def images(
    part: Part,
    key: Key[Array, " n"],
    size: tuple[int, ...],
    settings: Settings,
    cond: Condition = None,
    *,
    batch: int = 64,
    space: int = 1,
    over: Sequence[jax.Device] | None = None,
    frames: int = 1,
    bar: screen.Bar = screen.SILENT,
) -> Iterator[Float[np.ndarray, "b *S C"]]:
    """Samples of ``key`` in batches. Sample i depends on ``key[i]`` and row i of ``cond``, not on how it is batched.

    Nor on how it is :func:`spread`. They are in the units of the data: latents where the model learned latents. With
    devices of several hosts to be spread ``over``, all must call this, and each gets all samples. ``bar`` counts the
    frames of every batch.
    """
    height = part.task.codec.cells(size)[0]
    for start in range(0, len(key), batch):
        some = slice(start, start + batch)
        here, near, lay = spread(key[some], part, height, space, over)
        drawn = sample(near, here, size, settings, rows(cond, some), frames=frames, lay=lay, bar=bar)
        yield np.asarray(jax.device_put(drawn, devices.replicated(lay.mesh)))


def hidden_rms(carries: Sequence[samplers.Carry]) -> list[float]:
    """RMS of the hidden state that is handed on, over the time of denoising; empty where it is not.

    Training starts every call from newborn cells, sampling by heredity chains hundreds: it may run away.
    """
    memories = [c.memory._asdict() for c in carries if c.memory]
    handed = [h for memory in memories if (h := memory.get("hidden")) is not None]
    return [float(jnp.sqrt(jnp.mean(jnp.square(h)))) for h in handed]


@partial(jax.jit, static_argnums=0)
def growth(
    task: Any, params: Any, x: Float[Array, "B *S C"], t: Time, key: Key[Array, " B"], cond: Condition = None
) -> Float[Array, "n B *T K"]:
    """The clean image that the cells of an Automaton have in mind after each step of one call at x_t, and before it."""
    outs = task.model.growth(params, x, task.process.told(t), augmented(task, cond, key), key)
    words = variance.parted(outs, x.shape[-1])[0]
    return jax.vmap(lambda out: task.codec.decode(x0_of(task.process, out, x, t)))(words)
