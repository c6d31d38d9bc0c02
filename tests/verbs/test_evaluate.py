"""The evaluation: every file that the report reads, and scores that can be had by hand."""

import json

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import tiny

from nca_gen import arrays, build
from nca_gen.data import pipeline
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.metrics import drift, neighbours, swd
from nca_gen.pipelines import sampling
from nca_gen.report import report
from nca_gen.runtime import checkpoint
from nca_gen.verbs import evaluate as verb
from nca_gen.verbs.generate import how

PICTURES = {"real.png", "samples.png", "large.png", "neighbours.png", "nca_strip.png", "nca.webp"} | {
    "diffusion_strip.png",
    "diffusion.webp",
}
GAP = 2


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """config, task, parameters, scores and folder of one evaluation."""
    workdir, config = tmp_path_factory.mktemp("run"), tiny.config()
    task = build.task(config)
    params = tiny.params(task.model)
    scores = verb.evaluate(config, task, params, tiny.splits(), workdir, 20)
    return config, task, params, scores, workdir / "eval" / "00000020"


def cells(path, rows, columns, size=(16, 16)):
    """The pictures of a grid, [rows, columns, H, W, C]."""
    grid = images.read(path)
    assert grid.shape[:2] == tuple(n * (s + GAP) - GAP for n, s in zip((rows, columns), size, strict=True))
    steps = [range(0, n * (s + GAP), s + GAP) for n, s in zip((rows, columns), size, strict=True)]
    return np.stack([[grid[y : y + size[0], x : x + size[1]] for x in steps[1]] for y in steps[0]])


def sampled(config, task, params, n, size):
    return np.concatenate(
        list(
            sampling.images(
                task.model, task.diffusion, params, config.seed, n, size, config.sample.batch, **how(config)
            )
        )
    )


def real(config, split, n):
    return pipeline.patches(tiny.splits()[split], patch=(16, 16), n=n, seed=config.seed)


def test_every_file_is_there(done):
    folder = done[-1]
    assert {p.name for p in folder.iterdir()} == PICTURES | {"scores.json"}
    assert "<html" in (folder.parents[1] / "report.html").read_text()


def test_scores_are_those_of_the_metrics(done):
    config, task, params, scores, _ = done
    drawn = np.clip(sampled(config, task, params, 8, (16, 16)), -1, 1)
    test, train = real(config, "test", 8), real(config, "train", 12)
    expected = swd.score(drawn, test, train, 3) | drift.score(drawn, test, train, 3)
    expected |= neighbours.score(drawn, test, train, 3)
    assert scores == expected
    assert {"swd", "drift", "neighbours"} <= scores.keys()


def test_scores_are_told_with_their_protocol(done):
    *_, scores, folder = done
    told = json.loads((folder / "scores.json").read_text())
    assert told["scores"] == scores
    assert told["protocol"] == {m.__name__.split(".")[-1]: m.PROTOCOL for m in (swd, drift, neighbours)}
    assert told["counts"] == {"real": 8, "generated": 8, "train": 12}
    assert (told["step"], told["split"], told["seed"]) == (20, "test", 3)
    assert told["sampler"] == "dpm_solver_pp, 4 steps, clip static"
    assert told["images_per_second"] == pytest.approx(8 / told["seconds"])


def test_real_images_are_held_out_ones(done):
    config, *_, folder = done
    shown = cells(folder / "real.png", 3, 3).reshape(9, 16, 16, 3)
    np.testing.assert_array_equal(images.to_float(shown[:8]), real(config, "test", 8))


def test_samples_and_their_neighbours(done):
    """Below each sample the training patch that is nearest, by brute force."""
    config, task, params, _, folder = done
    drawn, train = sampled(config, task, params, 8, (16, 16)), real(config, "train", 12)
    shown = cells(folder / "samples.png", 3, 3).reshape(9, 16, 16, 3)
    np.testing.assert_array_equal(shown[:8], images.from_float(drawn))
    above, below = cells(folder / "neighbours.png", 2, 8)
    distance = ((np.clip(drawn[:8, None], -1, 1) - train[None]) ** 2).sum((2, 3, 4))
    order = np.argsort(distance.min(1))  # the most suspicious first
    np.testing.assert_array_equal(above, images.from_float(drawn[order]))
    np.testing.assert_array_equal(images.to_float(below), train[distance.argmin(1)[order]])


