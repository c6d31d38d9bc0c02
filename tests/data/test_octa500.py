"""OCTA-500 from a miniature tree that is laid out like it: every number that is read is known."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections import Counter

import ml_collections
import numpy as np
import PIL.Image
import pytest
from scipy.io import savemat

from nca_gen.data import octa500, pipeline
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.io import volumes as files
from nca_gen.metrics import segmentation
from nca_gen.verbs import check

RNG = np.random.default_rng(0)
DEPTH, HEIGHT, WIDTH = 12, 16, 10
IDS = [str(10001 + i) for i in range(6)]
PUBLISHED = {"NORMAL": 91, "AMD": 43, "CNV": 11, "CSC": 14, "DR": 35, "RVO": 10, "OTHERS": 96}
SHEET = '<x xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</x>'


def bmp(path, plane):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(plane).save(path)


def sheet(path, rows):
    """A table as people save it, or the workbook."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [("ID", "Sex", "OS/OD", "Age", "Disease"), *((i, "M", "OD", 50, disease) for i, disease in rows)]
    if path.suffix == ".csv":
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        return
    words = sorted({str(value) for row in rows for value in row if not str(value).isdigit()})
    kinds = lambda v: ("", v) if str(v).isdigit() else (' t="s"', words.index(v))
    cell = lambda at, v: '<c r="{}"{}><v>{}</v></c>'.format(at, *kinds(v))
    lines = ["".join(cell(f"{'ABCDE'[j]}{i}", v) for j, v in enumerate(row)) for i, row in enumerate(rows, 1)]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/sharedStrings.xml", SHEET.format("".join(f"<si><t>{w}</t></si>" for w in words)))
        page = "<sheetData>{}</sheetData>".format("".join(f"<row>{line}</row>" for line in lines))
        file.writestr("xl/worksheets/sheet1.xml", SHEET.format(page))


def truth(name):
    """Surfaces at whole rows, and the vessels, of an eye."""
    rng = np.random.default_rng(int(name))
    surfaces = 2 + np.arange(6)[:, None, None] * 2 + rng.integers(0, 2, (6, DEPTH, WIDTH))
    return surfaces, rng.integers(0, 5, (DEPTH, WIDTH))


def eye(root, name, subset="6mm", coded=False):
    """The files of an eye; its B-scans are noise, or 30 times the layer plus the vessel. The volume."""
    surfaces, vessels = truth(name)
    volume = RNG.integers(0, 256, (DEPTH, HEIGHT, WIDTH)).astype(np.uint8)
    if coded:
        below = (np.arange(HEIGHT)[:, None] >= surfaces[:, :, None]).sum(0)
        volume = (30 * below + vessels[:, None]).astype(np.uint8)
    home = root / f"OCTA_{subset}"
    for i, scan in enumerate(volume, 1):
        bmp(home / "OCT" / name / f"{i}.bmp", scan)
        bmp(home / "OCTA" / name / f"{i}.bmp", 255 - scan)
    bmp(home / "Projection Maps" / "OCTA(FULL)" / f"{name}.bmp", (10 * vessels).astype(np.uint8))
    (root / "Label" / "GT_Layers").mkdir(parents=True, exist_ok=True)
    savemat(root / "Label" / "GT_Layers" / f"{name}.mat", {"Layer": surfaces.astype(np.uint16)})
    net = np.isin(vessels, (1, 2, 3))  # capillaries are annotated as the whole net
    for folder, mask in zip(octa500.MASKS, (net, vessels == 2, vessels == 3, vessels == 4), strict=True):
        bmp(root / "Label" / folder / f"{name}.bmp", (255 * mask).astype(np.uint8))
    return volume


@pytest.fixture
def tree(tmp_path):
    """Six eyes of two diseases; where they are, and their volumes."""
    written = {name: eye(tmp_path, name) for name in IDS}
    sheet(tmp_path / "OCTA_6mm" / "Text labels.xlsx", [(name, ("NORMAL", "AMD")[i % 2]) for i, name in enumerate(IDS)])
    return tmp_path, written


def everything(splits):
    return {example["name"]: example for word in ("train", "test") for example in splits[word]}


@pytest.mark.slow
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
@pytest.mark.parametrize("modality", ["oct", "octa"])
def test_b_scans_are_stacked_in_the_order_of_their_numbers(tree, memory_gb, modality):
    root, written = tree
    for path in (root, root / "OCTA_6mm"):
        splits = octa500.splits(str(path), modality=modality, resize=None, memory_gb=memory_gb)
        assert splits["train"].shapes == [(DEPTH, HEIGHT, WIDTH, 1)] * 4
        examples = everything(splits)
        assert sorted(examples) == IDS
        for name, example in examples.items():
            volume = written[name] if modality == "oct" else 255 - written[name]
            np.testing.assert_array_equal(example["image"][..., 0], volume)
            assert example["image"].dtype == np.uint8
            assert example["mpp"] == (6000 / DEPTH, 2000 / HEIGHT, 6000 / WIDTH)
    assert splits["val"] is splits["test"]


