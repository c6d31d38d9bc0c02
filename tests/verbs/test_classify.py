"""--mode=classify: who is trained on, what is measured, and that a killed table goes on."""

import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import config as configs
from nca_gen.data import spots
from nca_gen.data.source import Splits
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.sections import Classify
from nca_gen.tasks.classify import Task
from nca_gen.tasks.learner import Learner
from nca_gen.verbs import cells, classify, classify_cells, classify_tables


@dataclass(frozen=True)
class Blind:
    """A classifier that knows how frequent the classes are: quick to train."""

    classes: int = 5

    def init(self, key):
        return {"b": jnp.zeros(self.classes)}

    def init_statistics(self):
        return {}

    def apply(self, params, statistics, x, train=False):
        return params["b"] + 0.1 * x.mean((1, 2, 3))[:, None] * jnp.arange(self.classes), statistics


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The task of a config, with a network that takes no time."""

    def task(config):
        fields = {k: v for k, v in config.task.items() if k != "name"}
        return Task(Blind(config.model.classes), Learner(**config.optimizer), **fields)

    monkeypatch.setattr(cells.build, "task", task)


def config(*flags, **fields):
    """The smoke form, ``classify`` fields changed."""
    page = configs.load("configs/classifier.py:smoke", "classify")
    page.classify.update(fields)
    return configs.override(page, ["--config.mesh.data=1", *flags])


def expansion(folder, fold, patients, size=48, columns=5, **changes):
    """What --mode=expand leaves: a picture a patient and its table; ``changes`` by column."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, patient in enumerate(patients):
        grade = int(patient) % 5
        images.write(folder / f"images/{i:06d}.png", np.full((size, size, 3), 40 * grade, np.uint8))
        row = {"filename": f"images/{i:06d}.png"} | {f"{k}": int(k == grade) for k in range(columns)}
        rows.append(row | {"patient_name": patient, "multi_class": grade} | changes)
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / f"train_syn_{fold}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def folds():
    return classify_cells.divided(config(), Classify(folds=2))


def trained_on(fold):
    return sorted({e["patient"] for e in fold.train})


def test_folds_are_by_patient_and_validate_everyone_once():
    whole = [e["name"] for e in spots.splits(patients=20)["train"]]
    found = classify_cells.divided(config(), Classify(folds=4, repeats=2))
    assert [(p.fold, p.repeat) for p in found] == [(f, r) for f in range(4) for r in range(2)]
    assert sorted(e["name"] for p in found[::2] for e in p.val) == sorted(whole)
    for fold in found:
        assert sorted(e["name"] for e in fold.train + fold.val) == sorted(whole)
        assert not {e["patient"] for e in fold.train} & {e["patient"] for e in fold.val}
        assert {e["label"].shape for e in fold.train} == {(5,)}


def test_folds_of_all_splits_or_the_split_itself():
    splits = spots.splits(patients=20)
    one, *others = classify_cells.divided(config(), Classify(folds=1))
    assert not others
    assert [e["name"] for e in one.train] == [e["name"] for e in splits["train"]]
    assert [e["name"] for e in one.val] == [e["name"] for e in splits["val"]]
    every = classify_cells.divided(config(), Classify(folds=2, of=("train", "val", "test")))
    assert len(every[0].val) + len(every[1].val) == 40


def test_folds_that_the_data_bring(monkeypatch):
    """``config.data.fold`` names one: each is asked for, and one alone is the config's."""
    page, splits = config(), spots.splits(patients=20)
    with page.unlocked():
        page.data.fold = 1
    swapped = [splits, Splits({"train": splits["val"], "val": splits["train"]})]
    monkeypatch.setattr(classify_cells.build, "splits", lambda config: swapped[config.data.fold])
    found = classify_cells.divided(page, Classify(folds=2))
    assert [(p.fold, len(p.train), len(p.val)) for p in found] == [(0, 32, 4), (1, 4, 32)]
    [alone] = classify_cells.divided(page, Classify(folds=1))
    assert (alone.fold, len(alone.train)) == (1, 4)
    assert page.data.fold == 1


def test_images_are_brought_to_size_once():
    fold = classify_cells.divided(config("--config.data.patch=20,24"), Classify(folds=1))[0]
    assert {e["image"].shape for e in fold.train + fold.val} == {(20, 24, 3)}


def test_nobody_is_on_both_sides(monkeypatch):
    monkeypatch.setattr(classify_cells.by_patient, "folds", lambda who, *_: [np.arange(0, len(who), 2)])
    with pytest.raises(UserError, match="trained on and validated on"):
        classify_cells.divided(config(), Classify(folds=2))


