"""The three tfds data sets, from tiny files laid out like the real ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from nca_gen.data import bcss, celeba, retinamnist
from nca_gen.errors import UserError
from nca_gen.io import images

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def by_name(source):
    return {e["name"]: e for e in source}


@pytest.fixture
def places(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files", {"path": str(tmp_path / "files"), "cache": str(tmp_path / "cache")}


def write_celeba(root, n=10):
    (root / "img_align_celeba").mkdir()
    lines = []
    for i in range(n):
        images.write(root / f"img_align_celeba/{i:06}.jpg", noise(218, 178, 3))
        lines.append(f"{i:06}.jpg {0 if i < n - 4 else 1 if i < n - 2 else 2}")
    (root / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_celeba_is_resized_whole_in_the_official_partition(places):
    root, where = places
    write_celeba(root)
    splits = celeba.splits(**where, size=(16, 12))
    assert {s: sorted(by_name(x)) for s, x in splits.items()} == {
        "train": [f"{i:06}.jpg" for i in range(6)],
        "val": ["000006.jpg", "000007.jpg"],
        "test": ["000008.jpg", "000009.jpg"],
    }
    for source in splits.values():
        for name, e in by_name(source).items():
            expected = images.resize(images.read(root / "img_align_celeba" / name), (16, 12))
            np.testing.assert_array_equal(e["image"], expected)
            assert e["patient"] == name
            assert "label" not in e
    for name, e in by_name(celeba.splits(**where, size=(16, 12), reduce=4)["val"]).items():
        whole = images.resize(images.read(root / "img_align_celeba" / name), (16, 12))
        np.testing.assert_array_equal(e["image"], images.reduce(whole, 4))


@pytest.mark.slow
def test_records_are_built_once_and_again_for_another_size(places, capfd):
    root, where = places
    write_celeba(root)
    first = by_name(celeba.splits(**where, size=(8, 8))["train"])
    assert capfd.readouterr().err.count("building") == 1
    celeba.splits(**where, size=(9, 9))
    assert capfd.readouterr().err.count("building") == 1
    shutil.rmtree(root)  # the cache is enough from here
    again = by_name(celeba.splits(**where, size=(8, 8))["train"])
    assert "building" not in capfd.readouterr().err
    assert first.keys() == again.keys()
    for name in first:
        np.testing.assert_array_equal(first[name]["image"], again[name]["image"])
    with pytest.raises(UserError, match="no files"):
        celeba.splits(**where, size=(7, 7))


def test_damaged_and_missing_files_are_remembered(places, capfd):
    root, where = places
    write_celeba(root)
    damaged = root / "img_align_celeba/000001.jpg"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    (root / "img_align_celeba/000008.jpg").unlink()
    for _ in range(2):  # the second time from the cache
        splits = celeba.splits(**where, size=(8, 8))
        assert {s: len(x) for s, x in splits.items()} == {"train": 5, "val": 2, "test": 1}
        assert [name for name, _ in splits["train"].unreadable] == ["000001.jpg"]
        assert splits["test"].unreadable == [("000008.jpg", "no such file or directory")]
        err = capfd.readouterr().err
        assert "(2)" in err
        assert err.count("000001.jpg: ") == 1
    with pytest.raises(UserError, match=r"000001\.jpg"):
        celeba.splits(**where, size=(8, 8), strict=True)


def test_bcss_holds_out_institutions_and_patients(places):
    root, where = places
    (root / "images").mkdir()
    written = {}
    sites = ["A1", "A2", "BH", "D8", "E2", "OL", "S3", "AR", "C8", "AC"]
    for i, site in enumerate(sites):
        for region in range(2):
            name = f"TCGA-{site}-A0S{i}-DX1_xmin{region}_ymin25055_MPP-0.2500.png"
            written[name] = noise(40 + 4 * region, 50 + i, 3)
            images.write(root / "images" / name, written[name])
    splits = bcss.splits(**where)
    assert {s: len(x) for s, x in splits.items()} == {"train": 12, "val": 2, "test": 6}
    assert {e["name"].split("-")[1] for e in splits["test"]} == {"E2", "OL", "S3"}
    patients = [{e["patient"] for e in x} for x in splits.values()]
    assert [len(p) for p in patients] == [6, 1, 3]
    assert len(set().union(*patients)) == 10
    for source in splits.values():
        for e, shape in zip(source, source.shapes, strict=True):
            np.testing.assert_array_equal(e["image"], images.reduce(written[e["name"]], 4))
            assert e["image"].shape == shape
            assert e["patient"] == e["name"][:12]


def test_retinamnist_keeps_split_pixels_and_grades(places):
    root, where = places
    data = {}
    for split, n in (("train", 6), ("val", 2), ("test", 3)):
        data[f"{split}_images"] = noise(n, 64, 64, 3)
        data[f"{split}_labels"] = RNG.integers(0, 5, (n, 1)).astype(np.uint8)
    np.savez(root / "retinamnist_64.npz", **data)
    for split, source in retinamnist.splits(**where, size=64).items():
        found = by_name(source)
        assert len(found) == len(data[f"{split}_images"])
        for name, e in found.items():
            i = int(name.split("/")[1])
            np.testing.assert_array_equal(e["image"], data[f"{split}_images"][i])
            np.testing.assert_array_equal(e["label"], data[f"{split}_labels"][i])
            assert e["label"].dtype == np.int32
    for source in retinamnist.splits(**where, size=64, reduce=2).values():
        assert source.shapes == [(32, 32, 3)] * len(source)
        for name, e in by_name(source).items():
            split, i = name.split("/")
            np.testing.assert_array_equal(e["image"], images.reduce(data[f"{split}_images"][int(i)], 2))


@pytest.mark.parametrize("size", [28, 64, 128, 224])
def test_retinamnist_of_every_size_is_framed_in_black(places, size):
    root, where = places
    data = {f"{s}_images": noise(1, size, size, 3) for s in ("train", "val", "test")}
    data |= {f"{s}_labels": np.uint8([[i]]) for i, s in enumerate(("train", "val", "test"))}
    np.savez(root / f"retinamnist{'' if size == 28 else f'_{size}'}.npz", **data)
    for split, source in retinamnist.splits(**where, size=size, pad=2).items():
        assert source.shapes == [(size + 4, size + 4, 3)]
        image = source[0]["image"].copy()
        np.testing.assert_array_equal(image[2:-2, 2:-2], data[f"{split}_images"][0])
        image[2:-2, 2:-2] = 0
        assert not image.any()


@pytest.mark.parametrize(
    ("module", "expected"),
    [(celeba, "list_eval_partition.txt"), (bcss, "images/TCGA-"), (retinamnist, "retinamnist.npz")],
)
def test_missing_files_say_what_to_put_where(places, module, expected):
    root, where = places
    for options in (where, where | {"path": ""}, where | {"path": str(root / "nowhere")}):
        with pytest.raises(UserError, match=expected):
            module.splits(**options)


@pytest.mark.slow
def test_other_broken_sets(places):
    root, where = places
    (root / "retinamnist.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(UserError, match="fetch it again"):
        retinamnist.splits(**where)
    one = noise(1, 32, 32, 3)
    arrays = {f"{s}_images": one for s in ("train", "val", "test")} | {
        f"{s}_labels": one for s in ("train", "val", "test")
    }
    np.savez(root / "retinamnist.npz", **arrays)
    with pytest.raises(UserError, match="28 x 28"):
        retinamnist.splits(**where)
    (root / "images").mkdir()
    images.write(root / "images/TCGA-A1-A0SK-DX1_x.png", noise(8, 8, 3))
    with pytest.raises(UserError, match="test institutions"):
        bcss.splits(**where)
    write_celeba(root)
    (root / "list_eval_partition.txt").write_text("000000.jpg zero\n")
    with pytest.raises(UserError, match=r"000000\.jpg zero"):
        celeba.splits(**where)
    (root / "list_eval_partition.txt").write_text("000000.jpg 0\n000001.jpg 1\n000099.jpg 2\n")
    with pytest.raises(UserError, match="'test'"):
        celeba.splits(**where)
    images.write(root / "img_align_celeba/000099.jpg", noise(8, 8, 1))
    with pytest.raises(UserError, match="1 channels"):
        celeba.splits(**where)
    images.write(root / "img_align_celeba/000099.jpg", noise(8, 8, 3))
    assert len(celeba.splits(**where)["test"]) == 1  # a failed build leaves nothing behind
    with pytest.raises(UserError, match=r"config\.data\.cache"):
        celeba.splits(where["path"], cache=str(root / "list_eval_partition.txt"))


@pytest.mark.slow
def test_tensorflow_is_not_imported(places):
    root, where = places
    write_celeba(root, 6)
    code = f"""
