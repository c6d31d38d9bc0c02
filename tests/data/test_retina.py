"""DeepDRiD and the contract of OCT-ML, from tiny files laid out like the real ones."""

from __future__ import annotations

import csv
import zipfile

import numpy as np
import pytest

from nca_gen.data import deepdrid, oct_ml
from nca_gen.errors import UserError
from nca_gen.io import images

RNG = np.random.default_rng(0)
HEAD = ["patient_id", "image_id", "image_path", "Overall quality", *deepdrid.EYES, "patient_DR_Level"]
PAGE = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
WORDS = '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</sst>'


def noise(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def places(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files", {"path": str(tmp_path / "files"), "cache": str(tmp_path / "cache")}


def write_sheet(path, rows):
    """An .xlsx as spreadsheets write them: names by number in a list of words, grades as numbers."""
    words = ["image_id", "DR_Levels", *[name for name, _ in rows]]
    cells = ['<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>']
    cells += [
        f'<row r="{i + 2}"><c r="A{i + 2}" t="s"><v>{i + 2}</v></c><c r="B{i + 2}"><v>{g}</v></c></row>'
        for i, (_, g) in enumerate(rows)
    ]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/sharedStrings.xml", WORDS.format("".join(f"<si><t>{w}</t></si>" for w in words)))
        file.writestr("xl/worksheets/sheet1.xml", PAGE.format("".join(cells)))


def write_deepdrid(root):
    """Twelve training patients of two images, two of validation, two of evaluation; the grade of each image."""
    grades, base = {}, root / "regular_fundus_images"
    for folder, patients in ((deepdrid.TRAINING, range(1, 13)), (deepdrid.VALIDATION, (301, 302))):
        (base / folder).mkdir(parents=True)
        with open(base / folder / f"{folder}.csv", "w", newline="") as file:
            write = csv.writer(file)
            write.writerow(HEAD)
            for p in patients:
                for name, left in ((f"{p}_l1", True), (f"{p}_r3", p == 1)):  # one right image with a left grade
                    grades[f"{name}.jpg"] = grade = (p + left) % 5
                    columns = [grade, ""] if left else ["", grade]
                    write.writerow([p, name, rf"\{folder}\{p}\{name}.jpg", 1, *columns, 4])
                    (base / folder / "Images" / f"{p}").mkdir(parents=True, exist_ok=True)
                    images.write(base / folder / "Images" / f"{p}" / f"{name}.jpg", noise(24, 32, 3))
    folder = base / deepdrid.EVALUATION
    rows = [("401_l1", 3), ("402_r2", 0)]
    for name, grade in rows:
        (folder / "Images" / name[:3]).mkdir(parents=True)
        images.write(folder / "Images" / name[:3] / f"{name}.jpg", noise(32, 24, 3))
        grades[f"{name}.jpg"] = grade
    write_sheet(folder / "Challenge1_labels.xlsx", rows)
    return grades


@pytest.mark.slow
def test_deepdrid_has_the_grade_of_the_filled_column_and_the_central_square(places):
    root, where = places
    grades = write_deepdrid(root)
    splits = deepdrid.splits(**where, size=24, arrangement="official")
    assert {s: len(x) for s, x in splits.items()} == {"train": 24, "val": 4, "test": 2}
    for source in splits.values():
        for e in source:
            assert e["label"].tolist() == [grades[e["name"]]]
            assert e["patient"] == e["name"].split("_")[0]
            assert e["image"].shape == (24, 24, 3)
    [file] = (root / "regular_fundus_images" / deepdrid.TRAINING / "Images" / "1").glob("*l1.jpg")
    [image] = [e["image"] for e in splits["train"] if e["name"] == "1_l1.jpg"]
    np.testing.assert_array_equal(image, images.read(file)[:, 4:28])


def test_deepdrid_of_the_paper_holds_out_a_tenth_of_the_patients(places):
    root, where = places
    write_deepdrid(root)
    splits = deepdrid.splits(**where, size=8)
    assert {s: len(x) for s, x in splits.items()} == {"train": 22, "val": 2, "test": 4}
    assert {e["patient"] for e in splits["test"]} == {"301", "302"}
    assert not {e["patient"] for e in splits["train"]} & {e["patient"] for e in splits["val"]}


@pytest.mark.parametrize(
    ("row", "said"), [("1,1_l1,x,1,2,3,4", "the grades"), ("1,1_l1,x,1,,,4", "the grades"), ("1,1_l1,x,1,7,,4", "7")]
)
def test_deepdrid_with_no_clear_grade(places, row, said):
    root, where = places
    write_deepdrid(root)
    table = root / "regular_fundus_images" / deepdrid.TRAINING / f"{deepdrid.TRAINING}.csv"
    table.write_text(",".join(HEAD) + f"\n{row}\n")
    with pytest.raises(UserError, match=said):
        deepdrid.splits(**where, size=8)


def test_deepdrid_is_checked(places):
    root, where = places
    with pytest.raises(UserError, match="no files"):
        deepdrid.splits(**where)
    write_deepdrid(root)
    with pytest.raises(UserError, match="did you mean official"):
        deepdrid.splits(**where, arrangement="offical")
    folder = root / "regular_fundus_images" / deepdrid.EVALUATION
    (folder / "Challenge1_labels.xlsx").write_bytes(b"no zip")
    with pytest.raises(UserError, match="fetch it again"):
        deepdrid.splits(**where, size=8, arrangement="official")
    (folder.parent / deepdrid.TRAINING / f"{deepdrid.TRAINING}.csv").write_text("image_id,patient_id\n1_l1,1\n")
    with pytest.raises(UserError, match="no column 'left_eye_DR_Level'"):
        deepdrid.splits(**where, size=8)


def write_oct(root, fold=0, shared=False):
    rng, labels = np.random.default_rng(1), {}
    for name, patients in ((f"train_{fold}", "abc"), (f"val_{fold}", "ad" if shared else "de")):
        with open(root / f"{name}.csv", "w", newline="") as file:
            write = csv.writer(file)
            write.writerow(["", "filename", *oct_ml.LABELS, "patient_name"])  # as data frames are saved: an index first
            for i, p in enumerate(patients):
                for eye in "LR":
                    path, row = f"{name}/{p}_{eye}.png", rng.integers(0, 2, 11)
                    (root / name).mkdir(exist_ok=True)
                    images.write(root / path, noise(10, 20, 1 + 2 * (eye == "L")))
                    write.writerow([i, path, *row, p])
                    labels[path] = row
    return labels


def test_oct_ml_reads_the_tables_of_a_fold(places):
    root, where = places
    write_oct(root, 0)
    labels = write_oct(root, 3)
    splits = oct_ml.splits(**where, fold=3, size=16)
    assert {s: {e["patient"] for e in x} for s, x in splits.items()} == {
        "train": {"a", "b", "c"},
        "val": {"d", "e"},
        "test": {"d", "e"},
    }
    for source in splits.values():
        for e in source:
            np.testing.assert_array_equal(e["label"], labels[e["name"]])
            assert e["label"].dtype == np.int32
            assert e["image"].shape == (16, 16, 3)


def test_oct_ml_is_checked(places):
    root, where = places
    write_oct(root, shared=True)
    with pytest.raises(UserError, match=r"the patient a is in train_0\.csv and in val_0\.csv"):
        oct_ml.splits(**where)
    with pytest.raises(UserError, match=r"no .*train_1\.csv"):
        oct_ml.splits(**where, fold=1)
    head = ",".join(["filename", *oct_ml.LABELS, "patient_name"])
    for text, said in (
        ("filename,NOR\n", "no column 'AMD'"),
        (f"{head}\na.png,{'2,' * 11}p\n", "0 or 1"),
        (f"{head}\na.png,{'1,' * 11}\n", "needs a patient_name"),
        (head + f"\na.png,{'1,' * 11}p" * 2 + "\n", r"two rows for a\.png"),
    ):
        (root / "train_0.csv").write_text(text)
        with pytest.raises(UserError, match=said):
            oct_ml.splits(**where)
