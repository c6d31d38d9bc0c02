"""What labels.csv and the names of folders say: splits, patients and labels, and what names the content."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from nca_gen.data import folder, table
from nca_gen.data.source import SPLITS, people
from nca_gen.errors import UserError
from nca_gen.io import images


def read(root, names, text="", **options):
    """The table of a folder with files of these names, which nobody reads."""
    if text:
        (root / "labels.csv").write_text(text)
    return table.read(table.Files(root, [*names], []), **options)


def counts(found):
    return {split: [*found.split.values()].count(split) for split in SPLITS}


# Which files are images.


def touched(root, names):
    """``root`` with empty files of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("images_at", "maps_at"),
    [
        ("images", "labels"),
        ("imagesTr", "labelsTr"),
        ("train/images", "train/Masks"),
        (".", "Ground Truth"),
        ("a", "label_maps"),
    ],
)
def test_label_maps_beside_their_images_are_refused(tmp_path, images_at, maps_at):
    root = touched(tmp_path, [f"{images_at}/{i}.nii.gz" for i in range(3)] + [f"{maps_at}/{i}.nii" for i in range(2)])
    with pytest.raises(
        UserError, match=rf"2 of the 5 files in .* are label maps, such as {maps_at}/0.nii of "
    ) as error:
        table.below(str(root), (".nii", ".nii.gz"), "volumes")
    out = f"move {maps_at} out of it" if images_at == "." else f"--config.data.path={root / images_at}"
    assert str(error.value).endswith(out)
    assert len(table.below(str(root / maps_at), (".nii", ".nii.gz"), "label maps").names) >= 2


@pytest.mark.parametrize(
    "names", [("mask/1.png", "no_mask/1.png"), ("labels/1.png", "images/2.png"), ("labels.png", "1.png")]
)
def test_what_is_only_called_so_is_an_image(tmp_path, names):
    assert sorted(table.below(str(touched(tmp_path, names)), (".png",), "images").names) == sorted(names)


# Splits.


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (("train", "val", "test"), ""),
        (("Train", "VAL", "Test"), "Train is train (6 files), VAL is val (2 files), Test is test (3 files)"),
        (("training", "validation", "testing"), "validation is val (2 files)"),
        (("images/train", "images/val", "images/test"), "train is train (6 files)"),
        (("train/images", "valid/images", "test/images"), "are splits: valid is val (2 files)"),
        (("train2017", "val2017", "test2017"), "train2017 is train (6 files)"),
        (("stage1_train/a", "stage1_val/a", "stage1_test/b"), "stage1_test is test (3 files)"),
    ],
)
def test_sub_folders_are_splits_in_any_usual_spelling(tmp_path, folders, told, capsys):
    names = [f"{f}/{i}.png" for f, n in zip(folders, (6, 2, 3), strict=True) for i in range(n)]
    assert counts(read(tmp_path, names)) == {"train": 6, "val": 2, "test": 3}
    said = capsys.readouterr().err
    assert told in said if told else not said


def test_the_folders_of_nnu_net(tmp_path):
    names = [f"images{s}/{i}.nii.gz" for s, n in (("Tr", 8), ("Ts", 3)) for i in range(n)]
    found = read(tmp_path, names)
    assert {name for name, split in found.split.items() if split == "test"} == set(names[8:])
    assert counts(found) == {"train": 7, "val": 1, "test": 3}


@pytest.mark.parametrize("folders", [("cats", "dogs"), ("test-positive", "test-negative"), ("trained", "latest")])
def test_other_folders_are_none(tmp_path, folders):
    found = read(tmp_path, [f"{f}/{i}.png" for f in folders for i in range(10)])
    assert counts(found) == {"train": 16, "val": 2, "test": 2}


def test_files_outside_the_splits_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"c/0\.png lies outside train/, val/ and test/"):
        read(tmp_path, ["images/train/0.png", "images/Test/1.png", "c/0.png"])


def test_the_column_in_any_usual_spelling(tmp_path):
    words = ["Train", "TRAINING ", "train", "valid", "Test"]
    text = "filename,Split\n" + "".join(f"{i}.png,{word}\n" for i, word in enumerate(words))
    found = read(tmp_path, [f"{i}.png" for i in range(5)], text)
    assert [*found.split.values()] == ["train", "train", "train", "val", "test"]
    assert found.columns == ()
    with pytest.raises(UserError, match=r"4\.png has no split train, val or test"):
        read(tmp_path, [f"{i}.png" for i in range(5)], text.replace("Test", "external"))


# Patients.


def test_one_patient_in_many_spellings():
    same = [
        ["P1", "p1", "P1 ", "\tP1", "P\u00a01", "P 1", "P01", "P001", "\uff301"],
        ["12", "012", "12.0", " 12"],
        ["Zo\u00eb", "Zoe\u0308", "ZOE\u0308"],
        ["A-1", "a\u20131", "A\u22121", "A-01"],
        ["de  Vries", "De Vries"],
    ]
    names = [name for group in same for name in group]
    assert people(names) == [group[0] for group in same for _ in group]
    apart = ["P1", "P10", "P11", "1P", "P-1", "1-11", "11-1", "1 11", "11 1", "1.10", "Q1", "P_1"]
    assert people(apart) == apart