def test_a_picture_larger_than_any_patch(done):
    config, task, params, _, folder = done
    [large] = sampled(config, task, params, 1, (24, 40))
    np.testing.assert_array_equal(images.read(folder / "large.png"), images.from_float(large))


def test_the_film_of_one_call(done):
    """A row begins with the noisy patch and ends with the real one; between them the growth from first to last step."""
    config, task, params, _, folder = done
    strip = cells(folder / "nca_strip.png", 3, 10)
    patches = real(config, "test", 8)
    np.testing.assert_array_equal(images.to_float(strip[:, -1]), patches[:3])
    key, t = arrays.keys(3, 8), jnp.array([6])
    eps = arrays.cell_normal(key, -1, arrays.coords((16, 16)), 3)
    noisy = task.diffusion.noised(jnp.asarray(patches), eps, t)
    np.testing.assert_array_equal(strip[:, 0], images.from_float(np.asarray(noisy[:3])))
    minds = np.asarray(sampling.growth(task.model, task.diffusion, params, noisy, t, key))
    np.testing.assert_array_equal(strip[:, 1], images.from_float(minds[0, :3]))
    np.testing.assert_array_equal(strip[:, -2], images.from_float(minds[-1, :3]))
    with PIL.Image.open(folder / "nca.webp") as film:
        assert film.n_frames == task.model.steps + 1


def test_the_film_of_sampling(done):
    """It ends in the first picture of the samples; below, what the model has in mind ends in the same."""
    config, task, params, _, folder = done
    above, below = cells(folder / "diffusion_strip.png", 2, 10)
    [first] = sampled(config, task, params, 1, (16, 16))
    assert np.abs(above[-1].astype(int) - images.from_float(first)).max() <= 1
    assert np.abs(below[-1].astype(int) - above[-1]).max() <= 1
    with PIL.Image.open(folder / "diffusion.webp") as film:
        assert film.n_frames == config.sample.steps


def test_again_is_the_same(done):
    """Everything is drawn from the seed: a second evaluation overwrites the first with itself."""
    config, task, params, scores, folder = done
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "scores.json"}
    assert verb.evaluate(config, task, params, tiny.splits(), folder.parents[1], 20) == scores
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "scores.json"} == before


def test_one_metric_and_nothing_large(done, tmp_path):
    _, task, params, scores, _ = done
    config = tiny.config(**{"eval.metrics": ("drift",), "sample.large": ()})
    alone = verb.evaluate(config, task, params, tiny.splits(), tmp_path, 1)
    assert alone == {k: v for k, v in scores.items() if k.startswith("drift")}
    assert not (tmp_path / "eval" / "00000001" / "large.png").exists()


@pytest.mark.slow
def test_the_verb_scores_the_newest_checkpoint(done, tmp_path, monkeypatch, capsys):
    """From the averaged weights of a workdir, with what the config says about data."""
    config, task, _, _, _ = done
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 7, tiny.state(task)._replace(step=np.int32(7)))
    monkeypatch.setattr(build, "splits", lambda config: tiny.splits())
    scores = verb.main(config, tmp_path)["scores"]
    drawn = np.clip(sampled(config, task, tiny.params(task.model, seed=1), 8, (16, 16)), -1, 1)
    expected = drift.score(drawn, real(config, "test", 8), None, 3)
    assert {k: scores[k] for k in expected} == pytest.approx(expected, rel=1e-4)
    said = capsys.readouterr().out
    assert f"{scores['swd']:.5g}" in said
    assert str(tmp_path / "report.html") in said
    assert json.loads((tmp_path / "eval" / "00000007" / "scores.json").read_text())["step"] == 7