@pytest.mark.slow
def test_layers_and_vessels_are_those_of_the_files(tree):
    root, _ = tree
    for name, example in everything(octa500.splits(str(root), labels="layers", resize=None)).items():
        np.testing.assert_array_equal(segmentation.surfaces(example["label_map"][..., 0], 7), truth(name)[0])
        np.testing.assert_array_equal(octa500.surfaces(root / "Label", name), truth(name)[0])
    for name, example in everything(octa500.splits(str(root), labels="vessels", resize=None)).items():
        for row in range(HEIGHT):
            np.testing.assert_array_equal(example["label_map"][:, row, :, 0], truth(name)[1])
    for name, example in everything(octa500.splits(str(root), projection="OCTA(FULL)", resize=None)).items():
        np.testing.assert_array_equal(example["projection"][:, 3, :, 0], 10 * truth(name)[1] / 128 - 1)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["layers", "vessels"])
@pytest.mark.parametrize(
    "scale",
    [
        {"resize": (20, 24, 13)},
        {"resize": None, "reduce": (2, 3, 1)},
        {"resize": (5, 7, 10), "reduce": (2, 1, 1)},
    ],
)
def test_parts_are_those_of_the_whole(tree, labels, scale):
    """Of volumes beyond memory, resized and reduced, beyond their edges too; the whole is what images.resize makes."""
    root, written = tree
    options = {"labels": labels, "projection": "OCTA(FULL)", **scale}
    whole, parts = (octa500.splits(str(root), memory_gb=gb, **options)["train"] for gb in (1.0, 0.0))
    assert whole.shapes == parts.shapes
    assert parts.window is not None
    for box in ([(0, 2), (0, 5), (1, 4)], [(-2, 3), (4, 9), (8, 16)]):
        a, b = whole.read(1, box), parts.read(1, box)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    example = parts[0]
    stored = images.reduce(written[example["name"]][..., None], scale.get("reduce", 1))
    expected = images.resize(stored, scale["resize"]) if scale["resize"] else stored
    assert np.abs(expected.astype(int) - example["image"]).max() <= 1
    assert example["label_map"].shape == example["projection"].shape == expected.shape


def test_a_part_decodes_the_scans_that_it_touches(tree, monkeypatch):
    root, _ = tree
    source = octa500.splits(str(root), resize=(24, 16, 10), memory_gb=0.0)["train"]
    decoded, true = [], images.read
    monkeypatch.setattr(images, "read", lambda path: decoded.append(path.stem) or true(path))
    source.read(0, [(10, 12), (0, 8), (0, 8)])
    assert {*decoded} == {"1", "4", "5", "6", "7", "8"}  # around 5.25 and 5.75 of 12; the first for its size


