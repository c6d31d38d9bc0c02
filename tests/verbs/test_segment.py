"""--mode=segment: who is trained on, what is measured, and that a killed table goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from nca_gen import build
from nca_gen.data.source import Source, Splits
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.metrics import segmentation
from nca_gen.sections import Segment
from nca_gen.tasks.learner import Learner
from nca_gen.tasks.segment import Task
from nca_gen.verbs import cells, segment, segment_tables


@dataclass(frozen=True)
class Level:
    """A segmenter that knows the grey level of a place: quick to train."""

    classes: int = 3
    ndim: int = 2
    multiple: int = 1

    def init(self, key):
        return {"w": jnp.zeros(self.classes), "b": jnp.zeros(self.classes)}

    def apply(self, params, x):
        return x * params["w"] + params["b"]


def layers(i, size=(16, 8)):
    """A picture of three bands, dark, grey and bright from above, whose edges differ from one to the next."""
    rows = np.arange(size[0])[:, None] + np.zeros(size[1], int)
    classes = (rows >= 3 + i % 4).astype(np.int32) + (rows >= 9 + i % 3)
    return np.uint8(40 + 80 * classes + i % 5)[..., None], classes[..., None]


def source(numbers, fields=("label_map",)):
    def load(j):
        image, classes = layers(numbers[j])
        about = {"name": f"eye{numbers[j]}", "patient": f"P{numbers[j] // 2}"}
        return about | {"image": image} | ({"label_map": classes} if fields else {})

    return Source(load, [(16, 8, 1)] * len(numbers), fields=fields, digest=lambda: repr(numbers))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Twelve eyes of six patients, and a network that takes no time."""
    splits = Splits({"train": source(range(8)), "val": source(range(8, 10)), "test": source(range(8, 12))})
    monkeypatch.setattr(build, "splits", lambda config: splits)
    monkeypatch.setattr(build, "task", lambda config: Task(Level(), Learner(lr=0.3), ema=0.5))


def config(**fields):
    page = {
        "model": {"name": "segment_unet", "classes": 3},
        "task": {"name": "segment"},
        "optimizer": {},
        "data": {"name": "folder", "patch": (16, 8), "flips": "none"},
        "train": {"steps": 30, "batch": 4, "log_every": 10, "checkpoint_every": 10},
        "held": {"split": "test"},
        "mesh": {"data": 1},
        "segment": {"repeats": 2, "draws": 50, "figures": ("dice", "iou:2", "mad")} | fields,
    }
    return build.completed(ConfigDict(page), "segment").lock()


def generated(folder, numbers=range(20, 26), patients=""):
    """What a generator leaves: pictures, their maps, and after whom they were made."""
    for name in ("images", "label_maps"):
        (folder / name).mkdir(parents=True)
    for i in numbers:
        image, classes = layers(i)
        images.write(folder / f"images/{i}.png", image)
        images.write(folder / f"label_maps/{i}.png", classes.astype(np.uint8))
    if patients:
        (folder / "images/labels.csv").write_text(f"filename,patient_id\n{patients}")
    return str(folder)


def names(some):
    return [some.head(i)["name"] for i in range(len(some))]


def test_folds_are_by_patient_and_judge_everyone_once():
    found = segment.divided(config(), Segment(folds=4, repeats=2))
    assert [(f.fold, f.repeat) for f in found] == [(f, r) for f in range(4) for r in range(2)]
    assert sorted(name for f in found[::2] for name in names(f.val)) == [f"eye{i}" for i in range(8)]
    for fold in found:
        assert not {*segment.patients(fold.train)} & {*segment.patients(fold.val)}
        assert len(fold.train) + len(fold.val) == 8
    [own] = segment.divided(config(), Segment(repeats=1))
    assert (names(own.train), names(own.val)) == ([f"eye{i}" for i in range(8)], [f"eye{i}" for i in range(8, 12)])


def test_nobody_is_on_both_sides(monkeypatch):
    monkeypatch.setattr(
        build, "splits", lambda config: Splits({"train": source(range(4)), "test": source(range(3, 6))})
    )
    with pytest.raises(UserError, match="patient P1 is trained on and judged"):
        segment.divided(config(), Segment())
    monkeypatch.setattr(build, "splits", lambda config: Splits({"train": source(range(4), ())}))
    with pytest.raises(UserError, match="no label maps"):
        segment.divided(config(), Segment())


