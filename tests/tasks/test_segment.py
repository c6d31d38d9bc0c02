"""The segmenting task: losses by hand, windows that together are the whole, a U-Net that learns layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

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


@dataclass(frozen=True)
class Means(Bands):
    """A segmenter that sees whole windows: places above the mean of their window are of class 1."""

    classes: int = 2

    def apply(self, params, x):
        over = x - x.mean(range(1, x.ndim), keepdims=True)
        return jnp.concatenate([-over, over], -1)


def task(model=None, **fields):
    return segment.Task(model or Bands(), Learner(lr=0.1), **fields)


def rows(n=2, size=(4, 5), classes=3):
    image = np.tanh(RNG.standard_normal((n, *size, 1))).astype(np.float32)
    return {"image": image, "label_map": RNG.integers(0, classes, (n, *size, 1)).astype(np.int32)}


def root():
    return jax.random.key(0, impl="threefry2x32")


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


def test_windows_together_are_the_whole():
    """Of a network that sees a place alone, whatever the sides of image and window; in 2 and 3 dimensions."""
    params = {"w": jnp.array([1.0, 0.0, -1.0]), "b": jnp.array([0.0, 0.2, 0.0])}
    for size, patch in (((13, 9), (8, 8)), ((8, 8), (8, 8)), ((3, 20), (8, 4)), ((9, 4, 11), (4, 4, 8))):
        image = RNG.uniform(-1, 1, (*size, 1)).astype(np.float32)
        found = segment.segmented(Bands(ndim=len(size)), params, image, patch, 3)
        np.testing.assert_array_equal(found, (image * params["w"] + params["b"]).argmax(-1))


def test_a_place_is_told_by_the_window_around_it():
    """Windows of 8 say 4 of a row of 20 each, which lie in their middle unless they are at the border."""
    image = np.arange(20.0, dtype=np.float32)[None, :, None].repeat(8, 0) / 10 - 1
    found = segment.segmented(Means(), {}, image, (8, 8), 2)
    starts = [0, 2, 6, 10, 12]  # of the windows of the places 0 to 3, 4 to 7, ...
    expected = [int(place > starts[place // 4] + 3.5) for place in range(20)]  # above the mean of its window
    np.testing.assert_array_equal(found, [expected] * 8)


def test_depths_and_unknown_classes():
    """8 bits and floats of the same picture are one; a class that the model has not is refused by name."""
    params = {"w": jnp.array([1.0, 0.0, -1.0]), "b": jnp.zeros(3)}
    stored = RNG.integers(0, 256, (6, 6, 1)).astype(np.uint8)
    of = partial(segment.segmented, Bands(), params, patch=(4, 4), batch=2)
    np.testing.assert_array_equal(of(stored), of(np.float32(stored) / 128 - 1))
    example = {"image": stored, "name": "a.png", "patient": "a", "label_map": np.full((6, 6, 1), 3, np.int32)}
    with pytest.raises(UserError, match="the label map of a.png holds class 3, and config.model.classes=3"):
        list(segment.predictions(task(), params, [example], (4, 4), 2))
    del example["label_map"]
    with pytest.raises(UserError, match=r"a\.png has no label map"):
        list(segment.predictions(task(), params, [example], (4, 4), 2))


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="no label maps: .*config.data.label_maps"):
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
        state, metrics = step(state, whole)
    others = [dict(zip(("image", "label_map"), layered(i), strict=True)) | {"name": f"{i}"} for i in range(90, 96)]
    said = segment.predictions(mine, mine.eval_params(state), others, (4, 16, 8), 8)
    found = [segmentation.measured(truth, classes, 3) for _, truth, classes in said]
    assert segmentation.mean(segmentation.values(found, "dice")) > 0.9
    assert segmentation.mean(segmentation.values(found, "mad")) < 0.5
