"""Pictures: the same whichever way they are cut, batched, spread or watched."""

from functools import partial

import blur
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from painting import PROCESS, part, settings

from nca_gen import arrays
from nca_gen.diffusion import discrete, grids, guidance, samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import x0_of
from nca_gen.errors import UserError
from nca_gen.pipelines import sampling
from nca_gen.verbs.describe_work import matmul_flop

BLUR, LOCAL = blur.Model(halo=2), tiny.diff(norm="cell")
PART = part(BLUR)
PARAMS = PART.params
slow = partial(pytest.param, marks=pytest.mark.slow)
HOW = settings(steps=6)


def draw(n, batch, first=0, seed=1, **how):
    parts = list(sampling.images(PART, arrays.keys(seed, n, first), (8, 12), HOW._replace(**how), batch=batch))
    assert [len(p) for p in parts[:-1]] == [batch] * (len(parts) - 1)
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def eight():
    return draw(8, 8)


@pytest.mark.slow
def test_a_picture_by_hand(eight):
    """The sampler of the config, stepped by hand in a Python loop from noise keyed by (seed, i)."""
    key = arrays.keys(1, 8)
    carry = samplers.begin(samplers.initial_noise(key, (8, 12), 3))
    x, at = carry.x, arrays.coords((8, 12))

    @jax.jit
    def step(x, t, u):
        k = arrays.fold(key, t)
        prediction, _ = BLUR.apply(PARAMS, x, jnp.full(8, t), None, (), k)
        x0 = jnp.clip(x0_of(PROCESS, prediction, x, jnp.full(8, t)), -1, 1)
        z = arrays.cell_normal(k, -1, at, 3)
        return samplers.ddpm(PROCESS, samplers.begin(x), x0, t, u, z)

    for t, u in zip([11, 9, 7, 4, 2, 0], [9, 7, 4, 2, 0, -1], strict=True):
        x = step(x, t, u)
    np.testing.assert_allclose(eight, x, atol=2e-4)
    assert eight.std() > 0.1


@pytest.mark.slow
def test_calls_are_made_at_the_times_of_the_grid():
    """As at the indices of Karras' grid by hand, which are not those of a uniform one."""
    times = grids.times(PROCESS, 4, "karras")
    assert {*times} != {*PROCESS.times(4)}
    key, how = arrays.keys(0, 2), HOW._replace(steps=4, grid="karras")
    [drawn] = sampling.trajectory(PART, key, (8, 12), how)
    noise = samplers.begin(samplers.initial_noise(key, (8, 12), 3))
    run = sampling.stretch(BLUR, PROCESS, PART.task.codec, how.sampler, how.clip, how.guidance, how.heredity)
    np.testing.assert_allclose(drawn.x, run(PARAMS, noise, jnp.asarray(times), key, None).x, atol=1e-6)
    [even] = sampling.trajectory(PART, key, (8, 12), how._replace(grid="uniform"))
    assert np.abs(drawn.x - even.x).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_pictures_taken_on_the_way_change_nothing(sampler, caplog):
    """Bit for bit; and stretches of any length, of ways of any number of steps, are one program."""
    draw = lambda n, **how: [
        *sampling.trajectory(PART, arrays.keys(0, 3), (7, 9), HOW._replace(sampler=sampler, **how), frames=n)
    ]
    with jax.log_compiles():
        one, three, five, _ = draw(1), draw(3), draw(5), draw(1, steps=4)
    assert sum("XLA compilation of jit(run)" in message for message in caplog.messages) == 1
    assert (len(one), len(three), len(five)) == (1, 3, 5)
    for more in (three, five):
        np.testing.assert_array_equal(one[-1].x, more[-1].x)
        np.testing.assert_array_equal(one[-1].x0, more[-1].x0)


@pytest.mark.slow
def test_more_pictures_than_steps():
    """There is one a step, and no empty stretch."""
    way = list(sampling.trajectory(PART, arrays.keys(0, 2), (8, 12), HOW, frames=99))
    assert len(way) == 6


