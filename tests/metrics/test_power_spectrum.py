"""Power spectra in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.metrics import power_spectrum

N = 64


def wave(k, amplitude=0.5, shape=(N, N)):
    """``k`` waves along the first axis."""
    y = np.arange(shape[0])[:, None, None] / shape[0]
    return (amplitude * np.sin(2 * np.pi * k * y) * np.ones((*shape, 1))).astype(np.float32)


@pytest.mark.parametrize(("k", "octave"), [(6, 2), (11, 3), (25, 4)])
def test_a_plane_wave_lies_in_its_octave(k, octave):
    """With half the square of its amplitude: the window spreads it to the next frequencies, no further."""
    power = power_spectrum.octaves(wave(k))
    assert power.argmax() == octave
    assert power[octave] > 50 * np.delete(power, octave).max()
    radius = N * np.hypot(np.fft.fftfreq(N)[:, None], np.fft.fftfreq(N))
    count = np.count_nonzero((radius >= 2**octave) & (radius < min(2 ** (octave + 1), N / 2 + 0.5)))
    assert power[octave] * count / N**2 == pytest.approx(0.5**2 / 2, rel=0.02)


def test_white_noise_is_flat():
    """Its variance, at every frequency."""
    noise = 0.2 * np.random.default_rng(0).standard_normal((48, N, N, 2)).astype(np.float32)
    found = power_spectrum.statistics(noise)
    np.testing.assert_allclose(found.power[1:] / found.n, 0.04, rtol=0.08)


def test_twice_the_contrast_is_six_decibels():
    some = np.random.default_rng(1).uniform(-0.5, 0.5, (3, 24, 40, 3)).astype(np.float32)
    scores = power_spectrum.score(2 * some, some, None, 0)
    assert [*scores] == ["power_spectrum", *(f"power_spectrum_{n}" for n in (24, 12, 6, 3))]
    assert [*scores.values()] == pytest.approx([20 * np.log10(2)] * 5, abs=1e-4)


def test_brightness_does_not_count():
    some = np.random.default_rng(2).uniform(-0.5, 0.5, (2, 16, 16, 1)).astype(np.float32)
    assert power_spectrum.score(some + 0.25, some, None, 0)["power_spectrum"] < 1e-4


def test_a_blur_lacks_the_finest_octave_alone():
    some = np.random.default_rng(3).uniform(-1, 1, (8, N, N, 1)).astype(np.float32)
    spectrum = np.fft.fft2(some, axes=(1, 2))
    radius = N * np.hypot(np.fft.fftfreq(N)[:, None], np.fft.fftfreq(N))
    blurred = np.fft.ifft2(np.where(radius[..., None] < 14, spectrum, 0), axes=(1, 2)).real.astype(np.float32)
    scores = power_spectrum.score(blurred, some, None, 0)
    assert scores["power_spectrum_4"] < -20
    assert max(abs(scores[f"power_spectrum_{n}"]) for n in (64, 32, 16)) < 0.5


def test_sets_merge():
    some = np.random.default_rng(4).uniform(-1, 1, (5, 8, 9, 1)).astype(np.float32)
    parts = power_spectrum.merge(power_spectrum.statistics(some[:2]), power_spectrum.statistics(some[2:]))
    whole = power_spectrum.statistics(some)
    np.testing.assert_allclose(parts.power, whole.power)
    assert parts[1:] == whole[1:]


def test_edge_cases():
    flat = np.zeros((2, 16, 16, 3), np.float32)
    assert power_spectrum.score(flat, flat, None, 0)["power_spectrum"] == 0
    with pytest.raises(UserError, match="at least 8 pixels a side, not 7"):
        power_spectrum.score(flat[:, :7], flat[:, :7], None, 0)
    with pytest.raises(UserError, match="0 generated and 2 real"):
        power_spectrum.score(flat[:0], flat, None, 0)
