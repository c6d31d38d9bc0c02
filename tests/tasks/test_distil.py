"""Consistency distillation on paths that are known in closed form, and what it refuses."""

from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays
from nca_gen.contracts import Part
from nca_gen.diffusion import discrete, samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.tasks import distil
from nca_gen.tasks.learner import Learner

PROCESS = discrete.Process("cosine", 1000, "v")


@dataclass(frozen=True)
class Known:
    """Of data N(MEAN, VARIANCE): the best denoiser, or, ``straight``, what says the end of every path; each in
    ``process``'s coordinate, moved by the parameter "off" in units of x0."""

    process: discrete.Process
    straight: bool
    reads: int = 3
    ndim: int = 2
    conditions = MappingProxyType({})

    @property
    def predicts(self):
        return self.reads

    def inference(self):
        return self

    def init(self, key):
        return {"off": jnp.zeros(())}

    def apply(self, params, x, t, cond, memory, key, place=None):
        a, s = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in self.process.levels(t))
        spread = a**2 * gaussian.VARIANCE + s**2
        if self.straight:  # the path keeps its place among the deviations
            x0 = gaussian.MEAN + jnp.sqrt(gaussian.VARIANCE / spread) * (x - a * gaussian.MEAN)
        else:
            x0 = gaussian.MEAN + a * gaussian.VARIANCE * (x - a * gaussian.MEAN) / spread
        x0 = x0 + params["off"]
        return self.process.predict.target(x0, (x - a * x0) / s, a, s), memory


def task(calls=4, prediction="v", straight=True, **fields):
    process = replace(PROCESS, prediction=prediction)
    known = {"loss": "l2", "grid": "uniform"} | fields
    return distil.Task(Known(process, straight), Learner(lr=0.1), process, Codec(), calls=calls, **known)


def teacher(prediction="v", straight=False, **fields):
    mine = distil.denoise.Task(
        Known(replace(PROCESS, prediction=prediction), straight),
        Learner(),
        replace(PROCESS, prediction=prediction, **fields),
        Codec(),
    )
    return Part(None, mine, mine.model.init(None))


def batch(n=8, size=8):
    x = gaussian.MEAN + np.sqrt(gaussian.VARIANCE) * tiny.images(0, n, size, size, 3)
    return jax.device_put({"image": x})


KEY = arrays.keys(0, 8)


@partial(jax.jit, static_argnums=0)
def loss(mine, off, ema, part):
    return mine.consistency({"off": off}, {"off": ema}, part, batch(), KEY)


@pytest.mark.slow
def test_ends_of_paths_are_consistent_to_the_order_of_the_teacher():
    """One step of DDIM errs by its square: with twice the calls 1/16 of the squared distance is left, or somewhat less.
    What a denoiser says is no end of a path: there 1/4 is left, of distances between the images themselves."""
    coarse, fine = (float(loss(task(calls), 0.0, 0.0, teacher())) for calls in (16, 32))
    assert 14 < coarse / fine < 28
    assert coarse < 0.02 * float(loss(task(16, straight=False), 0.0, 0.0, teacher()))


@pytest.mark.slow
def test_teacher_and_student_may_predict_in_other_coordinates():
    same, other = (float(loss(task(20, "v", grid="karras"), 0.0, 0.0, teacher(word))) for word in ("v", "x0"))
    assert same == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_the_last_call_is_the_teacher_s_own():
    """Of one call the end is what the teacher says: with a student that says it too nothing is left, and with one that
    is off by b, b^2; the average, which is never asked, has no say."""
    alike = task(1, straight=False)
    assert float(loss(alike, 0.0, 0.5, teacher())) < 1e-8
    assert float(loss(alike, 0.25, 0.5, teacher())) == pytest.approx(0.0625, rel=1e-3)


