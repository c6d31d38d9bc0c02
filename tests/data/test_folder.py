from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nca_gen.data import folder
from nca_gen.errors import UserError
from nca_gen.io import images

RNG = np.random.default_rng(0)


def fill(root, names, shape=(8, 9, 3), dtype=np.uint8):
    written = {}
    for name in names:
        written[name] = RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        images.write(root / name, written[name])
    return written


def names(source):
    return [e["name"] for e in source]


def everything(splits):
    return {e["name"]: e for source in splits.values() for e in source}


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [(".png", np.uint8, 3), (".png", np.uint16, 1), (".tif", np.uint16, 5), (".tiff", np.uint8, 1)],
)
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_images_come_as_stored(tmp_path, suffix, dtype, channels, memory_gb):
    written = fill(tmp_path, [f"a/img{i}{suffix}" for i in range(12)], (8, 9, channels), dtype)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/x.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image")
    splits = folder.splits(str(tmp_path), memory_gb=memory_gb)
    assert {s: len(x) for s, x in splits.items()} == {"train": 10, "val": 1, "test": 1}
    found = everything(splits)
    assert found.keys() == written.keys()
    for name, image in written.items():
        np.testing.assert_array_equal(found[name]["image"], image)
        assert found[name]["image"].dtype == dtype
        assert found[name]["patient"] == name
        assert "label" not in found[name]
    assert names(splits["train"]) == sorted(names(splits["train"]), key=images.natural)
    assert all(source.resident == (memory_gb > 0) for source in splits.values())
    assert all(source.shapes == [(8, 9, channels)] * len(source) for source in splits.values())


def test_no_patient_is_in_two_splits(tmp_path):
    fill(tmp_path, [f"img{i}.png" for i in range(60)], (4, 4, 1))
    rows = "".join(f"img{i}.png,{i % 20},{i % 5},{i / 2}\n" for i in range(60))
    (tmp_path / "labels.csv").write_text("filename,patient_id,grade,age\n" + rows)
    splits = folder.splits(str(tmp_path))
    patients = {s: {e["patient"] for e in source} for s, source in splits.items()}
    assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 20
    assert {s: len(p) for s, p in patients.items()} == {"train": 16, "val": 2, "test": 2}
    for name, e in everything(splits).items():
        i = int(name[3:-4])
        assert e["patient"] == str(i % 20)
        np.testing.assert_array_equal(e["label"], np.array([i % 5, i / 2], np.float32))
    assert names(splits["test"]) != names(folder.splits(str(tmp_path), split_seed=1)["test"])


def test_whole_number_labels_are_integers_and_bare_names_find_sub_folders(tmp_path):
    fill(tmp_path, [f"images/{i}.png" for i in range(5)], (4, 4, 1))
    (tmp_path / "labels.csv").write_text("\ufefffilename,grade\n" + "".join(f"{i}.png,{i}\n" for i in range(5)))
    for name, e in everything(folder.splits(str(tmp_path))).items():
        assert e["label"].dtype == np.int32
        assert e["label"].tolist() == [int(name[7:-4])]


def test_sub_folders_are_splits_and_a_missing_one_is_made_of_train(tmp_path):
    fill(tmp_path, [f"{s}/{i}.png" for s, n in (("train", 20), ("test", 3)) for i in range(n)], (4, 4, 1))
    splits = folder.splits(str(tmp_path))
    assert names(splits["test"]) == ["test/0.png", "test/1.png", "test/2.png"]
    assert len(splits["val"]) == 2
    assert all(n.startswith("train/") for n in names(splits["val"]) + names(splits["train"]))


def test_split_column_wins(tmp_path):
    fill(tmp_path, [f"{i}.png" for i in range(6)], (4, 4, 1))
    where = ["train", "val", "test"] * 2
    (tmp_path / "labels.csv").write_text("filename,split\n" + "".join(f"{i}.png,{s}\n" for i, s in enumerate(where)))
    splits = folder.splits(str(tmp_path))
    assert {s: names(x) for s, x in splits.items()} == {
        "train": ["0.png", "3.png"],
        "val": ["1.png", "4.png"],
        "test": ["2.png", "5.png"],
    }
    assert "label" not in splits["train"][0]


def test_damaged_files_are_named_counted_and_skipped_or_stop(tmp_path, capsys):
    fill(tmp_path, [f"{i}.png" for i in range(20)], (32, 32, 3))
    whole = folder.splits(str(tmp_path))
    capsys.readouterr()
    bad = [names(whole["train"])[3], names(whole["test"])[0]]
    for name in bad:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:500])
    splits = folder.splits(str(tmp_path))
    err = capsys.readouterr().err
    assert "(2)" in err
    assert all(err.count(f"{name}: ") == 1 for name in bad)
    assert names(splits["train"]) == [n for n in names(whole["train"]) if n not in bad]  # the split stays as it was
    assert names(splits["val"]) == names(whole["val"])
    assert [name for name, _ in splits["train"].unreadable] == bad[:1]
    assert [name for name, _ in splits["test"].unreadable] == bad[1:]
    with pytest.raises(UserError, match="strict=False"):
        folder.splits(str(tmp_path), strict=True)


