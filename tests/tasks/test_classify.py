"""The classifying task: losses by hand, augmentation on images whose change is known."""

from dataclasses import dataclass
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays
from nca_gen.data import spots
from nca_gen.errors import UserError
from nca_gen.metrics import classification
from nca_gen.models.resnet34 import Model
from nca_gen.nn import resnet
from nca_gen.tasks import classify
from nca_gen.tasks.learner import Learner

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Linear:
    """The smallest classifier: the mean colour to logits; its statistic is the mean of what it has seen."""

    classes: int = 3

    def init(self, key):
        return {"w": 0.1 * jax.random.normal(key, (3, self.classes))}

    def init_statistics(self):
        return {"mean": jnp.zeros(3)}

    def apply(self, params, statistics, x, train=False):
        mean = x.mean((0, 1, 2)) if train else statistics["mean"]
        logits = (x.mean((1, 2)) - mean) @ params["w"]
        return logits, {"mean": 0.9 * statistics["mean"] + 0.1 * mean} if train else statistics


def task(classes=3, **fields):
    return classify.Task(Linear(classes), Learner(lr=0.1), **fields)


def root():
    return jax.random.key(0, impl="threefry2x32")


def batch(n=6, size=8, classes=3):
    image = np.tanh(RNG.standard_normal((n, size, size, 3))).astype(np.float32)
    return {"image": image, "label": np.arange(n, dtype=np.int32)[:, None] % classes}


def loss(mine, logits, target):
    return float(jax.jit(mine.loss)(np.float32(logits), np.float32(target)))


@pytest.mark.slow
def test_losses_by_hand():
    logits = RNG.normal(0, 2, (5, 3))
    one = np.eye(3)[RNG.integers(0, 3, 5)]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert loss(task(), logits, one) == pytest.approx(-np.log((p * one).sum(1)).mean(), rel=1e-5)
    weighed = -(np.log(p) * one * [1, 2, 5]).sum(1).mean()
    assert loss(task(pos_weight=(1.0, 2.0, 5.0)), logits, one) == pytest.approx(weighed, rel=1e-5)
    many, p = RNG.random((5, 3)) < 0.5, 1 / (1 + np.exp(-logits))
    for weight in ((), (3.0,), (1.0, 2.0, 5.0)):
        mine = task(labels="multi", pos_weight=weight)
        expected = -(np.array(weight or 1.0) * many * np.log(p) + (1 - many) * np.log(1 - p)).mean()
        assert loss(mine, logits, many) == pytest.approx(expected, rel=1e-5)


def test_a_classifier_that_knows_nothing():
    """log K for one of K classes, log 2 for each that may be there."""
    zero = np.zeros((5, 3))
    assert loss(task(), zero, np.eye(3)[[0, 1, 2, 0, 0]]) == pytest.approx(np.log(3))
    assert loss(task(labels="multi"), zero, zero + 1) == pytest.approx(np.log(2))


@pytest.mark.slow
def test_a_step_moves_parameters_and_statistics():
    mine, rows = task(), batch()
    state = mine.init(root(), rows)
    after, metrics = jax.jit(mine.step)(state, rows)
    assert int(after.step) == 1
    np.testing.assert_allclose(after.statistics["mean"], 0.1 * rows["image"].mean((0, 1, 2)), rtol=1e-4)
    # Adam's first step is the rate, against the sign of the gradient.
    w = np.asarray(state.params["w"])
    moved = np.asarray(after.params["w"]) - w
    np.testing.assert_allclose(np.abs(moved), 0.1, rtol=1e-2)
    centred = rows["image"].mean((1, 2)) - rows["image"].mean((0, 1, 2))
    p = np.exp(centred @ w)
    p /= p.sum(1, keepdims=True)
    gradient = centred.T @ (p - np.eye(3)[rows["label"][:, 0]]) / 6
    np.testing.assert_array_equal(np.sign(moved), -np.sign(gradient))
    assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-3)
    assert mine.eval_params(after).keys() == {"params", "statistics"}


changed = jax.jit(classify.geometric, static_argnums=(2, 3, 4))


@partial(jax.jit, static_argnums=(2, 3, 4))
def forced(x, u, *how):
    """Random numbers that are known: up-down, left-right, angle, side, and the window's place."""
    with mock.patch.object(arrays, "cell_uniform", lambda key, *_: jnp.broadcast_to(u, (len(key), 6))):
        return classify.geometric(x, arrays.keys(0, len(x)), *how)


def augmented(x, *u, flips="none", rotation=0.0, zoom=1.0):
    return np.asarray(forced(x, np.float32(u), flips, rotation, zoom))


@pytest.mark.slow
def test_without_freedom_images_stay():
    x = batch()["image"]
    np.testing.assert_array_equal(changed(x, arrays.keys(0, 6), "none", 0.0, 1.0), x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flips", "u", "expected"),
    [
        ("all", (0.4, 0.6), lambda x: x[:, ::-1]),
        ("all", (0.6, 0.4), lambda x: x[:, :, ::-1]),
        ("horizontal", (0.0, 0.4), lambda x: x[:, :, ::-1]),
        ("none", (0.0, 0.0), lambda x: x),
    ],
)
def test_flips(flips, u, expected):
    x = batch()["image"]
    np.testing.assert_allclose(augmented(x, *u, 0.5, 0.5, 0.5, 0.5, flips=flips), expected(x), atol=1e-6)


