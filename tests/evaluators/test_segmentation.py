"""The evaluator of segmenters: scores of maps that are known, and what is shown of them."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import build
from nca_gen.contracts import Part
from nca_gen.data.source import Source, Splits
from nca_gen.errors import UserError
from nca_gen.evaluators import guided, segmentation
from nca_gen.evaluators.held import Held
from nca_gen.io import images
from nca_gen.runtime import run
from nca_gen.tasks import segment
from nca_gen.tasks.learner import Learner


@dataclass(frozen=True)
class Rows:
    """Says class 1 from grey on and class 2 from bright on."""

    classes: int = 3
    ndim: int = 2
    multiple: int = 1

    def init(self, key):
        return {}

    def apply(self, params, x):
        level = x[..., 0]
        return jnp.stack([-level, jnp.where(level > -0.2, 1.0, -2.0), jnp.where(level > 0.5, 2.0, -2.0)], -1)


def evaluated(folder, metrics, ndim=2):
    """Volumes or images of three bands along H; in every second one the last is a row lower than what is said."""
    size = (16, 16) if ndim == 2 else (4, 16, 16)

    def load(i):
        rows = np.arange(16)[:, None] + np.zeros(16, int)
        said = (rows >= 4).astype(np.int32) + (rows >= 10)
        true = (rows >= 4).astype(np.int32) + (rows >= 10 + i % 2)
        image, classes = (np.broadcast_to(x, size)[..., None] for x in (np.uint8([0, 128, 240])[said], true))
        return {"image": image, "label_map": classes, "name": f"{i}", "patient": f"{i}"}

    source = Source(load, [(*size, 1)] * 4, fields=("label_map",))
    config = tiny.config(**{"held.n": 4, "data.patch": size})
    del config["generate"]
    config = run.frozen(config)
    task = segment.Task(Rows(ndim=ndim), Learner(), names=("out", "artery", "vein"))
    splits = Splits({"train": source, "test": source})
    part = Part(config, task, {}, 20)
    pipeline = build.pipeline(config, {"model": part})
    return segmentation.evaluate(pipeline, Held(config, task, splits), folder, metrics=metrics)


@pytest.mark.parametrize("ndim", [2, 3])
def test_figures_of_bands(tmp_path, ndim):
    page = evaluated(tmp_path, ("iou:2", "dice", "mad"), ndim)
    assert page.scores["iou:2"] == pytest.approx((1 + 5 / 6) / 2)
    assert page.scores["dice"] == pytest.approx((1 + (12 / 13 + 10 / 11) / 2) / 2)
    assert page.scores["mad"] == pytest.approx((0 + (0 + 1) / 2) / 2)
    assert page.facts["protocol"]["iou:2"].startswith("IoU vein: |A n B|")
    assert page.facts["counts"] == {"real": 4}
    [table] = page.tables
    assert table.rows[2] == ["vein", f"{(1 + 10 / 11) / 2:.4f}", f"{(1 + 5 / 6) / 2:.4f}"]


def test_maps_below_the_pictures(tmp_path):
    """Grey where nothing is, half the colour of the class elsewhere; the truth above what is said."""
    [figure] = evaluated(tmp_path, ("dice",)).figures
    shown = images.read(tmp_path / figure.file)
    image, truth, said = (shown[at : at + 16, :16].astype(int) for at in (0, 18, 36))
    assert np.unique(image[:4]).tolist() == [0]
    assert np.unique(truth[:4]).tolist() == np.unique(said[:4]).tolist() == [0]
    np.testing.assert_allclose(said[5, 0], (128 + np.array(guided.COLOURS[1])) / 2, atol=1)
    np.testing.assert_allclose(said[15, 0], (240 + np.array(guided.COLOURS[2])) / 2, atol=1)
    assert shown.shape[:2] == (3 * 18 - 2, 4 * 18 - 2)
    lower = [(shown[18 + 10, c] != shown[36 + 10, c]).any() for c in (0, 18, 36, 54)]
    assert sorted(lower) == [False, False, True, True]  # where the truth is a row lower than what is said


def test_a_figure_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match="did you mean dice"):
        evaluated(tmp_path, ("dise",))
