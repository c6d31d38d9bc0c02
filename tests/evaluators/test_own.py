"""Evaluators of tasks that do not denoise: reconstructions, classes, likelihoods, what grows back."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import build
from nca_gen.contracts import Part
from nca_gen.data.source import Splits
from nca_gen.errors import UserError
from nca_gen.evaluators import confusion, damage, likelihood, reconstruction
from nca_gen.evaluators.held import Held
from nca_gen.io import images
from nca_gen.runtime import run
from nca_gen.tasks import autoencode, classify, elbo
from nca_gen.tasks.learner import Learner


@dataclass(frozen=True)
class Dimmed:
    """A latent that is the image, of variance 1/4; what comes back is ``by`` brighter."""

    by: float
    image_channels: int = 3
    factor: int = 1
    latent_channels: int = 3
    ndim: int = 2

    def init(self, key):
        return {}

    def encode(self, params, image):
        return image, jnp.full_like(image, np.log(0.25))

    def decode(self, params, z):
        return z + self.by


def silent(**changes):
    """A config without a word of how to generate."""
    config = tiny.config(**changes)
    del config["generate"]
    return run.frozen(config)


def reconstructed(folder, by, metrics):
    config = silent(**{"held.n": 6})
    task = autoencode.Task(Dimmed(by), Learner())
    splits = tiny.splits()
    pipeline = build.pipeline(config, {"model": Part(config, task, {}, 20)})
    return reconstruction.evaluate(pipeline, Held(config, task, splits), folder, metrics=metrics)


@pytest.mark.slow
def test_scores_of_what_is_known(tmp_path):
    names = tuple(reconstruction.METRICS)
    page = reconstructed(tmp_path, 0.0, names)
    real = tiny.splits()["test"][0]["image"] / 128.0 - 1  # 6 crops of 16 x 16 of it
    scores = page.scores
    assert tuple(scores) == names == ("psnr", "l1", "ms_ssim", "kl", "latent_mean", "latent_std")
    assert scores["l1"] == 0
    np.testing.assert_allclose(scores["ms_ssim"], 1)
    values = 16 * 16 * 3
    kl = 0.5 * values * (scores["latent_std"] ** 2 + scores["latent_mean"] ** 2 - 1 - np.log(0.25))
    np.testing.assert_allclose(scores["kl"], kl, rtol=1e-4)
    assert abs(scores["latent_std"] ** 2 - 0.25 - real.var()) < 0.1
    picture = images.read(tmp_path / "reconstructions.png")
    top, bottom = np.split(picture, [17])
    np.testing.assert_array_equal(top[:16], bottom[-16:])
    assert page.figures[0].file == "reconstructions.png"
    assert page.facts["counts"] == {"real": 6}
    assert page.facts["protocol"].keys() == scores.keys()


def test_scores_of_a_brighter_image(tmp_path):
    """By 1/16 wherever there is room for it."""
    scores = reconstructed(tmp_path, -1 / 16, ("psnr", "l1")).scores
    assert tuple(scores) == ("psnr", "l1")
    assert scores["l1"] <= 1 / 16
    np.testing.assert_allclose(scores["l1"], 1 / 16, rtol=0.1)
    np.testing.assert_allclose(scores["psnr"], 10 * np.log10(4 * 16**2), rtol=0.02)


def test_a_metric_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match=r"evals\.reconstruction\.metrics 'fid'"):
        reconstructed(tmp_path, 0.0, ("fid",))
    with pytest.raises(UserError, match=r"evals\.confusion\.metrics 'acu'; did you mean auc"):
        classified(tmp_path, "single", ("acu",))


@dataclass(frozen=True)
class Colours:
    """Tells the class by the brightest channel, and takes blue for green."""

    classes: int = 3
    ndim: int = 2

    def init(self, key):
        return {}

    def init_statistics(self):
        return {}

    def apply(self, params, statistics, x, train=False):
        red, green, blue = jnp.moveaxis(x.mean((1, 2)), -1, 0)
        return 9 * jnp.stack([red, jnp.maximum(green, blue), jnp.minimum(green, blue)], -1), statistics


def classified(folder, labels, metrics, splits=None):
    config = silent()
    task = classify.Task(Colours(), Learner(), labels=labels)
    part = Part(config, task, {"params": {}, "statistics": {}}, 20)
    data = Held(config, task, splits or tiny.graded())
    return confusion.evaluate(build.pipeline(config, {"model": part}), data, folder, metrics=metrics)


def test_which_classes_are_confused(tmp_path):
    """Every image is counted once, in the row of what it has."""
    page = classified(tmp_path, "single", ("sensitivity", "auc"))
    truth = np.array([row["label"][0] for row in tiny.graded()["test"]])
    has = np.bincount(truth, minlength=3)
    [table] = page.tables
    assert table.columns == ["", "told 0", "told 1", "told 2"]
    assert table.rows == [["has 0", has[0], 0, 0], ["has 1", 0, has[1], 0], ["has 2", 0, has[2], 0]]
    assert page.scores["sensitivity"] == pytest.approx(2 / 3)
    assert page.facts["counts"] == {"real": 12}
    assert page.facts["protocol"].keys() == {"sensitivity", "auc"}
    assert list(tmp_path.iterdir()) == []


def test_which_classes_are_missed(tmp_path):
    """Of several labels an image: hits and misses of each, by its name."""

    def several(row):
        return row | {"label": np.eye(3, dtype=np.int32)[row["label"][0]]}

    test = tiny.graded()["test"]
    source = test.__class__(lambda i: several(test[i]), test.shapes)
    page = classified(tmp_path, "multi", ("f1",), Splits({"test": source}, ("red", "green", "blue")))
    truth = np.array([row["label"][0] for row in test])
    has = np.bincount(truth, minlength=3)
    rows = {name: numbers for name, *numbers in page.tables[0].rows}
    assert rows["red"] == [has[0], 0, 0, 12 - has[0]]
    assert rows["green"] == [has[1], 0, has[2], has[0]]
    assert rows["blue"] == [0, has[2], 0, 12 - has[2]]


@dataclass(frozen=True)
class Healing(Dimmed):
    """Cells are the latent, half of the image; each step takes them half of the way to what is right. Every value of 8
    bits is as probable as any other."""

    by: float = 0.0

    def encode(self, params, image):
        return image / 2, jnp.zeros_like(image)

    def outputs(self, params, z):
        return z

    def log_likelihood(self, outputs, image):
        return jnp.full(len(image), -np.prod(image.shape[1:]) * np.log(256))

    def mean(self, outputs):
        return outputs

    def step(self, params):
        return lambda cells: (cells + params["right"]) / 2


def variational(model, params=None, **held):
    """A pipeline of ``model`` and what it is held against."""
    config, splits = silent(**{"held.n": 5, "train.batch": 2, **held}), tiny.splits()
    task = elbo.Task(model, Learner())
    return build.pipeline(config, {"model": Part(config, task, params or {}, 20)}), Held(config, task, splits)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 3])
def test_uniform_values_have_eight_bits(samples, tmp_path):
    """Of latents of mean image / 2 and variance 1 the KL is a half of its square; five images in batches of two."""
    pipeline, data = variational(Healing())
    page = likelihood.evaluate(pipeline, data, tmp_path, samples=samples)
    values = 16 * 16 * 3
    kl = np.square(data.patches / 2).sum((1, 2, 3)).mean() / 2
    assert page.scores["log_likelihood"] == pytest.approx(-values * np.log(256), rel=1e-6)
    assert page.scores["kl"] == pytest.approx(kl, rel=1e-5)
    assert page.scores["elbo"] == pytest.approx(-values * np.log(256) - kl, rel=1e-6)
    assert page.scores["bits_per_dim"] == pytest.approx(8 + kl / values / np.log(2), rel=1e-6)
    assert ("weighted_bound" in page.scores) == (samples > 1)
    assert page.facts["protocol"].keys() == page.scores.keys()
    assert page.facts["counts"] == {"real": 5}


@pytest.mark.slow
@pytest.mark.parametrize(("region", "rows"), [("middle", slice(4, 12)), ("half", slice(0, 16))])
def test_damage_halves_with_every_step(region, rows, tmp_path):
    """Cells that are lost are half of their error nearer after each step; all others stay what they were."""
    pipeline, data = variational(Healing(), {"right": jnp.asarray(variational(Healing())[1].patches / 2)})
    page = damage.evaluate(pipeline, data, tmp_path, region=region, steps=4)
    columns = slice(4, 12) if region == "middle" else slice(8, 16)
    lost = data.patches[:, rows, columns] / 2
    first = np.sqrt(np.square(lost).mean())
    np.testing.assert_allclose(page.facts["rms"]["damaged"], first * 0.5 ** np.arange(5), rtol=1e-5)
    np.testing.assert_allclose(page.facts["rms"]["undamaged"], np.zeros(5), atol=1e-6)
    assert page.scores == {}
    assert [*page.facts["course"].values()] == [pytest.approx(1 / 16, rel=1e-5)]
    assert page.tables[0].rows[-1] == (4, pytest.approx(first / 16, rel=1e-5), pytest.approx(0, abs=1e-6))
    strip = images.read(tmp_path / "damage_strip.png")
    shown = strip[:16].reshape(16, -1, 3)
    near = lambda column, values: np.abs(
        shown[:, 18 * column : 18 * column + 16].astype(int) - images.from_float(values).astype(int)
    ).max()
    before = data.patches[0] / 2
    hurt = before.copy()
    hurt[rows, columns] = 0
    assert [near(0, data.patches[0]), near(1, before) <= 1, near(2, hurt) <= 1] == [0, True, True]
    assert (tmp_path / "damage.webp").is_file()
    assert next(iter(page.curves.values())) == [(float(i), pytest.approx(first * 0.5**i)) for i in range(5)]


def test_what_cannot_be_asked(tmp_path):
    config = silent(**{"held.n": 2})
    task = autoencode.Task(Dimmed(0.0), Learner())
    pipeline = build.pipeline(config, {"model": Part(config, task, {}, 20)})
    for evaluator, words in ((likelihood, "say how probable an image is"), (damage, "cells can be damaged")):
        with pytest.raises(UserError, match=words):
            evaluator.evaluate(pipeline, Held(config, task, tiny.splits()), tmp_path)


def test_who_is_never_told_anything_has_no_conditions():
    assert variational(Healing())[1].cond is None