@pytest.mark.parametrize(("angle", "turns"), [(1.0, -1), (0.0, 1)])
def test_a_quarter_turn(angle, turns):
    x = batch()["image"]
    turned = augmented(x, 0.9, 0.9, angle, 0.5, 0.5, 0.5, rotation=90.0)
    np.testing.assert_allclose(turned, np.rot90(x, turns, (1, 2)), atol=1e-5)


@pytest.mark.slow
def test_a_window_of_a_ramp():
    """A plane stays a plane: half as steep, and its centre a quarter of the image's side away in y, none in x."""
    y, x = np.mgrid[:9, :9].astype(np.float32)
    image = (2 * y + 3 * x)[None, ..., None]
    expected = 2 * (4 + (y - 4) / 2 + 9 / 4) + 3 * (4 + (x - 4) / 2)
    inside = 4 + (y - 4) / 2 + 9 / 4 <= 8
    found = augmented(image, 0.9, 0.9, 0.5, 1.0, 1.0, 0.5, zoom=0.5)[0, ..., 0]
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-5)
    np.testing.assert_allclose(found[~inside], (2 * 8 + 3 * (4 + (x - 4) / 2))[~inside], rtol=1e-5)


@pytest.mark.slow
def test_an_image_s_augmentation_is_its_own():
    """A function of (key, step, row): not of how many others there are."""
    x, few = batch()["image"], arrays.keys(1, 2)
    whole = np.asarray(changed(x, arrays.keys(1, 6), "all", 30.0, 0.7))
    np.testing.assert_allclose(changed(x[:2], few, "all", 30.0, 0.7), whole[:2], atol=1e-6)
    mine = task(augment="geometric")
    state = mine.init(root(), batch())
    step, rows = jax.jit(mine.step), batch(1)
    losses = [float(step(state._replace(step=np.int32(k)), rows)[1]["grad_norm"]) for k in (0, 0, 1)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_what_is_predicted_does_not_depend_on_the_batch():
    mine, rows = task(), batch(7)
    params = mine.eval_params(jax.jit(mine.step)(mine.init(root(), rows), rows)[0])
    source = [
        {"image": image, "label": label, "name": f"{i}", "patient": f"{i}"}
        for i, (image, label) in enumerate(zip(rows["image"], rows["label"], strict=True))
    ]
    found, truth = classify.predicted(mine, params, source, (8, 8), 3)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(truth, np.eye(3)[np.arange(7) % 3])
    np.testing.assert_allclose(classify.predicted(mine, params, source, (8, 8), 7)[0], found, rtol=1e-6)
    several = classify.predicted(task(labels="multi"), params, source, (8, 8), 7)[0]
    odds = several / (1 - several)
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), found, rtol=1e-4)
    with pytest.raises(UserError, match=r"0 has size \(8, 8\)"):
        classify.predicted(mine, params, source, (9, 9), 7)


def test_labels_are_a_grade_or_columns():
    np.testing.assert_array_equal(classify.columns(np.array([[2], [0]]), 3, "single"), [[0, 0, 1], [1, 0, 0]])
    many = np.array([[1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(classify.columns(many, 3, "multi"), many)
    with pytest.raises(UserError, match=r"config\.task\.labels=multi"):
        classify.columns(many, 3, "single")
    with pytest.raises(UserError, match="one grade from 0 to 2"):
        classify.columns(np.array([[3]]), 3, "single")
    with pytest.raises(UserError, match=r"config\.model\.classes=2"):
        classify.columns(np.array([[0, 1]]), 3, "multi")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"labels": "multiple"}, "did you mean multi"),
        ({"augment": "geometry"}, "did you mean geometric"),
        ({"flips": "both"}, "task.flips"),
        ({"zoom": 0.0}, "task.zoom must be more than 0 and at most 1; got 0.0"),
        ({"labels": "multi", "pos_weight": (2.0, 1.0)}, "has 2 numbers"),
    ],
)
def test_nonsense_is_refused(fields, told):
    with pytest.raises(UserError, match=told):
        task(**fields)
    with pytest.raises(UserError, match="no labels"):
        task().init(root(), {"image": batch()["image"]})


@dataclass(frozen=True)
class Shallow(Model):
    """Of one block a stage: what is deeper learns the same, and compiles for longer."""

    @property
    def network(self):
        return resnet.ResNet(resnet.basic, self.classes, self.width, (1, 1, 1))


@pytest.mark.slow
def test_a_resnet_learns_to_count_spots():
    """None from one spot: the classes are told apart on patients that it has never seen."""
    splits = spots.splits(patients=60, grades=2)
    for some in splits.values():
        assert {int(e["label"][0]) for e in some} == {0, 1}
    mine = classify.Task(Shallow(2, width=4), Learner(lr=3e-3))
    rows = [splits["train"][i] for i in range(32)]
    whole = {"image": np.stack([np.float32(e["image"]) / 128 - 1 for e in rows])}
    whole["label"] = np.stack([e["label"] for e in rows])
    state = jax.jit(mine.init)(jax.random.key(0, impl=tiny.KEYS), whole)._replace(key=root())
    step = jax.jit(mine.step, donate_argnums=0)
    for _ in range(40):
        state, metrics = step(state, whole)
    assert float(metrics["loss"]) < 0.1
    others = [e for s in ("val", "test") for e in splits[s]]
    probability, truth = classify.predicted(mine, mine.eval_params(state), others, (32, 32), 24)
    values = classification.macro(classification.figures(probability, truth, multi=False))
    assert values["auc"] > 0.8
