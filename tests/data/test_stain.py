"""What is tissue, on slides whose parts are known."""

import numpy as np
import pytest

from nca_gen.data import stain

GLASS, EOSIN, BROWN, PEN = (242, 240, 243), (226, 170, 196), (150, 110, 80), (6, 5, 10)


def slide(*shares, noise=1):
    """Bands of (colour, rows), with a little noise: a slide is looked at in means of many pixels."""
    rng = np.random.default_rng(0)
    bands = [np.full((rows, 50, 3), colour) for colour, rows in shares]
    return np.clip(np.concatenate(bands) + rng.normal(0, noise, (sum(n for _, n in shares), 50, 3)), 0, 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("share", [1, 10, 50])
def test_stain_of_any_hue_is_parted_from_glass_and_pen(dtype, share):
    """Pink, brown; few of it or half. Sixteen bits are as eight."""
    pixels = slide((GLASS, 50), (EOSIN, share), (PEN, 20), (BROWN, share))
    pixels = (pixels * (257 if dtype == np.uint16 else 1)).astype(dtype)
    rows = np.repeat([False, True, False, True], [50, share, 20, share])
    assert (stain.stained(pixels).mean(1) == rows).all()


def test_a_slide_of_one_kind():
    """All tissue stays tissue, though some is paler; glass with its noise and tint has none; nor has what is dark."""
    assert stain.stained(slide((EOSIN, 50), (BROWN, 50)).astype(np.uint8)).all()
    assert stain.stained(slide((EOSIN, 100)).astype(np.uint8)).all()
    for glass in (GLASS, (255, 255, 255), (236, 228, 234)):
        assert not stain.stained(slide((glass, 100)).astype(np.uint8)).any()
    assert not stain.stained(slide((PEN, 10)).astype(np.uint8)).any()
    assert stain.stained(np.zeros((2, 3, 1), np.uint8)).all()


def test_saturation():
    pixels = np.array([[[200, 100, 50], [30, 30, 30], [25, 0, 0]]], np.uint8)
    np.testing.assert_allclose(stain.saturation(pixels), [[0.75, 0, -1]])
