"""Averages of any width, rebuilt from snapshots, beside tracked ones; and what is left of a run that stops."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import build
from nca_gen.errors import UserError
from nca_gen.evaluators import averages as sweep
from nca_gen.evaluators.held import Held
from nca_gen.report import files
from nca_gen.runtime import checkpoint, run
from nca_gen.tasks import posthoc
from nca_gen.verbs.train import train

WIDTHS = (0.05, 0.07, 0.1, 0.15, 0.2, 0.25)


def tracked(widths, course):
    """The averages of ``course`` [T, D] by their definition, in float64: step u weighs u^(g+1) - (u-1)^(g+1)."""
    u = np.arange(1, len(course) + 1)[:, None] / len(course)
    powers = np.array([posthoc.exponent(width) + 1 for width in widths])
    weights = u**powers - (u - 1 / len(course)) ** powers
    return weights.T @ np.asarray(course, np.float64)


@cache
def program():
    """Averages along a course of T steps."""

    def follow(course):
        more = lambda kept, here: (posthoc.averaged(kept, here[1], here[0]), None)
        steps = jnp.arange(1, len(course) + 1)
        return jax.lax.scan(more, posthoc.begin(jnp.zeros(course.shape[1])), (steps, course))[0]

    return jax.jit(follow)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_width_is_that_of_its_exponent(width):
    """Karras et al. 2024: (g + 1)^(1/2) (g + 2)^-1 (g + 3)^-1/2; their widths of 5 % and 10 % are 16.97 and 6.94."""
    g = posthoc.exponent(width)
    assert (g + 1) ** 0.5 / (g + 2) / (g + 3) ** 0.5 == pytest.approx(width, rel=1e-9)
    u = (np.arange(100_000) + 0.5) / 100_000
    weight = u**g / np.sum(u**g)
    assert np.sqrt(np.sum(weight * u**2) - np.sum(weight * u) ** 2) == pytest.approx(width, rel=1e-4)
    assert [round(posthoc.exponent(width), 2) for width in posthoc.WIDTHS] == [16.97, 6.94]


def test_inner_products_are_integrals():
    """Of (a + 1) u^a / t^(a+1) up to t, and the same of b: by the midpoint rule."""
    u = (np.arange(200_000) + 0.5) / 200_000 * 7
    one, other = (np.where(u < t, (a + 1) * u**a / t ** (a + 1), 0) for a, t in ((2.5, 4.0), (0.7, 7.0)))
    assert posthoc.product(*(np.array([x]) for x in (2.5, 4.0, 0.7, 7.0)))[0] == pytest.approx(
        np.mean(one * other) * 7, rel=1e-4
    )


@pytest.mark.parametrize("steps", [20, pytest.param(960, marks=pytest.mark.slow), 1601])
def test_any_width_is_rebuilt_to_a_percent(steps):
    """A random walk of 64 numbers, beside averages that were tracked; 1,601 steps are more than are kept by far."""
    course = np.cumsum(np.random.default_rng(0).standard_normal((steps, 64)), 0)
    kept = program()(np.float32(course))
    for width, direct in zip(WIDTHS, tracked(WIDTHS, course), strict=True):
        off = np.linalg.norm(posthoc.rebuilt(kept, width) - direct) / np.linalg.norm(direct)
        assert off < 0.01, width
    for now, direct in zip(kept.now, tracked(posthoc.WIDTHS, course), strict=True):
        np.testing.assert_allclose(now, direct, rtol=1e-3, atol=1e-3 * np.abs(direct).max())


def test_what_is_pruned():
    """After 1,601 steps the multiples of 128, of 64 those that came last, and the newest."""
    kept = program()(jnp.zeros((1601, 64)))
    steps = sorted(np.asarray(kept.steps).tolist())
    assert len(steps) == posthoc.KEPT
    assert {n for n in steps if n % 128 == 0} == set(range(128, 1601, 128))
    assert steps[-1] == 1601
    odd = [n for n in steps[:-1] if n % 128]
    assert odd == list(range(1601 // 128 * 128 + 64 - 128 * (len(odd) - 1), 1601, 128))


def config(**changes):
    few = {"model.steps": 2, "train.steps": 12, "train.checkpoint_every": 1, "train.keep": 12}
    return tiny.config(**{"task.posthoc": True} | few | changes)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.slow
def test_a_run_that_stops_is_the_run_and_its_averages_are_those_of_its_steps(tmp_path):
    """Twelve steps, and seven and five more, bit for bit; an average of width 0.15 beside the one of its parameters."""
    whole = train(config(), tmp_path / "whole", splits=tiny.splits())
    train(config(**{"train.steps": 7}), tmp_path / "halves", splits=tiny.splits())
    halves = train(config(), tmp_path / "halves", splits=tiny.splits())
    jax.tree.map(np.testing.assert_array_equal, halves.averages, whole.averages)

    part = run.open_run(tmp_path / "whole")
    like = jax.eval_shape(part.task.init, jax.random.key(3, impl="threefry2x32"))
    at = lambda step: checkpoint.restore_params(tmp_path / "whole", like, step, lambda state: state.params)[0]
    first = flat(part.averages().first)
    course = np.stack([flat(at(step)) for step in range(1, 13)]) - first
    direct = tracked([0.15], course)[0]
    off = np.linalg.norm(flat(posthoc.rebuilt(part.averages(), 0.15)) - first - direct)
    assert off < 0.01 * np.linalg.norm(direct)

    page = sweep.evaluate(
        build.pipeline(part.config, run.parts(part.config, tmp_path / "whole")),
        Held(part.config, part.task, tiny.splits()),
        tmp_path,
        widths=(0.05, 0.25),
        metrics=("drift",),
    )
    assert [row[0] for row in page.tables[0].rows] == ["as it generates", "0.05", "0.25"]
    assert len({row[1] for row in page.tables[0].rows}) == 3
    assert [x for x, _ in page.curves["drift"]] == [0.05, 0.25]


def test_without_snapshots_it_says_so(tmp_path):
    """Where training keeps none, and inside training."""
    settings = config(**{"task.posthoc": False})
    part = run.Part(run.frozen(settings), build.task(settings), None)
    data = Held(part.config, part.task, tiny.splits())
    with pytest.raises(UserError, match=r"set config\.task\.posthoc=True"):
        sweep.evaluate(build.pipeline(settings, {"model": replace(part, averages=tuple)}), data, tmp_path)
    page = sweep.evaluate(build.pipeline(settings, {"model": replace(part, averages=None)}), data, tmp_path)
    assert not files.contains(page)  # as in training, and of an export


def test_what_is_off_costs_nothing():
    """No array more, so that runs of before go on."""
    off, on = (
        jax.eval_shape(build.task(config(**{"task.posthoc": way})).init, jax.random.key(0)) for way in (False, True)
    )
    assert len(jax.tree.leaves(off.averages)) == 0
    own = sum(x.size for x in jax.tree.leaves(on.params))
    assert sum(x.size for x in jax.tree.leaves(on.averages)) == (2 * posthoc.KEPT + 3) * own + posthoc.KEPT
