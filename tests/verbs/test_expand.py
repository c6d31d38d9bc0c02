"""--mode=expand: exactly the labels of the training set, times five; a folder that trains; patients that stay apart."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import tiny

from nca_gen import build
from nca_gen.data import folder, folds, oct_ml
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.runtime import checkpoint
from nca_gen.verbs import expand as verb

CHANGES = {"sample.batch": 8, "sample.sampler": "ddim", "sample.clip": "none", "sample.steps": 2, "sample.size": (8, 8)}


def config(data, **changes):
    """Of a small transformer of 3 grades: the quickest to compile of those that know labels."""
    c = tiny.config()
    c.model = {"name": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4, "classes": 3, "image_channels": 3}
    c.diffusion = {"name": "discrete", "schedule": "linear", "timesteps": tiny.T, "prediction": "eps"}
    c.data = {"name": "folder", "path": str(data), "patch": (8, 8), "flips": "horizontal"}
    c.sample.guidance = 1.5
    c.expand = {"times": 5, "fold": -1, "folds": 3, "split_seed": 0, "quantile": 0.05, "tries": 2, "name": "expanded"}
    c.update_from_flattened_dict(CHANGES | changes)
    return build.completed(c)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 images of 12 patients in 3 grades; the first 8 patients train."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    with open(root / "labels.csv", "w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["filename", "patient_id", "grade", "split"])
        for i in range(24):
            images.write(root / f"{i}.png", rng.integers(0, 256, (8, 8, 3), np.uint8))
            write.writerow([f"{i}.png", f"p{i // 2}", i % 5 % 3, "train" if i < 16 else "val" if i < 20 else "test"])
    return root


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("run")
    with checkpoint.manager(root) as saved:
        state = tiny.state(build.task(config(data)))
        checkpoint.save(saved, 3, state._replace(step=np.int32(3)))
    return root


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def content(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def expanded(workdir, data):
    return verb.expand(config(data), workdir)


@pytest.mark.slow
def test_every_label_is_there_five_times_as_often_with_its_patient(expanded, workdir, data):
    train = list(folder.splits(str(data))["train"])
    found = rows(workdir / "expanded" / "train_syn_0.csv")
    assert list(found[0]) == ["filename", "0", "1", "2", "patient_name", "multi_class"]
    assert len(found) == 5 * len(train)
    pairs = Counter((x["patient"], int(x["label"][0])) for x in train for _ in range(5))
    assert Counter((row["patient_name"], int(row["multi_class"])) for row in found) == pairs
    for row in found:
        assert [row[c] for c in "012"] == [str(int(c == row["multi_class"])) for c in "012"]
        assert images.read(workdir / "expanded" / row["filename"]).shape == (8, 8, 3)
    facts = json.loads((expanded / "expand.json").read_text())
    counts = np.bincount([int(x["label"][0]) for x in train])
    assert facts["labels"] == {str(g): [int(n), 5 * int(n)] for g, n in enumerate(counts)}
    assert facts["drawn"] == 80 + facts["too_near"][0]


@pytest.mark.slow
def test_the_expanded_set_trains_as_a_folder(expanded):
    splits = folder.splits(str(expanded))
    everyone = [example for source in splits.values() for example in source]
    listed = {row["filename"]: row for row in rows(expanded / "labels.csv")}
    assert len(everyone) == len(listed) == 80
    for example in everyone:
        assert example["patient"] == listed[example["name"]]["patient_id"]
        assert example["label"].tolist() == [int(listed[example["name"]]["grade"])]


@pytest.mark.slow
def test_sixteen_bits_in_and_out(workdir, data, tmp_path):
    """The expanded set is of one kind with the photographs, in depth, channels and size of a pixel."""
    for i in range(24):
        deep = images.read(data / f"{i}.png").astype(np.uint16) * 257
        images.write(tmp_path / f"{i}.png", deep, (0.5, 0.5))
    (tmp_path / "labels.csv").write_bytes((data / "labels.csv").read_bytes())
    made = verb.expand(config(tmp_path, **{"expand.name": "deep", "expand.times": 1}), workdir)
    real, new = (folder.splits(str(root))["train"][0] for root in (tmp_path, made))
    assert real["image"].dtype == new["image"].dtype == np.uint16
    assert real["image"].shape == new["image"].shape
    assert new["mpp"] == pytest.approx(real["mpp"])


@pytest.mark.slow
def test_what_is_missing_is_drawn_the_same(expanded, workdir, data, monkeypatch):
    before = content(workdir / "expanded")
    (expanded / "images" / "parts" / "0_00001.json").unlink()
    (expanded / "images" / "000009.png").unlink()
    (expanded / "labels.csv").unlink()
    assert verb.expand(config(data), workdir) == expanded
    assert content(workdir / "expanded") == before
    monkeypatch.setattr(verb.rounds, "draw", lambda *_, **__: pytest.fail("all is there"))
    verb.expand(config(data), workdir)


@pytest.mark.slow
def test_other_settings_are_refused_in_the_same_folder(expanded, workdir, data):
    with pytest.raises(UserError, match=r"another --config\.expand\.name"):
        verb.expand(config(data, **{"sample.guidance": 2.0}), workdir)


@pytest.mark.slow
def test_a_fold_leaves_its_patients_out(workdir, data, capsys):
    """Of all patients, as a classifier over folds divides them; and says which of them the generator has seen."""
    found = verb.expand(config(data, **{"expand.fold": 1, "expand.times": 1, "expand.tries": 1}), workdir)
    everyone = [x for source in folder.splits(str(data)).values() for x in source]
    who, labels = [x["patient"] for x in everyone], np.stack([x["label"] for x in everyone])
    out = {who[i] for i in folds.folds(who, labels, 3, 0)[1]}
    listed = rows(workdir / "expanded" / "train_syn_1.csv")
    assert {row["patient_name"] for row in listed} == set(who) - out
    assert len(listed) == sum(p not in out for p in who)
    seen = len(out & {f"p{i}" for i in range(8)})
    assert f"the model was trained on {seen} of the {len(out)} patients" in capsys.readouterr().out
    assert found.name == "fold1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [({"expand.fold": 3}, "folds 0 to 2"), ({"sample.size": (16, 16), "expand.name": "b"}, "sample.size")],
)
def test_what_is_refused(workdir, data, changes, said):
    with pytest.raises(UserError, match=said):
        verb.expand(config(data, **changes), workdir)


@pytest.mark.slow
def test_a_model_without_labels_is_refused(tmp_path, data):
    plain = config(data, **{"model.classes": 0})
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 1, tiny.state(build.task(plain)))
    with pytest.raises(UserError, match=r"config\.model\.classes"):
        verb.expand(plain, tmp_path)


def test_several_labels_have_the_rank_of_their_set():
    labels = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]])
    found = verb.table(["a", "b", "c", "d"], ["p", "q", "p", "r"], labels, oct_ml.LABELS[:3]).splitlines()
    assert found == [
        "filename,NOR,AMD,WAMD,patient_name,multi_class",
        "a,0,1,1,p,1",
        "b,1,0,0,q,0",
        "c,0,1,1,p,1",
        "d,0,0,1,r,2",
    ]
