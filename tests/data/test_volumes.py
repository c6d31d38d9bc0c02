"""Volumes of every kind of file, whole and by parts, with their grey levels and label maps."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.data import volumes
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.io import volumes as files

RNG = np.random.default_rng(0)
SHAPE = (6, 8, 10)


def fill(root, n=5, suffix=".nii.gz", dtype=np.int16, low=-100, high=900):
    """``n`` volumes, and what they hold by name."""
    root.mkdir(parents=True, exist_ok=True)
    written = {}
    for i in range(n):
        written[f"{i}{suffix}"] = RNG.integers(low, high, SHAPE).astype(dtype)
        files.write(root / f"{i}{suffix}", written[f"{i}{suffix}"])
    return written


def everything(splits):
    return {example["name"]: example for source in splits.values() for example in source}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_each_volume_reaches_from_its_least_to_its_greatest_value(tmp_path, suffix, memory_gb):
    written = fill(tmp_path, suffix=suffix)
    splits = volumes.splits(str(tmp_path), memory_gb=memory_gb)
    assert {split: len(source) for split, source in splits.items()} == {"train": 3, "val": 1, "test": 1}
    for name, example in everything(splits).items():
        voxels = written[name].astype(np.float64)
        assert example["window"] == (voxels.min(), voxels.max())
        expected = -1 + 255 / 128 * (voxels - voxels.min()) / np.ptp(voxels)
        np.testing.assert_allclose(example["image"][..., 0], expected, atol=1e-6)
        assert example["image"].dtype == np.float32
    assert splits["train"].shapes == [(*SHAPE, 1)] * 3
    assert (splits["train"].window is None) == splits["train"].resident == (memory_gb > 0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
def test_parts_are_those_of_the_whole(tmp_path, suffix):
    """Volumes beyond memory give the patches of volumes in memory: reduced, with maps, and contexts over the edge."""
    fill(tmp_path / "images", 3, suffix)
    fill(tmp_path / "maps", 3, suffix, np.uint8, 0, 4)
    options = {"reduce": (1, 2, 2), "window": (0, 800), "label_maps": str(tmp_path / "maps"), "context_factor": 2}
    whole, parts = (volumes.splits(str(tmp_path / "images"), memory_gb=gb, **options)["train"] for gb in (1.0, 0.0))
    assert whole.shapes == parts.shapes == [(6, 4, 5, 1)]
    assert parts.window is not None
    for box in ([(0, 3), (0, 2), (0, 4)], [(3, 6), (2, 4), (1, 5)], [(1, 4), (1, 3), (1, 5)]):
        same(patch := whole.read(0, box), parts.read(0, box))
    same(whole.head(0), parts.head(0))
    same(whole[0], parts[0])
    assert {name: x.shape for name, x in patch.items() if name in whole.grids} == {
        "image": (3, 2, 4, 1),
        "label_map": (3, 2, 4, 1),
        "context": (3, 2, 4, 1),
    }
    assert patch["label_map"].dtype == np.int32


def test_a_part_of_a_mapped_volume_reads_no_more(tmp_path, monkeypatch):
    fill(tmp_path, 3, ".npy")
    source = volumes.splits(str(tmp_path), window=(0, 1), memory_gb=0.0)["train"]
    seen = []
    true = volumes.volumes.stretched
    monkeypatch.setattr(volumes.volumes, "stretched", lambda x, *ends: seen.append(x.shape) or true(x, *ends))
    source.read(0, [(1, 3), (2, 5), (0, 4)])
    assert seen == [(2, 3, 4, 1)]


def test_window_and_percentiles(tmp_path):
    written = fill(tmp_path, 3, dtype=np.float32)
    for name, example in everything(volumes.splits(str(tmp_path), window=(0, 400))).items():
        expected = -1 + 255 / 128 * np.clip(written[name] / 400, 0, 1)
        np.testing.assert_allclose(example["image"][..., 0], expected, atol=1e-6)
        assert example["window"] == (0, 400)
    for name, example in everything(volumes.splits(str(tmp_path), percentiles=(5, 90))).items():
        low, high = np.percentile(written[name], (5, 90))
        np.testing.assert_allclose(example["window"], (low, high))
        assert (example["image"] == -1).mean() == pytest.approx(0.05, abs=0.01)
        assert (example["image"] == np.float32(127 / 128)).mean() == pytest.approx(0.1, abs=0.01)


def test_bytes_and_floats_within_one_are_taken_as_they_are(tmp_path):
    bytes_ = fill(tmp_path / "a", 3, dtype=np.uint8, low=0, high=256)
    for name, example in everything(volumes.splits(str(tmp_path / "a"))).items():
        np.testing.assert_array_equal(example["image"][..., 0], bytes_[name])
        assert "window" not in example
    (tmp_path / "b").mkdir()
    floats = {f"{i}.npy": RNG.uniform(-1, 1, SHAPE).astype(np.float32) for i in range(3)}
    for name, voxels in floats.items():
        files.write(tmp_path / "b" / name, voxels)
    for name, example in everything(volumes.splits(str(tmp_path / "b"))).items():
        np.testing.assert_array_equal(example["image"][..., 0], floats[name])


@pytest.mark.slow
def test_folders_of_b_scans(tmp_path):
    """One folder a volume, slices in natural order; a part decodes the slices that it touches."""
    written = {}
    for eye in ("a/left", "a/right", "b/left", "c/left"):
        (tmp_path / eye).mkdir(parents=True)
        written[eye] = RNG.integers(0, 256, (11, 5, 7, 1)).astype(np.uint8)
        for i, scan in enumerate(written[eye]):
            images.write(tmp_path / eye / f"{i}.png", scan)
    (tmp_path / "labels.csv").write_text(
        "filename,patient_id,grade\n" + "".join(f"{eye},{eye[0]},{i}\n" for i, eye in enumerate(written))
    )
    for gb in (1.0, 0.0):
        splits = volumes.splits(str(tmp_path), memory_gb=gb)
        assert splits.labels == ("grade",)
        for source in splits.values():
            for i, example in enumerate(source):
                stored = written[example["name"]]
                np.testing.assert_array_equal(example["image"], stored)
                assert example["label"] == [*written].index(example["name"])
                part = source.read(i, [(2, 5), (0, 3), (4, 7)])
                np.testing.assert_array_equal(part["image"], stored[2:5, :3, 4:7])
    assert sorted(example["patient"] for source in splits.values() for example in source) == ["a", "a", "b", "c"]
    decoded = []
    true = images.read
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(images, "read", lambda path: decoded.append(path.name) or true(path))
        files.stored(tmp_path / "b/left")[2:4, 0:1, 0:1]
    assert {*decoded} == {"0.png", "2.png", "3.png"}


def test_sizes_are_brought_to_one(tmp_path):
    written = fill(tmp_path / "x", 3)
    fill(tmp_path / "maps", 3, dtype=np.uint8, low=0, high=9)
    splits = volumes.splits(str(tmp_path / "x"), resize=(3, 4, 5), window=(0, 800), label_maps=str(tmp_path / "maps"))
    for name, example in everything(splits).items():
        expected = images.resize(written[name][..., None], (3, 4, 5)).astype(np.float32)
        expected = -1 + 255 / 128 * np.clip(expected / 800, 0, 1)
        np.testing.assert_allclose(example["image"], expected, atol=1e-6)
        stored = files.read(tmp_path / "maps" / name)
        np.testing.assert_array_equal(example["label_map"], stored[1::2, 1::2, 1::2])


def test_what_cannot_be_used_is_named(tmp_path, capsys):
    splits = {f"{i}.nii.gz": {1: "val", 2: "test"}.get(i, "train") for i in range(7)}
    fill(tmp_path / "x", 7)
    (tmp_path / "x" / "labels.csv").write_text("filename,split\n" + "".join(f"{n},{s}\n" for n, s in splits.items()))
    fill(tmp_path / "maps", 6, dtype=np.uint8, low=0, high=9)
    files.write(tmp_path / "maps" / "5.nii.gz", np.zeros((2, 2, 2), np.uint8))
    packed = (tmp_path / "x" / "4.nii.gz").read_bytes()
    (tmp_path / "x" / "4.nii.gz").write_bytes(packed[: len(packed) // 2])
    volumes.splits(str(tmp_path / "x"), label_maps=str(tmp_path / "maps"))
    lines = capsys.readouterr().err
    assert "(3)" in lines
    assert "4.nii.gz: " in lines
    assert "5.nii.gz: its label map has 2 x 2 x 2 x 1, not 6 x 8 x 10 x 1" in lines
    assert "6.nii.gz: no label map" in lines
    with pytest.raises(UserError, match="unreadable files"):
        volumes.splits(str(tmp_path / "x"), label_maps=str(tmp_path / "maps"), strict=True)
    bad = np.full(SHAPE, np.nan, np.float32)
    files.write(tmp_path / "x" / "0.nii.gz", bad)
    volumes.splits(str(tmp_path / "x"))
    assert "0.nii.gz: it holds NaN or infinite voxels" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_missing_voxels_behind_a_window_are_named_when_they_are_read(tmp_path, suffix, memory_gb):
    """Heads say nothing of them: not before the first step, but before the network sees them."""
    for i in range(3):
        voxels = np.zeros(SHAPE, np.float32)
        voxels[3, 4, 5] = np.nan
        files.write(tmp_path / f"{i}{suffix}", voxels)
    source = volumes.splits(str(tmp_path), window=(0, 1), memory_gb=memory_gb)["train"]
    with pytest.raises(UserError, match=rf"\d{suffix}: it holds NaN or infinite voxels"):
        source.read(0, [(2, 5), (3, 6), (4, 7)])


def test_how_large_a_voxel_of_an_example_is(tmp_path, capsys):
    """After it was reduced and resized; of several sizes two volumes are named, in training and by check."""
    for i in range(3):
        files.write(tmp_path / f"{i}.nii.gz", np.zeros(SHAPE, np.uint8), (3000, 700, 700) if i < 2 else ())
    examples = everything(volumes.splits(str(tmp_path), reduce=(1, 2, 2), resize=(3, 8, 5)))
    assert examples["0.nii.gz"]["mpp"] == pytest.approx((6000, 700, 1400))
    assert "mpp" not in examples["2.nii.gz"]
    assert not capsys.readouterr().err
    files.write(tmp_path / "2.nii.gz", np.zeros(SHAPE, np.uint8), (1000, 700, 700))
    told = volumes.splits(str(tmp_path)).notes
    assert "0.nii.gz has 3000 x 700 x 700 µm a pixel, 2.nii.gz has 1000 x 700 x 700 µm" in told[0]
    assert told[0] in capsys.readouterr().err


def test_label_maps_of_another_grid_are_told(tmp_path):
    for name, size in (("x", (1000, 500, 500)), ("maps", (1000, 500, 700))):
        (tmp_path / name).mkdir()
        for i in range(3):
            files.write(tmp_path / name / f"{i}.nii.gz", np.zeros(SHAPE, np.uint8), size)
    told = volumes.splits(str(tmp_path / "x"), label_maps=str(tmp_path / "maps")).notes
    assert told == ("0.nii.gz has 1000 x 500 x 500 µm a voxel, and its label map 1000 x 500 x 700 µm",)


def test_few_bits_are_told(tmp_path):
    for i in range(3):
        files.write(tmp_path / f"{i}.npy", RNG.integers(0, 9, SHAPE).astype(np.uint8))
    assert "of 8 bits and end at 8" in volumes.splits(str(tmp_path)).notes[0]
    assert volumes.splits(str(tmp_path), window=(0, 8)).notes == ()


def test_floats_from_zero_are_told(tmp_path):
    for i in range(3):
        files.write(tmp_path / f"{i}.npy", RNG.uniform(0, 1, SHAPE).astype(np.float32))
    assert volumes.splits(str(tmp_path)).notes == (files.FROM_ZERO,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": (3, 2)}, "window=.* the lower first"),
        ({"percentiles": (3,)}, "percentiles=.* two numbers"),
        ({"reduce": (2, 2)}, "3 numbers: depth, height and width"),
    ],
)
def test_fields_are_checked(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        volumes.splits(str(tmp_path), **fields)


def test_folders_without_volumes(tmp_path):
    for path in ("", str(tmp_path)):
        with pytest.raises(UserError, match=r"put volumes \(.nii, .nii.gz, .npy, .npz, .dcm, .*\) or sub folders of"):
            volumes.splits(path)
    images.write(tmp_path / "a.png", np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(UserError, match="no volume in"):
        volumes.splits(str(tmp_path))
