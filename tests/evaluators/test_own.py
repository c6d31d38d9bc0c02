"""Evaluators of tasks that do not generate: reconstructions, classes."""

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
from nca_gen.evaluators import confusion, reconstruction
from nca_gen.evaluators.held import Held
from nca_gen.io import images
from nca_gen.runtime import run
from nca_gen.tasks import autoencode, classify
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
