"""Resizing against straight lines, against peers' digits, and against what bicubic must not do."""

from functools import partial

import jax
import numpy as np
import pytest

from nca_gen.nn import resize

PIXELS = np.random.RandomState(1).randint(0, 256, (5, 4, 3), np.uint8)[None]
FLOATS = PIXELS.astype(np.float32)

# Of PIXELS: torch-fidelity 0.4.0, torch 2.13, clean-fid 0.1.35. The first channel at 3 x 3.
TF1 = [[37, 94.3333, 55], [159.3333, 130.7778, 177.2222], [196, 82, 118.2222]]
HALF = [[65.5556, 99.8333, 88.5556], [182, 135, 201.3333], [175.2222, 78.8333, 134.3889]]
CLEAN = [[84.3705, 104.583, 86.8746], [156.8495, 127.3584, 172.5927], [160.1348, 76.6455, 130.4383]]
SMOOTH = [[85.1714, 103.0714, 90.3714], [152.7111, 127, 165.2222], [154.9714, 83.5, 126.3286]]  # torch 2.14.1
CUBIC = [[59.368, 104.4277, 83.5814], [182.9028, 122.25, 203.5787], [177.2412, 59.6325, 131.1971]]  # the same
CUBIC_LARGER = [28.1566, 56.358, 93.0023, 95.3911, 72.8059, 48.0104, 31.3129]  # its first row at 7 x 7
LARGER = [255, 248.6616, 233.7791, 255, 255, 150.6678, 83.4137]  # clean-fid's first row of the second at 7 x 7


@partial(jax.jit, static_argnums=1)
def _bilinear(x, size):
    return resize.tf1(x, size), resize.half_pixel(x, size)


def bilinear(x, size):
    """In both ways."""
    return jax.device_get(_bilinear(x, size))


@pytest.mark.parametrize(("size", "n"), [(32, 299), (400, 299), (1, 7)])
def test_bilinear_on_a_straight_line_reads_where_it_says(size, n):
    """Of images whose pixels are their row, or their column, it gives the places themselves, up to the last pixel."""
    image = np.float32(np.stack(np.mgrid[:size, :size], -1))[None]
    i, ratio = np.arange(n), size / n
    expected = np.minimum(i * ratio, size - 1), np.clip((i + 0.5) * ratio - 0.5, 0, size - 1)
    for found, places in zip(bilinear(image, n), expected, strict=True):
        np.testing.assert_allclose(found[0, ..., 0], np.broadcast_to(places[:, None], (n, n)), atol=1e-4)
        np.testing.assert_allclose(found[0, ..., 1], np.broadcast_to(places, (n, n)), atol=1e-4)


def test_the_digits_of_peers():
    for found, digits in zip(bilinear(FLOATS, 3), (TF1, HALF), strict=True):
        np.testing.assert_allclose(found[0, ..., 0], digits, atol=1e-3)
    np.testing.assert_allclose(resize.clean(PIXELS, 3)[0, ..., 0], CLEAN, atol=1e-3)
    np.testing.assert_allclose(resize.clean(PIXELS, 7)[0, 0, :, 1], LARGER, atol=1e-3)


def ways(x, size):
    return resize.smooth(x, size), resize.bicubic(x, size), resize.half_pixel(x, size)


def test_the_digits_of_torch():
    """Antialiased bilinear, as torchmetrics 1.9 resizes before its Inception, and bicubic, as CMMD before CLIP."""
    small, large = (jax.device_get(jax.jit(lambda x, n=n: ways(x, n))(FLOATS)) for n in (3, 7))
    for got, digits in zip(small, (SMOOTH, CUBIC), strict=False):
        np.testing.assert_allclose(got[0, ..., 0], digits, atol=1e-3)
    np.testing.assert_allclose(large[1][0, 0, :, 0], CUBIC_LARGER, atol=1e-3)
    np.testing.assert_allclose(large[0], large[2], atol=1e-3)  # nothing is taken away, so there is nothing to smooth


def test_bilinear_keeps_channels_and_images_apart():
    both = np.concatenate([FLOATS, FLOATS[:, ::-1]])
    together = bilinear(both, 6)
    for image in range(2):
        for channel in range(3):
            alone = bilinear(both[image : image + 1, :, :, channel : channel + 1], 6)
            for some, one in zip(together, alone, strict=True):
                np.testing.assert_array_equal(some[image, ..., channel], one[0, ..., 0])


def test_clean_smooths_before_it_takes_pixels_away():
    """Stripes finer than the new pixels become grey; reading between two neighbours leaves them."""
    stripes = np.zeros((1, 96, 96, 3), np.uint8)
    stripes[:, :, ::2] = 200
    inside = resize.clean(stripes, 12)[:, :, 1:-1]
    np.testing.assert_allclose(inside, 100, atol=1.5)
    assert np.ptp(bilinear(np.float32(stripes), 13)[0]) > 150
    np.testing.assert_array_equal(resize.clean(stripes, 96), stripes)
