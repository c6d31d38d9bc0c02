"""Parts of volumes of B-scans that are brought to another size are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.data import scans
from nca_gen.data.volumes import Scale
from nca_gen.io import images

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [1, 3, 7, 11, 20, 31])
def test_weights_are_those_of_pillow(size):
    import PIL.Image

    column = RNG.uniform(0, 255, (11, 1)).astype(np.float32)
    expected = np.asarray(PIL.Image.fromarray(column).resize((1, size), PIL.Image.Resampling.BICUBIC))[:, 0]
    for place, value in enumerate(expected):
        first, weights = scans.taps(11, size, place)
        assert weights.sum() == pytest.approx(1)
        assert weights @ column[first : first + len(weights), 0] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    "scale",
    [
        Scale((1, 1, 1), None),
        Scale((2, 1, 3), None),
        Scale((1, 2, 1), (13, 5, 9)),
        Scale((2, 1, 1), (3, 20, 4)),
    ],
)
def test_parts_are_those_of_the_whole(scale):
    """To a grey level, which the sums of two orders may round differently, and but for a few exactly."""
    stored = RNG.integers(0, 256, (11, 12, 10, 1)).astype(np.uint8)
    whole = scale.fitted(stored)
    sides = scale.sides(stored.shape)
    everything = scans.part(stored, scale, [slice(0, n) for n in sides])
    assert (everything.dtype, everything.shape) == (np.uint8, whole.shape)
    assert np.abs(everything.astype(int) - whole).max() <= (scale.resize is not None)
    assert (everything != whole).mean() < 0.01
    box = [slice(n // 3, n - 1) for n in sides]
    np.testing.assert_array_equal(scans.part(stored, scale, box), everything[tuple(box)])


def test_the_middles_are_those_of_nearest():
    for n, k, size in ((11, 1, 5), (11, 2, 5), (11, 2, 13), (7, 3, 2)):
        stored = np.arange(n)[:, None]
        expected = images.nearest(stored[: n // k * k], (size,))[:, 0]
        np.testing.assert_array_equal(scans.middles(n, k, size, slice(0, size)), expected)
        np.testing.assert_array_equal(scans.middles(n, k, size, slice(1, size - 1)), expected[1:-1])


def test_only_the_scans_of_a_part_are_read():
    class Counted:
        shape, dtype = (40, 6, 7, 1), np.dtype(np.uint8)

        def __init__(self):
            self.read = set()

        def __getitem__(self, box):
            self.read |= set(range(*box[0].indices(40)))
            return np.zeros((box[0].stop - box[0].start, 6, 7, 1), np.uint8)

    stored = Counted()
    scans.part(stored, Scale((1, 1, 1), (80, 12, 14)), [slice(20, 22), slice(0, 3), slice(2, 9)])
    assert stored.read == set(range(8, 13))  # places 9.75 and 10.25, and two beyond on either side
    stored = Counted()
    scans.part(stored, Scale((2, 1, 1), None), [slice(3, 5), slice(0, 3), slice(2, 5)])
    assert stored.read == {6, 7, 8, 9}
