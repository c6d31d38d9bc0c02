"""Tiles as sets of cells: every cell has one tile, and every tile sees what it must."""

import numpy as np
import pytest

from nca_gen.tiling import tiles

EXTENTS = [1, 2, 5, 7, 12, 31]


def axis(extent, side, halo, wrap):
    plan = tiles.plan((extent,), (side,), halo, wrap)
    assert len({plan.window}) == 1
    return plan.window[0], [(t.core[0], t.inside[0], t.origin[0]) for t in plan.tiles]


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("halo", [0, 1, 3, 8])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 31, 40])
def test_every_cell_is_made_once_from_all_that_it_sees(side, halo, wrap):
    """Also odd sizes, tiles smaller than the halo, and a tile larger than the whole."""
    for extent in EXTENTS:
        window, spans = axis(extent, side, halo, wrap)
        assert window == min(side + 2 * halo, extent)
        made = []
        for core, inside, origin in spans:
            cells = (origin + np.arange(window)) % extent
            assert len(set(cells)) == window
            np.testing.assert_array_equal(cells[inside], np.arange(core.start, core.stop))
            made += cells[inside].tolist()
            if window == extent:
                assert origin == 0  # the model's own border is the border
            else:
                border = (0, 0) if wrap else (origin, extent - origin - window)
                margin = inside.start, window - inside.stop
                assert all(m >= halo or (b == 0 and not wrap) for m, b in zip(margin, border, strict=True))
        assert made == list(range(extent))


def test_tiles_come_in_c_order():
    plan = tiles.plan((5, 7), (2, 4), 1)
    assert [(t.core[0].start, t.core[1].start) for t in plan.tiles] == [(0, 0), (0, 4), (2, 0), (2, 4), (4, 0), (4, 4)]
    assert plan.tiles[-1].core == (slice(4, 5), slice(4, 7))
    assert plan.window == (4, 6)


def test_the_price_of_a_halo():
    """3.9 % at tiles of 2048 and a halo of 20; 4 tiles of 3 + 2 cells for 9 + 3 cells."""
    plan = tiles.plan((8192, 8192), (2048, 2048), 20)
    assert plan.overhead == pytest.approx((2088 / 2048) ** 2 - 1)
    assert f"{100 * plan.overhead:.1f}" == "3.9"
    assert tiles.plan((12,), (3,), 1).overhead == pytest.approx(20 / 12 - 1)
    assert tiles.plan((12, 9), (12, 9), 5).overhead == 0


@pytest.mark.parametrize(
    ("extent", "most", "side"),
    [(1000, 512, 504), (1024, 512, 512), (1025, 512, 342), (333, 400, 336), (40, 512, 40), (61, 7, 7), (64, 64, 64)],
)
def test_sides_are_even_and_divide_into_chunks(extent, most, side):
    """1000 in two: 500, made of 8 chunks of 63. 333 in one: 6 chunks of 56."""
    assert tiles.side(extent, most) == side
    assert -(-extent // side) == -(-extent // most)
    chunk = tiles.chunk(side)
    assert side % chunk == 0
    assert chunk == side or 32 < chunk <= tiles.CHUNK


def test_windows_round_the_edge():
    whole = np.arange(35).reshape(5, 7)
    for origin, shape in [((0, 0), (5, 7)), ((3, 2), (4, 3)), ((4, 6), (5, 5)), ((1, 5), (2, 2)), ((1, 5), (2, 3))]:
        window = np.full(shape, -1)
        blocks = tiles.pieces(origin, shape, whole.shape)
        for into, whence in blocks:
            window[into] = whole[whence]
        rows, columns = ((start + np.arange(n)) % size for start, n, size in zip(origin, shape, (5, 7), strict=True))
        np.testing.assert_array_equal(window, whole[np.ix_(rows, columns)])
        wraps = [start + n > size for start, n, size in zip(origin, shape, (5, 7), strict=True)]
        assert len(blocks) == 2 ** sum(wraps)
