"""--mode=study: rows of runs under one measure, resumed, with stand-ins that are named."""

import json

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from PIL import Image

from nca_gen import arrays, build, judge
from nca_gen.errors import UserError
from nca_gen.evaluators.held import Held
from nca_gen.metrics import swd
from nca_gen.runtime import checkpoint, record, run
from nca_gen.sections import untrained
from nca_gen.verbs import study

SPECS = ("swd", "neighbours")


@pytest.fixture(autouse=True, scope="module")
def few_directions():
    """A distance that takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swd, "DIRECTIONS", 8)
        yield


def settings(**changes):
    c = tiny.config()
    c.model = {"name": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4, "image_channels": 3}
    c.update_from_flattened_dict({"sample.sampler": "ddim", "sample.clip": "none", "sample.steps": 2} | changes)
    return c


def trained(root, seed=0):
    """A run of one checkpoint and two lines of a curve: 40 steps of 4 images at 8 images a second."""
    config = settings()
    with checkpoint.manager(root) as saved:
        checkpoint.save(saved, 40, tiny.state(build.task(config), seed)._replace(step=np.int32(40)))
    record.save_config(root, config)
    (root / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "images_per_second": 8.0}) + "\n" for s in (20, 40))
    )
    return str(root)


def config(runs, **changes):
    c = ConfigDict({"seed": 5, "study": {"runs": tuple(runs), "n": 8, "train": 12, "split": "test", "metrics": SPECS}})
    c.update_from_flattened_dict(changes)
    return c


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [trained(root / "one"), trained(root / "two", 7)]


@pytest.fixture(scope="module")
def found(runs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    return workdir, study.study(config(runs), workdir)


@pytest.mark.slow
def test_a_row_has_the_scores_of_the_run_and_its_cost(runs, found):
    workdir, facts = found
    first, second = facts["rows"]
    mine = settings(**{"seed": 5, "held.n": 8, "held.train": 12})
    parts, data = run.parts(mine, runs[0]), Held(mine, build.task(mine), build.splits(mine))
    drawn = np.stack(list(build.pipeline(mine, parts).draw(arrays.keys(5, 8), (16, 16))))
    expected = judge.judge(SPECS, np.clip(drawn, -1, 1), data.real, data.train, 5)
    assert first["scores"] == pytest.approx(expected["scores"], rel=1e-5)
    assert second["scores"]["swd"] != first["scores"]["swd"]
    assert (first["name"], first["parameters"], first["step"], first["training_seconds"]) == ("one", 12_192, 40, 20)
    assert first["images_per_second"] > 0
    assert json.loads((workdir / "study.json").read_text()) == facts


@pytest.mark.slow
def test_the_table_has_a_line_a_run(found):
    workdir, facts = found
    head, _, one, two, *notes = study.table(facts)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (head, one, two)]
    costs = ["Parameters", "Steps", "Training, s", "Memory, MB", "GFLOP/image", "Images/s"]
    assert cells[0] == ["Run", *costs, "swd", "neighbours"]
    assert cells[1][:4] == ["one", "12,192", "40", "20"]
    assert cells[2][0] == "two"
    assert any(note.startswith("swd: ") for note in notes)
    html = (workdir / "study.html").read_text()
    assert html.count("<circle") == 2 * 3  # both runs, over three costs
    assert html.count("<img") == html.count('<tr class="whole">') == 2
    assert "12,192" in html


@pytest.mark.slow
def test_rows_are_kept(runs, found, monkeypatch):
    workdir, facts = found
    monkeypatch.setattr(study, "draw", lambda *_: pytest.fail("the row is there"))
    assert study.study(config(runs), workdir) == facts


@pytest.mark.slow
def test_a_stand_in_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("NCA_GEN_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    kid, diversity, gap = study.metrics()
    assert judge.request(kid).label == "kernel_mmd@inception-random"
    assert judge.request(kid).options == {"subsets": 100, "size": 0.25}
    assert (diversity, judge.request(gap).label) == ("ms_ssim", "fld@inception-random")
    facts = {"rows": [{"protocol": {judge.request(s).label: "" for s in (kid, diversity, gap)}}]}
    assert study.headings(facts)[-1] == "fld@inception-random_gg"


def test_a_metric_without_weights_has_a_stand_in(monkeypatch, tmp_path):
    """Of the same name and options, by random features; what is here, or needs none, stays as it is."""
    for name in ("NCA_GEN_WEIGHTS", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    asked = ("fid", "kid:subsets=9:size=0.5", "precision_recall@inception-clean", "swd", "kid@inception-random")
    assert [study.stand_in(spec) for spec in asked] == [
        "fid@inception-random",
        "kid@inception-random:subsets=9:size=0.5",
        "precision_recall@inception-random",
        "swd",
        "kid@inception-random",
    ]


@pytest.mark.parametrize("runs", [(), ("",), ("nowhere",)])
def test_no_runs(tmp_path, runs):
    with pytest.raises(UserError, match=r"config\.study\.runs"):
        study.study(config(runs), tmp_path)


def about(seed, score, **more):
    """A row of study.json."""
    costs = dict.fromkeys(("parameters", "memory_mb", "gflop_per_image", "images_per_second", "seconds_per_image"), 1.0)
    known = {"alike": "a", "step": 5, "trained_from": seed, "name": f"cells_s{seed}", "model": "geca", "rate": 1.0}
    return costs | known | {"training_seconds": 2.0, "scores": {"swd": score}, "protocol": {"swd": ""}} | more


def test_runs_that_differ_in_their_seed_are_one_row():
    """Mean and standard error of three: 10, 12 and 17 are 13 +- sqrt(13 / 3); of one alone that of its images."""
    three = [about(seed, score, training_seconds=seed) for seed, score in enumerate((10.0, 12.0, 17.0))]
    other = about(0, 20.0, alike="b", name="other", scores={"swd": 20.0, "swd_error": 0.75})
    first, second = study.grouped({"rows": [*three, other]})
    assert (first.name, first.costs["seeds"], first.costs["training_seconds"]) == ("cells", 3, 1.0)
    assert first.scores["swd"] == pytest.approx((13.0, (13 / 3) ** 0.5))
    assert (second.name, second.scores["swd"]) == ("other", (20.0, 0.75))
    assert [line[3] for line in study.written({"rows": [*three, other]})] == [["13 ± 2.1"], ["20 ± 0.75"]]


@pytest.mark.parametrize(
    "more", [{"trained_from": 0}, {"step": 6, "trained_from": 1}, {"alike": "b", "trained_from": 1}]
)
def test_other_runs_are_rows_of_their_own(more):
    """Those of another length or config, and one trained twice from the same seed."""
    assert [line.costs["seeds"] for line in study.grouped({"rows": [about(0, 1.0), about(0, 2.0, **more)]})] == [1, 1]


@pytest.mark.slow
def test_runs_are_seen_from_the_study(runs, tmp_path):
    """A path that begins with a dot: a table that is the last stage of a chain knows its runs by that."""
    with pytest.raises(UserError, match=r"/here/\.\./nowhere holds no run"):
        study.study(config(["../nowhere"]), tmp_path / "here")


@pytest.mark.slow
def test_what_a_run_was_not_trained_for(runs, tmp_path):
    """Tokens of 4 x 4 pixels draw no 18 x 18, and that is said; a hole is filled, and all around it is kept."""
    facts = study.study(config(runs[:1], **{"study.tasks": ("hole", "x2", "18x18")}), tmp_path)
    tasks = facts["rows"][0]["tasks"]
    picture, large = (np.asarray(Image.open(tmp_path / tasks[word]["picture"])) for word in ("hole", "x2"))
    assert picture.shape == (2 * 16 + 2, 4 * 16 + 3 * 2, 3)
    assert large.shape == (32, 4 * 32 + 3 * 2, 3)
    shown, filled = picture[:16, :16], picture[18:, :16]
    around = np.ones((16, 16), bool)
    around[4:12, 4:12] = False
    np.testing.assert_array_equal(filled[around], shown[around])
    assert (filled != shown)[~around].any()
    assert 0 < tasks["hole"]["number"] < 2
    assert "no whole number of 4x4 patches" in tasks["18x18"]["why"]
    page = study.untrained(facts)
    assert page.tables[0].columns == ["Run", "hole, error in the hole", "x2, drift", "18x18, drift"]
    assert page.tables[0].rows[0][-1] == "cannot"
    assert page.facts["protocol"] == {"one, 18x18": tasks["18x18"]["why"]}
    assert "Not trained for" in (tmp_path / "study.html").read_text()


@pytest.mark.parametrize("word", ["x3", "holes", "96", "0x4", ""])
def test_what_is_no_task(word):
    with pytest.raises(UserError, match="is no task: choose of hole, x2, x4, and a size such as 96x96"):
        untrained(word)
