"""What one denoising step hands on to the next."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import arrays
from nca_gen.diffusion import heredity, samplers
from nca_gen.diffusion.discrete import Process


class Genes(NamedTuple):
    out: object
    hidden: object
    other: object = 3


@pytest.mark.parametrize(
    ("name", "left"),
    [("none", (None, None)), ("hidden", (None, 2)), ("out", (1, None)), ("both", (1, 2))],
)
def test_what_is_kept(name, left):
    kept = heredity.KEPT[name]
    assert heredity.heirs(Genes(1, 2), kept) == Genes(*left, None)
    assert heredity.heirs((), kept) == ()
    said, memory = heredity.inherited(lambda *_: ("word", Genes(1, 2)), kept)(0, 0, (), 0)
    assert (said, memory) == ("word", Genes(*left, None))


@pytest.mark.parametrize(("name", "counted"), [("hidden", 5), ("none", 1)])
def test_a_chain_of_steps(name, counted):
    """A model that counts in ``hidden`` how often it was called: five times, or each time for the first time."""
    process = Process("cosine", 10, "x0")

    def denoise(x, t, memory, key):
        hidden = jnp.zeros(()) if memory.hidden is None else memory.hidden
        return jnp.full_like(x, 0.0) + hidden + 1, Genes(x, hidden + 1, None)

    kept = heredity.KEPT[name]
    start = samplers.begin(jnp.zeros((1, 2, 2, 1)), heredity.heirs(Genes(None, jnp.zeros(()), None), kept))
    heirs = heredity.inherited(denoise, kept)
    end = jax.jit(lambda start, key: samplers.sample(samplers.ddim, process, heirs, start, process.times(5), key))(
        start, arrays.keys(0, 1)
    )
    np.testing.assert_allclose(end.x, counted)  # the last x0 is what the sampler ends in
