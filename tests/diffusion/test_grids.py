"""Grids of times: the right indices, their order, and what they leave alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.diffusion import continuous, discrete, grids
from nca_gen.errors import UserError

COSINE = discrete.Process("cosine", 300)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("uniform", [299, 256, 214, 171, 128, 85, 43, 0]),
        ("trailing", [299, 261, 224, 187, 149, 111, 74, 37]),
        ("log_snr", [299, 298, 297, 290, 244, 90, 12, 0]),
        ("log_snr_clipped", [299, 289, 273, 231, 148, 65, 23, 6]),
        ("karras", [299, 298, 297, 296, 295, 278, 117, 0]),
    ],
)
def test_eight_of_three_hundred(grid, expected):
    assert [*grids.times(COSINE, 8, grid)] == [*expected, -1]


@pytest.mark.parametrize("grid", grids.GRIDS)
@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize(
    "process",
    [discrete.Process("linear", 30), continuous.Process("cosine"), continuous.Process("straight", "velocity")],
    ids=["discrete", "cosine", "straight"],
)
def test_every_grid_falls_from_the_noisiest_time_to_the_clean_end(process, grid, n):
    times, even = grids.times(process, n, grid), process.times(n)
    assert (len(times), times.dtype) == (n + 1, even.dtype)
    assert (times[0], times[-1]) == (29 if process.span == 30 else even[0], even[-1])
    assert (np.diff(times) < 0).all()


@pytest.mark.slow
def test_steps_of_lambda_are_even_in_continuous_time():
    """To the width of the look-up; Karras' in the seventh root of s / a."""
    process = continuous.Process("cosine", ends=(-8.0, 8.0))
    for grid, of in (("log_snr", lambda x: x), ("karras", lambda x: np.exp(-x / 7))):
        a, s = (np.float64(level) for level in process.levels(jnp.asarray(grids.times(process, 9, grid)[:-1])))
        steps = np.diff(of(np.log(a / s)))
        np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)


def test_more_steps_than_there_are():
    with pytest.raises(UserError, match=r"config\.sample\.steps=301: this diffusion has 1 to 300 steps"):
        grids.times(COSINE, 301, "karras")


@pytest.mark.parametrize("process", [COSINE, continuous.Process("cosine")], ids=["discrete", "continuous"])
def test_times_that_are_written_out_are_these(process):
    times = grids.times(process, 5, "karras")
    again = grids.times(process, 5, grids.written(times[:-1]))
    assert again.dtype == times.dtype
    np.testing.assert_allclose(again, times, rtol=1e-5)
    assert grids.word(grids.written(times[:-1]))


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("299+100", "are the times of 2 calls, and 3 are asked for"),
        ("299+100+100", "give times that fall"),
        ("300+100+50", "from no more than 299"),
        ("299+100.5+50", "give times that fall"),
        ("karas", "did you mean karras"),
        ("searched_3", "grid of times"),  # of no run
    ],
)
def test_times_that_cannot_be(grid, said):
    with pytest.raises(UserError, match=said):
        grids.times(COSINE, 3, grid)


def test_which_words_a_config_takes():
    words = ("uniform", "299+3", "0.9+1e-05", "searched_4", "karas", "299", "299+", "299+x")
    assert [grids.word(word) for word in words] == [True, True, True, True, False, False, False, False]