def test_rows_without_files_and_files_without_rows(tmp_path, capsys):
    fill(tmp_path, [f"{i}.png" for i in range(6)], (4, 4, 1))
    (tmp_path / "labels.csv").write_text("filename,grade\n" + "".join(f"{i}.png,0\n" for i in range(1, 7)))
    found = everything(folder.splits(str(tmp_path)))
    assert found.keys() == {f"{i}.png" for i in range(1, 6)}
    err = capsys.readouterr().err
    assert "0.png: no row in labels.csv" in err
    assert "6.png: in labels.csv, but no such file" in err


def test_reduce_then_resize(tmp_path):
    written = fill(tmp_path, [f"{i}.tif" for i in range(4)], (13, 16, 2), np.uint16)
    found = everything(folder.splits(str(tmp_path), reduce=2, resize=(5, 7)))
    for name, image in written.items():
        np.testing.assert_array_equal(found[name]["image"], images.resize(images.reduce(image, 2), (5, 7)))


def test_mixed_folders_name_two_files(tmp_path):
    fill(tmp_path, ["a.png", "b.png", "c.png"], (4, 4, 3))
    fill(tmp_path, ["d.png"], (4, 4, 1), np.uint16)
    with pytest.raises(UserError, match=r"a\.png has 3 channels of uint8, d\.png has 1 channels of uint16"):
        folder.splits(str(tmp_path))


@pytest.mark.parametrize("n", [1, 2])
def test_one_image_or_two_are_a_data_set(n, tmp_path, capsys):
    """Of two one is held out, of one its end; no pixel is trained on and held out, and this is said."""
    written = fill(tmp_path, [f"{i}.png" for i in range(n)], (20, 12, 3))
    found = folder.splits(str(tmp_path))
    train, held = found["train"], found["test"]
    assert found["val"] is held
    assert f"{n} patient" in capsys.readouterr().err
    assert any("val and test alike" in note for note in found.notes)
    if n == 1:
        np.testing.assert_array_equal(np.concatenate([train[0]["image"], held[0]["image"]]), written["0.png"])
        assert held.shapes == [(10, 12, 3)]
    else:
        assert sorted(names(train) + names(held)) == ["0.png", "1.png"]


def test_missing_and_empty_folders_say_what_to_put_where(tmp_path):
    for path in ("", str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(UserError, match="put PNG, JPEG or TIFF images there"):
            folder.splits(path)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="not one image"):
        folder.splits(str(tmp_path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,grade\n0.png,1\n", "needs a column 'filename'"),
        ("filename,grade\n0.png,1\n0.png,2\n1.png,1\n2.png,1\n3.png,1\n", "two rows for 0.png"),
        ("filename,grade\n0.png,1\n1.png,mild\n2.png,1\n3.png,1\n", "numbers only.*mild"),
        ("filename,split\n0.png,train\n1.png,test\n2.png,\n3.png,train\n", "2.png has no split"),
    ],
)
def test_wrong_tables(tmp_path, table, message):
    fill(tmp_path, [f"{i}.png" for i in range(4)], (4, 4, 1))
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        folder.splits(str(tmp_path))


def test_images_outside_the_split_folders(tmp_path):
    fill(tmp_path, ["train/a.png", "test/b.png", "c.png"], (4, 4, 1))
    with pytest.raises(UserError, match=r"c\.png lies outside"):
        folder.splits(str(tmp_path))


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_label_maps_lie_on_the_grid_of_their_image(tmp_path, memory_gb):
    """By name, whatever the ending; nearest where images are reduced and resized; whole numbers."""
    fill(tmp_path / "images", [f"{i}.jpg" for i in range(5)], (9, 8, 3))
    maps = fill(tmp_path / "maps", [f"{i}.png" for i in range(5)], (9, 8, 1))
    fields = {"label_maps": str(tmp_path / "maps"), "memory_gb": memory_gb, "context_factor": 2}
    splits = folder.splits(str(tmp_path / "images"), **fields)
    assert splits["train"].grids == ("image", "label_map", "context")
    for name, e in everything(splits).items():
        np.testing.assert_array_equal(e["label_map"], maps[name.replace("jpg", "png")])
        assert e["label_map"].dtype == np.int32
    for name, e in everything(folder.splits(str(tmp_path / "images"), 2, (2, 2), **fields)).items():
        assert e["image"].shape == (2, 2, 3)
        np.testing.assert_array_equal(e["label_map"], maps[name.replace("jpg", "png")][2:8:4, 2::4])


