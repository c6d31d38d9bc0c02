"""Any size in one call: two sizes agree wherever the edge in which they differ cannot be heard; a torus has no edge."""

from functools import partial

import blur
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


def sample(model, size, steps, codec=Codec()):  # noqa: B008
    return np.asarray(sampling.sample(part(model, codec=codec), KEY, size, settings(steps=steps)))[0]


LOCAL, BLUR, BLOCKS = tiny.diff(norm="cell", steps=2), blur.Model(halo=2), blur.Model(channels=12, halo=2)


@pytest.mark.parametrize(
    ("model", "block", "one", "other", "calls"),
    [
        (LOCAL, 1, (48, 48), (39, 32), 4),
        (BLUR, 1, (512, 512), (1000, 333), 2),
        (BLUR, 1, (17, 512), (31, 9), 3),
        (BLOCKS, 2, (63, 40), (36, 75), 3),
    ],
)
@pytest.mark.slow
def test_sizes_agree_where_they_share_all_that_is_heard(model, block, one, other, calls):
    """A cell hears ``steps`` cells a call: what is that far from an edge that they do not share is the same."""
    a, b = (sample(model, size, calls, Codec(block=block)) for size in (one, other))
    assert (a.shape, b.shape) == ((*one, 3), (*other, 3))
    reach = block * model.halo * calls + block - 1  # an odd size ends within a cell
    shared = tuple(slice(min(m, n) - reach * (m != n)) for m, n in zip(one, other, strict=True))
    np.testing.assert_allclose(a[shared], b[shared], atol=1e-5)
    assert a[shared].size
    least = tuple(slice(min(m, n)) for m, n in zip(one, other, strict=True))
    assert np.abs(a[least] - b[least]).max() > 0.01  # nearer they differ


@pytest.mark.slow
def test_global_models_take_any_size():
    """The first call of the sampler by hand, at a size of no training."""
    model, size = tiny.fourier(), (39, 32)
    x, t = samplers.initial_noise(KEY, size, 3), jnp.array([tiny.T - 1])

    @jax.jit
    def implied(p, x):
        said, _ = model.apply(p, x, t, None, (), arrays.fold(KEY, tiny.T - 1))
        return x0_of(PROCESS, said, x, t)[0].clip(-1, 1)

    np.testing.assert_allclose(sample(model, size, 1), implied(tiny.params(model), x), atol=1e-4)


@partial(jax.jit, static_argnums=(0, 2))
def painted(model, at, size, calls=3):
    params, place = tiny.params(model), Place(at, size)
    denoise = lambda x, t, memory, key: model.apply(params, x, t, None, memory, key, place)
    carry = samplers.begin(samplers.initial_noise(KEY, size, 3, at))
    return samplers.sample(samplers.ddpm, PROCESS, denoise, carry, PROCESS.times(calls), KEY, at).x[0]


def rolled(model, by, size=(19, 16)):
    """A picture whose cells have the randomness of the cells ``by`` further on, round the edge."""
    at = tuple((c + n) % e for c, n, e in zip(arrays.coords(size), by, size, strict=True))
    return np.asarray(painted(model, at, size))


@pytest.mark.slow
def test_a_picture_on_a_torus_has_no_edge():
    """Rolled, it is the picture of rolled noise: any other place could have been its edge. On a plane it is not."""
    torus, plane = BLUR.bordered("wrap"), BLUR
    back = lambda image: np.roll(image, (-7, -5), (0, 1))
    np.testing.assert_allclose(rolled(torus, (7, 5)), back(rolled(torus, (0, 0))), atol=1e-5)
    assert np.abs(rolled(plane, (7, 5)) - back(rolled(plane, (0, 0)))).max() > 0.05
