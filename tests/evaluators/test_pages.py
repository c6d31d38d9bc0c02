"""What evaluators show of samples that are known."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pigment
import PIL.Image
import pytest
import tiny
from pigment import asked, painted

from nca_gen.contracts import Automaton, Heir
from nca_gen.data import pipeline as batches
from nca_gen.data.source import Source, Splits, of
from nca_gen.errors import UserError
from nca_gen.evaluators import films, grades, growth, guided, heredity, nearest, samplers, scores, sweep
from nca_gen.io import images, sets
from nca_gen.metrics import drift, neighbours, total_variation
from nca_gen.metrics.notes import collecting
from nca_gen.report import files

GAP = 2


def cells(path, rows, columns, size=(16, 16)):
    """The pictures of a grid, [rows, columns, H, W, C]."""
    grid = images.read(path)
    assert grid.shape[:2] == tuple(n * (s + GAP) - GAP for n, s in zip((rows, columns), size, strict=True))
    steps = [range(0, n * (s + GAP), s + GAP) for n, s in zip((rows, columns), size, strict=True)]
    return np.stack([[grid[y : y + size[0], x : x + size[1]] for x in steps[1]] for y in steps[0]])


def near(shown, values):
    """Equal, to a grey level."""
    assert np.abs(shown.astype(int) - images.from_float(np.asarray(values, np.float32))).max() <= 1


def real(split, n, size=(16, 16)):
    return batches.examples(tiny.graded()[split], patch=size, n=n, seed=3)


def labels(n=8):
    return np.eye(3)[real("test", n)["label"][:, 0]]


def test_the_painter_is_what_it_is_taken_for():
    assert isinstance(pigment.Paint(), Automaton)
    assert isinstance(pigment.Paint(), Heir)


# Scores, and samples to look at.


@pytest.mark.slow
def test_scores_are_those_of_the_metrics(tmp_path):
    """Sample i has the class of real image i; what is known is what is asked for, with its circumstances."""
    pipeline, data = asked(**{"sample.large": (24, 40)})
    page = scores.evaluate(pipeline, data, tmp_path, metrics=("drift", "neighbours"))
    drawn, test, train = painted(labels()).astype(np.float32), real("test", 8)["image"], real("train", 12)["image"]
    with collecting():  # the held-out patches are among those of training here, which is noted
        expected = drift.score(drawn, test, train, 3) | neighbours.score(drawn, test, train, 3)
    assert page.scores.keys() == expected.keys()
    assert page.scores["drift"] == pytest.approx(expected["drift"], rel=1e-5)
    assert page.scores["neighbours_generated"] == pytest.approx(expected["neighbours_generated"], rel=1e-5)
    assert page.facts["protocol"] == {"drift": drift.ABOUT.terms, "neighbours": neighbours.ABOUT.terms}
    assert page.facts["counts"] == {"real": 8, "generated": 8, "train": 12}
    assert page.facts["sampler"] == "ddim, 4 steps, clip none"
    assert page.facts["images_per_second"] == pytest.approx(8 / page.facts["seconds"])
    assert any(line.startswith("drift ") for line in page.lines)
    near(cells(tmp_path / "samples.png", 3, 3).reshape(9, 16, 16, 3)[:8], drawn)
    np.testing.assert_array_equal(images.to_float(cells(tmp_path / "real.png", 3, 3).reshape(9, 16, 16, 3)[:8]), test)
    near(images.read(tmp_path / "large.png"), painted(labels(1), (24, 40))[0])
    captions = [figure.caption for figure in page.figures]
    assert captions[0] == "**Generated** at step 1,234."
    assert "(16 \N{MULTIPLICATION SIGN} 16)" in captions[2]


@pytest.mark.slow
def test_classes_of_samples_are_those_that_they_were_asked_for():
    """Those of the real patches; of training patches what their labels say."""
    _, data = asked()
    held, trained = data.classes, real("train", 12)["label"][:, 0]
    assert held.names == ("0", "1", "2")
    np.testing.assert_array_equal(held.members["generated"], labels() > 0)
    np.testing.assert_array_equal(held.members["real"], labels() > 0)
    np.testing.assert_array_equal(held.members["train"], np.eye(3)[trained] > 0)


def test_a_table_of_classes():
    counts = {"DME": {"generated": 3, "real": 4}, "CNV": {"generated": 1, "real": 2}}
    (table,) = scores.by_class({"classes": {"counts": counts, "scores": {"fid": {"DME": 2.5, "CNV": None}}}})
    assert table.columns == ["Class", "generated", "real", "fid"]
    assert table.rows == [["DME", 3, 4, 2.5], ["CNV", 1, 2, None]]
    assert scores.by_class({}) == []


def test_classes_of_files_are_labels_or_folders(tmp_path):
    """A column of labels.csv in both; without one, folders of the same names; else none."""
    paths = {role: str(tmp_path / role) for role in ("generated", "real")}
    for role in paths:
        for i, name in enumerate(("a/1.png", "a/2.png", "b/3.png")):
            (tmp_path / role / name).parent.mkdir(parents=True, exist_ok=True)
            images.write(tmp_path / role / name, np.full((4, 4, 3), 50 * i, np.uint8))

    def found():
        return scores.classes(paths, {role: sets.open(path) for role, path in paths.items()})

    assert (found().names, found().members["real"].tolist()) == (
        ("a", "b"),
        [[True, False], [True, False], [False, True]],
    )
    for path in paths.values():
        (Path(path) / "labels.csv").write_text("filename,grade\na/1.png,2\na/2.png,0\nb/3.png,2\n")
    assert (found().names, found().members["real"][:, 1].tolist()) == (("grade 0", "grade 2"), [True, False, True])
    (Path(paths["generated"]) / "labels.csv").write_text("filename,grade\na/1.png,DME\n")
    assert found().names == ("a", "b")
    (Path(paths["generated"]) / "b" / "3.png").unlink()
    assert found() is None


@pytest.mark.slow
def test_one_metric_and_nothing_large(tmp_path):
    page = scores.evaluate(*asked(), tmp_path, metrics=("drift",))
    assert all(name.startswith("drift") for name in page.scores)
    assert not (tmp_path / "large.png").exists()
    assert [figure.file for figure in page.figures] == ["samples.png", "real.png"]


@pytest.mark.slow
def test_evaluators_share_the_samples():
    pipeline, data = asked()
    other, _ = asked()
    assert data.samples(pipeline) is data.samples(pipeline)
    assert data.samples(pipeline) is not data.samples(other)
    np.testing.assert_array_equal(data.rows(11)["label"], np.concatenate([labels(), labels()[:3]]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        (
            {"sample.guidance": 1.5, "sample.heredity": "hidden"},
            ", guidance 1.5, heredity hidden",
        ),
        ({"sample.growth": (2, 4)}, ", growth (2, 4)"),
        ({"sample.growth_guidance": 0.5, "sample.growth_age": 2}, ", growth_guidance 0.5, growth_age 2"),
    ],
)
def test_a_sampler_in_words(changes, words):
    assert scores.sampler(pigment.config(**changes).sample) == f"ddim, 4 steps, clip none{words}"


@pytest.mark.slow
def test_samples_and_their_neighbours(tmp_path):
    """Below each sample the training patch that is nearest, by brute force; the most suspicious first."""
    pipeline, data = asked()
    page = nearest.evaluate(pipeline, data, tmp_path)
    drawn, train = painted(labels()), real("train", 12)["image"]
    above, below = cells(tmp_path / "neighbours.png", 2, 8)
    distance = ((drawn[:, None] - train[None]) ** 2).sum((2, 3, 4))
    order = np.argsort(distance.min(1).round(6), kind="stable")
    near(above, drawn[order])
    np.testing.assert_array_equal(images.to_float(below), train[distance.argmin(1)[order]])
    assert "samples at step 1,234" in page.figures[0].caption
    near_median, nearest_of_all = nearest.course(np.array([0.1, 0.5, 0.3]), np.array([0.1, 0.2, 0.9])).values()
    assert (near_median, nearest_of_all) == pytest.approx((0.3 / 0.2, 0.1 / 0.2))
    assert page.facts["course"].keys() == nearest.course(np.ones(1), np.ones(1)).keys()


@pytest.mark.slow
def test_a_row_of_samples_a_class(tmp_path):
    """Two columns: with 8 samples and 3 classes."""
    page = grades.evaluate(*asked(), tmp_path)
    shown = cells(tmp_path / "grades.png", 3, 2)
    near(shown, np.stack([painted(np.eye(3)[[k, k]]) for k in range(3)]))
    assert page.title == "Every class"


# Films.


def test_a_strip_has_no_frame_twice():
    assert films.spaced(4, 10).tolist() == [0, 1, 2, 3]
    assert films.spaced(25, 5).tolist() == [0, 6, 12, 18, 24]


@pytest.mark.slow
def test_films(tmp_path):
    """The way of a sample ends in the sample; a call of the cells grows from the noisy patch's left to its right."""
    pipeline, data = asked()
    page = films.evaluate(pipeline, data, tmp_path)
    above, below = cells(tmp_path / "diffusion_strip.png", 2, 4)
    near(above[-1], painted(labels(1))[0])
    near(below, painted(labels(1)).repeat(4, 0))  # what it has in mind never changes
    strip = cells(tmp_path / "nca_strip.png", 3, 4 + 2)
    np.testing.assert_array_equal(images.to_float(strip[:, -1]), data.real[:3])
    a, s = data.task.process.levels(jnp.asarray(data.task.process.times(3)[1:2]))
    noise = (images.to_float(strip[:, 0]) - float(a[0]) * data.real[:3]) / float(s[0])
    assert abs(np.median(np.abs(noise)) - 0.67) < 0.1  # of a normal distribution, however its tails are clipped
    for age in range(4):
        near(strip[:, 1 + age], painted(labels(3), steps=age))
    for name, frames in (("diffusion", 4), ("nca", 4)):
        with PIL.Image.open(tmp_path / f"{name}.webp") as film:
            assert film.n_frames == frames
    assert [figure.kind for figure in page.figures] == ["film", "film"]
    assert page.curves == {}


