"""Consistency distillation (Song et al. 2023, arXiv 2303.01469, algorithm 2): samples in one to four calls.

A teacher that takes many calls follows paths from noise to images. A student says from anywhere on a path what its end
is: what it says at a time t is what its own average says at the next time u, where one step of DDIM by the teacher
leads. What it says is a prediction like any other, whose x0 is that end, so that every sampler and pipeline takes it;
"consistency" of :mod:`nca_gen.diffusion.samplers` is made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval
from jaxtyping import Array, Float, Key, Num, PyTree

from nca_gen import arrays
from nca_gen.contracts import Condition, Part, Parts, Process
from nca_gen.diffusion import grids, guidance, variance
from nca_gen.diffusion.guidance import CLIPS
from nca_gen.diffusion.process import comb, levels, noised, x0_of
from nca_gen.errors import UserError
from nca_gen.ranges import Count, OneOf
from nca_gen.tasks import denoise

TEACHER = "teacher"  # among the parts
Says = Callable[[Array, Array], Array]  # (x_t, t) -> x0


@dataclass(frozen=True)
class Task(denoise.Task):
    """The task of a student; its ``batch``, ``loss`` (of x0), ``ema``, ``drop``, ``low`` and ``margin`` are those of
    :class:`nca_gen.tasks.denoise.Task`.

    The part "teacher" is a denoiser of the same data in the same noise, which may predict in another coordinate. It is
    asked at ``calls`` times of ``grid`` (:mod:`nca_gen.diffusion.grids`), with ``guidance`` and ``clip`` as in
    sampling. The average of the student, by ``ema``, is its target and samples. A variance stays as it began.
    """

    calls: Count = 18
    grid: Annotated[str, OneOf(grids.GRIDS)] = "karras"
    clip: Annotated[str, OneOf(CLIPS)] = "none"
    guidance: Annotated[float, Interval(ge=0, le=100)] = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.young:
            raise UserError("task.young is for task.name=denoise: a student learns ends alone; set it to 0")
        try:
            _ = self.times  # known before anything is traced
        except UserError as e:
            raise UserError(f"task.calls={self.calls}: {str(e).partition(': ')[2]}") from e

    @cached_property
    def times(self) -> Num[np.ndarray, " n"]:
        """The times at which the teacher would be asked, and last the clean end."""
        return grids.times(self.process, self.calls, self.grid)

    def consistency(
        self, params: PyTree, ema: PyTree, teacher: Part, batch: Mapping[str, Array], key: Key[Array, " B"]
    ) -> Float[Array, ""]:
        """How far the end that ``params`` say at a time t is from that which ``ema`` say at the next one, u.

        Every image has a t of its own, of the ``calls`` times that the teacher would be asked at.
        """
        self.fitting(teacher)
        batch = self.continued(batch)
        x0 = self.codec.encode(batch["image"])
        cond = self.dropped(self.condition(batch), key)
        if self.resolves:
            cond = self.augmented(cond, key, arrays.cell_uniform(key, denoise.LOW_TIME, (), 1)[:, 0])
        times = jnp.asarray(self.times)
        i = jnp.floor(comb(key[0], (len(x0),)) * self.calls).astype(jnp.int32)
        t, u = times[i], times[i + 1]
        eps = arrays.cell_normal(key, -1, arrays.coords(x0.shape[1:-1]), x0.shape[-1])
        x = noised(self.process, x0, eps, t)

        end = self.taught(teacher, cond, key)(x, t)
        (a, s), (a_u, s_u) = levels(self.process, t, x.ndim), levels(self.process, u, x.ndim)
        x_u = a_u * end + s_u * (x - a * end) / s
        # At the clean end nobody is asked: there x_u is the image itself.
        clean = i == self.calls - 1
        further = self.student(ema, cond, key)(x_u, jnp.where(clean, t, u))
        target = jax.lax.stop_gradient(jnp.where(clean.reshape(s.shape), x_u, further))
        error = self.student(params, cond, key)(x, t) - target
        return denoise.LOSSES[self.loss](self.inner(error), jnp.ones(s.shape))

    def student(self, params: PyTree, cond: Condition, key: Key[Array, " B"]) -> Says:
        """What the student says is the end of a path."""

        def says(x: Array, t: Array) -> Array:
            output, _ = self.model.apply(params, x, self.process.told(t), cond, (), key)
            return x0_of(self.process, variance.parted(output, x.shape[-1])[0], x, t)

        return says

    def taught(self, teacher: Part, cond: Condition, key: Key[Array, " B"]) -> Says:
        """What ``teacher`` says that x_t is of."""
        process, bound = teacher.task.process, CLIPS[self.clip]
        network = guidance.clocked(process, partial(teacher.task.model.apply, teacher.params))
        ask = guidance.classifier_free(network, cond, self.guidance)
        if bound:
            ask = guidance.constrained(ask, process, self.codec, bound)
        return lambda x, t: x0_of(process, variance.parted(ask(x, t, (), key)[0], x.shape[-1])[0], x, t)

    def fitting(self, teacher: Part) -> None:
        """Raises UserError for a ``teacher`` of other data, or in other noise."""
        if not isinstance(teacher.task, denoise.Task):
            raise UserError(f"config.parts.{TEACHER} is no denoiser: give a run of task.name=denoise")
        known = teacher.task
        if (known.model.reads, known.codec) != (self.model.reads, self.codec):
            raise UserError(f"config.parts.{TEACHER} learned with another config.codec: take its section over")
        if type(known.process) is not type(self.process) or not self.alike(known.process):
            raise UserError(
                f"config.parts.{TEACHER} learned in the noise of another config.diffusion: take its section over"
            )
        if known.model.conditions != self.model.conditions:
            raise UserError(f"config.parts.{TEACHER} is told other conditions than config.model")

    def alike(self, process: Process) -> bool:
        """Whether ``process`` has the same levels at the times of the calls."""
        with jax.ensure_compile_time_eval():
            ours, others = (np.asarray(one.levels(jnp.asarray(self.times))) for one in (self.process, process))
        return np.array_equal(ours, others)

    def step(
        self, state: denoise.State, batch: Mapping[str, Array], parts: Parts | None = None
    ) -> tuple[denoise.State, dict[str, Array]]:
        """One step towards the teacher of ``parts``; metrics "loss", "grad_norm", "lr". UserError without a teacher."""
        if parts is None or TEACHER not in tuple(parts):
            raise UserError(f"task.name=distil learns from a trained denoiser: give --config.parts.{TEACHER}=RUN")
        key = self.keys(state, len(batch["image"]))
        lesson = partial(self.consistency, ema=state.ema, teacher=parts[TEACHER], batch=batch, key=key)
        loss, grads = jax.value_and_grad(lesson)(state.params)
        return self.moved(state, loss, grads)