def test_no_patient_falls_on_two_sides_by_a_spelling(tmp_path):
    spelled = ["P{}", "p{} ", " P0{}", "P {}"]
    rows = [f"{i}.png,{spelled[i % 4].format(i // 4)},{i % 3}" for i in range(80)]
    found = read(tmp_path, [f"{i}.png" for i in range(80)], "filename,patient_id,grade\n" + "\n".join(rows))
    assert len(set(found.patient.values())) == 20
    assert {split for split, n in counts(found).items() if n % 4} == set()
    assert found.patient["7.png"] == "P1"  # as the first file has it: splits of before stay as they were
    assert found.notes == [
        "patients in several spellings are one (60): 'p0' = 'P0', 'P00' = 'P0', 'P 0' = 'P0' and 57 more"
    ]


@pytest.mark.parametrize("head", ["patient_id", "Patient ID", "PatientID", "patient", "subject-id"])
def test_the_column_of_patients_in_any_usual_spelling(tmp_path, head):
    """As a label it would leak; as none at all, too."""
    text = f"filename,{head},grade\n" + "".join(f"{i}.png,{i // 3},1\n" for i in range(30))
    found = read(tmp_path, [f"{i}.png" for i in range(30)], text)
    assert (found.columns, len(set(found.patient.values()))) == (("grade",), 10)


def test_files_without_a_patient_are_told(tmp_path):
    text = "filename,patient_id\n" + "".join(f"{i}.png,{'' if i == 4 else i // 3}\n" for i in range(30))
    found = read(tmp_path, [f"{i}.png" for i in range(30)], text)
    assert found.notes == ["files without a patient_id are each a patient (1): 4.png"]
    assert found.patient["4.png"] == "4.png"


def test_patients_that_are_split_by_the_user_are_told(tmp_path, capsys):
    names = [f"{s}/{i}.png" for s in SPLITS for i in range(2)]
    rows = [f"{name},{who}" for name, who in zip(names, ["a", "b", "A ", "c", "d", "b"], strict=True)]
    read(tmp_path, names, "filename,patient_id\n" + "\n".join(rows))
    assert "note: patients in two splits (2): a, b" in capsys.readouterr().err


# Labels.

NAMES = [f"{i}.png" for i in range(12)]
HEAD = "Unnamed: 0,filename,grade,age,sex,empty\n"


def rows(**changes):
    return HEAD + "".join(
        f"{i},{name},{changes.get(f'g{i}', i % 3)},{40 + i / 2},{'fm'[i % 2]},\n" for i, name in enumerate(NAMES)
    )


def test_columns_without_a_number_are_no_labels(tmp_path):
    found = read(tmp_path, NAMES, rows())
    assert found.columns == ("Unnamed: 0", "grade", "age")
    assert found.notes == ["columns of labels.csv without a number are no labels (2): sex, empty"]


def test_labels_are_the_columns_that_are_named(tmp_path):
    (bare := tmp_path / "bare").mkdir()
    found = read(tmp_path, NAMES, rows(), labels=("age", "grade"))
    assert (found.columns, found.notes) == (("age", "grade"), [])
    numbers = table.labels(found, NAMES)
    np.testing.assert_array_equal(numbers["5.png"]["label"], np.float32([42.5, 2]))
    assert table.labels(read(tmp_path, NAMES, labels=("grade",)), NAMES)["5.png"]["label"].dtype == np.int32
    with pytest.raises(UserError, match=r"in config\.data\.labels 'grades'; did you mean grade"):
        read(tmp_path, NAMES, labels=("grades",))
    with pytest.raises(UserError, match=r"config\.data\.labels=\('grade',\) names columns, and there is no labels"):
        read(bare, NAMES, labels=("grade",))


@pytest.mark.parametrize("word", ["nan", "", "inf", "-", "1;2", "mild", "None"])
def test_a_label_that_is_no_number_names_file_line_and_column(tmp_path, word):
    found = read(tmp_path, NAMES, rows(g3=word))
    with pytest.raises(UserError, match=rf"labels\.csv, line 5 \(3\.png\): .* 'grade' holds '{word}'"):
        table.labels(found, NAMES)


def test_a_decimal_comma_is_a_point(tmp_path):
    text = "filename;age\n" + "".join(f"{name};{i},5\n" for i, name in enumerate(NAMES))
    numbers = table.labels(read(tmp_path, NAMES, text), NAMES)
    assert [float(numbers[name]["label"][0]) for name in NAMES] == [i + 0.5 for i in range(12)]