@pytest.mark.slow
def test_the_split_by_category_has_the_published_counts(tree):
    """203 and 97 of the 300 eyes: two thirds of each disease, the same whichever eyes lie there."""
    disease, number = {}, 10001
    for words, n in PUBLISHED.items():
        disease |= {str(number + i): words for i in range(n)}
        number += n
    where = octa500.split(disease)
    assert Counter(where.values()) == {"train": 203, "test": 97}
    for words, n in PUBLISHED.items():
        assert sum(where[name] == "train" for name in disease if disease[name] == words) == -(-2 * n // 3)
    assert octa500.split(dict(reversed(disease.items()))) == where
    assert octa500.split(disease, salt=1) != where
    held = octa500.split(disease, val=0.1)
    assert {name for name in held if held[name] == "test"} == {name for name in where if where[name] == "test"}
    assert Counter(held.values())["val"] == 6 + 3 + 1 + 1 + 2 + 1 + 6
    root, _ = tree
    splits = octa500.splits(str(root), resize=None)
    before = {e["name"]: word for word in ("train", "test") for e in splits[word]}
    assert Counter((word, int(name) % 2) for name, word in before.items()) == dict.fromkeys(
        [("train", 0), ("train", 1)], 2
    ) | dict.fromkeys([("test", 0), ("test", 1)], 1)
    gone = next(name for name, word in before.items() if word == "train")
    shutil.rmtree(root / "OCTA_6mm" / "OCT" / gone)
    splits = octa500.splits(str(root), resize=None)
    assert {e["name"]: word for word in ("train", "test") for e in splits[word]} == {
        name: word for name, word in before.items() if name != gone
    }


@pytest.mark.slow
def test_a_sheet_that_was_saved_as_a_table_and_one_that_is_missing(tree, capsys):
    root, _ = tree
    names = lambda: {word: [e["name"] for e in s] for word, s in octa500.splits(str(root), resize=None).items()}
    before = names()
    home = root / "OCTA_6mm"
    (home / "Text labels.xlsx").unlink()
    sheet(home / "Text labels.csv", [(name, ("NORMAL", "AMD")[i % 2]) for i, name in enumerate(IDS)])
    assert names() == before
    assert "note" not in capsys.readouterr().err
    sheet(home / "Text labels.csv", [(name, "NORMAL") for name in IDS[:-1]])
    assert "eyes that Text labels.csv does not have are split as if of one disease (1): 10006" in str(
        octa500.splits(str(root), resize=None).notes
    )
    (home / "Text labels.csv").unlink()
    assert "there is no Text labels.xlsx" in octa500.splits(str(root), resize=None).notes[0]
    assert "two thirds of all eyes are for training" in capsys.readouterr().err
    sheet(home / "Text labels.csv", [])
    (home / "Text labels.csv").write_text("ID,Age\n10001,3\n")
    with pytest.raises(UserError, match="no column 'Disease'"):
        octa500.splits(str(root))


def spoil(root, what):
    """Damages an eye, or what beside it is annotated."""
    scans, mats = root / "OCTA_6mm" / "OCT", root / "Label" / "GT_Layers"
    if what == "empty":
        for file in (scans / IDS[0]).iterdir():
            file.unlink()
    elif what == "gap":
        (scans / IDS[0] / "5.bmp").unlink()
    elif what == "fewer":
        (scans / IDS[0] / f"{DEPTH}.bmp").unlink()
    elif what == "colour":
        bmp(scans / IDS[0] / "1.bmp", np.zeros((HEIGHT, WIDTH, 3), np.uint8) + np.array([1, 2, 3], np.uint8))
    elif what == "damaged mat":
        data = (mats / f"{IDS[0]}.mat").read_bytes()
        (mats / f"{IDS[0]}.mat").write_bytes(data[: len(data) // 3])
    elif what == "no mat":
        (mats / f"{IDS[0]}.mat").unlink()
    elif what == "no Layer":
        savemat(mats / f"{IDS[0]}.mat", {"Surface": np.zeros(3)})
    elif what == "five":
        savemat(mats / f"{IDS[0]}.mat", {"Layer": truth(IDS[0])[0][:5]})
    elif what == "other order":
        savemat(mats / f"{IDS[0]}.mat", {"Layer": truth(IDS[0])[0][::-1]})
    elif what == "other width":
        savemat(mats / f"{IDS[0]}.mat", {"Layer": truth(IDS[0])[0][..., 1:]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("empty", "10001: there are no slices in this folder"),
        ("gap", "10001: B-scan 5 is missing: there are 11"),
        ("fewer", "10001: its annotation has 12 x 10, not 11 x 10 (B-scans x width)"),
        ("colour", "10001: a B-scan has 3 channels of uint8, not one of uint8"),
        ("damaged mat", "10001: GT_Layers/10001.mat: no MATLAB file that is whole"),
        ("no mat", "10001: GT_Layers/10001.mat: no such file or directory"),
        ("no Layer", "10001: GT_Layers/10001.mat: it has no Layer, but Surface"),
        ("five", "10001: GT_Layers/10001.mat: Layer is int64 of (5, 12, 10), and should be 6 surfaces, D x W each"),
        ("other order", "10001: GT_Layers/10001.mat: its surfaces are no numbers, or not in their order"),
        ("other width", "10001: its annotation has 12 x 9, not 12 x 10 (B-scans x width)"),
    ],
)
def test_an_eye_that_cannot_be_used_is_named(tree, capsys, what, line):
    root, _ = tree
    spoil(root, what)
    splits = octa500.splits(str(root), labels="layers", resize=None)
    assert sorted(everything(splits)) == IDS[1:]
    said = capsys.readouterr().err
    assert f"unreadable files are skipped (1): {line}" in said
    with pytest.raises(UserError, match=re.escape(line)):
        octa500.splits(str(root), labels="layers", resize=None, strict=True)


def test_an_eye_of_fewer_scans_than_the_others(tree, capsys):
    root, _ = tree
    spoil(root, "fewer")
    assert sorted(everything(octa500.splits(str(root), resize=None))) == IDS[1:]
    assert "10001: it has 11 B-scans of 16 x 10, most have 12 B-scans of 16 x 10" in capsys.readouterr().err


def test_a_scan_of_another_size_is_named_when_it_is_read(tree):
    root, _ = tree
    for name in IDS:
        bmp(root / "OCTA_6mm" / "OCT" / name / "7.bmp", np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    source = octa500.splits(str(root), memory_gb=0.0, resize=None)["train"]
    source.read(0, [(0, 5), (0, 2), (0, 2)])
    with pytest.raises(images.Unreadable, match=r"7\.bmp: a slice of \(16, 11, 1\)"):
        source.read(0, [(4, 8), (0, 2), (0, 2)])


def test_folders_that_are_not_there(tree, tmp_path):
    root, _ = tree
    with pytest.raises(UserError, match=r"no OCTA_6mm/OCT in '' \(config.data.path is empty\): put OCTA_6mm and Label"):
        octa500.splits()
    with pytest.raises(UserError, match=r"no OCTA_3mm/OCT in"):
        octa500.splits(str(root), subset="3mm")
    with pytest.raises(UserError, match=r"config.data.reduce=\(1, 17, 1\) leaves nothing of 12 B-scans of 16 x 10"):
        octa500.splits(str(root), reduce=(1, 17, 1), resize=None)
    shutil.rmtree(root / "Label" / "GT_Vein")
    with pytest.raises(UserError, match=r"no folder .*GT_Vein: put .* or set config.data.labels to 'none'"):
        octa500.splits(str(root), labels="vessels")
    with pytest.raises(UserError, match=r"no folder .*OCT\(FULL\): put"):
        octa500.splits(str(root), projection="OCT(FULL)")
    shutil.rmtree(root / "OCTA_6mm" / "OCTA")
    (root / "OCTA_6mm" / "OCTA").mkdir()
    with pytest.raises(UserError, match="no eye in"):
        octa500.splits(str(root), modality="octa")
    for name in IDS[1:]:
        shutil.rmtree(root / "OCTA_6mm" / "OCT" / name)
    with pytest.raises(UserError, match=r"no eye that can be read for the split '(train|test)'"):
        octa500.splits(str(root), resize=None)
    spoil(root, "gap")
    with pytest.raises(UserError, match="can be used; 10001: B-scan 5 is missing"):
        octa500.splits(str(root), resize=None)


def test_the_set_of_3_mm(tmp_path):
    for name in ("10301", "10302", "10303"):
        eye(tmp_path, name, "3mm")
    splits = octa500.splits(str(tmp_path), subset="3mm", resize=None)
    assert {word: len(source) for word, source in splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert splits["train"][0]["mpp"][0] == 3000 / DEPTH


@pytest.mark.slow
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
@pytest.mark.parametrize("labels", ["layers", "vessels"])
def test_label_maps_stay_registered_under_crops_and_flips(tmp_path, memory_gb, labels):
    """Of B-scans whose grey levels are 30 times the layer plus the vessel, wherever cut and however mirrored."""
    for name in IDS[:4]:
        eye(tmp_path, name, coded=True)
    options = {"labels": labels, "projection": "OCTA(FULL)", "resize": None, "memory_gb": memory_gb}
    source = octa500.splits(str(tmp_path), **options)["train"]
    stream = pipeline.batches(source, patch=(6, 8, 4), batch=4, seed=0, flips="all")
    for _ in range(4):
        batch = next(stream)
        stored = np.rint((batch["image"] + 1) * 128).astype(int)
        np.testing.assert_array_equal(batch["label_map"], stored // 30 if labels == "layers" else stored % 30)
        np.testing.assert_array_equal(np.rint((batch["projection"] + 1) * 128), 10 * (stored % 30))


@pytest.mark.slow
def test_check_reads_it_through(tree, capsys):
    root, _ = tree
    data = {"name": "octa500", "path": str(root), "labels": "vessels", "resize": (16, 16, 16)}
    report = check.check(ml_collections.ConfigDict({"data": data | {"patch": (8, 8, 8), "flips": "depth+horizontal"}}))
    assert report["splits"]["train"]["shapes"] == {"16x16x16x1": 4}
    assert set(report["splits"]["train"]["classes"]["label_map"]) == set(range(5))
    # "val" is "test": check says so, as of any patient in two splits
    assert all("val" in problem and "test" in problem for problem in report["problems"]), report["problems"]
    capsys.readouterr()


def test_the_volumes_of_a_folder_are_the_same(tree):
    """The general reader of folders of B-scans makes the same of them."""
    root, written = tree
    for name in IDS:
        np.testing.assert_array_equal(files.read(root / "OCTA_6mm" / "OCT" / name)[..., 0], written[name])
