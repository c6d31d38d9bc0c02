from __future__ import annotations

import json
from argparse import Namespace

import ml_collections
import numpy as np
import pytest
import tiny

from nca_gen.data import volumes as data
from nca_gen.data.source import Source
from nca_gen.errors import UserError
from nca_gen.io import images, volumes
from nca_gen.verbs import check

RNG = np.random.default_rng(0)


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def source(*items, unreadable=()):
    """``items``: (name, patient, image) and perhaps a label."""
    examples = [
        {"name": n, "patient": p, "image": x} | ({"label": np.array(label)} if label else {})
        for n, p, x, *label in items
    ]
    return Source(lambda i: examples[i], [e["image"].shape for e in examples], unreadable=unreadable)


def clean(split, n):
    return source(*((f"{split}{i}", f"{split}{i}", noise(8, 8, 1), i % 2) for i in range(n)))


def config(**data):
    return ml_collections.ConfigDict({"data": {"patch": (4, 4), "flips": True} | data})


def test_a_clean_set_has_numbers_and_no_problems():
    a, b = np.full((2, 2, 1), 10, np.uint8), np.full((2, 3, 1), 20, np.uint8)
    a[0, 0], b[0, 0] = 2, 50
    report = check.inspect(
        {
            "train": source(("a", "p", a, 0), ("b", "p", b, 1)),
            "val": source(("c", "q", b + 1, 0), ("d", "r", b + 2, 1)),
        }
    )
    assert report["problems"] == []
    assert report["splits"]["train"] == {
        "images": 2,
        "patients": 1,
        "unreadable": 0,
        "shapes": {"2x2x1": 1, "2x3x1": 1},
        "depth": ["uint8"],
        "range": [2.0, 50.0],
        "mean": pytest.approx((8 + 25) / 2),
        "labels": [{0: 1, 1: 1}],
    }
    assert report["splits"]["val"]["patients"] == 2


def test_pieces_of_squares_are_looked_at_as_they_are():
    """What is read is larger than the square that a patch is a piece of: that is no fault."""
    images = [noise(8, 8, 1) for _ in range(2)]
    about = lambda i: {"name": str(i), "patient": str(i)}
    window = lambda i, field, box, k: images[i][tuple(slice(*map(int, ends)) for ends in box)]
    cut = Source(
        lambda i: about(i) | {"image": images[i]}, [(8, 8, 1)] * 2, False, (), (), 2.0, window, about, square=6
    )
    report = check.inspect({"train": cut}, (4, 4))
    assert report["problems"] == []
    assert report["splits"]["train"]["range"] == [min(x.min() for x in images), max(x.max() for x in images)]


def test_duplicates_within_and_across_splits():
    x, y = noise(8, 8, 1), noise(8, 8, 1)
    train = source(("a", "a", x), ("b", "b", x.copy()), ("c", "c", y))
    test = source(("d", "d", x.copy()), ("e", "e", x.reshape(4, 16, 1)), ("f", "f", x.astype(np.uint16)))
    assert check.inspect({"train": train, "val": clean("v", 0), "test": test})["problems"] == [
        "identical images within train (1): a = b",
        "identical images shared by train and test (1): a = d",
    ]


def test_patients_in_two_splits():
    splits = {
        s: source(*((f"{s}{p}", p, noise(8, 8, 1)) for p in who))
        for s, who in [("train", "abc"), ("val", "cd"), ("test", "ae")]
    }
    assert check.inspect(splits)["problems"] == [
        "patients in both train and val (1): c",
        "patients in both train and test (1): a",
    ]


def test_odd_images_and_missing_classes():
    odd = noise(8, 8, 1).astype(np.float32)
    bad = odd.copy()
    bad[0, 0] = np.nan
    splits = {
        "train": source(("small", "a", noise(3, 8, 1), 0), ("blank", "b", np.zeros((8, 8, 1), np.uint8), 1)),
        "val": source(("far", "c", odd, 0), ("nan", "d", bad, 0)),
        "test": source(
            ("x", "x", noise(8, 8, 1), 0), ("y", "y", noise(8, 8, 1), 1), unreadable=[("z.png", "truncated")]
        ),
    }
    report = check.inspect(splits, (4, 4))
    assert report["problems"] == [
        "files of test that cannot be used and are left out (1): z.png (truncated)",
        "images smaller than the patch of (4, 4) pixels (1): small",
        "images blank (one value everywhere) (1): blank",
        "images not finite (NaN or infinity) (1): nan",
        "images float but not within [-1, 1] (1): far",
        "val has no image with label 0 equal to 1",
    ]