@pytest.mark.slow
def test_what_steps_inherit_is_a_curve(tmp_path):
    """What is handed on counts the steps."""
    page = films.evaluate(*asked(**{"sample.heredity": "hidden"}), tmp_path)
    assert page.facts["hidden_rms"] == [1, 2, 3, 4]
    assert page.curves == {films.HIDDEN: [(25.0, 1.0), (50.0, 2.0), (75.0, 3.0), (100.0, 4.0)]}


def test_a_film_of_volumes_decodes_no_more_than_it_shows(tmp_path, monkeypatch):
    """One volume, each frame of it once, and of what the model has in mind the frames of the strip."""
    decoded = []

    def trajectory(here, key, size, *_, frames, lay):
        volumes = jnp.zeros((len(key), *size, 1))
        return [Namespace(x=volumes, x0=volumes)] * (frames + 1)

    def decode(x):
        decoded.append(len(x))
        return x

    monkeypatch.setattr(films.sampling, "trajectory", trajectory)
    monkeypatch.setattr(films.sampling, "spread", lambda key, part: (key, part, None))
    monkeypatch.setattr(films.sampling, "hidden_rms", lambda carries: [])
    monkeypatch.setattr(films.Held, "rows", lambda self, n: None)
    pipeline, data = asked(**{"data.patch": (4, 4, 4)})
    films.diffusion(replace(pipeline.parts["model"], decode=decode), data, tmp_path)
    assert decoded == [1] * (films.FRAMES + 1 + films.SHOWN + 2)


