"""Which axes are mirrored, by every spelling."""

import pytest

from nca_gen.data import flips
from nca_gen.errors import UserError


@pytest.mark.parametrize(
    ("word", "two", "three"),
    [
        ("all", (True, True), (True, True, True)),
        (True, (True, True), (True, True, True)),
        ("none", (False, False), (False, False, False)),
        (False, (False, False), (False, False, False)),
        ("horizontal", (False, True), (False, False, True)),
        ("vertical+horizontal", (True, True), (False, True, True)),
    ],
)
def test_axes(word, two, three):
    assert (flips.axes(word), flips.axes(word, 3)) == (two, three)
    assert flips.probabilities(word) == tuple(0.5 * x for x in two)


def test_variants_begin_with_the_image_itself():
    assert flips.variants("all") == [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    assert flips.variants("horizontal") == [(1, 1), (1, -1)]
    assert flips.variants("none", 3) == [(1, 1, 1)]
    assert flips.variants("depth", 3) == [(1, 1, 1), (-1, 1, 1)]
    assert len(flips.variants("all", 3)) == 8


def test_all_views_of_a_square():
    assert (flips.axes("dihedral"), flips.axes("dihedral", 3)) == ((True, True), (False, True, True))
    assert flips.transposed("dihedral", (3, 8, 8))
    assert not any(flips.transposed(word, (8, 6)) for word in ("all", True, "none", "horizontal+vertical"))
    with pytest.raises(UserError, match=r"'dihedral' is for square patches, and config.data.patch=\(8, 6\)"):
        flips.transposed("dihedral", (8, 6))
    with pytest.raises(UserError, match=r"config.encode.flips='dihedral' is for training alone"):
        flips.variants("dihedral", field="config.encode.flips")


def test_words_that_are_none():
    with pytest.raises(UserError, match="did you mean horizontal"):
        flips.axes("horizontl")
    with pytest.raises(UserError, match="2 axes has no depth"):
        flips.axes("depth+horizontal")
    for word in ("all+depth", "dihedral+depth"):
        alone = word.partition("+")[0]
        with pytest.raises(
            UserError, match=rf"unknown value of config.data.flips: '{alone}\+depth', as '{alone}' stands"
        ):
            flips.axes(word, 3)