@pytest.mark.slow
def test_a_student_goes_after_its_average():
    """An average that is off by b moves the target by b wherever it is asked, which is at all times but the last."""
    moved, still = (float(loss(task(8), 0.25, off, teacher())) for off in (0.25, 0.0))
    assert moved == pytest.approx(0.0625 / 8, rel=0.1)  # one image of eight is at the last time
    assert still == pytest.approx(0.0625, rel=0.1)


@pytest.mark.slow
def test_a_student_learns_from_no_border():
    """With a margin of what teacher and student hear together it does not matter what lies beyond the sides."""
    model, process = tiny.diff(norm="cell", start="torch", steps=2), discrete.Process("cosine", tiny.T)
    params, other = tiny.params(model), tiny.params(model, 1)

    def lessons():
        for margin, border in ((0, "reflect"), (0, "wrap"), (4, "reflect"), (4, "wrap")):
            known = model.bordered(border)
            part = Part(None, distil.denoise.Task(known, Learner(), process, Codec()), params)
            yield distil.Task(known, Learner(), process, Codec(), calls=4, margin=margin), part

    with_border, without = np.reshape(
        [jax.jit(mine.consistency)(other, other, part, batch(), KEY) for mine, part in lessons()], (2, 2)
    )
    assert without[0] == pytest.approx(without[1], rel=1e-6)
    assert abs(with_border[0] - with_border[1]) > 1e-4 * with_border[0]


@pytest.mark.slow
def test_a_step_reads_its_teacher():
    """Towards a teacher that says more by 0.5: Adam's first step is its rate."""
    mine = task(1, straight=False)
    there = replace(teacher(), params={"off": jnp.float32(0.5)})
    moved, metrics = jax.jit(mine.step)(mine.init(jax.random.key(0)), batch(), {"teacher": there})
    assert float(moved.params["off"]) == pytest.approx(0.1, rel=1e-3)
    assert float(metrics["loss"]) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.slow
def test_new_noise_and_ends_keep_the_data():
    """With the ends of paths every number of calls draws from N(MEAN, VARIANCE): deviations to 2 % of 12,288 values."""
    mine = task().model

    @jax.jit
    def drawn(key, times):
        denoise = lambda x, t, memory, key: mine.apply({"off": 0.0}, x, t, None, memory, key)
        start = samplers.begin(samplers.initial_noise(key, (64, 64), 3))
        return samplers.sample(samplers.consistency, PROCESS, denoise, start, times, key).x

    for n in (1, 4):
        x = np.asarray(drawn(arrays.keys(1, 3), PROCESS.times(n)))
        np.testing.assert_allclose(x.mean((0, 1, 2)), gaussian.MEAN, atol=0.02)
        np.testing.assert_allclose(x.std((0, 1, 2)), np.sqrt(gaussian.VARIANCE), rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "line"),
    [
        (lambda: teacher(schedule="linear"), "config.parts.teacher learned in the noise of another config.diffusion"),
        (lambda: teacher(timesteps=500), "config.parts.teacher learned in the noise of another config.diffusion"),
        (lambda: replace(teacher(), task=replace(teacher().task, codec=Codec(std=(0.5,)))), "another config.codec"),
        (lambda: replace(teacher(), task=None), "config.parts.teacher is no denoiser"),
    ],
)
def test_a_teacher_of_something_else_is_refused(part, line):
    with pytest.raises(UserError, match=line):
        jax.eval_shape(partial(loss, task()), 0.0, 0.0, part())


def test_cells_on_the_way_are_not_taught():
    """What another task would learn of them is not passed over without a word."""
    with pytest.raises(UserError, match=r"^task.young is for task.name=denoise"):
        distil.Task(tiny.diff(), Learner(), PROCESS, Codec(), young=0.5)


def test_more_calls_than_there_are_times():
    with pytest.raises(UserError, match=r"^task.calls=1001: this diffusion has 1 to 1000 steps$"):
        task(1001)


def test_without_a_teacher_nothing_is_learned():
    mine, images = task(), batch()
    state = mine.init(jax.random.key(0))
    with pytest.raises(UserError, match=r"give --config.parts.teacher=RUN"):
        mine.step(state, images, {})
