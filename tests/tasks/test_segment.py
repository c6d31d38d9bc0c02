"""The segmenting task: losses by hand, and a U-Net that learns layers."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen.errors import UserError
from nca_gen.metrics import segmentation
from nca_gen.models.segment_unet import Model
from nca_gen.tasks import segment
from nca_gen.tasks.learner import Learner
from nca_gen.tiling.segments import predictions

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Bands:
    """The smallest segmenter: the grey level of a place, times a weight a class."""

    classes: int = 3
    ndim: int = 2
    multiple: int = 1

    def init(self, key):
        return {"w": 0.1 * jax.random.normal(key, (self.classes,)), "b": jnp.zeros(self.classes)}

    def apply(self, params, x):
        return x.mean(-1, keepdims=True) * params["w"] + params["b"]


def task(model=None, **fields):
    return segment.Task(model or Bands(), Learner(lr=0.1), **fields)


def rows(n=2, size=(4, 5), classes=3):
    image = np.tanh(RNG.standard_normal((n, *size, 1))).astype(np.float32)
    return {"image": image, "label_map": RNG.integers(0, classes, (n, *size, 1)).astype(np.int32)}


def root():
    return jax.random.key(0, impl="threefry2x32")


@pytest.mark.slow
def test_the_loss_by_hand():
    logits, target = RNG.normal(0, 2, (2, 4, 5, 3)), RNG.integers(0, 3, (2, 4, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    there = np.eye(3)[target]
    entropy = -np.log((p * there).sum(-1)).mean()
    dice = [2 * (p * there)[..., k].sum() / (p[..., k].sum() + there[..., k].sum()) for k in (1, 2)]

    def loss(mine, target):
        return float(jax.jit(mine.loss)(np.float32(logits), np.int32(target)))

    assert loss(task(dice=0.0), target) == pytest.approx(entropy, rel=1e-5)
    assert loss(task(dice=0.5), target) == pytest.approx(entropy + 0.5 * (1 - np.mean(dice)), rel=1e-5)
    part = target.copy()
    part[1] = -1  # nothing is known of the second image
    alone = -np.log((p * there).sum(-1))[0].mean()
    assert loss(task(dice=0.0), part) == pytest.approx(alone, rel=1e-5)
    assert loss(task(dice=0.0), 0 * part - 1) == 0


def test_perfect_and_blind():
    target = np.array([[[0, 1, 2, 2]]])
    loss = jax.jit(task().loss)
    assert float(loss(np.float32(99 * np.eye(3)[target]), target)) == pytest.approx(0, abs=1e-5)
    blind = np.log(3) + 1 - (2 / 3 / (4 / 3 + 1) + 4 / 3 / (4 / 3 + 2)) / 2
    assert float(loss(np.zeros((1, 1, 4, 3), np.float32), target)) == pytest.approx(blind, rel=1e-5)


@pytest.mark.slow
def test_a_step_and_its_average():
    mine, some = task(), rows()
    state = mine.init(root(), some)
    after, metrics = jax.jit(mine.step)(state, some)
    moved = np.asarray(after.params["w"]) - np.asarray(state.params["w"])
    np.testing.assert_allclose(np.abs(moved), 0.1, rtol=1e-2)  # Adam's first step is the rate
    # The warm-up of the average: a tenth of what was before, then 2/11, ...
    np.testing.assert_allclose(after.ema["w"], 0.1 * state.params["w"] + 0.9 * after.params["w"], rtol=1e-5)
    assert mine.eval_params(after) is after.ema
    assert {"loss", "grad_norm", "lr"} == metrics.keys()
    other = mine.begin(state, mine.inherits(mine.eval_params(after)))  # begins, and averages, from another run
    np.testing.assert_array_equal(other.params["w"], after.ema["w"])
    np.testing.assert_array_equal(other.ema["w"], after.ema["w"])
    assert int(other.step) == 0


def test_nonsense_is_refused():
    with pytest.raises(UserError, match=r"no label maps: .*config\.data\.label_maps"):
        task().init(root(), {"image": rows()["image"]})
    with pytest.raises(UserError, match="segment is for segmenters"):
        segment.Task(object(), Learner())
    with pytest.raises(UserError, match=r"task\.names are 2, of config\.model\.classes=3"):
        task(names=("a", "b"))
    assert task(names=("a", "b", "c")).classes == ("a", "b", "c")
    assert task().classes == ("0", "1", "2")


def layered(seed, d=4, h=16, w=8):
    """A volume of three noisy layers, the middle one bright, between surfaces that are tilted; and its map."""
    rng = np.random.default_rng(seed)
    first = rng.integers(2, 6) + np.arange(w) * rng.uniform(-0.2, 0.4) + np.zeros((d, 1))
    rows = np.arange(h)[None, :, None]
    classes = (rows >= first[:, None]).astype(int) + (rows >= first[:, None] + 5)
    image = np.array([-0.6, 0.5, 0.0])[classes] + rng.normal(0, 0.25, classes.shape)
    return np.clip(image, -1, 1)[..., None].astype(np.float32), classes[..., None].astype(np.int32)


@pytest.mark.slow
def test_a_unet_learns_layers():
    """On volumes that it has not seen: Dice above 0.9, surfaces to half a row; a place alone does not tell them."""
    mine = segment.Task(Model(3, width=8, levels=3, ndim=3), Learner(lr=1e-2), ema=0.9)
    image, maps = map(np.stack, zip(*(layered(i) for i in range(8)), strict=True))
    whole = {"image": image, "label_map": maps}
    state = jax.jit(mine.init)(jax.random.key(0, impl=tiny.KEYS), whole)
    step = jax.jit(mine.step, donate_argnums=0)
    for _ in range(60):
        state, _ = step(state, whole)
    others = [dict(zip(("image", "label_map"), layered(i), strict=True)) | {"name": f"{i}"} for i in range(90, 96)]
    said = predictions(mine.model, mine.eval_params(state), others, (4, 16, 8), 8)
    found = [segmentation.measured(truth, classes, 3) for _, truth, classes in said]
    assert segmentation.mean(segmentation.values(found, "dice")) > 0.9
    assert segmentation.mean(segmentation.values(found, "mad")) < 0.5