@pytest.mark.slow
def test_samplers_by_their_steps(done, capsys):
    """Each row has the scores and the first samples of its own pictures, which all start from the same noise."""
    config, task, params, _, folder = done
    config = tiny.config(**{"eval.samplers": ("dpm_solver_pp:4", "dpm_solver_pp:8"), "eval.metrics": ("drift",)})
    workdir = folder.parents[1]
    found = verb.sweep(config, task, params, tiny.splits(), workdir, 20)
    for steps, row in zip((4, 8), found["rows"], strict=True):
        drawn = sampled(tiny.config(**{"sample.steps": steps}), task, params, 8, (16, 16))
        expected = drift.score(np.clip(drawn, -1, 1), real(config, "test", 8), None, 3)
        assert row["scores"] == pytest.approx(expected, abs=1e-5)
        assert (row["sampler"], row["steps"]) == ("dpm_solver_pp", steps)
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"])
        [shown] = cells(folder / row["picture"], 1, 8)
        assert np.abs(shown.astype(int) - images.from_float(drawn)).max() <= 1
    assert json.loads((folder / "samplers.json").read_text()) == found
    assert (found["step"], found["split"], found["counts"]["generated"]) == (20, "test", 8)
    assert "Fewer steps" in (workdir / "report.html").read_text()
    head, four, eight = verb.ladder(found)
    assert head.split() == ["sampler", "steps", "drift", "seconds", "images/s"]
    assert four.split()[:3] == ["dpm_solver_pp", "4", f"{found['rows'][0]['scores']['drift']:.4g}"]
    assert eight.split()[1] == "8"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ddmp:4", "config.eval.samplers 'ddmp'.*did you mean ddpm"),
        *[
            (spec, f"'{spec}'; give 1 to 12 steps, like ddim:12")
            for spec in ("ddim:13", "ddim:0", "ddim", "ddim:x", "ddim:4:0", "ddim:4:float16", "ddim:4:2-")
        ],
    ],
)
def test_a_sampler_that_cannot_be(spec, said):
    with pytest.raises(UserError, match=said):
        verb.settings(["ddpm:12", spec], tiny.T)


def test_what_a_row_of_samplers_may_set():
    plain, low, grown, all_of_it = verb.settings(
        ["ddpm:12", "ddim:3:bfloat16", "ddim:4:2-8", "ddim:4:6:float32"], tiny.T
    )
    assert plain == {"sampler": "ddpm", "steps": 12}
    assert low == {"sampler": "ddim", "steps": 3, "dtype": "bfloat16"}
    assert grown == {"sampler": "ddim", "steps": 4, "growth": (2, 8)}
    assert all_of_it == {"sampler": "ddim", "steps": 4, "growth": (6,), "dtype": "float32"}
    assert [report.variant(row) for row in (plain, all_of_it)] == ["ddpm", "ddim, 6 cell steps, float32"]


@pytest.mark.slow
def test_the_verb_makes_the_table(tmp_path, monkeypatch, capsys):
    config = tiny.config(**{"eval.samplers": ("ddpm:4", "ddim:2"), "eval.metrics": ("drift",), "sample.large": ()})
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 7, tiny.state(build.task(config)))
    monkeypatch.setattr(build, "splits", lambda config: tiny.splits())
    facts = verb.main(config, tmp_path)
    assert [row["steps"] for row in facts["samplers"]] == [4, 2]
    said = capsys.readouterr().out
    assert all(line in said for line in verb.ladder(json.loads((tmp_path / "eval/00000007/samplers.json").read_text())))


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


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """config, task, parameters and folder of one evaluation of a conditional model that has cells."""
    workdir, config = tmp_path_factory.mktemp("run"), tiny.conditional()
    task = build.task(config)
    params = tiny.params(task.model)
    verb.evaluate(config, task, params, tiny.graded(), workdir, 20)
    return config, task, params, workdir / "eval" / "00000020"


