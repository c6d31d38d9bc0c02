"""Any size in one call: two sizes agree wherever the edge in which they differ cannot be heard; a torus has no edge."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from painting import PROCESS, part, settings

from nca_gen import arrays
from nca_gen.contracts import Place
from nca_gen.diffusion import samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import x0_of
from nca_gen.pipelines import sampling

KEY = arrays.keys(0, 1)
slow = partial(pytest.param, marks=pytest.mark.slow)


def sample(model, size, steps, codec=Codec()):  # noqa: B008
    return np.asarray(sampling.sample(part(model, codec=codec), KEY, size, settings(steps=steps)))[0]


@pytest.mark.parametrize(
    ("one", "other", "calls"), [((96, 96), (78, 64), 4), slow((512, 512), (1000, 333), 2), slow((17, 512), (31, 9), 3)]
)
@pytest.mark.slow
def test_sizes_agree_where_they_share_all_that_is_heard(one, other, calls):
    """A cell hears ``steps`` cells a call: what is that far from an edge that they do not share is the same."""
    model = tiny.diff(norm="cell", steps=2)
    a, b = (sample(model, size, calls) for size in (one, other))
    assert (a.shape, b.shape) == ((*one, 3), (*other, 3))
    reach = model.halo * calls
    shared = tuple(slice(min(m, n) - reach * (m != n)) for m, n in zip(one, other, strict=True))
    np.testing.assert_allclose(a[shared], b[shared], atol=1e-5)
    assert a[shared].size
    least = tuple(slice(min(m, n)) for m, n in zip(one, other, strict=True))
    assert np.abs(a[least] - b[least]).max() > 0.01  # nearer they differ


@pytest.mark.slow
def test_blocks_of_pixels_agree_too():
    model = tiny.diff(norm="cell", steps=2, image_channels=12, channels=26)
    a, b = (sample(model, size, 3, Codec(block=2)) for size in ((333, 100), (96, 77)))
    reach = 2 * model.halo * 3 + 1  # the odd size ends within a cell
    np.testing.assert_allclose(a[: 96 - reach, : 77 - reach], b[: 96 - reach, : 77 - reach], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 96), (78, 64)])
def test_global_models_take_any_size(size):
    """The first call of the sampler by hand, at sizes of no training."""
    model = tiny.fourier()
    x, t = samplers.initial_noise(KEY, size, 3), jnp.array([tiny.T - 1])
    said, _ = jax.jit(lambda p, x: model.apply(p, x, t, None, (), arrays.fold(KEY, tiny.T - 1)))(tiny.params(model), x)
    np.testing.assert_allclose(sample(model, size, 1), np.clip(x0_of(PROCESS, said, x, t)[0], -1, 1), atol=1e-4)


def rolled(model, by, size=(19, 16), calls=3):
    """A picture whose cells have the randomness of the cells ``by`` further on, round the edge."""
    at = tuple((c + n) % e for c, n, e in zip(arrays.coords(size), by, size, strict=True))
    params, place = tiny.params(model), Place(at, size)
    denoise = lambda x, t, memory, key: model.apply(params, x, t, None, memory, key, place)  # noqa: E731
    x = samplers.initial_noise(KEY, size, 3, at)
    times = PROCESS.times(calls)
    run = jax.jit(lambda x: samplers.sample(samplers.ddpm, PROCESS, denoise, samplers.begin(x), times, KEY, at).x)
    return np.asarray(run(x))[0]


@pytest.mark.slow
def test_a_picture_on_a_torus_has_no_edge():
    """Rolled, it is the picture of rolled noise: any other place could have been its edge. On a plane it is not."""
    torus, plane = tiny.diff(norm="cell", border="wrap"), tiny.diff(norm="cell")
    back = lambda image: np.roll(image, (-7, -5), (0, 1))  # noqa: E731
    np.testing.assert_allclose(rolled(torus, (7, 5)), back(rolled(torus, (0, 0))), atol=1e-5)
    assert np.abs(rolled(plane, (7, 5)) - back(rolled(plane, (0, 0)))).max() > 0.05