# Tables of settings.


@pytest.mark.slow
def test_samplers_by_their_steps(tmp_path):
    """Each row has the scores and the first samples of its own settings."""
    pipeline, data = asked()
    page = samplers.evaluate(pipeline, data, tmp_path, rows=("ddim:4", "ddim:8:2-5"), metrics=("drift",))
    for (steps, age), row in zip(((4, 3), (8, 5)), page.facts["rows"], strict=True):
        drawn = painted(labels(), steps=age).astype(np.float32)
        expected = drift.score(np.clip(drawn, -1, 1), data.real, None, 3)
        assert row["scores"] == pytest.approx(expected, abs=1e-5)
        assert (row["sampler"], row["steps"]) == ("ddim", steps)
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"])
        near(cells(tmp_path / row["picture"], 1, 8)[0], drawn)
    assert [figure.caption for figure in page.figures] == ["**ddim, 4 steps**", "**ddim, 2-5 cell steps, 8 steps**"]
    [table] = page.tables
    assert table.columns == ["Sampler", "Steps", "drift", "Seconds", "Images per second"]
    assert table.rows[1][:3] == ["ddim, 2-5 cell steps", 8, page.facts["rows"][1]["scores"]["drift"]]
    head, four, eight = page.lines
    assert head.split() == ["sampler", "steps", "drift", "seconds", "images/s"]
    assert four.split()[:3] == ["ddim", "4", f"{page.facts['rows'][0]['scores']['drift']:.4g}"]
    assert eight.startswith("ddim, 2-5 cell steps")
    assert page.facts.keys() == {"rows", "clip", "protocol", "counts", "seed"}
    json.dumps(page.facts)


