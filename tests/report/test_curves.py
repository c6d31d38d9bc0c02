"""Curves: what is drawn is what was measured."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from nca_gen.report import curves


def drawn(svg: str, kind: str) -> np.ndarray:
    """Points of the first polyline or polygon of a class, [n, 2]."""
    points = next(e.get("points") for e in ET.fromstring(svg).iter() if e.get("class") == kind)
    return np.array([[float(v) for v in point.split(",")] for point in points.split()])


def axis(svg: str) -> np.ndarray:
    """Height and value of the marks of the vertical axis, [n, 2]."""
    rules = [float(e.get("d").split()[1].split("H")[0]) for e in ET.fromstring(svg).iter() if e.get("class") == "rule"]
    labels = [e.text for e in ET.fromstring(svg).iter("text")][: len(rules)]
    return np.array([[height, float(label.replace("k", "e3"))] for height, label in zip(rules, labels, strict=True)])


def test_thinning_keeps_extremes_means_and_order():
    y = np.random.default_rng(0).normal(size=10_007)
    y[5000], y[7000] = 50, -60
    at, least, mean, greatest = curves.thin(np.arange(10_007.0), y, 100)
    assert len(at) == 100
    assert (greatest.max(), least.min()) == (50, -60)
    assert (np.diff(at) > 0).all()
    assert mean.mean() == pytest.approx(y.mean(), abs=1e-3)
    few = np.array([3.0, 1.0, 2.0])
    for column in curves.thin(few, few, 100):
        np.testing.assert_array_equal(column, few)


def test_smoothing_leaves_lines_and_constants_alone():
    np.testing.assert_allclose(curves.smooth(np.full(20, 0.7), 6), 0.7)
    np.testing.assert_allclose(curves.smooth(np.arange(20.0), 5)[2:-2], np.arange(2.0, 18.0))
    np.testing.assert_allclose(curves.smooth(np.array([1.0, 2.0, 3.0]), 9), [1.5, 2.0, 2.5])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 200e3, [0, 50_000, 100_000, 150_000, 200_000]),
        (0.33, 1.61, [0.5, 1.0, 1.5]),
        (-0.1, 0.1, [-0.1, -0.05, 0, 0.05, 0.1]),
        (1001.0, 1007.0, [1002, 1004, 1006]),
    ],
)
def test_ticks_are_round(low, high, expected):
    np.testing.assert_allclose(curves.ticks(low, high), expected, atol=1e-15)


def test_logarithmic_ticks():
    assert curves.ticks(0.9, 6.0, log=True) == [1, 2, 5]
    np.testing.assert_allclose(curves.ticks(3e-12, 1.6e-3, log=True), [1e-11, 1e-9, 1e-7, 1e-5, 1e-3])


def test_axis_numbers():
    numbers = [0.0, 200e3, 1500.0, 2.5e6, 0.02, 0.0016, 1e-5, -0.003, 12.5, 3e12]
    assert [curves.short(v) for v in numbers] == [
        *("0", "200k", "1.5k", "2.5M", "0.02", "1.6e-3", "1e-5", "-3e-3", "12.5", "3000G")
    ]


@pytest.mark.parametrize("zero", [False, True])
def test_points_lie_where_the_axis_says(zero):
    """Reading heights off the picture with its own marks gives the values back, to half a tenth of a pixel."""
    x, y = np.array([10.0, 20, 40, 80]), np.array([0.2, 0.9, 0.5, 0.7])
    svg = curves.draw(x, y, "test", zero=zero)
    marks, points = axis(svg), drawn(svg, "raw")
    slope, offset = np.polyfit(marks[:, 0], marks[:, 1], 1)
    np.testing.assert_allclose(points[:, 1] * slope + offset, y, atol=abs(slope) * 0.2)
    np.testing.assert_allclose((points[:, 0] - curves.LEFT) / (curves.RIGHT - curves.LEFT), (x - 10) / 70, atol=1e-3)
    assert (marks[0, 1] == 0) == zero


def test_an_exponential_is_straight_on_its_logarithmic_axis():
    x = np.arange(100.0)
    svg = curves.draw(x, 1.6e-3 * 0.8**x, "rate")
    points = drawn(svg, "raw")
    np.testing.assert_allclose(points[:, 1], np.linspace(points[0, 1], points[-1, 1], 100), atol=0.1)
    assert "logarithmic" in svg


def test_marks_of_a_nearly_constant_curve_differ():
    marks = axis(curves.draw(np.arange(3.0), np.array([1.6e-3, 1.5998e-3, 1.5997e-3]), "rate"))[:, 1]
    assert len(set(marks)) == len(marks) > 2


def test_many_values_give_a_small_picture_that_shows_their_range():
    y = np.random.default_rng(1).uniform(1, 2, 200_000)
    svg = curves.draw(np.arange(200_000.0), y, "many")
    assert len(svg) < 20_000
    marks, band = axis(svg), drawn(svg, "raw")
    slope, offset = np.polyfit(marks[:, 0], marks[:, 1], 1)
    values = band[:, 1] * slope + offset
    assert (values.min(), values.max()) == pytest.approx((1, 2), abs=0.02)
    assert drawn(svg, "line")[:, 1] * slope + offset == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize("y", [[0.0], [0.0, 0.0], [5.0, 5.0], [-3.0, 1e99], [1e-300, 1.0], [1e99, -1e99, 1e99]])
@pytest.mark.parametrize("zero", [False, True])
def test_odd_values_stay_finite(y, zero):
    svg = curves.draw(np.arange(float(len(y))), np.array(y), "odd <&> label", zero=zero and min(y) >= 0)
    assert not re.search(r"nan|inf", svg)
    assert ET.fromstring(svg).get("aria-label").startswith("odd <&> label")


def test_single_points_lie_where_they_belong():
    """By the logarithm from left to right, better below worse; names are escaped, and stay inside."""
    points = [(1e3, 2.0, "a"), (1e4, 1.0, "b & c"), (1e6, 3.0, "d")]
    drawn = curves.scatter(points, "FID over parameters")
    places = [(float(u), float(v)) for u, v in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (a, b, d) = places
    assert 2 * (b[0] - a[0]) == pytest.approx(d[0] - b[0], abs=0.3)
    assert a[0] < b[0] < d[0]
    assert d[1] < a[1] < b[1]
    assert all(curves.LEFT < u < curves.RIGHT and curves.TOP < v < curves.BOTTOM for u, v in places)
    assert "b &amp; c" in drawn
    assert re.findall(r'text-anchor="(start|end)">[^<]*</text>', drawn.split("<circle", 1)[1]) == [
        "start",
        "start",
        "end",
    ]


def test_points_of_nearly_one_value_have_marks_that_differ():
    marks = re.findall(
        r'text-anchor="end">([\d.]+)</text>', curves.scatter([(10.0, 0.80571, "a"), (20.0, 0.80572, "b")], "")
    )
    assert len(marks) == len({*marks}) > 1


def test_a_logarithmic_axis_upwards_has_decades_at_equal_heights():
    drawn = curves.scatter([(1.0, 10.0, "a"), (10.0, 100.0, "b"), (100.0, 1000.0, "c")], "", log=True)
    heights = [float(v) for v in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', drawn)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    marks = re.findall(r'<path class="rule" d="M\d+ ([\d.]+)H\d+"/><text[^>]*>([\d.k]+)</text>', drawn)
    assert {mark: float(v) for v, mark in marks}["100"] == pytest.approx(heights[1], abs=0.1)


def test_names_of_near_points_do_not_cover_each_other():
    """Three points of which each one's first place is taken by the name or the point of another."""
    points = [(10.0, 1.00, "FourierDiff-NCA"), (11.0, 1.02, "Diff-NCA"), (13.0, 1.01, "U-Net S"), (500.0, 2.0, "VNCA")]
    drawn = curves.scatter(points, "")
    words = re.findall(r'r="4"/><text x="([\d.]+)" y="([\d.]+)" text-anchor="(start|end)">([^<]*)</text>', drawn)
    boxes = []
    for u, v, anchor, name in words:
        left = float(u) - (6 * len(name) if anchor == "end" else 0)
        boxes.append((left, left + 6 * len(name), float(v)))
    assert len(boxes) == 4
    for i, (a, b, v) in enumerate(boxes):
        assert curves.LEFT - 44 <= a < b <= curves.RIGHT
        assert not [1 for c, d, w in boxes[:i] if a < d and c < b and abs(v - w) < 12]