def test_numbers_beyond_integers_of_32_bits_are_kept(tmp_path):
    """An accession number is no label, and is not made one by an overflow."""
    text = "filename,accession\n" + "".join(f"{name},{2**40 + i}\n" for i, name in enumerate(NAMES))
    numbers = table.labels(read(tmp_path, NAMES, text), NAMES)
    assert numbers["0.png"]["label"].tolist() == [2.0**40]


def test_rows_and_files_that_do_not_meet_are_named(tmp_path):
    text = "filename,grade\n" + "".join(f"{i},1\n" for i in (0, 1, 2, 99)) + "x,1\n"
    found = read(tmp_path, ["0.png", "1.png", "2.png", "a/x.png", "b/x.png"], text)
    assert [*found.rows] == ["0.png", "1.png", "2.png"]
    assert found.lost == [
        ("99", "in labels.csv, but no such file"),
        ("x", "in labels.csv, but 2 files may be meant: a/x.png, b/x.png"),
    ]
    with pytest.raises(
        UserError, match=r"no row of .*labels\.csv names a file of the folder: the first is '0', and .*y\.png"
    ):
        read(tmp_path, ["y.png"])


def test_tables_by_another_name_are_told(tmp_path):
    """Their labels are lost, and patients would leak."""
    (tmp_path / "set").mkdir()
    (tmp_path / "labels.csv").write_text("filename,grade\n0.png,1\n")
    (tmp_path / "set" / "metadata.tsv").write_text("filename\tgrade\n0.png\t1\n")
    found = read(tmp_path / "set", NAMES)
    told = "there is no labels.csv, and other tables are not read (2): metadata.tsv, ../labels.csv"
    assert (found.notes, found.columns) == ([told], ())


# Content.


@pytest.fixture
def pictures(tmp_path):
    """A folder of 12 images with labels, and what opens it anew."""
    root = tmp_path / "here"
    root.mkdir()
    for i, name in enumerate(NAMES):
        images.write(root / name, np.full((4, 4, 1), i, np.uint8))
    (root / "labels.csv").write_text("filename,grade\n" + "".join(f"{name},{i % 3}\n" for i, name in enumerate(NAMES)))
    return root, lambda path: {split: source.digest() for split, source in folder.splits(str(path)).items()}


def test_content_is_named_wherever_it_lies(pictures, tmp_path):
    root, digests = pictures
    before = digests(root)
    assert len(set(before.values())) == 3
    shutil.copytree(root, tmp_path / "there")
    assert digests(tmp_path / "there") == before
    test = folder.splits(str(root))["test"].head(0)["name"]
    images.write(tmp_path / "there" / test, np.full((4, 4, 1), 99, np.uint8))
    after = digests(tmp_path / "there")
    assert [split for split in SPLITS if after[split] != before[split]] == ["test"]
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace(f"\n{test},", f"\n{test},1"))
    assert digests(root)["test"] not in (before["test"], after["test"])


@pytest.mark.parametrize("word", ["", "nan", "NaN", "N/A", "None", "unknown", "-"])
def test_nobody_is_no_patient(tmp_path, word):
    """Files of no known patient are not all of one."""
    text = "filename,patient_id\n" + "".join(f"{i}.png,{word if i % 2 else 'p'}\n" for i in range(20))
    found = read(tmp_path, [f"{i}.png" for i in range(20)], text)
    assert len({*found.patient.values()}) == 11
    assert "files without a patient_id are each a patient (10): 1.png, 3.png, 5.png and 7 more" in found.notes


def test_numbers_as_spreadsheets_write_them():
    assert people(["100000", "1E+05", "1e5", "1.0E+5", "1e6"]) == ["100000"] * 4 + ["1e6"]


def test_an_underscore_is_no_part_of_a_number(tmp_path):
    found = read(tmp_path, ["a.png", "b.png"], "filename,code\na.png,1_0\nb.png,1_1\n")
    assert found.columns == ()


def test_a_table_that_overrules_folders_is_told(tmp_path, capsys):
    """An archive's test images that a table puts into training."""
    names = ["train/0.png", "train/1.png", "test/2.png", "test/3.png"]
    text = "filename,split\n" + "".join(
        f"{n},{s}\n" for n, s in zip(names, ("train", "train", "train", "test"), strict=True)
    )
    found = read(tmp_path, names, text)
    assert found.split["test/2.png"] in ("train", "val")
    assert "note: the column split overrules sub folders (1 files): test/2.png is train" in capsys.readouterr().err


def test_tables_in_sub_folders_are_told(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "labels.csv").write_text("filename,grade\n")
    found = read(tmp_path, [f"{i}.png" for i in range(5)])
    assert any("not read (1): train/labels.csv" in note for note in found.notes)


def test_a_column_is_chosen_once(tmp_path):
    with pytest.raises(UserError, match="names the column 'a' twice"):
        read(tmp_path, ["x.png"], "filename,a,b\nx.png,1,2\n", labels=("a", "b", "a"))


def test_where_no_file_can_be_used_the_first_reason_is_given(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"not one image in .* can be used; x\.png: the file is empty"):
        folder.splits(str(tmp_path))