def test_planted_problems_in_a_folder_are_found_and_printed(tmp_path, capsys):
    for split, n in (("train", 6), ("val", 2), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(n):
            images.write(tmp_path / split / f"{i}.png", noise(6, 6, 3))
    rows = [f"{s}/{i}.png,{s}{i},{i % 2}" for s, n in (("train", 6), ("val", 2), ("test", 2)) for i in range(n)]
    rows[-1] = "test/1.png,train3,1"
    (tmp_path / "labels.csv").write_text("\n".join(["filename,patient_id,grade", *rows]))
    (tmp_path / "val/1.png").write_bytes((tmp_path / "train/1.png").read_bytes())
    (tmp_path / "train/5.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = check.check(config(name="folder", path=str(tmp_path), strict=True))  # strict stops a run, not a check
    assert len(report["problems"]) == 3
    unreadable, duplicate, overlap = report["problems"]
    assert "train/5.png" in unreadable
    assert duplicate == "identical images shared by train and val (1): train/1.png = val/1.png"
    assert overlap == "patients in both train and test (1): train3"
    assert report["splits"]["train"]["labels"] == [{0: 3, 1: 2}]
    json.dumps(report)
    out = capsys.readouterr().out
    for text in (*report["problems"], "problems found: 3", "3 (60.0%)", "6x6x3"):
        assert text in out


def test_the_shipped_tissue_says_that_it_is_one_patient(capsys):
    report = check.check(config(name="tissue", reduce=2))
    assert [s["shapes"] for s in report["splits"].values()] == [{"256x160x3": 1}, {"256x32x3": 1}, {"256x64x3": 1}]
    assert all("immunohistochemistry" in p and p.startswith("patients in both") for p in report["problems"])
    assert "uint8" in capsys.readouterr().out


def test_json_has_standard_output_for_itself(capsys):
    check.main(config(name="tissue", reduce=2), Namespace(json=True))
    out, err = capsys.readouterr()
    assert json.loads(out)["splits"]["train"]["images"] == 1
    assert "problems found" in err


def test_measurements_are_shown_by_their_range(capsys):
    items = [(f"{i}", f"{i}", noise(4, 4, 1), i / 7) for i in range(60)]
    splits = {"train": source(*items[:30]), "test": source(*items[30:])}
    report = check.inspect(splits)
    assert report["problems"] == []
    check.show("x", report)
    assert "0 .. 4.14286" in capsys.readouterr().out


def test_no_data_is_an_error_that_the_user_can_act_on(tmp_path):
    with pytest.raises(UserError, match="put PNG"):
        check.check(config(name="folder", path=str(tmp_path)))
    with pytest.raises(UserError, match="did you mean tissue"):
        check.check(config(name="tisue"))


def test_volumes_with_label_maps(capsys):
    """Classes of maps are counted; a map of another size, a class that one split lacks and a flat patch are told."""

    def volumes(split, *maps, **more):
        rows = [
            {"image": noise(4, 5, 6, 1), "label_map": m, "name": f"{split}{i}", "patient": f"{split}{i}"}
            for i, m in enumerate(maps)
        ]
        return Source(lambda i: rows[i] | more, [(4, 5, 6, 1)] * len(rows), fields=("label_map",))

    zeros = np.zeros((4, 5, 6, 1), np.int32)
    some = zeros.copy()
    some[0] = 2
    splits = {
        "train": volumes("t", some, zeros, window=(-10.0, 90.0)),
        "val": volumes("v", some, zeros[:3]),
        "test": volumes("x", zeros),
    }
    report = check.inspect(splits, (4, 4))
    assert report["splits"]["train"]["classes"] == {"label_map": {0: 210, 2: 30}}
    assert report["splits"]["train"]["window"] == [-10.0, 90.0]
    assert report["splits"]["train"]["shapes"] == {"4x5x6x1": 2}
    assert report["problems"] == [
        "config.data.patch=(4, 4) has 2 axes; these are volumes with 3: give 3 numbers",
        "volumes of another size than what is registered to them (1): v1",
        "test has no label_map with 2 in it",
    ]
    assert (
        check.inspect(splits, (4, 4, 7))["problems"][0]
        == "volumes smaller than the patch of (4, 4, 7) pixels (5): t0, t1, v0, v1, x0"
    )
    check.show("x", report)
    out = capsys.readouterr().out
    assert "-10 .. 90" in out
    assert "210 (87.5%)" in out


def test_of_large_examples_some_are_read_and_of_each_a_part(monkeypatch):
    """Neither whole nor all; names, patients and labels of all are looked at."""
    boxes = []

    def large(split, n):
        def window(i, field, box, k):
            boxes.append((split, i, box))
            return noise(*(b - a for a, b in box), 1)

        def about(i):
            return {"name": f"{split}{i}", "patient": "p" if i == n - 1 else f"{split}{i}", "label": np.array([i % 2])}

        return Source(lambda i: 1 / 0, [(100, 40, 1)] * n, False, window=window, about=about)

    monkeypatch.setattr(check, "SAMPLE", 3)
    monkeypatch.setattr(check, "PART", 64 * 64)
    report = check.inspect({"train": large("t", 8), "val": large("v", 2), "test": large("x", 2)}, (8, 8))
    assert [b for b in boxes if b[0] == "t"] == [("t", i, [(18, 82), (0, 40)]) for i in (0, 3, 6)]
    train = report["splits"]["train"]
    assert (train["images"], train["read"], train["patients"], train["labels"]) == (8, 3, 8, [{0: 4, 1: 4}])
    assert [problem for problem in report["problems"] if "patients" in problem] == [
        "patients in both train and val (1): p",
        "patients in both train and test (1): p",
        "patients in both val and test (1): p",
    ]


def test_what_is_told_of_files_and_labels_is_a_problem(tmp_path):
    """Of a folder for a model of three grades: files passed over, patients of two spellings, a label that is none."""
    for i in range(24):
        images.write(tmp_path / f"{i}.png", noise(16, 16, 3))
    (tmp_path / "scan.dcm").touch()
    rows = [f"{i}.png,{('P{}', 'p{} ')[i % 2].format(i // 4)},{i % 4},{'fm'[i % 2]}" for i in range(24)]
    (tmp_path / "labels.csv").write_text("filename,patient_id,grade,sex\n" + "\n".join(rows))
    settings = tiny.conditional().to_dict()
    settings["data"] = {"name": "folder", "path": str(tmp_path), "patch": (16, 16)}
    report = check.check(ml_collections.ConfigDict(settings))
    assert report["problems"][:4] == [
        "passed over: 1 of *.dcm (scan.dcm)",
        "columns of labels.csv without a number are no labels (1): sex",
        "patients in several spellings are one (6): 'p0' = 'P0', 'p1' = 'P1', 'p2' = 'P2' and 3 more",
        f"{tmp_path}/labels.csv, line 5 (3.png): 'grade' is 3; with config.model.classes=3 a grade is a whole number "
        "from 0 to 2",
    ]
    assert sum(split["patients"] for split in report["splits"].values()) == 6


def test_what_stops_training_is_a_problem(tmp_path):
    """Voxels that are no numbers, of a volume whose head alone was read; the others are looked at all the same."""
    for i in range(4):
        voxels = np.full((6, 6, 6), np.nan if i == 1 else 0.1 * i, np.float32)
        volumes.write(tmp_path / f"{i}.nii", voxels)
    for gb in (0.0, 1.0):
        splits = data.splits(str(tmp_path), window=(0, 1), memory_gb=gb)
        told = check.inspect(splits)["problems"]
        assert "volumes that stop training when they are read (1): 1.nii (it holds NaN or infinite voxels)" in told
