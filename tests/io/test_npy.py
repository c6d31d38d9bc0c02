"""Mapped arrays: the same whatever the archive, and nothing unpacked that need not be."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nca_gen.io import images, npy

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)


def saved(folder, how, array=PIXELS):
    path = folder / ("x.npy" if how == "npy" else "x.npz")
    {"npy": np.save, "stored": np.savez, "deflated": np.savez_compressed}[how](path, array)
    return path


@pytest.mark.parametrize("how", ["npy", "stored", "deflated"])
@pytest.mark.parametrize("array", [PIXELS, np.asfortranarray(PIXELS), PIXELS[:0], PIXELS.astype(">f4")])
def test_the_array_that_was_saved(tmp_path, how, array):
    found = npy.mapped(saved(tmp_path, how, array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert isinstance(found, np.memmap) == bool(array.size)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stored", "deflated"])
def test_memory_is_that_of_what_is_read(tmp_path, how):
    """64 MB, of which one image is looked at."""
    path = saved(tmp_path, how, np.zeros((4096, 64, 64, 4), np.uint8))
    tracemalloc.start()
    assert npy.mapped(path)[4000].sum() == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_which_array_of_an_archive(tmp_path):
    """ADM writes arr_0 and, with labels, arr_1; its reference files hold statistics beside arr_0."""
    path = tmp_path / "x.npz"
    np.savez(path, PIXELS, np.arange(5))
    np.testing.assert_array_equal(npy.mapped(path), PIXELS)
    np.savez(path, images=PIXELS)
    np.testing.assert_array_equal(npy.mapped(path), PIXELS)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(images.Unreadable, match=r"no array arr_0 .* holds: mu, sigma"):
        npy.mapped(path)


@pytest.mark.parametrize("how", ["npy", "stored", "deflated"])
def test_damage_is_one_line(tmp_path, how):
    path = saved(tmp_path, how)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(images.Unreadable, match=r"cannot read .*x\.np"):
        npy.mapped(path)


def test_objects_and_missing_files(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}]))
    with pytest.raises(images.Unreadable, match="python objects"):
        npy.mapped(tmp_path / "x.npy")
    with pytest.raises(images.Unreadable, match="no such file"):
        npy.mapped(tmp_path / "y.npy")
