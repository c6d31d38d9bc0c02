"""A state in pieces over the devices: which pieces, that each device holds its share, and the same losses."""

from functools import cache

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from nca_gen import build, devices
from nca_gen.runtime import ahead, mesh
from nca_gen.verbs.describe_work import examples


@pytest.mark.parametrize(
    ("shape", "pieces"),
    [
        ((3, 3, 64, 128), (3, 3, 64, 32)),  # the largest axis
        ((128, 64), (32, 64)),
        ((4098, 64), (4098, 16)),  # the largest that 4 divides
        ((4099, 3), (4099, 3)),  # none that 4 divides
        ((64, 32), (64, 32)),  # small
        ((), ()),
    ],
)
def test_which_axis_is_cut(shape, pieces):
    """Over all devices, whichever of their axes images are dealt over."""
    for grid in (mesh.make(), mesh.make(2, 2)):
        assert devices.cut(grid, shape).shard_shape(shape) == pieces


def test_a_state_is_cut_where_it_is_large_or_where_that_is_said():
    small, large = ({"w": jax.ShapeDtypeStruct((n, 1000), np.float32)} for n in (4000, 10**6))
    cuts = lambda state, *shard: not devices.laid(state, mesh.make(), *shard)["w"].sharding.is_fully_replicated
    assert [cuts(small, "auto"), cuts(large, "auto")] == [False, True]
    assert [cuts(small), cuts(large)] == [False, False]
    assert cuts(small, "always")
    assert not cuts(large, "never")
    assert devices.share(devices.laid(large, mesh.make(), "auto")) == devices.size(large) / 4 == 10**9


@cache
def task():
    """A U-Net of one level."""
    config = tiny.stated()
    sizes = {"width": 32, "multipliers": (1,), "blocks": 1, "attention": (), "head": 32, "learned_variance": False}
    config.model = ConfigDict({"name": "unet", "image_channels": 3, **sizes})
    config.diffusion = {"name": "continuous"}
    config.optimizer = {"lr": 1e-2}
    return build.task(build.completed(config))


@cache
def trained(shard):
    """The losses of 4 steps on 4 devices, the last state, and the program."""
    grid, key = mesh.make(), jax.random.key(0, impl="threefry2x32")
    batch = examples(task(), 4, (8, 8), grid)
    program = ahead.compiled(task(), key, batch, {}, grid, False, True, shard)
    state = jax.device_put(tiny.state(task()), devices.shardings(program.state))
    image = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    losses = []
    for _ in range(4):
        state, metrics = program.step(state, mesh.put({"image": image}, grid), {})
        losses.append(float(metrics["loss"]))
    return losses, state, program


@pytest.mark.slow
def test_losses_are_those_of_whole_copies():
    np.testing.assert_allclose(trained("always")[0], trained("never")[0], rtol=0, atol=1e-5)
    assert len({*np.round(trained("always")[0], 3)}) == 4


@pytest.mark.slow
def test_each_device_holds_its_share():
    """Parameters, both moments and the average, but for what is small: by the compiled program's own count at most a
    tenth more than a quarter of what whole copies take there; and they are still in pieces after a step."""
    _, state, program = trained("always")
    held, whole = (trained(shard)[2].step.memory_analysis().argument_size_in_bytes for shard in ("always", "never"))
    assert whole >= devices.size(program.state) > 4 * 4 * 10**5 / 3
    small = devices.size([x for x in jax.tree.leaves(state) if x.size < devices.SMALL])
    assert held - small <= 1.1 * (whole - small) / 4
    large = [x for x in jax.tree.leaves(state) if x.size >= devices.SMALL]
    assert len(large) >= 4 * 8
    assert all(x.addressable_shards[0].data.size == x.size / 4 for x in large)


def test_numpy_of_pieces_is_whole():
    x = jax.device_put(np.arange(8192.0, dtype=np.float32), devices.cut(mesh.make(), (8192,)))
    assert len({s.device for s in x.addressable_shards}) == 4
    np.testing.assert_array_equal(devices.gathered({"x": x})["x"], np.arange(8192.0))
