"""CLIP's vision transformer against the digits of Transformers on the same weights, and its published size."""

import pytest
import seeded

from nca_gen.nn import clip


@pytest.mark.slow
def test_parameters_are_as_many_as_published():
    """Of the vision half of clip-vit-large-patch14-336 and its projection."""
    assert seeded.count(clip.vit_l14(), 336) == 304_293_888


@pytest.mark.slow
def test_the_embedding_has_the_digits_of_transformers():
    """Transformers 5.24.0 on torch 2.14.1, a small form with seeded weights."""
    got = seeded.layers(clip.Vision(128, 2, 32), 28)
    seeded.agree(got, {"embedding": (0.3048346597, 1.4196365904, 1.6204739026)}, 1e-5)