@pytest.mark.slow
def test_so_many_join_as_are_asked_for(tmp_path, capsys):
    [fold] = segment.divided(config(), Segment(repeats=1))
    path = generated(tmp_path / "x", range(20, 50))
    assert len(segment.listed("x", path, fold, Segment())) == 16
    assert names(segment.listed("x", path, fold, Segment(share=0.25))) == ["20.png", "21.png"]
    assert len(segment.listed("x", path, fold, Segment(share=0))) == 30
    assert "fewer" not in capsys.readouterr().out
    few = generated(tmp_path / "y", range(3))
    assert len(segment.listed("y", few, fold, Segment())) == 3
    assert "y has 3 generated images, fewer than 2 times the 8 real" in capsys.readouterr().out
    path = generated(tmp_path / "fold_0", range(3), "0.png,P1\n1.png,p 4\n2.png,P2\n")
    with pytest.raises(UserError, match="made after patient P4, who is judged"):
        segment.listed("z", str(tmp_path / "fold_{fold}"), fold, Segment())


def test_a_lower_resolution_is_trained_on_and_judged():
    """Of half the rows: the maps that are trained on have the odd ones twice, those that are judged stay."""
    [fold] = segment.divided(config(), Segment(repeats=1))
    low = segment.coarser(fold, 8)
    assert (names(low.train), names(low.val)) == (names(fold.train), names(fold.val))
    image, classes = layers(0)
    np.testing.assert_array_equal(low.train[0]["label_map"], classes[1::2].repeat(2, 0))
    np.testing.assert_array_equal(low.train[0]["image"], images.coarse(image, 8))
    assert (low.train[0]["image"] != image).any()
    np.testing.assert_array_equal(low.val[0]["label_map"], fold.val[0]["label_map"])
    assert len({some.digest() for some in (fold.train, low.train, segment.coarser(fold, 4).train)}) == 3
    with pytest.raises(UserError, match="no image has more than 16 places a side"):
        segment.coarser(fold, 16)
    with pytest.raises(UserError, match="a name of its own, not 'real' or 'real-8'"):
        segment.systems(("real-8=x",), segment.lower(Segment(resolutions=(8,))))


@pytest.mark.slow
def test_rows_of_lower_resolutions(tmp_path):
    """They are made of real images alone, and with a tenth of the places there is less to see."""
    facts = segment.segment(config(repeats=1, resolutions=(8, 2)), tmp_path)
    dice = {row: about["figures"]["dice"]["mean"] for row, about in facts["rows"].items()}
    assert [*dice] == ["real", "real-8", "real-2"]
    assert dice["real"] > dice["real-8"] > dice["real-2"]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in segment_tables.markdown(facts)]
    assert [line[:2] for line in lines[2:5]] == [["real", "8"], ["real-8", "8"], ["real-2", "8"]]
    sees = [json.loads((tmp_path / f"cells/{row}/0-0/config.json").read_text())["cell"]["train"] for row in dice]
    assert len({*sees}) == 3


def results(rows, patients="aabb"):
    return [
        {"rows": [one | {"name": "", "patient": p} for one, p in zip(some, patients, strict=True)]}
        | {"added": added, "seconds": 1.0}
        for some, added in rows
    ]


def test_the_table_counts():
    """Perfect against shifted by two rows: means, spread, both tests."""
    truth = [layers(i)[1][..., 0] for i in range(4)]
    right = [segmentation.measured(t, t, 3) for t in truth]
    wrong = [segmentation.measured(t, np.roll(t, 2, 0) * (np.arange(16) > 1)[:, None], 3) for t in truth]
    found = {"real": results([(wrong, 0), (wrong, 0)]), "ldm": results([(right, 16), (right, 16)])}
    plan = Segment(repeats=2, draws=50, figures=("dice", "iou:2", "mad"))
    facts = segment_tables.table(found, [(8, 4), (8, 4)], plan, ("out", "artery", "vein"))
    best, worst = facts["rows"]["ldm"], facts["rows"]["real"]
    assert best["figures"]["dice"] == {"mean": 1.0, "std": 0.0, "values": [1.0, 1.0]}
    assert best["figures"]["mad"]["mean"] == 0
    assert worst["figures"]["mad"]["mean"] == 2
    below = [16 - 9 - i % 3 for i in range(4)]
    assert worst["figures"]["iou:2"]["mean"] == pytest.approx(np.mean([(n - 2) / n for n in below]))
    assert facts["notes"] == ["only 2 patients are judged: what other patients would give is not known"]
    test = best["against"]["mad"]
    assert (test["patients"]["difference"], test["trainings"]["difference"]) == (-2, -2)
    assert test["patients"]["p"] == pytest.approx(2 / 51)
    assert "against" not in worst
    json.dumps(facts, allow_nan=False)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in segment_tables.markdown(facts)]
    assert lines[0] == ["trained on", "n", "Dice", "IoU vein", "MAD"]
    assert lines[3] == ["real + ldm", "8 + 16", "1.000 ± 0.000", "1.000 ± 0.000", "0.000 ± 0.000"]
    assert lines[9][:4] == ["ldm", "MAD", "-2.000", "-2.000 to -2.000"]


