"""The window of Fourier space: against numpy as the paper words it, and against plain sums."""

import itertools

import jax
import numpy as np
import pytest

from nca_gen.ca import fourier
from nca_gen.errors import UserError

jitted = {f: jax.jit(f, static_argnums=1) for f in (fourier.window, fourier.unwindow)}


def window(x, k):
    return np.asarray(jitted[fourier.window](x, k))


def unwindow(f, size):
    return np.asarray(jitted[fourier.unwindow](f, size))


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def complex_images(*shape):
    return (images(*shape) + 1j * np.random.default_rng(1).standard_normal(shape)).astype(np.complex64)


SIZES = [(16, 16), (17, 16), (16, 19), (21, 23), (33,), (8, 9, 11)]
K = {1: 8, 2: 8, 3: 4}


@pytest.mark.parametrize("size", SIZES)
def test_window_is_the_crop_of_the_shifted_spectrum(size):
    """F = fftshift(fft(x)); F[H//2 : H//2 + K, W//2 : W//2 + K]."""
    x, k, axes = images(2, *size, 3), K[len(size)], tuple(range(1, len(size) + 1))
    shifted = np.fft.fftshift(np.fft.fftn(x.astype(np.float64), axes=axes, norm="forward"), axes=axes)
    crop = shifted[(slice(None), *[slice(n // 2, n // 2 + k) for n in size])]
    np.testing.assert_allclose(window(x, k), crop, atol=1e-6)
    np.testing.assert_allclose(window(x, k)[(slice(None), *[0] * len(size))], x.mean(axes), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_unwindow_writes_the_crop_back(size):
    """Into the same place of an empty shifted spectrum; then ifftshift, inverse transform, real part."""
    k, axes = K[len(size)], tuple(range(1, len(size) + 1))
    f = complex_images(2, *[k] * len(size), 3)
    shifted = np.zeros((2, *size, 3), complex)
    shifted[(slice(None), *[slice(n // 2, n // 2 + k) for n in size])] = f
    back = np.fft.ifftn(np.fft.ifftshift(shifted, axes=axes), axes=axes, norm="forward").real
    np.testing.assert_allclose(unwindow(f, size), back, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 18), (17, 23)])
def test_window_of_a_tiled_image_is_the_sum_over_tiles(size):
    """The direct sum over pixels, separable: what a tile adds needs its absolute coordinates and nothing else."""
    x, k = images(1, *size, 2), 8
    total = np.zeros((1, k, k, 2), complex)
    for rows in (slice(0, 5), slice(5, size[0])):
        for columns in (slice(0, 11), slice(11, size[1])):
            ey, ex = (
                np.exp(-2j * np.pi * np.outer(np.arange(k), np.arange(n)[part]) / n)
                for n, part in zip(size, (rows, columns), strict=True)
            )
            total += np.einsum("ky,byxc,lx->bklc", ey, x[:, rows, columns], ex) / np.prod(size)
    np.testing.assert_allclose(window(x, k), total, atol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (17, 22)])
def test_a_wave_is_one_coefficient(size):
    """cos(2 pi (3 y / H + 2 x / W) + 0.7) has the coefficient exp(0.7 i) / 2 at [3, 2], and half of it comes back.

    The other half lives at the negative frequency, outside the window.
    """
    y, x = np.ogrid[: size[0], : size[1]]
    wave = np.cos(2 * np.pi * (3 * y / size[0] + 2 * x / size[1]) + 0.7)[None, :, :, None].astype(np.float32)
    f = window(wave, 8)
    expected = np.zeros((1, 8, 8, 1), complex)
    expected[0, 3, 2] = np.exp(0.7j) / 2
    np.testing.assert_allclose(f, expected, atol=1e-6)
    np.testing.assert_allclose(unwindow(f, size), wave / 2, atol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (19, 17)])
def test_there_and_back_for_band_limited_signals(size):
    """The window of a field made of it holds half of every coefficient, and the real part of the mean."""
    f = complex_images(2, 8, 8, 3)
    expected = f / 2
    expected[:, 0, 0] = f[:, 0, 0].real
    np.testing.assert_allclose(window(unwindow(f, size), 8), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(15, 16), (16, 15), (4, 40)])
def test_too_small_images_are_refused(size):
    with pytest.raises(UserError, match="at least 16 pixels a side"):
        window(images(1, *size, 1), 8)


def test_the_smallest_image_is_accepted():
    assert window(images(1, 16, 16, 1), 8).shape == (1, 8, 8, 1)


def test_gradient_of_the_round_trip_is_its_adjoint():
    """x -> unwindow(window(x)) is a symmetric linear map: its gradient of <w, .> is itself applied to w."""
    x, w = images(1, 16, 17, 2), images(1, 16, 17, 2)[:, ::-1]

    def along(x):
        return (fourier.unwindow(fourier.window(x, 8), (16, 17)) * w).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(along))(x), unwindow(window(w, 8), (16, 17)), atol=1e-6)


def cut(size):
    """Two tiles an axis and what each of them sees, as much as the other: coordinates round the edge, and its core."""
    halves = [[(0, n // 2), (n // 2, n)] for n in size]
    for core in itertools.product(*halves):
        seen = [np.arange(start - 2, start + n // 2 + 3) % n for (start, _), n in zip(core, size, strict=True)]
        yield np.ix_(*(c.astype(np.int32) for c in seen)), np.array(core, np.int32)


@pytest.mark.parametrize("size", [(21, 23), (33,), (8, 9, 11)])
def test_the_shares_of_tiles_are_the_window(size):
    """Every cell counts in the tile whose core it is in, also where another tile sees it."""
    x, k = images(2, *size, 3), K[len(size)]
    share = jax.jit(lambda x, at, core: fourier.share(x, k, at, size, core))
    total = sum(np.asarray(share(x[(slice(None), *at)], at, core)) for at, core in cut(size))
    np.testing.assert_allclose(total, window(x, k), atol=1e-7)


@pytest.mark.parametrize("size", [(21, 23), (33,), (8, 9, 11)])
def test_a_part_of_the_inverse(size):
    k = K[len(size)]
    f = complex_images(2, *[k] * len(size), 3)
    whole, part = unwindow(f, size), jax.jit(lambda f, at: fourier.part(f, at, size))
    scale = float(np.abs(whole).max())
    for at, _ in cut(size):
        np.testing.assert_allclose(part(f, at), whole[(slice(None), *at)], atol=5e-7 * scale)


@pytest.mark.slow
def test_a_wave_far_out_is_exact():
    """At cell 10^6 of 1 000 003: the phase is that of the remainder."""
    at = np.array([0, 1, 999_999, 1_000_002], np.int32)
    mine = jax.jit(lambda at: fourier.wave(at, 3, 1_000_003))(at)
    expected = np.exp(-2j * np.pi * np.arange(3)[:, None] * at.astype(np.float64) / 1_000_003)
    np.testing.assert_allclose(mine, expected, atol=1e-7)
