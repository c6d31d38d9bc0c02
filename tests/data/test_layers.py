"""Layers of voxels and surfaces between them say the same."""

from __future__ import annotations

import numpy as np

from nca_gen.data import layers
from nca_gen.metrics.segmentation import surfaces as seen


def test_a_row_lies_below_a_surface_where_its_middle_does():
    surfaces = np.array([0, 1.5, 2.51, 4, 4, 9], np.float32)[:, None, None]
    drawn = layers.layer_map(surfaces, np.arange(6))
    assert drawn[0, :, 0, 0].tolist() == [1, 2, 2, 3, 5, 5]  # the middle of row 1 is 1.5, that of row 2 below 2.51
    np.testing.assert_array_equal(layers.layer_map(surfaces, np.array([5, 2])), drawn[:, [5, 2]])


def test_surfaces_come_back_to_a_row():
    """Those at whole rows exactly; others as the first row whose middle lies below."""
    rng = np.random.default_rng(0)
    whole = np.sort(rng.integers(0, 13, (6, 4, 5)), 0)
    np.testing.assert_array_equal(seen(layers.layer_map(whole, np.arange(12))[..., 0], 7), whole)
    between = np.sort(rng.uniform(0, 12, (6, 4, 5)), 0)
    back = seen(layers.layer_map(between, np.arange(12))[..., 0], 7)
    np.testing.assert_array_equal(back, np.ceil(between - 0.5))


def test_surfaces_of_a_map_that_is_out_of_order():
    drawn = np.array([0, 1, 0, 2, 6, 6], np.int32).reshape(1, 6, 1, 1)
    assert seen(drawn[..., 0], 7)[:, 0, 0].tolist() == [2, 3, 4, 4, 4, 4]


def test_a_map_from_the_front_is_the_same_in_every_row():
    classes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    seen = layers.en_face(classes, 4)
    assert (seen.shape, seen.dtype) == ((2, 4, 3, 1), np.int32)
    for row in range(4):
        np.testing.assert_array_equal(seen[:, row, :, 0], classes)
