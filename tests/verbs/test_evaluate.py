"""The evaluation: who is asked when, what they leave in a workdir, and sets that are scored without a model."""

import json

import numpy as np
import pytest
import tiny

from nca_gen import build
from nca_gen.contracts import Figure, Page, Table
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.metrics import drift, neighbours, swd
from nca_gen.runtime import checkpoint
from nca_gen.verbs import evaluate as verb

GAP = 2


@pytest.fixture(autouse=True, scope="module")
def few_directions():
    """A distance that takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swd, "DIRECTIONS", 8)
        yield


def cells(path, rows, columns, size=(16, 16)):
    """The pictures of a grid, [rows, columns, H, W, C]."""
    grid = images.read(path)
    assert grid.shape[:2] == tuple(n * (s + GAP) - GAP for n, s in zip((rows, columns), size, strict=True))
    steps = [range(0, n * (s + GAP), s + GAP) for n, s in zip((rows, columns), size, strict=True)]
    return np.stack([[grid[y : y + size[0], x : x + size[1]] for x in steps[1]] for y in steps[0]])


# When.


def plan(**every):
    config = tiny.config(**{"train.steps": 100})
    config.evals = {name: {"every": steps} for name, steps in every.items()}
    return config


@pytest.mark.parametrize(
    ("step", "before", "names"),
    [
        (9, {}, ()),
        (10, {}, ("a",)),
        (10, {"a": 10}, ()),
        (20, {"a": 10}, ("a",)),
        (25, {"a": 19}, ("a",)),  # a multiple was passed
        (40, {"a": 40}, ("b",)),
        (99, {"a": 90, "b": 80}, ()),
        (100, {"a": 90, "b": 80}, ("a", "b")),
        (100, {"a": 100, "b": 80}, ("b",)),
        (103, {"a": 100, "b": 100}, ("a", "b")),  # a run that was made longer, and ended between two
    ],
)
def test_each_comes_at_its_own_cadence_and_at_the_end(step, before, names):
    assert verb.due(plan(a=10, b=40, c=0), step, before) == names


def test_what_was_done_is_told_by_the_files(tmp_path):
    for step, name in ((10, "scores"), (30, "scores"), (20, "films"), (40, "films")):
        folder = tmp_path / "eval" / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text("{}")
    (tmp_path / "eval" / "copy").mkdir()
    (tmp_path / "eval" / "copy" / "scores.json").write_text("{}")
    assert verb.last(tmp_path, 30) == {"scores": 30, "films": 20}
    assert verb.last(tmp_path, 5) == {}


# What is left in a workdir: by evaluators that know the answer.


@pytest.fixture
def asked(monkeypatch):
    """Evaluators that write what they are asked: "plain", "twice" and "nothing"; the sections they were given."""
    sections = []

    def plain(pipeline, data, folder, /, *, word="usual"):
        sections.append((pipeline.parts["model"].step, data.n, word))
        images.write(folder / "a.png", np.zeros((4, 6, 3), np.uint8))
        facts = {"protocol": {"sharpness": "Higher is better."}, "networks": {}, "notes": {}, "counts": {}, "seed": 3}
        table = Table("", ["Word", "Number"], [[word, 7]])
        rows = {"rows": [{"word": word}]} if word == "twice" else {}
        values = {"sharpness": 2.5, "sharpness_part": 1.0} if word == "usual" else {}
        return Page("Words", values, [Figure("a.png", word)], [table], facts | rows, lines=[f"said {word}"])

    def nothing(pipeline, data, folder, /):
        return Page("Nothing")

    known = {"plain": (20, plain), "nothing": (20, nothing)}
    known["again"] = 0, lambda *given: plain(*given, word="twice")
    monkeypatch.setattr(build, "evaluators", lambda config: known)
    config = tiny.config(**{"train.steps": 20})
    config.evals = {"plain": {"every": 20}, "nothing": {"every": 20}, "again": {"every": 0, "name": "plain"}}
    return config, sections


def test_pages_are_written_with_their_pictures(asked, tmp_path, capsys):
    """Due ones only; empty pages are not; scores come back and are said."""
    config, sections = asked
    found = verb.evaluate(config, build.task(config), {}, tiny.splits(), tmp_path, 20)
    assert found == {"sharpness": 2.5, "sharpness_part": 1.0}
    assert sections == [(20, 8, "usual")]
    folder = tmp_path / "eval" / "00000020"
    assert {p.name for p in folder.iterdir()} == {"plain.json", "a.png"}
    facts = json.loads((folder / "plain.json").read_text())
    assert (facts["scores"], facts["step"], facts["split"], facts["seed"]) == (found, 20, "test", 3)
    figure = {"file": "a.png", "caption": "usual", "kind": "pair", "strip": ""}
    assert facts["page"]["figures"] == [figure]
    assert facts["page"]["tables"][0]["rows"] == [["usual", 7]]
    html = (tmp_path / "report.html").read_text()
    assert "<h2>Words" in html
    assert capsys.readouterr().out.splitlines() == ["sharpness 2.5"]
    assert verb.evaluate(config, build.task(config), {}, tiny.splits(), tmp_path, 20) == found  # again is the same
    assert verb.last(tmp_path, 20) == {"plain": 20}


@pytest.mark.slow
def test_the_verb_asks_all_of_the_newest_checkpoint(asked, tmp_path, monkeypatch, capsys):
    """An evaluator that is asked twice has two pages, and a folder for its second pictures."""
    config, sections = asked
    task = build.task(config)
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 7, tiny.state(task)._replace(step=np.int32(7)))
    monkeypatch.setattr(build, "splits", lambda config: tiny.splits())
    facts = verb.everything(config, tmp_path)
    assert sections == [(7, 8, "usual"), (7, 8, "twice")]
    assert facts["scores"] == {"sharpness": 2.5, "sharpness_part": 1.0}
    assert (facts["step"], facts["again"]) == (7, [{"word": "twice"}])
    folder = tmp_path / "eval" / "00000007"
    assert {p.name for p in folder.iterdir()} == {"plain.json", "a.png", "again", "again.json"}
    assert json.loads((folder / "again.json").read_text())["page"]["figures"][0]["file"] == "again/a.png"
    assert (tmp_path / "report.html").read_text().count("<img") == 2
    said = capsys.readouterr().out.splitlines()
    assert said == ["said usual", "said twice", f"the report is {tmp_path / 'report.html'}"]


# The evaluation of a model, whole.


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """config, task, parameters, scores and folder of one evaluation."""
    small = {"train.steps": 20, "model.steps": 2, "sample.steps": 2, "sample.large": ()}
    workdir, config = tmp_path_factory.mktemp("run"), tiny.config(**small)
    config.evals = {name: {"every": 5} for name in ("scores", "nearest", "films")}
    task = build.task(config)
    params = tiny.params(task.model)
    scores = verb.evaluate(config, task, params, tiny.splits(), workdir, 20)
    return config, task, params, scores, workdir / "eval" / "00000020"


@pytest.mark.slow
def test_every_file_is_there(done):
    folder = done[-1]
    pictures = {"real.png", "samples.png", "neighbours.png", "nca_strip.png", "nca.webp", "diffusion_strip.png"}
    pictures.add("diffusion.webp")
    assert {p.name for p in folder.iterdir()} == pictures | {"scores.json", "nearest.json", "films.json"}
    html = (folder.parents[1] / "report.html").read_text()
    assert html.count("<img") == len(pictures)
    for word in ("Samples", "Scores", "Nearest training images", "How an image grows"):
        assert f"<h2>{word}</h2>" in html


@pytest.mark.slow
def test_scores_are_told_with_their_protocol(done):
    *_, scores, folder = done
    facts = json.loads((folder / "scores.json").read_text())
    assert facts["scores"] == scores
    assert facts["protocol"] == {m.__name__.split(".")[-1]: m.ABOUT.terms for m in (swd, drift, neighbours)}
    assert facts["counts"] == {"real": 8, "generated": 8, "train": 12}
    assert (facts["step"], facts["split"], facts["seed"]) == (20, "test", 3)
    assert facts["sampler"] == "dpm_solver_pp, 2 steps, clip static"
    assert facts["images_per_second"] == pytest.approx(8 / facts["seconds"])


@pytest.mark.slow
def test_again_is_the_same(done):
    """Everything is drawn from the seed: a second evaluation overwrites the first with itself."""
    config, task, params, scores, folder = done
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "scores.json"}
    assert verb.evaluate(config, task, params, tiny.splits(), folder.parents[1], 20) == scores
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "scores.json"} == before


# Sets without a model.


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of images, the second with a copy of one of the first, and the arrays that they hold."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (n, 16, 16, 3), np.uint8) for name, n in (("a", 9), ("b", 10), ("t", 11))}
    arrays["t"][5] = arrays["a"][3]
    for name, some in arrays.items():
        (root / name).mkdir()
        for i, image in enumerate(some):
            images.write(root / name / f"{i}.png", image)
    return root, {name: images.to_float(some) for name, some in arrays.items()}


@pytest.mark.slow
def test_two_folders_are_scored_like_arrays(folders, tmp_path):
    root, x = folders
    paths = [str(root / name) for name in "abt"]
    facts = verb.compare(*paths, None, tmp_path)
    assert facts["scores"] == swd.score(x["a"], x["b"], None, 0) | drift.score(x["a"], x["b"], None, 0) | (
        neighbours.score(x["a"], x["b"], x["t"], 0)
    )
    assert facts["scores"]["neighbours_min"] == 0
    assert facts["counts"] == {"generated": 9, "real": 10, "train": 11}
    folder = tmp_path / "eval" / "00000000"
    assert json.loads((folder / "scores.json").read_text()) == facts
    page = cells(folder / "neighbours.png", 2, 8)
    np.testing.assert_array_equal(page[0, 0], page[1, 0])  # the copy comes first
    np.testing.assert_array_equal(page[0, 0], images.from_float(x["a"][3]))
    report = (tmp_path / "report.html").read_text()
    assert "held against" in report
    assert "step 0" not in report
    assert report.count("<img") == 3


def test_a_page_is_about_the_newest_comparison_alone(folders, tmp_path):
    """No nearest training images of another set stay there; and nothing is written beside a run."""
    a, b = (str(folders[0] / name) for name in "ab")
    verb.compare(a, b, a, ["neighbours"], tmp_path)
    verb.compare(b, a, None, ["drift"], tmp_path)
    assert sorted(path.name for path in (tmp_path / "eval" / "00000000").iterdir()) == [
        *("real.png", "samples.png", "scores.json")
    ]
    assert "Nearest" not in (tmp_path / "report.html").read_text()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is what a run is kept in"):
        verb.compare(a, b, None, ["drift"], tmp_path)


def test_an_npz_in_the_layout_of_adm(folders, tmp_path):
    root, x = folders
    np.savez(tmp_path / "a.npz", images.from_float(x["a"]))
    facts = verb.compare(str(tmp_path / "a.npz"), str(root / "b"), None, ["drift"], None)
    assert facts["scores"] == drift.score(x["a"], x["b"], None, 0)


def test_sets_of_two_kinds_do_not_meet(folders, tmp_path):
    root, _ = folders
    np.save(tmp_path / "volumes.npy", np.zeros((2, 4, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match=r"different kinds: .*a holds images, .*volumes.npy holds volumes"):
        verb.compare(str(root / "a"), str(tmp_path / "volumes.npy"), None, None, None)


@pytest.mark.parametrize(
    ("specs", "kind"),
    [
        ((), "images"),
        (("swd", "drift"), "images"),
        (("pfid",), ""),
        (("total_variation",), ""),
        (("swd", "pfid"), "images"),
    ],
)
def test_metrics_tell_what_a_tiled_file_is(specs, kind):
    assert verb.wanted(specs) == kind


def test_pictures_of_a_set_are_drawn_from_all_of_it(tmp_path):
    """Of 40 images in the order of their shade, not the first ones, and each once."""
    shades = np.linspace(-0.9, 0.9, 40, dtype=np.float32)
    opened = {"generated": np.broadcast_to(shades[:, None, None, None], (40, 16, 16, 1)), "real": None, "train": None}
    page = verb.gallery(opened, Page("Samples", facts={"seed": 0}), tmp_path)["scores"]
    assert [figure.file for figure in page.figures] == ["samples.png"]
    shown = cells(tmp_path / "samples.png", 4, 4)[:, :, 0, 0, 0].ravel().astype(int)
    assert len(set(shown)) == 16
    assert [*shown] == sorted(shown)
    assert shown[-1] > images.from_float(shades)[30]