def test_nothing_to_compare(tmp_path):
    pipeline, data = asked()
    for evaluator in (samplers, heredity, growth):
        page = evaluator.evaluate(pipeline, data, tmp_path)
        assert not files.contains(page)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ddmp:4", r"evals\.samplers\.rows 'ddmp'.*did you mean ddpm"),
        *[(spec, f"'{spec}'; .*1 to 12 steps") for spec in ("ddim:13", "ddim:0")],
        *[
            (spec, f"'{spec}'; give steps, like ddim:20")
            for spec in ("ddim", "ddim:x", "ddim:4:0", "ddim:4:float16", "ddim:4:2-")
        ],
    ],
)
def test_a_sampler_that_cannot_be(spec, said):
    _, data = asked()
    with pytest.raises(UserError, match=said):
        samplers.settings(["ddpm:12", spec], data.task.process)


@pytest.mark.slow
def test_what_a_row_of_samplers_may_set():
    _, data = asked()
    specs = ["ddpm:12", "ddim:3:bfloat16", "ddim:4:2-8", "ddim:4:6:float32"]
    plain, low, grown, all_of_it = samplers.settings(specs, data.task.process)
    assert plain == {"sampler": "ddpm", "steps": 12}
    assert low == {"sampler": "ddim", "steps": 3, "dtype": "bfloat16"}
    assert grown == {"sampler": "ddim", "steps": 4, "growth": (2, 8)}
    assert all_of_it == {"sampler": "ddim", "steps": 4, "growth": (6,), "dtype": "float32"}
    assert [sweep.label(row) for row in (plain, all_of_it)] == ["ddpm", "ddim, 6 cell steps, float32"]
    [spaced] = samplers.settings(["ddim:4:karras:6:float32"], data.task.process)
    assert spaced == all_of_it | {"grid": "karras"}
    assert sweep.label(spaced) == "ddim, 6 cell steps, karras, float32"
    [stated] = samplers.settings(["ddim:4:11+7+3+1:6:float32"], data.task.process)
    assert stated == all_of_it | {"grid": "11+7+3+1"}
    [guided] = samplers.settings(["ddim:4:karras:w0.5"], data.task.process)
    assert guided == {"sampler": "ddim", "steps": 4, "grid": "karras", "growth_guidance": 0.5}
    assert sweep.label(guided) == "ddim, karras, growth guidance 0.5"


