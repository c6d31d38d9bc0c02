from __future__ import annotations

import numpy as np
import pytest

from nca_gen.data import pipeline, tissue
from nca_gen.errors import UserError
from nca_gen.io import images


def test_strips_of_the_shipped_field_are_disjoint_and_complete():
    from skimage import data

    splits = tissue.splits(val=40, test=100)
    strips = [splits[s][0]["image"] for s in ("train", "val", "test")]
    assert [s.shape for s in strips] == [(512, 372, 3), (512, 40, 3), (512, 100, 3)]
    np.testing.assert_array_equal(np.concatenate(strips, 1), data.immunohistochemistry())


@pytest.mark.parametrize("reduce", [1, 2])
def test_default_strips_hold_a_patch(reduce):
    for source in tissue.splits(reduce=reduce).values():
        assert source[0]["image"].dtype == np.uint8
        assert source[0]["image"].shape == source.shapes[0]
        assert min(source.shapes[0][:2]) >= 64 // reduce


@pytest.mark.parametrize("k", [2, 3])
def test_reduction_is_the_mean_of_each_strip_alone(k):
    whole, reduced = tissue.splits(), tissue.splits(reduce=k)  # 320, 64 and 128 columns: 3 divides none of them
    for split in whole:
        h, w, c = reduced[split].shapes[0]
        blocks = whole[split][0]["image"][: h * k, : w * k].astype(float).reshape(h, k, w, k, c)
        np.testing.assert_array_equal(reduced[split][0]["image"], np.rint(blocks.mean((1, 3))))


@pytest.mark.slow
def test_crops_never_touch_a_held_out_pixel(tmp_path):
    field = np.arange(16 * 40, dtype=np.uint16).reshape(16, 40, 1)  # every pixel has its own value
    images.write(tmp_path / "field.tif", field)
    splits = tissue.splits(str(tmp_path / "field.tif"), val=8, test=8)
    seen = {}
    for split, source in splits.items():
        stream = pipeline.batches(source, patch=(8, 8), batch=64, seed=0)
        x = np.concatenate([next(stream)["image"] for _ in range(25)])
        seen[split] = set(images.from_float(x, np.uint16).ravel().tolist())
    columns = {split: {v % 40 for v in values} for split, values in seen.items()}
    assert columns == {"train": set(range(24)), "val": set(range(24, 32)), "test": set(range(32, 40))}
    assert len(seen["train"]) == 16 * 24  # and every training pixel is reached


def test_held_out_strips_in_the_middle():
    from skimage import data

    splits = tissue.splits(val=32, test=96, right=192)
    left, right = (splits["train"][i]["image"] for i in range(2))
    parts = [left, splits["val"][0]["image"], splits["test"][0]["image"], right]
    assert [part.shape[1] for part in parts] == [192, 32, 96, 192]
    np.testing.assert_array_equal(np.concatenate(parts, 1), data.immunohistochemistry())
    assert splits["train"].shapes == [left.shape, right.shape]


def test_strips_that_leave_nothing():
    with pytest.raises(UserError, match="512 pixels"):
        tissue.splits(val=256, test=256)
    with pytest.raises(UserError, match="512 pixels"):
        tissue.splits(val=1, reduce=2)
    with pytest.raises(images.Unreadable, match="no such file"):
        tissue.splits("nowhere.png")


def test_a_folder_is_no_field(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=.* is a folder.* set data\.name=folder"):
        tissue.splits(str(tmp_path))
