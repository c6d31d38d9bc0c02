"""Noise schedules against published numbers and closed forms."""

import numpy as np
import pytest

from nca_gen.diffusion import schedules


@pytest.mark.parametrize(
    ("abar", "root"),
    [  # sqrt(abar_T) of table 1 in Lin et al. 2024 (arXiv 2305.08891): linear, cosine, Stable Diffusion
        (schedules.linear(1000), 0.006353),
        (schedules.cosine(1000), 4.928220e-05),
        (schedules.sqrt_linear(1000, 0.00085, 0.012), 0.068265),
    ],
)
def test_published_ends(abar, root):
    assert abar[-1] ** 0.5 == pytest.approx(root, rel=1e-4)


def test_linear():
    assert schedules.linear(1000)[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert schedules.linear(300)[-1] == pytest.approx(0.048, abs=5e-4)
    assert schedules.linear(1000)[0] == pytest.approx(1 - 1e-4, rel=1e-12)
    betas = 1 - np.exp(np.diff(np.log(schedules.linear(50)), prepend=0))
    np.testing.assert_allclose(np.diff(betas), (0.02 - 1e-4) / 49, rtol=1e-8)


def test_sqrt_linear_is_linear_in_the_root_of_beta():
    betas = 1 - np.exp(np.diff(np.log(schedules.sqrt_linear(50)), prepend=0))
    np.testing.assert_allclose(np.diff(np.sqrt(betas)), (0.02**0.5 - 0.01) / 49, rtol=1e-8)
    assert betas[[0, -1]] == pytest.approx([1e-4, 0.02])


@pytest.mark.parametrize("T", [50, 300, 1000])
def test_cosine_follows_the_cosine_up_to_the_clip(T):
    """abar_t = f(t + 1) / f(0) wherever no beta before it was clipped: only the last is, where f is zero."""

    def f(t):
        return np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2

    abar = schedules.cosine(T)
    np.testing.assert_allclose(abar[:-1], f(np.arange(1, T)) / f(0), rtol=1e-10)
    assert abar[-1] / abar[-2] == pytest.approx(1 - 0.999)


def test_the_clip_bounds_every_beta():
    abar = schedules.cosine(20, clip=0.3)
    ratios = abar / np.append(1.0, abar[:-1])
    assert ratios.min() == pytest.approx(0.7)
    assert np.sum(np.isclose(ratios, 0.7)) > 3


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("T", [2, 8, 300, 1000])
def test_signal_only_fades(name, T):
    abar = schedules.SCHEDULES[name](T)
    assert abar.shape == (T,)
    assert abar.dtype == np.float64
    assert np.all(np.diff(abar, prepend=1.0) < 0)
    assert abar[-1] > 0