def test_an_expansion_adds_to_its_own_fold(folds, tmp_path):
    folder = expansion(tmp_path / "expanded/x", 1, trained_on(folds[1]))
    made = classify_cells.listed(str(tmp_path / "expanded"), folds[1])
    assert [s.patient for s in made] == trained_on(folds[1])
    [first, *_] = classify_cells.opened(made, folds[1].val[0]["image"])
    assert first["image"].shape == (32, 32, 3)
    assert first["label"].tolist() == np.eye(5)[int(made[0].patient) % 5].tolist()
    assert made[0].path == folder / "images/000000.png"
    with pytest.raises(UserError, match=r"3 channels of uint8, the photographs 1 channels of uint16"):
        classify_cells.opened(made, np.zeros((32, 32, 1), np.uint16))
    with pytest.raises(UserError, match=r"one train_syn_0\.csv is needed"):
        classify_cells.listed(str(tmp_path), folds[0])
    expansion(tmp_path / "expanded/y", 1, trained_on(folds[1]))
    with pytest.raises(UserError, match="2 of them lie"):
        classify_cells.listed(str(tmp_path), folds[1])
    assert len(classify_cells.listed(f"{tmp_path}/expanded/{{fold}}".replace("{fold}", "x"), folds[1])) == len(made)


@pytest.mark.parametrize(
    ("patients", "changes", "told"),
    [
        ("val", {}, r"made after patient \d+ of the validation fold"),
        ("train", {"patient_name": ""}, "of nobody known"),
        ("train", {"filename": "images/none.png"}, "images/none.png is missing"),
        ("train", {"0": 0.5}, "are not 0 and 1"),
        ("train", {"columns": 4}, "needs the columns filename, 5 labels, patient_name"),
    ],
)
def test_what_does_not_fit_is_refused(folds, tmp_path, patients, changes, told):
    who = sorted({e["patient"] for e in getattr(folds[0], patients)})
    expansion(tmp_path, 0, who, **changes)
    with pytest.raises(UserError, match=told):
        classify_cells.listed(str(tmp_path), folds[0])


def test_names_of_rows():
    given = ("runs/geca/expanded", "runs/dit/expanded/0001_x5", "runs/ldm_{fold}/expanded", "other")
    assert classify.names(given) == dict(zip(("geca", "dit", "ldm", "other"), given, strict=True))
    for bad in (("a/x", "b/x"), ("geometric",)):
        with pytest.raises(UserError, match="different names"):
            classify.names(bad)