@pytest.mark.slow
def test_the_ablation_of_heredity(tmp_path):
    """Two ways to inherit, with and without guidance: what is inherited brightens, guidance colours."""
    pipeline, data = asked()
    inherit, guidance = ("none", "hidden"), (1.0, 1.5)
    page = heredity.evaluate(pipeline, data, tmp_path, inherit=inherit, guidance=guidance, metrics=("drift",))
    settings = [(h, g) for g in guidance for h in inherit]
    assert [(row["heredity"], row["guidance"]) for row in page.facts["rows"]] == settings
    for (inherits, scale), row in zip(settings, page.facts["rows"], strict=True):
        near(cells(tmp_path / row["picture"], 1, 8)[0], painted(scale * labels(), age=3 * (inherits == "hidden")))
    assert len({row["scores"]["drift"] for row in page.facts["rows"]}) == 4
    head, *lines = page.lines
    assert head.split() == ["heredity", "guidance", "drift", "seconds", "images/s"]
    assert lines[3].split()[:2] == ["hidden", "1.5"]
    assert page.figures[3].caption == "**the hidden state inherited, guidance 1.5**"


@pytest.mark.parametrize(
    ("inherit", "guidance", "rows"),
    [
        ((), (), []),
        ((), (1.0, 2.0), [("hidden", 1.0), ("hidden", 2.0)]),
        (("none", "out"), (), [("none", 1.5), ("out", 1.5)]),
    ],
)
def test_one_alone_goes_with_the_usual_other(inherit, guidance, rows):
    usual = heredity.Settings(heredity="hidden", guidance=1.5)
    assert [tuple(row.values()) for row in heredity.table(inherit, guidance, usual)] == rows


def test_an_heir_of_what():
    with pytest.raises(UserError, match=r"evals\.heredity\.inherit 'al'"):
        heredity.table(("al",), (), heredity.Settings())


@pytest.mark.slow
def test_a_strip_of_growth(tmp_path):
    """A column for each number of steps; every row is a class."""
    page = growth.evaluate(*asked(), tmp_path, steps=(2, 3, 5))
    strip = cells(tmp_path / "growth.png", 4, 3)
    for column, steps in zip(strip.swapaxes(0, 1), (2, 3, 5), strict=True):
        near(column, painted(np.eye(3)[[0, 1, 2, 0]], steps=steps))
    assert page.facts == {"growth": [2, 3, 5], "own": 3}
    assert "2, 3, 5 steps in every call; they learned with 3" in page.figures[0].caption


# Other data.


@pytest.mark.slow
def test_latents_are_judged_as_images(tmp_path):
    """A decoder that doubles the sides: real images of 32 pixels beside samples of 16 latents, which become 32."""
    large = {
        name: of([row | {"image": row["image"].repeat(2, 0).repeat(2, 1)} for row in source])
        for name, source in tiny.graded().items()
    }
    splits = Splits(tiny.graded().sources, decode=doubled, origin=lambda: Splits(large))
    pipeline, data = asked(splits)
    page = scores.evaluate(pipeline, data, tmp_path, metrics=("drift",))
    for name in ("real", "samples"):
        assert cells(tmp_path / f"{name}.png", 3, 3, (32, 32)).shape[2:] == (32, 32, 3)
    near(cells(tmp_path / "samples.png", 3, 3, (32, 32)).reshape(9, 32, 32, 3)[:8], painted(labels(), (32, 32)) / 2)
    assert page.scores["drift"] == pytest.approx(
        drift.score(painted(labels(), (4, 4)).astype(np.float32) / 2, data.real, None, 3)["drift"], rel=1e-5
    )
    films.evaluate(pipeline, data, tmp_path)
    assert cells(tmp_path / "nca_strip.png", 3, 4 + 2, (32, 32)).size
    grades.evaluate(pipeline, data, tmp_path)
    assert cells(tmp_path / "grades.png", 3, 2, (32, 32)).size


