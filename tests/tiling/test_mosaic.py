"""Patches on a registered grid: published counts, what each adds, the order of the waves, and what is read back."""

import numpy as np
import pytest

from nca_gen.tiling import mosaic
from nca_gen.tiling.mosaic import Grid, Plane


@pytest.mark.parametrize(("side", "patches"), [(1024, 1), (6400, 7), (41344, 46), (40000, 45), (1025, 2)])
def test_counts_are_those_of_urcdm(side, patches):
    """7 x 7 and 46 x 46 patches of 1024 pixels, each 896 on; the last lies within whatever the side."""
    starts = mosaic.starts(side, 1024, 896)
    assert len(starts) == patches
    assert (starts[0], starts[-1]) == (0, side - 1024)
    assert max(np.diff(starts), default=0) <= 896


GRIDS = [((9, 30), 8, 7), ((8, 8), 8, 7), ((40, 21), 8, 7), ((23, 24), 4, 3), ((17, 50), 16, 14)]


@pytest.mark.parametrize("how", GRIDS)
def test_patches_add_every_pixel_once_and_read_none_that_comes_later(how):
    """Together what patches add is the plane; beside it a patch sees only what earlier waves have added."""
    grid = Grid.of(*how)
    owner = np.full(grid.sides, -1)
    for wave, patches in enumerate(grid.waves()):
        before = owner.copy()
        for index in patches:
            place = tuple(slice(at, at + grid.patch) for at in grid.corner(index))
            hole = np.zeros((grid.patch,) * 2, bool)
            hole[grid.own(index)] = True
            assert (before[place][~hole] >= 0).all()  # another patch of this wave has added none of it
            assert (owner[place][hole] == -1).all()
            owner[place] = np.where(hole, wave, owner[place])
    assert (owner >= 0).all()
    assert sum(len(wave) for wave in grid.waves()) == np.prod(grid.shape)


def test_waves_are_as_many_as_the_paper_has():
    """13 and 91 for 7 x 7 and 46 x 46 patches, at the most 46 at once."""
    for n, waves in ((7, 13), (46, 91)):
        found = [len(wave) for wave in Grid.of((1024 + 896 * (n - 1),) * 2, 1024, 896).waves()]
        assert (len(found), max(found), sum(found)) == (waves, n, n * n)


def test_a_grid_enlarged_has_its_pixels_enlarged():
    grid = Grid.of((40, 21), 8, 7)
    assert grid.enlarged(4).sides == (160, 84)
    assert grid.enlarged(4).corner((1, 1)) == tuple(4 * at for at in grid.corner((1, 1)))
    assert [s.start for s in grid.enlarged(4).own((2, 1))] == [4 * s.start for s in grid.own((2, 1))]


@pytest.mark.slow
@pytest.mark.parametrize("how", GRIDS)
def test_a_plane_reads_what_each_patch_added(how, tmp_path):
    """Each patch is written with noise where it adds nothing: a window sees the picture alone, and only what is there
    counts as done."""
    grid, rng = Grid.of(*how), np.random.default_rng(0)
    picture = rng.integers(0, 256, (*grid.sides, 3), np.uint8)
    plane = Plane.at(tmp_path / "plane", grid, 3)
    assert plane.done() == set()
    for index in (index for wave in grid.waves() for index in wave):
        place = tuple(slice(at, at + grid.patch) for at in grid.corner(index))
        patch = rng.integers(0, 256, (grid.patch, grid.patch, 3), np.uint8)
        patch[grid.own(index)] = picture[place][grid.own(index)]
        plane.write(index, patch)
        assert index in plane.done()
    again = Plane.at(tmp_path / "plane", grid, 3)
    assert len(again.done()) == np.prod(grid.shape)
    height, width = grid.sides
    np.testing.assert_array_equal(again.read(0, 0, height, width), picture)
    np.testing.assert_array_equal(again.read(3, 2, height - 4, 5), picture[3:-1, 2:7])
    wide = np.pad(picture, [(4, 6), (2, 9), (0, 0)], "edge")
    np.testing.assert_array_equal(again.padded(-4, -2, height + 10, width + 11), wide)
    ground = np.full_like(wide, 0)
    ground[:] = (242, 243, 242)
    ground[4:-6, 2:-9] = picture
    np.testing.assert_array_equal(again.padded(-4, -2, height + 10, width + 11, (242, 243, 242)), ground)
    np.testing.assert_array_equal(again.padded(height + 2, 0, 2, 2, (1, 2, 3)), np.full((2, 2, 3), (1, 2, 3), np.uint8))