@pytest.mark.slow
def test_a_sample_has_the_grade_of_the_image_beside_it(graded):
    """The class of the brightest colour of real image i is the condition of sample i."""
    config, task, params, folder = graded
    shown = cells(folder / "real.png", 3, 3).reshape(9, 16, 16, 3)[:8]
    cond = np.eye(3, dtype=np.float32)[shown[:, 0, 0].argmax(-1)]
    assert len(set(map(tuple, cond.tolist()))) > 1
    settings = how(config) | {"cond": cond}
    drawn = np.concatenate(
        list(sampling.images(task.model, task.diffusion, params, 3, 8, (16, 16), config.sample.batch, **settings))
    )
    samples = cells(folder / "samples.png", 3, 3).reshape(9, 16, 16, 3)[:8]
    np.testing.assert_array_equal(samples, images.from_float(drawn))


@pytest.mark.slow
def test_a_row_of_samples_a_class(graded):
    """Two columns of one noise each: with 8 samples and 3 classes."""
    config, task, params, folder = graded
    page = cells(folder / "grades.png", 3, 2)
    for k in range(3):
        cond = np.eye(3, dtype=np.float32)[[k, k]]
        [drawn] = sampling.images(task.model, task.diffusion, params, 3, 2, (16, 16), 4, cond=cond, **how(config))
        np.testing.assert_array_equal(page[k], images.from_float(drawn))


@pytest.mark.slow
def test_what_cells_inherit_is_logged(graded):
    *_, folder = graded
    told = json.loads((folder / "scores.json").read_text())
    assert told["sampler"] == "ddpm, 4 steps, clip static, guidance 1.5, heredity hidden"
    assert len(told["hidden_rms"]) == 4
    assert all(value > 0 for value in told["hidden_rms"])
    assert {"nca_strip.png", "nca.webp", "diffusion.webp"} <= {p.name for p in folder.iterdir()}
    report = (folder.parents[1] / "report.html").read_text()
    assert "Inherited hidden state" in report
    assert "Every class" in report


@pytest.mark.slow
def test_the_ablation_of_heredity(graded, capsys):
    """Two ways to inherit, with and without guidance; then few and many steps of growth from one noise."""
    _, task, params, folder = graded
    ablation = {"eval.heredity": ("none", "hidden"), "eval.guidance": (1.0, 1.5)}
    config, workdir = tiny.conditional(**ablation, **{"eval.growth": (2, 3, 5)}), folder.parents[1]
    found = verb.sweep(config, task, params, tiny.graded(), workdir, 20, "heredity")
    assert [(r["heredity"], r["guidance"]) for r in found["rows"]] == [
        (h, g) for g in (1.0, 1.5) for h in ("none", "hidden")
    ]
    assert json.loads((folder / "heredity.json").read_text()) == found
    own = found["rows"][3]
    assert own["scores"]["drift"] == pytest.approx(json.loads((folder / "scores.json").read_text())["scores"]["drift"])
    assert len({r["scores"]["drift"] for r in found["rows"]}) == 4
    head, *lines = verb.ladder(found)
    assert head.split() == ["heredity", "guidance", "drift", "seconds", "images/s"]
    assert lines[3].split()[:2] == ["hidden", "1.5"]

    verb.overgrowth(config, task, params, workdir, 20)
    strip = cells(folder / "growth.png", 4, 3)
    usual = sampling.conditions(task.model, (), 4)
    [drawn] = sampling.images(task.model, task.diffusion, params, 3, 4, (16, 16), 4, cond=usual, **how(config))
    np.testing.assert_array_equal(strip[:, 1], images.from_float(drawn))  # 3 steps are its own
    assert np.abs(strip[:, 0].astype(int) - strip[:, 2]).max() > 2
    report = (workdir / "report.html").read_text()
    assert "the hidden state inherited, guidance 1.5" in report
    assert "2, 3, 5 steps" in report


