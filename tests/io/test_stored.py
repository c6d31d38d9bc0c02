"""Volumes that grow on disk slice by slice, and become a file: the same one however often that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.io import stored, volumes
from nca_gen.io.geometry import Geometry
from nca_gen.io.stored import Stack, Turned

RNG = np.random.default_rng(0)
FORMS = {"x.nii": "", "x.nii.gz": "", "x.npy": "", "x.dcm": "", "x.dicom": "CT", "x.ome.zarr": ""}
THERE = Geometry.of_sizes((3000, 700, 500))
MAKE = """
import os, signal, sys
import numpy as np
from pathlib import Path
from nca_gen.io import stored, volumes
from nca_gen.io.geometry import Geometry
from nca_gen.io.stored import Stack

class Deadly(Stack):
    def __getitem__(self, box):
        if last == 12 and box[0].stop > 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(box)

stored.RUN = 2 * 9 * 10
path, modality, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
stack = Deadly.beside(path, (12, 9, 10, 1), np.uint8, "seed7")
for d in stack.missing:
    if d == last:
        (stack.folder / ".1.00003.npy").write_bytes(b"what was on its way")
        os.kill(os.getpid(), signal.SIGKILL)
    stack.append(d, np.random.default_rng([7, d]).integers(0, 255, (1, 9, 10, 1), np.uint8))
    print(d, flush=True)