def test_eyes_and_patients_are_pooled():
    done = {
        "names": ["7_left", "7_right", "a/7_l2.png", "8_left"],
        "patients": ["7", "7", "7", "8"],
        "probability": [[0.8, 0.2], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]],
        "truth": [[1, 0], [0, 1], [1, 0], [0, 1]],
    }
    eye = r"_(left|right|l|r)"
    probability, truth, patients = classify_tables.units(done, Classify(pool="eye", eye=eye), True)
    assert patients == ["7", "7", "7", "8"]
    done["names"][2] = "7b_left"
    probability, truth, patients = classify_tables.units(done, Classify(pool="eye"), True)
    np.testing.assert_allclose(probability, [[0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    assert truth.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert patients == ["7", "7", "8"]
    _, truth, patients = classify_tables.units(done, Classify(pool="patient"), True)
    assert truth.tolist() == [[1, 1], [0, 1]]
    with pytest.raises(UserError, match="of several classes"):
        classify_tables.units(done, Classify(pool="patient"), False)
    done["names"][0] = "leftover"
    with pytest.raises(UserError, match="no eye can be read from leftover"):
        classify_tables.units(done, Classify(pool="eye"), True)


@pytest.mark.parametrize(
    ("name", "side"), [("10003_right", "right"), ("56_r3", "r"), ("x/OD-12", "OD"), ("LEFT.1", "LEFT"), ("lr", None)]
)
def test_sides_in_names(name, side):
    found = classify_tables.re.search(classify_tables.SIDE, name)
    assert (found and found[0]) == side


def test_the_table_counts(folds):
    """Perfect against inverted: mean, spread, both tests."""
    folds = [fold._replace(classes=tuple("abcde")) for fold in folds]
    truth = [np.stack([e["label"] for e in fold.val]) for fold in folds]

    def made(rows):
        who = [[e["patient"] for e in fold.val] for fold in folds]
        names = [[e["name"] for e in fold.val] for fold in folds]
        return [
            {"probability": p, "truth": t, "patients": w, "names": n, "seconds": 1.0}
            for p, t, w, n in zip(rows, truth, who, names, strict=True)
        ]

    found = {"none": made(truth), "geometric": made([1 - t for t in truth])}
    facts = classify_tables.table(found, folds, Classify(folds=2, draws=50), False)
    best, worst = (facts["rows"][row] for row in ("none", "geometric"))
    assert best["figures"]["map"] == {"mean": 1.0, "std": 0.0, "values": [1.0, 1.0]}
    assert best["classes"]["f1"] == dict.fromkeys("abcde", 1.0)
    assert worst["figures"]["auc"]["mean"] == 0
    assert best["patients"]["p"] == pytest.approx(2 / 51)
    assert best["patients"]["difference"] == best["trainings"]["difference"] > 0.5
    assert "patients" not in worst
    lines = classify_tables.markdown(facts)
    assert lines[0].split("|")[1].strip() == "augmentation"
    assert [cell.strip() for cell in lines[2].split("|")][1:8] == ["none", *["100.00 ± 0.00"] * 6]
    json.dumps(facts, allow_nan=False)
    about = {"model": {"name": "resnet34"}, "data": {"name": "deepdrid"}}
    worth = classify_tables.downstream(facts | about, "none")
    assert worth.scores["map"] == 1.0
    assert worth.scores["map_gain"] == best["patients"]["difference"]
    assert worth.scores["map_gain_low"] <= worth.scores["map_gain"] <= worth.scores["map_gain_high"]
    assert list(classify_tables.downstream(facts | about, "geometric").scores) == ["map"]


def test_the_runs_whose_samples_were_used(folds, tmp_path):
    """A run for all folds, a run for each, and a folder that is of no run."""
    for name in ("geca", "dit_0", "dit_1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    given = {"geca": "geca/expanded/0001", "dit": "dit_{fold}/expanded", "other": "other/expanded", "plain": "plain"}
    used = classify.used({row: str(tmp_path / folder) for row, folder in given.items()}, folds)
    assert used == [("dit", tmp_path / "dit_0"), ("dit", tmp_path / "dit_1"), ("geca", tmp_path / "geca")]


@pytest.mark.slow
def test_a_killed_table_goes_on(tmp_path, monkeypatch, capsys):
    """Stopped in the third of six cells: it is made from the first that is missing, and twice the same."""
    plan = {"folds": 2, "draws": 20}
    for fold in classify_cells.divided(config(), Classify(folds=2)):
        expansion(tmp_path / f"geca_{fold.fold}/expanded", fold.fold, trained_on(fold))
    plan["expansions"] = (f"{tmp_path}/geca_{{fold}}/expanded",)
    seen, ordinary = [], cells.train

    def counted(config, workdir, **given):
        seen.append((config.cell.row, config.cell.fold, config.task.augment, len(given["splits"]["train"])))
        if len(seen) in (3, 8):
            raise SystemExit(143)
        return ordinary(config, workdir, **given)

    monkeypatch.setattr(cells, "train", counted)
    with pytest.raises(SystemExit):
        classify.classify(config(**plan), tmp_path / "run")
    assert not (tmp_path / "run/table.json").exists()
    facts = classify.classify(config(**plan), tmp_path / "run")
    assert [s[:3] for s in seen] == [
        ("none", 0, "none"),
        ("geometric", 0, "geometric"),
        ("geca", 0, "geometric"),
        ("geca", 0, "geometric"),
        ("none", 1, "none"),
        ("geometric", 1, "geometric"),
        ("geca", 1, "geometric"),
    ]
    assert seen[3][3] == seen[0][3] * 3 // 2  # two eyes a patient, and a picture
    assert json.loads((tmp_path / "run/table.json").read_text()) == json.loads(json.dumps(facts))
    assert list(facts["rows"]) == ["none", "geometric", "geca"]
    assert classify.classify(config(**plan), tmp_path / "run") == facts
    assert len(seen) == 7
    assert "| geca " in (tmp_path / "run/table.md").read_text()
    assert "| geca " in capsys.readouterr().out
    assert "geca" in (tmp_path / "run/table.html").read_text()
    assert not list((tmp_path / "run").rglob("checkpoints"))
    # Longer trainings are other trainings; another task is another table.
    for flag, told in (("--config.task.rotation=3.0", "begun with config.task.rotation=15.0, not 3.0"),):
        with pytest.raises(UserError, match=told):
            classify.classify(config(flag, **plan), tmp_path / "run")
    with pytest.raises(SystemExit):
        classify.classify(config("--config.train.steps=5", **plan), tmp_path / "run")
    assert seen[7] == seen[0]


def test_unknown_words(tmp_path):
    with pytest.raises(UserError, match="did you mean eye"):
        classify.classify(config(pool="eyes"), tmp_path)
    with pytest.raises(UserError, match=r"did you mean config\.classify\.folds"):
        classify.classify(config(fold=3), tmp_path)