@pytest.mark.slow
def test_fewer_steps_of_the_cells(graded):
    """In a table of samplers, beside fewer steps of denoising."""
    _, task, params, folder = graded
    config, workdir = tiny.conditional(**{"eval.samplers": ("ddpm:4", "ddpm:4:2-3")}), folder.parents[1]
    found = verb.sweep(config, task, params, tiny.graded(), workdir, 20)
    held = verb.compared(config, task, tiny.graded())
    for growth, row in zip(((), (2, 3)), found["rows"], strict=True):
        drawn = verb.draw(
            task, params, config, config.eval.n, (16, 16), config.seed, cond=held.cond, steps=4, growth=growth
        )
        expected = drift.score(np.clip(drawn, -1, 1), held.real, None, config.seed)
        assert row["scores"] == pytest.approx(expected, abs=1e-5)
    assert verb.ladder(found)[2].startswith("ddpm, 2-3 cell steps")
    assert "ddpm, 2-3 cell steps, 4 steps" in (workdir / "report.html").read_text()


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ({}, {}),
        ({"eval.guidance": (1.0, 2.0)}, {"heredity": [("hidden", 1.0), ("hidden", 2.0)]}),
        ({"eval.heredity": ("none", "out")}, {"heredity": [("none", 1.5), ("out", 1.5)]}),
        ({"eval.samplers": ("ddim:3", "ddim:4:2-3")}, {"samplers": [("ddim", 3), ("ddim", 4, (2, 3))]}),
    ],
)
def test_what_is_compared(asked, rows):
    found = verb.tables(tiny.conditional(**asked), tiny.T)
    assert {name: [tuple(row.values()) for row in table] for name, table in found.items()} == rows


def test_an_heir_of_what():
    with pytest.raises(UserError, match=r"config\.eval\.heredity 'al'"):
        verb.tables(tiny.conditional(**{"eval.heredity": ("al",)}), tiny.T)


@pytest.mark.slow
def test_latents_are_judged_as_images(tmp_path, monkeypatch):
    """A decoder that doubles the sides: real images of 32 pixels beside samples of 16 latents, which become 32."""
    config = tiny.conditional()
    task = build.task(config)
    decode = lambda x: np.asarray(x, np.float32).repeat(2, 1).repeat(2, 2) / 2  # noqa: E731
    large = {
        name: [row | {"image": row["image"].repeat(2, 0).repeat(2, 1)} for row in source]
        for name, source in tiny.graded().items()
    }
    monkeypatch.setattr(build, "pixels", lambda config, learned=None: (large, decode))
    verb.evaluate(config, task, tiny.params(task.model), tiny.graded(), tmp_path, 1)
    folder = tmp_path / "eval" / "00000001"
    for name in ("real", "samples"):
        assert cells(folder / f"{name}.png", 3, 3, (32, 32)).shape[2:] == (32, 32, 3)
    assert cells(folder / "nca_strip.png", 3, 10, (32, 32)).size
    assert cells(folder / "grades.png", 3, 2, (32, 32)).size


def test_a_task_that_scores_itself(tmp_path, monkeypatch):
    """Its module's ``score`` takes the place of sampling; its pictures are shown."""
    from nca_gen.tasks import denoise

    def score(config, task, params, splits):
        return {"sharpness": 2.5, "blur": 0.125}, {"before_and_after": np.zeros((4, 6, 3), np.uint8)}

    monkeypatch.setattr(denoise, "score", score, raising=False)
    config = tiny.config()
    assert verb.evaluate(config, build.task(config), {}, {}, tmp_path, 3) == {"sharpness": 2.5, "blur": 0.125}
    folder = tmp_path / "eval" / "00000003"
    facts = json.loads((folder / "scores.json").read_text())
    assert facts["step"] == 3
    assert images.read(folder / "before_and_after.png").shape == (4, 6, 3)
    assert "Before and after at step 3" in (tmp_path / "report.html").read_text()
    assert "sharpness" in "".join(verb.judge.table(facts))