geometry = Geometry.of_sizes((3000, 700, 500))
stack.finish(lambda volume: volumes.save(path, volume, geometry, modality))
"""


def content(path):
    """All bytes of a file or a folder, by name."""
    inner = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return {str(one.relative_to(path)): one.read_bytes() for one in inner}


def make(path, name, last=-1):
    """Runs ``MAKE``; returns how it ended and the slices that it made."""
    command = [sys.executable, "-c", MAKE, str(path / name), FORMS[name], str(last)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    return done.returncode, [*map(int, done.stdout.split())]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.nii.gz", "x.dcm", "x.dicom", "x.ome.zarr"])
def test_killed_three_times_it_is_the_same_file(tmp_path, name):
    (tmp_path / "at once").mkdir()
    (tmp_path / "killed").mkdir()
    assert make(tmp_path / "at once", name) == (0, [*range(12)])
    assert make(tmp_path / "killed", name, last=3) == (-signal.SIGKILL, [0, 1, 2])
    assert make(tmp_path / "killed", name, last=8) == (-signal.SIGKILL, [3, 4, 5, 6, 7])
    assert not (tmp_path / "killed" / name).exists()
    assert make(tmp_path / "killed", name, last=12) == (-signal.SIGKILL, [8, 9, 10, 11])  # while the file is made
    assert not (tmp_path / "killed" / name).exists()
    assert make(tmp_path / "killed", name) == (0, [])
    assert content(tmp_path / "killed" / name) == content(tmp_path / "at once" / name)
    assert [path.name for path in (tmp_path / "killed").iterdir() if path.name[0] != "."] == [name]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_slices_in_any_order_and_number_are_one_volume(tmp_path, monkeypatch, name, channels):
    """Equal bytes to those of the array written at once; black slices count as made."""
    if channels == 3 and FORMS[name] + Path(name).suffix in (".dcm", "CT.dicom"):
        pytest.skip("a volume in DICOM has one channel")
    geometry = None if name == "x.npy" else THERE
    voxels = RNG.integers(0, 255, (5, 6, 7, channels)).astype(np.uint8)
    voxels[2] = 0
    path = tmp_path / name
    stack = Stack.beside(path, voxels.shape, np.uint8, "a")
    stack.append(3, voxels[3:])
    stack.append(1, voxels[1:3])
    assert stack.missing == [0]
    with pytest.raises(ValueError, match="1 of 5 slices are missing, the first is 0"):
        stack.finish(lambda volume: volumes.save(path, volume, geometry, FORMS[name]))
    stack.append(0, voxels[:1])
    np.testing.assert_array_equal(stack[1:4, 2:6, 0:3], voxels[1:4, 2:6, :3])
    monkeypatch.setattr(stored, "RUN", 2 * 6 * 7 * channels)  # two slices at a time
    stack.finish(lambda volume: volumes.save(path, volume, geometry, FORMS[name]))
    monkeypatch.undo()
    (tmp_path / "once").mkdir()
    volumes.save(tmp_path / "once" / name, voxels, geometry, FORMS[name])
    assert content(path) == content(tmp_path / "once" / name)
    np.testing.assert_array_equal(volumes.read(path), voxels)
    if geometry:
        np.testing.assert_allclose(volumes.geometry(path).affine, geometry.affine, rtol=1e-7)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([name, "once"])


def test_slices_of_another_run_are_not_gone_on_with(tmp_path):
    """Nor those of another size or type."""
    path, voxels = tmp_path / "x.nii", np.ones((2, 3, 4, 1), np.uint8)
    Stack.beside(path, (2, 3, 4, 1), np.uint8, "seed0").append(0, voxels[:1])
    assert Stack.beside(path, (2, 3, 4, 1), np.uint8, "seed0").missing == [1]
    assert Stack.beside(path, (2, 3, 4, 1), np.uint8, "seed1").missing == [0, 1]
    with pytest.raises(ValueError, match=r"slices of \(3, 4, 1\) float32, not \(3, 4, 1\) uint8"):
        Stack.beside(path, (2, 3, 4, 1), np.uint8, "seed0").append(1, voxels[:1].astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_memory_does_not_grow_with_depth(tmp_path, monkeypatch, name):
    """Peak of what is held while a file is made of 32 or 64 slices of 64 KiB: nothing of them but what DICOM says of
    each, less than 10 KiB."""
    monkeypatch.setattr(stored, "RUN", 2**17)
    geometry = None if name == "x.npy" else THERE
    volumes.save(tmp_path / name, np.zeros((2, 8, 8, 1), np.uint8), geometry, FORMS[name])  # all is imported now
    peaks = {}
    for depth in (32, 64):
        stack = Stack.beside(tmp_path / name, (depth, 256, 256, 1), np.uint8, str(depth))
        for d in range(depth):
            stack.append(d, np.full((1, 256, 256, 1), d, np.uint8))
        tracemalloc.start()
        stack.finish(lambda volume: volumes.save(tmp_path / name, volume, geometry, FORMS[name]))
        peaks[depth] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[64] - peaks[32] < 32 * 10 * 2**10


def test_what_fails_leaves_what_was_there(tmp_path):
    """A file, and a folder; a slice that cannot be read stops both."""
    voxels = RNG.integers(0, 255, (3, 4, 5, 1)).astype(np.uint8)

    class Broken:
        shape, dtype = voxels.shape, voxels.dtype

        def __getitem__(self, box):
            raise UserError("the disk is gone")

    for name, modality in FORMS.items():
        volumes.save(tmp_path / name, voxels, None if name == "x.npy" else THERE, modality)
    before = {name: content(tmp_path / name) for name in FORMS}
    for name, modality in FORMS.items():
        with pytest.raises(UserError, match="the disk is gone"):
            volumes.save(tmp_path / name, Broken(), None if name == "x.npy" else THERE, modality)
    assert {name: content(tmp_path / name) for name in FORMS} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FORMS)


def test_parts_of_a_turned_volume():
    """Every part is that of the whole, turned."""
    raw = RNG.integers(0, 255, (4, 5, 6, 2))
    turned = Turned(raw, (2, 0, 1), (True, False, True))
    whole = raw.transpose(2, 0, 1, 3)[::-1, :, ::-1]
    assert turned.shape == whole.shape
    for box in ((slice(None),) * 3, (slice(1, 3), slice(0, 4), slice(2, 5)), (slice(5, 6), slice(2, 3), slice(0, 1))):
        np.testing.assert_array_equal(turned[box], whole[box])