def test_label_maps_that_do_not_fit(tmp_path, capsys):
    fill(tmp_path / "images", [f"{i}.png" for i in range(6)])
    fill(tmp_path / "maps", [f"{i}.png" for i in range(1, 5)], (8, 9, 1))
    fill(tmp_path / "maps", ["5.png"], (8, 8, 1))
    (tmp_path / "images" / "labels.csv").write_text(
        "filename,split\n0.png,train\n1.png,val\n2.png,test\n3.png,train\n4.png,train\n5.png,train\n"
    )
    splits = folder.splits(str(tmp_path / "images"), label_maps=str(tmp_path / "maps"))
    assert names(splits["train"]) == ["3.png", "4.png"]
    lines = capsys.readouterr().err
    assert "0.png: no label map of that name" in lines
    assert "5.png: a label map of 8 x 8 x 1 for an image of 8 x 9" in lines
    with pytest.raises(UserError, match="put label maps"):
        folder.splits(str(tmp_path / "images"), label_maps=str(tmp_path / "nowhere"))


def saved(root, *stored, mpp=()):
    """Three TIFF files or more."""
    root.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(stored):
        images.write(root / f"{i}.tif", image, mpp)
    return str(root)


def test_floats_are_finite_and_within_one(tmp_path, capsys):
    """What is not is named and left out, in training as by check; all of it is refused."""
    flat = [np.full((8, 8, 1), v, np.float32) for v in (np.nan, 1000, *np.linspace(-1, 1, 9))]
    found = folder.splits(saved(tmp_path, *flat))
    assert sum(map(len, found.values())) == 9
    lines = capsys.readouterr().err
    assert "0.tif: it holds NaN or infinite pixels" in lines
    assert "1.tif: float pixels reach from 1000 to 1000: scale or clip them to [-1, 1], or set --config" in lines
    with pytest.raises(UserError, match="not one image"):
        folder.splits(saved(tmp_path / "x", *flat[1:2] * 3))


def test_a_window_of_values(tmp_path):
    """To all of an unsigned type and no other; of floats as of volumes. What lies beyond is cut off."""
    ramp = np.linspace(-1500, 1500, 64, dtype=np.float32).reshape(8, 8, 1)
    found = folder.splits(saved(tmp_path / "f", *[ramp] * 3), window=(-1000, 1000))["train"][0]["image"]
    np.testing.assert_allclose(found, -1 + 255 / 128 * (np.clip(ramp, -1000, 1000) + 1000) / 2000, atol=1e-6)
    twelve = np.arange(64, dtype=np.uint16).reshape(8, 8, 1) * 65
    found = folder.splits(saved(tmp_path / "u", *[twelve] * 3), window=(0, 4095))
    assert found["train"][0]["image"].dtype == np.uint16
    np.testing.assert_array_equal(
        found["train"][0]["image"],
        np.arange(64).reshape(8, 8, 1) * 1040 + np.rint(np.arange(64).reshape(8, 8, 1) * (65 * 65535 / 4095 - 1040)),
    )
    assert found.notes == ()
    with pytest.raises(UserError, match="two numbers, the lower first"):
        folder.splits(str(tmp_path / "u"), window=(4095, 0))


def test_values_that_may_not_mean_what_they_are_taken_for(tmp_path):
    grey = np.arange(64).reshape(8, 8, 1)
    told = folder.splits(saved(tmp_path / "u", *[(grey * 64).astype(np.uint16)] * 3)).notes
    assert "end at 4032, which takes 12: they are nearly black" in told[0]
    told = folder.splits(saved(tmp_path / "f", *[grey.astype(np.float32) / 63] * 3)).notes
    assert told == ("float pixels from 0 to 1 are taken as grey to white: store 2v - 1 if 0 is black",)


def test_how_large_a_pixel_of_an_example_is(tmp_path):
    stored = [np.full((10, 8, 1), 99, np.uint8)] * 3
    found = folder.splits(saved(tmp_path, *stored, mpp=(0.5, 0.25)), reduce=2, resize=(10, 8))
    for source in found.values():
        assert source[0]["mpp"] == source.head(0)["mpp"] == pytest.approx((0.5, 0.25))
    images.write(tmp_path / "0.tif", stored[0], (1.0, 1.0))
    assert "0.tif has 1 µm a pixel, 1.tif has 0.5 x 0.25 µm" in folder.splits(str(tmp_path)).notes[0]


def test_photographs_are_upright(tmp_path):
    """Those of a camera that lay on its side, with their label maps as they lie."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("x", "maps"):
        (tmp_path / name).mkdir()
    for i in range(3):
        Image.fromarray(np.zeros((4, 9, 3), np.uint8)).save(tmp_path / "x" / f"{i}.jpg", exif=exif)
        Image.fromarray(np.eye(9, 4) > 0).save(tmp_path / "maps" / f"{i}.png")
    example = folder.splits(str(tmp_path / "x"), label_maps=str(tmp_path / "maps"))["train"][0]
    assert example["image"].shape == (9, 4, 3)
    np.testing.assert_array_equal(example["label_map"][..., 0], np.eye(9, 4))
