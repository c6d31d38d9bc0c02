"""Dice, IoU and distances of surfaces, of shapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen import sections
from nca_gen.errors import UserError
from nca_gen.metrics import segmentation as seg
from nca_gen.metrics.notes import collecting


def boxes(*sides, n=20):
    """A square of class k + 1 for each side, from the corner on."""
    out = np.zeros((n, n), np.int32)
    for k, side in reversed([*enumerate(sides)]):
        out[:side, :side] = k + 1
    return out


def test_two_squares_that_overlap():
    """8 x 8 and 4 x 8 in its half: IoU 32 / 64, Dice 2 32 / 96; of what is around, 336 of 368 places."""
    truth, said = np.zeros((2, 20, 20), np.int32)
    truth[:8, :8] = said[:4, :8] = 1
    counts = seg.confusion(truth, said, 3)
    np.testing.assert_array_equal(counts, [[336, 0, 0], [32, 32, 0], [0, 0, 0]])
    np.testing.assert_allclose(seg.iou(counts), [336 / 368, 1 / 2, np.nan])
    np.testing.assert_allclose(seg.dice(counts), [672 / 704, 2 / 3, np.nan])
    np.testing.assert_allclose(seg.iou(counts[None].repeat(4, 0))[3], seg.iou(counts))


def test_nothing_in_common_and_everything():
    truth = boxes(5)
    assert seg.dice(seg.confusion(truth, truth, 2)).tolist() == [1, 1]
    assert seg.iou(seg.confusion(truth, truth[::-1], 2))[1] == 0
    dice, iou = (f(seg.confusion(boxes(9), boxes(6), 2))[1] for f in (seg.dice, seg.iou))
    assert dice == pytest.approx(2 * iou / (1 + iou))


def test_what_is_not_known_counts_nowhere():
    truth, said = boxes(8), boxes(8)
    truth[4:] = -1
    said[4:] = 1
    assert seg.confusion(truth, said, 2).tolist() == [[4 * 12, 0], [0, 4 * 8]]


def layers(*rows, d=2, h=30, w=5):
    """A map whose surface k lies at the row ``rows[k]`` (a number, or one for each A-scan)."""
    at = np.stack([np.broadcast_to(row, (d, w)) for row in rows])
    return (np.arange(h)[None, :, None] >= at[:, :, None]).sum(0)


def test_surfaces_lie_where_layers_begin():
    rows = np.arange(10).reshape(2, 5)
    found = seg.surfaces(layers(rows, rows + 3, 25), 4)
    np.testing.assert_array_equal(found, np.stack([rows, rows + 3, np.full((2, 5), 25)]))
    np.testing.assert_array_equal(seg.surfaces(np.zeros((1, 30, 5)), 3), 30)  # below the volume: never reached


def test_the_distance_of_shifted_surfaces():
    truth = seg.surfaces(layers(5, 12, 20), 4)
    said = seg.surfaces(layers(5, 14, np.array([17, 18, 19, 20, 21])), 4)
    np.testing.assert_allclose(seg.mad(truth, said), [0, 2, (3 + 2 + 1 + 0 + 1) / 5])
    np.testing.assert_allclose(seg.mad(truth, said, 3.5), 3.5 * seg.mad(truth, said))


def test_an_a_scan_that_is_not_known_is_left_out():
    truth = layers(5, 12)
    truth[0, 7, 3] = -1
    truth[:, :, 4] = -1
    found = seg.surfaces(truth, 3)
    assert np.isnan(found[:, 0, 3]).all()
    said = layers(np.array([7, 7, 7, 100, 100]), 12)
    said[1, :, 3] = layers(7, 12)[1, :, 3]
    np.testing.assert_allclose(seg.mad(found, seg.surfaces(said, 3)), [2, 0])
    assert np.isnan(seg.mad(found * np.nan, found)).all()


def test_figures_of_volumes():
    """A mean over the classes that are asked for; where one is neither there nor said, over the others."""
    some = [(layers(5, 12), layers(5, 14)), (layers(5, 40), layers(5, 40))]  # the last has no class 2
    rows = [seg.measured(truth, said, 3) for truth, said in some]
    assert [row["mad"] for row in rows] == [[0, 2], [0, 0]]
    one, two = 2 * 7 / (7 + 9), 2 * 16 / (18 + 16)
    with collecting() as notes:
        np.testing.assert_allclose(seg.values(rows, "dice"), [(one + two) / 2, 1])
    assert notes == ["dice: in 1 of 2 images or volumes a class is neither there nor said: left out of the means"]
    np.testing.assert_allclose(seg.values(rows, "dice:0"), [1, 1])
    np.testing.assert_allclose(seg.values(rows, "iou:1"), [7 / 9, 1])
    np.testing.assert_allclose(seg.values(rows, "mad"), [1, 0])
    np.testing.assert_allclose(seg.values(rows, "mad:1"), [2, 0])


def test_an_image_has_lines_for_surfaces():
    truth, said = (layers(row, d=1)[0] for row in (5, 8))
    assert seg.measured(truth, said, 2) == {"counts": [[25, 0], [15, 110]], "mad": [3]}


@pytest.mark.parametrize(
    ("spec", "figure", "words"),
    [
        ("dice", seg.Figure("dice", (1, 2, 3)), "Dice"),
        ("iou:2", seg.Figure("iou", (2,)), "IoU vein"),
        ("dice:1+3", seg.Figure("dice", (1, 3)), "Dice 1+3"),
        ("dice:1+2+3", seg.Figure("dice", (1, 2, 3)), "Dice 1 to 3"),
        ("mad", seg.Figure("mad", (0, 1, 2)), "MAD"),
        ("mad:2", seg.Figure("mad", (2,)), "MAD 2"),
    ],
)
def test_specs(spec, figure, words):
    assert seg.figure(spec, 4) == figure
    assert seg.heading(spec, ("around", "artery", "vein", "FAZ")) == words


def test_sections_name_the_same_figures():
    """A config knows their names before this room is loaded."""
    assert {*sections.OUTLINES} == {*seg.FIGURES}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("dise", "did you mean dice"),
        ("iou:4", r"iou:4: classes are numbers from 0 to 3"),
        ("mad:3", r"mad:3: surfaces are numbers from 0 to 2"),
        ("iou:vein", r"joined by \+, such as iou:1\+2"),
    ],
)
def test_specs_that_are_none(spec, told):
    with pytest.raises(UserError, match=told):
        seg.figure(spec, 4)
