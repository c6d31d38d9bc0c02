"""Windows that together are the whole, and what a map must be to be held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.tiling import segments

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Bands:
    """The smallest segmenter: the grey level of a place, times a weight a class."""

    classes: int = 3
    ndim: int = 2
    multiple: int = 1

    def init(self, key):
        return {}

    def apply(self, params, x):
        return x.mean(-1, keepdims=True) * params["w"] + params["b"]


@dataclass(frozen=True)
class Means(Bands):
    """A segmenter that sees whole windows: places above the mean of their window are of class 1."""

    classes: int = 2

    def apply(self, params, x):
        over = x - x.mean(range(1, x.ndim), keepdims=True)
        return jnp.concatenate([-over, over], -1)


@pytest.mark.slow
def test_windows_together_are_the_whole():
    """Of a network that sees a place alone, whatever the sides of image and window; in 2 and 3 dimensions."""
    params = {"w": jnp.array([1.0, 0.0, -1.0]), "b": jnp.array([0.0, 0.2, 0.0])}
    for size, patch in (((13, 9), (8, 8)), ((8, 8), (8, 8)), ((3, 20), (8, 4)), ((9, 4, 11), (4, 4, 8))):
        image = RNG.uniform(-1, 1, (*size, 1)).astype(np.float32)
        found = segments.segmented(Bands(ndim=len(size)), params, image, patch, 3)
        np.testing.assert_array_equal(found, (image * params["w"] + params["b"]).argmax(-1))


def test_a_place_is_told_by_the_window_around_it():
    """Windows of 8 say 4 of a row of 20 each, which lie in their middle unless they are at the border."""
    image = np.arange(20.0, dtype=np.float32)[None, :, None].repeat(8, 0) / 10 - 1
    found = segments.segmented(Means(), {}, image, (8, 8), 2)
    starts = [0, 2, 6, 10, 12]  # of the windows of the places 0 to 3, 4 to 7, ...
    expected = [int(place > starts[place // 4] + 3.5) for place in range(20)]  # above the mean of its window
    np.testing.assert_array_equal(found, [expected] * 8)


def test_depths_and_unknown_classes():
    """8 bits and floats of the same picture are one; a class that the model has not is refused by name."""
    params = {"w": jnp.array([1.0, 0.0, -1.0]), "b": jnp.zeros(3)}
    stored = RNG.integers(0, 256, (6, 6, 1)).astype(np.uint8)
    of = partial(segments.segmented, Bands(), params, patch=(4, 4), batch=2)
    np.testing.assert_array_equal(of(stored), of(np.float32(stored) / 128 - 1))
    example = {"image": stored, "name": "a.png", "patient": "a", "label_map": np.full((6, 6, 1), 3, np.int32)}
    with pytest.raises(UserError, match=r"the label map of a\.png holds class 3, and config\.model\.classes=3"):
        list(segments.predictions(Bands(), params, [example], (4, 4), 2))
    del example["label_map"]
    with pytest.raises(UserError, match=r"a\.png has no label map"):
        list(segments.predictions(Bands(), params, [example], (4, 4), 2))