def test_images_of_a_patient_are_drawn_together():
    """The interval of a mean over 2 patients of 2 images each has the ends that either of them alone gives."""
    values = [np.array([1.0, 3.0, 10.0, 20.0])]
    found = segment_tables.compared(values, [0 * values[0]], [["a", "a", "b", "b"]], [(4, 4)], Segment(repeats=1))
    assert found["patients"]["difference"] == 8.5
    assert (found["patients"]["low"], found["patients"]["high"]) == (2, 15)
    assert found["trainings"]["p"] is None
    holes = [np.array([1.0, np.nan, 10.0, 20.0])]
    assert segment_tables.compared(holes, [0 * holes[0]], [["a", "a", "b", "b"]], [(4, 4)], Segment(repeats=1))[
        "patients"
    ]["difference"] == pytest.approx(31 / 3)


@pytest.mark.slow
def test_a_killed_table_goes_on(tmp_path, monkeypatch, capsys):
    """Stopped in the second of four cells: it is made from the first that is missing, and twice the same."""
    plan = {"expansions": (f"ldm={generated(tmp_path / 'ldm')}",)}
    seen, ordinary = [], cells.train

    def counted(config, workdir, **given):
        seen.append((config.cell.row, config.cell.repeat, config.seed, len(given["splits"]["train"])))
        if len(seen) in (2, 6):
            raise SystemExit(143)
        return ordinary(config, workdir, **given)

    monkeypatch.setattr(cells, "train", counted)
    with pytest.raises(SystemExit):
        segment.segment(config(**plan), tmp_path / "run")
    assert not (tmp_path / "run/table.json").exists()
    facts = segment.segment(config(**plan), tmp_path / "run")
    assert seen == [("real", 0, 0, 8), ("ldm", 0, 0, 14), ("ldm", 0, 0, 14), ("real", 1, 1, 8), ("ldm", 1, 1, 14)]
    assert json.loads((tmp_path / "run/table.json").read_text()) == json.loads(json.dumps(facts))
    assert segment.segment(config(**plan), tmp_path / "run") == facts
    assert len(seen) == 5
    assert facts["rows"]["real"]["figures"]["dice"]["mean"] > 0.9  # grey levels tell these layers
    assert "| real + ldm " in (tmp_path / "run/table.md").read_text()
    assert "| real + ldm " in capsys.readouterr().out
    assert "ldm" in (tmp_path / "run/table.html").read_text()
    assert not list((tmp_path / "run").rglob("checkpoints"))
    # Other generated images are another table, and nothing is overwritten.
    _, classes = layers(60)
    images.write(tmp_path / "ldm/label_maps/25.png", classes.astype(np.uint8))
    with pytest.raises(UserError, match=r"begun with config\.cell\.added"):
        segment.segment(config(**plan), tmp_path / "run")


def test_what_is_refused(tmp_path, monkeypatch):
    for fields, told in (
        ({"figures": ("dise",)}, "did you mean dice"),
        ({"figures": ("iou:3",)}, "classes are numbers from 0 to 2"),
        ({"expansions": ("a=x", "a=y")}, "a name of its own"),
        ({"expansions": ("real=x",)}, "not 'real'"),
        ({"expansions": (f"a={tmp_path / 'none'}",)}, "no folder .*images"),
    ):
        with pytest.raises(UserError, match=told):
            segment.segment(config(**fields), tmp_path / "run")
    monkeypatch.setattr(build, "task", lambda config: object())
    with pytest.raises(UserError, match=r"task\.name=segment"):
        segment.segment(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