import sys
from nca_gen.data import bcss, celeba, folder, pipeline, retinamnist, tissue
splits = celeba.splits(**{where!r}, size=(8, 8))
next(pipeline.batches(splits["train"], patch=(8, 8), batch=2, seed=0))
print("tensorflow" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "False"


@pytest.mark.slow
def test_content_is_named_wherever_the_files_lie(places, tmp_path):
    """When it is built; of records of before nothing is known."""
    root, where = places
    write_celeba(root)
    digests = {split: source.digest() for split, source in celeba.splits(**where, size=(8, 8)).items()}
    assert len(set(digests.values())) == 3
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    opened = celeba.splits(str(moved), cache=where["cache"], size=(8, 8))
    assert {split: source.digest() for split, source in opened.items()} == digests
    images.write(moved / "img_align_celeba/000009.jpg", noise(218, 178, 3))  # of test
    opened = celeba.splits(str(moved), cache=str(tmp_path / "other"), size=(8, 8))
    assert [split for split, source in opened.items() if source.digest() != digests[split]] == ["test"]
    for file in (tmp_path / "cache").glob("*/celeba/1.0.0/metadata.json"):
        file.write_text(json.dumps({"unreadable": json.loads(file.read_text())["unreadable"]}))
    assert {source.digest() for source in celeba.splits(**where, size=(8, 8)).values()} == {""}


def test_files_that_have_changed_since_are_told(places, capfd):
    """Records are those of then: a file more, a file of another size, or of other bytes at its ends."""
    root, where = places
    write_celeba(root)
    image, more = root / "img_align_celeba/000003.jpg", root / "more.txt"
    whole = image.read_bytes()

    def told():
        celeba.splits(**where, size=(8, 8))
        return "has changed since" in capfd.readouterr().err

    assert [told(), told()] == [False, False]
    for file, data in ((more, b"x"), (image, whole + b"x"), (image, whole[:-2] + b"xx")):
        file.write_bytes(data)
        assert told()
        more.unlink(missing_ok=True)
        image.write_bytes(whole)
        assert not told()


def test_labels_are_known_without_pixels(places):
    root, where = places
    data = {f"{s}_images": noise(2, 28, 28, 3) for s in ("train", "val", "test")}
    np.savez(
        root / "retinamnist.npz", **data, **{f"{s}_labels": np.uint8([[1], [4]]) for s in ("train", "val", "test")}
    )
    source = retinamnist.splits(**where)["val"]
    assert [(source.head(i)["name"], source.head(i)["label"].tolist()) for i in (0, 1)] == [
        ("val/0", [1]),
        ("val/1", [4]),
    ]
    assert "image" not in source.head(0)
