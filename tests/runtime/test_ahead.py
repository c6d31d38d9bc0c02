"""What is compiled before the first step: the parts that it reads, and at what cost."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from nca_gen import devices
from nca_gen.contracts import Part
from nca_gen.errors import UserError
from nca_gen.runtime import ahead, mesh, run


@dataclass(frozen=True)
class Reader(toy.Task):
    """The toy, whose loss is the sum of a number of each part of ``names``; ``traces`` gets a mark with each trace."""

    names: tuple = ()
    traces: list = field(default_factory=list, compare=False)

    def step(self, state, batch, parts=None):
        self.traces.append(None)
        state, metrics = super().step(state, batch)
        return state, metrics | {"loss": sum((parts[name].params["number"] for name in self.names), jnp.float32(0))}


def program(task, monkeypatch, fresh=False):
    """The program of ``task`` beside the parts one and two, which hold 1 and 2, and which are opened: its names."""
    opened, numbers = [], {"runs/one": 1.0, "runs/two": 2.0}

    def open_run(path):
        opened.append(path)
        if path not in numbers:
            raise UserError(f"{path} is no trained part")
        return Part(None, "a task", {"number": jnp.float32(numbers[path])})

    monkeypatch.setattr(run, "open_run", open_run)
    beside = run.Beside({"one": "runs/one", "two": "runs/two", "lost": "runs/lost"})
    grid = mesh.make()
    batch = {"image": jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32, sharding=devices.dealt(grid, 4))}
    return ahead.compiled(task, toy.root(), batch, beside, grid, fresh, False), opened


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "traces", "loss"), [((), 1, 0), (("two",), 2, 2), (("two", "one"), 3, 3), (("one", "one"), 2, 2)]
)
def test_only_the_parts_that_a_step_reads_are_opened(monkeypatch, names, traces, loss):
    """Each once, and the step is traced once more for each; what it reads is not what was there when it was traced."""
    task = Reader(names=names)
    made, opened = program(task, monkeypatch)
    assert (opened, len(task.traces)) == ([f"runs/{name}" for name in dict.fromkeys(names)], traces)
    assert made.parts.keys() == {*names}
    image = mesh.put({"image": np.zeros((4, 8, 8, 1), np.float32)}, mesh.make())
    begin = lambda: jax.device_put(task.init(toy.root(), image), devices.shardings(made.state))
    if names:
        doubled = jax.tree.map(lambda x: 2 * x, made.parts)
        assert [float(made.step(begin(), image, parts)[1]["loss"]) for parts in (made.parts, doubled)] == [
            loss,
            2 * loss,
        ]


@pytest.mark.slow
def test_a_missing_part_is_told_of_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(ahead.ThreadPoolExecutor, "submit", lambda *_: pytest.fail("something is compiled"))
    with pytest.raises(UserError, match="runs/lost is no trained part"):
        program(Reader(names=("lost",)), monkeypatch, fresh=True)
    with pytest.raises(KeyError, match="other"):
        program(Reader(names=("other",)), monkeypatch)


def test_equal_tasks_are_traced_once(monkeypatch):
    """Whatever parts there are, as long as a step asks for none; another task is traced for itself."""
    tasks = [Reader(noise=0.5), Reader(noise=0.5), Reader(noise=0.25)]
    for task in tasks:
        program(task, monkeypatch)
    assert [len(task.traces) for task in tasks] == [1, 0, 1]


@dataclass(frozen=True)
class Beginner(toy.Task):
    """The toy; ``starts`` gets a mark with each trace of its start."""

    starts: list = field(default_factory=list, compare=False)

    def init(self, key, batch=None):
        self.starts.append(None)
        return super().init(key, batch or {"image": np.zeros((1, 8, 8, 1))})


@pytest.mark.slow
def test_a_start_is_traced_once_wherever_it_will_lie(monkeypatch):
    """Its shapes say where its arrays lie, and only then is it compiled; those of a part that is opened, once too."""
    tasks = [Beginner(noise=0.5), Beginner(noise=0.5), Beginner(noise=0.25)]
    made = [program(task, monkeypatch, fresh=True)[0] for task in tasks]
    assert [len(task.starts) for task in tasks] == [1, 0, 1]
    plain = jax.jit(tasks[0].init)(toy.root(), {"image": np.zeros((4, 8, 8, 1))})
    jax.tree.map(np.testing.assert_array_equal, toy.plain(made[1].init()), toy.plain(plain))
    opened = [Beginner(noise=0.75), Beginner(noise=0.75)]
    shapes = [run.state_shapes(task) for task in opened]
    assert [len(task.starts) for task in opened] == [1, 0]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes[1]) == jax.tree.map(lambda x: (x.shape, x.dtype), plain)


@dataclass(frozen=True)
class Counter(toy.Task):
    """The toy, whose loss is the number of parts."""

    def step(self, state, batch, parts=None):
        state, metrics = super().step(state, batch)
        return state, metrics | {"loss": jnp.float32(len(parts)) + 0 * metrics["loss"]}


@pytest.mark.slow
def test_a_step_may_count_the_parts_without_opening_any(monkeypatch):
    made, opened = program(Counter(), monkeypatch)
    image = mesh.put({"image": np.zeros((4, 8, 8, 1), np.float32)}, mesh.make())
    state = jax.device_put(Counter().init(toy.root(), image), devices.shardings(made.state))
    assert (float(made.step(state, image, made.parts)[1]["loss"]), opened) == (3, [])
