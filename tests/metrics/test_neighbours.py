"""Nearest training images against brute force and planted copies."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nca_gen.evaluators import nearest
from nca_gen.io import sets
from nca_gen.metrics import neighbours
from nca_gen.metrics.notes import collecting


def images(seed: int, n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


@pytest.mark.parametrize("block", [2**22, 700])  # in one block, and in blocks of one or two images
def test_equals_brute_force(monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    queries, references = images(0, 9, 9, 12, 3), images(1, 31, 9, 12, 3)
    pairs = np.sqrt(((queries[:, None].astype(np.float64) - references[None]) ** 2).mean((2, 3, 4)))
    distance, index = neighbours.nearest(queries, references)
    np.testing.assert_array_equal(index, pairs.argmin(1))
    np.testing.assert_allclose(distance, pairs.min(1), rtol=1e-12)


def test_images_that_are_read_give_what_arrays_give(monkeypatch):
    """To the last digit; and every group of queries reads the references once."""
    queries, references, read = images(0, 9, 4, 4, 3), images(1, 31, 4, 4, 3), []
    expected = neighbours.nearest(queries, references)
    monkeypatch.setattr(neighbours, "BLOCK", 100)  # 2 images
    monkeypatch.setattr(neighbours, "HELD", 2)

    def lazy(x, seen):
        return sets.Lazy(lambda at: seen.extend(at) or x[at], x.shape, "")

    found = neighbours.nearest(lazy(queries, []), lazy(references, read))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert len(read) == 3 * 31


def test_of_sets_on_disk_a_page_asks_no_second_time_and_holds_what_it_shows(monkeypatch, tmp_path):
    monkeypatch.setattr(neighbours, "BLOCK", 480)  # 10 images
    read = []
    of = lambda x, digest: sets.Lazy(lambda at: read.append(len(at)) or x[at], x.shape, digest)
    samples, train = of(images(0, 200, 4, 4, 3), "samples"), of(images(1, 300, 4, 4, 3), "train")
    scored = neighbours.statistics(samples, train)
    assert max(read) == neighbours.HELD * 10
    read.clear()
    page = nearest.page(tmp_path, samples, train)
    assert [figure.file for figure in page.figures] == ["neighbours.png"]
    assert read == [nearest.SHOWN] * 2 * nearest.PAIRS
    with pytest.raises(ValueError, match="read-only"):
        scored[0] = 0.0


def test_finds_planted_copies():
    """A copy has distance exactly 0, without rounding; one with a changed pixel has that of the pixel."""
    train, generated = images(2, 50, 16, 16, 3), images(3, 8, 16, 16, 3)
    generated[[1, 6]] = train[[40, 7]]
    generated[4] = train[13]
    generated[4, 5, 5, 1] += 1e-3
    distance, index = neighbours.nearest(generated, train)
    assert index[[1, 6, 4]].tolist() == [40, 7, 13]
    assert distance[[1, 6]].tolist() == [0.0, 0.0]
    assert distance[4] == pytest.approx(1e-3 / np.sqrt(16 * 16 * 3), rel=1e-3)
    scores = neighbours.score(generated, images(4, 20, 16, 16, 3), train, 0)
    assert scores["neighbours_min"] == 0.0
    assert 0.9 < scores["neighbours"] < 1.1  # five of eight are not copies
    assert neighbours.score(train[::7], images(4, 20, 16, 16, 3), train, 0)["neighbours"] == 0.0


def test_ratio_in_closed_form():
    """Constant images are at the distance of their grey levels: medians 0.1 for generated and 0.2 for real."""

    def grey(*levels):
        return np.array(levels, np.float32)[:, None, None, None] * np.ones((4, 4, 1), np.float32)

    scores = neighbours.score(grey(0.1, 0.95, 0.4), grey(-0.2, 0.8), grey(0.0, 1.0), 0)
    expected = {"neighbours": 0.5, "neighbours_min": 0.25, "neighbours_generated": 0.1, "neighbours_real": 0.2}
    assert scores == pytest.approx(expected, rel=1e-6)


def test_what_differs_by_less_than_the_product_rounds():
    """In float32 a pixel of 0.9 and its product round by 1e-7, of which 3,072 make more than these images differ."""
    rng = np.random.default_rng(0)
    references = np.float32(0.9) + np.float32(1e-5) * rng.standard_normal((40, 32, 32, 3), np.float32)
    queries = references[[7, 30]] + np.float32(1e-6) * rng.standard_normal((2, 32, 32, 3), np.float32)
    distance, index = neighbours.nearest(queries, references)
    every = np.sqrt(np.mean((queries[:, None] - references.astype(np.float64)) ** 2, (2, 3, 4)))
    assert list(index) == [7, 30]
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-12)


def test_held_out_copies_leave_no_yardstick():
    train = images(5, 4, 4, 4, 1)
    with collecting() as notes:
        assert np.isnan(neighbours.score(images(6, 2, 4, 4, 1), train[:2], train, 0)["neighbours"])
    assert notes == [
        "the real images are among the training images, so there is no distance to compare with: hold some out"
    ]


def test_images_must_have_one_shape():
    with pytest.raises(ValueError, match="one shape"):
        neighbours.nearest(images(0, 1, 4, 4, 3), images(0, 1, 6, 8, 1))


@pytest.mark.slow
def test_memory_is_bounded():
    """20 MB of tiny references: their full matrix of distances would take 250 MB, blocks take a few."""
    queries, references = images(7, 3000, 4, 4, 1), images(8, 10_000, 4, 4, 1)
    tracemalloc.start()
    neighbours.nearest(queries, references)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