def doubled(x):
    return np.asarray(x, np.float32).repeat(2, 1).repeat(2, 2) / 2


def cubes():
    """Twelve volumes a split, one colour for each of 3 grades."""

    def source(name):
        flat = tiny.graded()[name]

        def row(i):
            return flat[i] | {"image": np.broadcast_to(flat[i]["image"][None, :6, :8], (4, 6, 8, 3))}

        return Source(row, [(4, 6, 8, 3)] * 12)

    return Splits({name: source(name) for name in ("train", "val", "test")})


@pytest.mark.slow
def test_volumes(tmp_path):
    """Scores by metrics that know volumes; pictures are the three middle planes."""
    pipeline, data = asked(cubes(), pigment.Paint(ndim=3), **{"data.patch": (4, 6, 8), "sample.size": (4, 6, 8)})
    assert data.kind == "volumes"
    page = scores.evaluate(pipeline, data, tmp_path, metrics=("drift", "neighbours", "total_variation"))
    drawn = painted(labels(), (4, 6, 8)).astype(np.float32)
    assert page.scores["drift"] == pytest.approx(drift.score(drawn, data.real, None, 3)["drift"], rel=1e-5)
    expected = total_variation.score(drawn, data.real, None, 3)["total_variation"]
    assert page.scores["total_variation"] == pytest.approx(expected, abs=1e-3)
    for evaluator in (nearest, films):
        assert evaluator.evaluate(pipeline, data, tmp_path).figures
    with pytest.raises(UserError, match="swd scores images, and these are volumes"):
        scores.evaluate(pipeline, data, tmp_path, metrics=("swd",))
    shown = cells(tmp_path / "samples.png", 3, 3, (6, 8 + GAP + 8 + GAP + 6)).reshape(9, 6, -1, 3)[:8]
    near(shown[:, :, :8], drawn[:, 2])  # the slice in the middle, then across H and across W
    near(shown[:, :4, 10:18], drawn[:, :, 3])
    with PIL.Image.open(tmp_path / "slices.webp") as film:
        assert film.n_frames == 1  # of one colour: the codec joins equal frames
        assert film.size == (4 * (8 + GAP) - GAP, 2 * (6 + GAP) - GAP)


# Label maps.


@pytest.mark.slow
def test_each_map_stands_above_its_sample_and_its_image(tmp_path):
    """A class has a colour of its own, black is the first."""
    splits = tiny.graded()
    maps = lambda x: (np.arange(256).reshape(16, 16, 1) % (2 + x["label"][0])).astype(np.int32)

    def mapped(source):
        return Source(lambda i: source[i] | {"label_map": maps(source[i])}, source.shapes, fields=("label_map",))

    pipeline, data = asked(Splits({split: mapped(source) for split, source in splits.items()}))
    page = guided.evaluate(pipeline, data, tmp_path)
    above, drawn, below = cells(tmp_path / "guided.png", 3, 8)
    near(drawn, painted(labels()).astype(np.float32))
    np.testing.assert_array_equal(images.to_float(below), real("test", 8)["image"])
    for shown, label_map in zip(above, data.pixels["label_map"][..., 0], strict=True):
        colours = {tuple(shown[label_map == k].reshape(-1, 3)[0]) for k in np.unique(label_map)}
        assert len(colours) == len(np.unique(label_map))
        assert not shown[label_map == 0].any()
        assert all(len(np.unique(shown[label_map == k], axis=0)) == 1 for k in np.unique(label_map))
    assert "test split" in page.figures[0].caption
    with pytest.raises(UserError, match="have none: take it out of"):
        guided.evaluate(*asked(), tmp_path)
