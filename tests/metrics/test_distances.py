"""Blocked distances against brute force; copies, ties and collapsed sets without rounding."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nca_gen.metrics import distances


def points(seed: int, n: int, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 1, (n, width)).astype(np.float32)


def brute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(2)


@pytest.fixture(params=[2048, 7])  # all in one block, and in many with a ragged end
def block(request, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("k", [1, 4])
def test_nearest_equals_brute_force(k):
    a, b = points(0, 23), points(1, 40)
    values, indices = distances.nearest(a, b, k)
    expected = brute(a, b)
    np.testing.assert_array_equal(indices, expected.argsort(1)[:, :k])
    np.testing.assert_allclose(values, np.sort(expected, 1)[:, :k], rtol=1e-14)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("k", [1, 3, 22])
def test_radii_leave_out_the_point_but_not_its_copy(k):
    a = points(2, 23)
    a[[5, 20]] = a[11]
    expected = np.sort(brute(a, a) + np.diag(np.full(23, np.inf)), 1)[:, k - 1]
    np.testing.assert_allclose(distances.radii(a, k), expected, rtol=1e-14)
    if k == 1:
        assert np.flatnonzero(distances.radii(a, k) == 0).tolist() == [5, 11, 20]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("inside", [np.less, np.less_equal])
def test_balls_equal_brute_force(inside):
    p, c = points(3, 31), points(4, 25)
    radii = distances.radii(c, 3)
    held = inside(brute(p, c), radii)
    of_points, of_balls = distances.balls(p, c, radii, inside)
    assert 0 < held.sum() < held.size
    np.testing.assert_array_equal(of_points, held.sum(1))
    np.testing.assert_array_equal(of_balls, held.sum(0))


@pytest.mark.usefixtures("block")
def test_a_point_on_the_surface_is_decided_without_rounding():
    """Copies of the neighbours that fixed the radii lie on the surface of the balls: all with <=, none with <."""
    c = points(5, 30, 512)
    values, indices = distances.nearest(c, c, 2, among_itself=True)
    on = c[indices[:, 1]]
    closed, open_ = (
        [distances.balls(on[i : i + 1], c[i : i + 1], values[i : i + 1, 1], inside)[0].item() for i in range(30)]
        for inside in (np.less_equal, np.less)
    )
    assert (closed, open_) == ([1] * 30, [0] * 30)
    together = [distances.balls(on, c, values[:, 1], inside)[1].sum() for inside in (np.less_equal, np.less)]
    ties = (brute(on, c) == values[:, 1]).sum()
    assert together[0] - together[1] == ties >= 30


def test_small_differences_far_from_the_origin_are_seen():
    """Rows that differ in the sixth digit: the expansion alone would give noise."""
    rng = np.random.default_rng(6)
    a = (1000 + rng.normal(0, 1e-2, (50, 300))).astype(np.float32)
    b = np.concatenate([a[:5], (1000 + rng.normal(0, 1e-2, (40, 300))).astype(np.float32)])
    found = distances.squares(a, b)
    np.testing.assert_allclose(found, brute(a, b), rtol=distances.MARGIN)
    assert (found[np.arange(5), np.arange(5)] == 0).all()


def test_copies_are_told_without_arithmetic(monkeypatch):
    """In a collapsed set every pair would need a second evaluation; there are none."""
    asked = []
    monkeypatch.setattr(distances, "pairs", lambda a, b, rows, columns: asked.append(len(rows)) or np.zeros(len(rows)))
    same = np.repeat(points(7, 1, 64), 500, 0)
    assert (distances.squares(same, same) == 0).all()
    assert sum(asked) == 0


def test_too_few_references():
    with pytest.raises(ValueError, match="no 3 neighbours among 3"):
        distances.radii(points(8, 3), 3)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_number(monkeypatch):
    """2,500 x 2,500 numbers would take 50 MB; blocks of 250 take a few times 0.5 MB."""
    monkeypatch.setattr(distances, "BLOCK", 250)
    a, b = points(9, 2500, 1), points(10, 2500, 1)
    tracemalloc.start()
    distances.balls(a, b, distances.radii(b, 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