@pytest.mark.slow
def test_a_picture_does_not_depend_on_its_batch(eight):
    """Nor on where one begins to count, nor on being spread: 8 are dealt over 4 devices, 3 over 3."""
    np.testing.assert_allclose(draw(6, 3, first=2), eight[2:], atol=1e-5)
    assert np.abs(draw(8, 8, seed=2) - eight).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_nor_on_the_size_of_the_batch(eight, batch):
    np.testing.assert_allclose(draw(8, batch), eight, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "rows", "space", "deals", "cuts"),
    [
        *((8, 1, 1, 4, 1), (6, 1, 1, 3, 1), (1, 1, 1, 1, 1)),
        *((1, 12, 4, 1, 4), (1, 6, 4, 1, 3), (1, 7, 4, 1, 1), (3, 12, 99, 1, 4)),
        *((2, 12, 2, 2, 2), (3, 12, 2, 1, 2), (4, 7, 2, 4, 1)),
    ],
)
def test_spread_over_the_most_devices_that_divide(n, rows, space, deals, cuts):
    key, spread, lay = sampling.spread(arrays.keys(0, n), part(BLUR, weights={"w": jnp.ones(3)}), rows, space)
    assert lay.mesh.devices.shape == (deals, cuts)
    assert key.addressable_shards[0].data.shape == (n // deals,)
    assert len(spread.params["w"].sharding.device_set) == deals * cuts
    assert spread.params["w"].addressable_shards[-1].data.shape == (3,)
    x = jax.device_put(np.zeros((n, rows, 5, 3)), lay)
    assert x.addressable_shards[0].data.shape == (n // deals, rows // cuts, 5, 3)


@pytest.mark.slow
def test_parameters_on_one_device_serve_all(eight):
    """As they come from a checkpoint: committed to the first device."""
    one = part(BLUR, weights=jax.device_put(PARAMS, jax.devices()[0]))
    [mine] = sampling.images(one, arrays.keys(1, 8), (8, 12), HOW, batch=8)
    np.testing.assert_array_equal(mine, eight)


@pytest.mark.slow
def test_clips():
    """``none`` lets the implied image go where it likes, ``static`` and ``dynamic`` hold it within [-1, 1]."""
    loud = jax.tree.map(lambda x: 9 * x, PARAMS)
    ends = {}
    for clip in guidance.CLIPS:
        end = sampling.sample(part(BLUR, weights=loud), arrays.keys(0, 2), (8, 12), HOW._replace(clip=clip))
        ends[clip] = float(jnp.abs(end).max())
    assert ends["none"] > 1.1
    assert ends["static"] == pytest.approx(1, abs=1e-5)
    assert ends["dynamic"] <= 1 + 1e-5


AUTOMATA = {"diff": LOCAL, "fourier": tiny.fourier(), "cells": tiny.cells(classes=0)}
AUTOMATA |= {"cells, gathered": tiny.cells(classes=0, rule="gathered", fire_rate=0.2)}


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTOMATA)
def test_growth_guidance_by_hand(name):
    """One step of DDIM to the clean end is the image of p_n + w (p_n - p_k), by the frames of a call's growth.

    Outside of its levels it is that of p_n; so it is at other ages for other words.
    """
    model, process = AUTOMATA[name], PROCESS
    how = settings(sampler="ddim", steps=1, clip="none")
    here, key = part(model, process), arrays.keys(0, 2)
    [t, _] = process.times(1)
    x = samplers.initial_noise(key, (8, 12), 3)
    frames = jax.jit(lambda p: model.growth(p, x, process.told(jnp.array([t])), None, arrays.fold(key, int(t))))
    frames = frames(here.params)[..., :3]
    for changes, k, w in (
        ({}, 1, 0.0),
        ({"growth_guidance": 1.5}, model.steps // 2, 1.5),
        ({"growth_guidance": 0.5, "growth_age": model.steps - 1}, model.steps - 1, 0.5),
        ({"growth_guidance": 1.5, "growth_levels": (0.0, 0.5)}, 1, 0.0),
    ):
        said = frames[-1] + w * (frames[-1] - frames[k])
        drawn = sampling.sample(here, key, (8, 12), how._replace(**changes))
        np.testing.assert_allclose(drawn, x0_of(process, said, x, jnp.array([t])), atol=1e-4, rtol=1e-4)
        assert np.abs(frames[-1] - frames[k]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTOMATA)
def test_growth_guidance_is_no_second_call(name):
    """As many products as without."""
    model = AUTOMATA[name]

    def flop(growth):
        call = lambda p, x: guidance.network(PROCESS, model, p, growth)(x, jnp.array([4]), None, (), arrays.keys(0, 1))
        x = jax.ShapeDtypeStruct((1, 8, 12, 3), np.float32)
        return matmul_flop(jax.make_jaxpr(call)(tiny.shapes(model), x).jaxpr)

    assert flop(guidance.Growth(1.0, 1)) == flop(None) > 0


@pytest.mark.parametrize(
    ("model", "how", "said"),
    [
        (BLUR, {}, "growth_guidance is for automata"),
        (LOCAL, {"growth_age": 4}, "growth_age=4: the cells take 4 steps"),
        (LOCAL, {"growth": (8, 1)}, "growth_age=0: the cells take 1 steps"),
        (LOCAL, {"growth_levels": (0.5, 0.2)}, "give the lower level first"),
    ],
)
def test_growth_guidance_that_cannot_be(model, how, said):
    with pytest.raises(UserError, match=said):
        settings(growth_guidance=1.0, **how).stages(model)


@pytest.mark.parametrize(("model", "prediction"), [(LOCAL, "v"), (LOCAL, "eps"), (tiny.fourier(), "v")])
@pytest.mark.slow
def test_growth_ends_where_a_call_ends(model, prediction):
    """The last frame is the image that a call implies; the first that of cells that have not said anything."""
    process, params = discrete.Process("cosine", tiny.T, prediction), tiny.params(model)
    x, t, key = jnp.asarray(tiny.images(0, 2, 8, 12, 3)), jnp.array([4]), arrays.keys(0, 2)

    @jax.jit
    def implied(params, x):
        said, _ = model.apply(params, x, t, None, (), key)
        return [x0_of(process, out, x, t) for out in (jnp.zeros_like(x), said)]

    film, (first, last) = sampling.growth(part(model, process).task, params, x, t, key), implied(params, x)
    assert len(film) == model.steps + 1
    np.testing.assert_allclose(film[-1], last, atol=1e-4)
    if model is LOCAL:
        np.testing.assert_allclose(film[0], first, atol=1e-6)


BLOCKS = blur.Model(channels=12, halo=2)
STAINED = Codec(mean=(0.3, 0.0, -0.3), std=(0.3, 0.5, 0.4), block=2)


@pytest.mark.slow
def test_blocks_of_pixels():
    """A cell of 2 x 2 pixels: a picture of odd size is the corner of the next even one, and decoded."""
    blocks, key = part(BLOCKS, codec=STAINED), arrays.keys(0, 2)
    odd, even = (sampling.sample(blocks, key, size, HOW) for size in ((15, 11), (16, 12)))
    assert odd.shape == (2, 15, 11, 3)
    np.testing.assert_array_equal(odd, even[:, :15, :11])
    *_, last = sampling.trajectory(blocks, key, (16, 12), HOW)
    assert last.x.shape == (2, 8, 6, 12)
    pixels = last.x[:, 1, 2] * np.tile(STAINED.std, 4) + np.tile(STAINED.mean, 4)
    np.testing.assert_allclose(even[:, 2:4, 4:6].reshape(2, 12), pixels, atol=1e-6)
    assert float(jnp.abs(even).max()) <= 1 + 1e-5  # the clip is of pixels


@pytest.mark.parametrize(
    ("field", "word", "hint"), [("sampler", "dpm", "ddpm"), ("clip", "statick", "did you mean static")]
)
def test_unknown_names(field, word, hint):
    with pytest.raises(UserError, match=f"config.sample.{field} '{word}'.*{hint}"):
        draw(1, 1, **{field: word})


def test_too_many_steps():
    with pytest.raises(UserError, match="1 to 12 steps"):
        draw(1, 1, steps=13)
