"""The judge: specs, labels, references, notes; with a tiny network in place of the published ones."""

import flax.linen as nn
import numpy as np
import pytest

from nca_gen import judge
from nca_gen.errors import UserError
from nca_gen.io import sets
from nca_gen.io.images import from_float
from nca_gen.metrics import bootstrap, classes, features, fid


class Means(nn.Module):
    """Two layers of features that can be had by hand: the mean of each channel, and of each quarter of the first."""

    @nn.compact
    def __call__(self, x):
        quarters = x[..., 0].reshape(len(x), 2, x.shape[1] // 2, 2, x.shape[2] // 2).mean((2, 4)).reshape(len(x), 4)
        return {"2048": x.mean((1, 2)), "logits_unbiased": quarters}


@pytest.fixture
def networks(monkeypatch, tmp_path):
    """Every extractor is :class:`Means`, without weights; the cache is empty."""
    row = features.Extractor(
        Means, ("2048", "logits_unbiased"), 8, inputs=lambda x: x, resize="none", normalisation="none"
    )
    names = ("inception", "inception-clean", "inception-random", "vgg16", "dinov2-vits14")
    monkeypatch.setattr(features, "EXTRACTORS", dict.fromkeys(names, row))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def images(n, seed, mean=0.0):
    return np.clip(mean + 0.3 * np.random.default_rng(seed).standard_normal((n, 8, 8, 3)), -1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("spec", "label", "extractor", "options"),
    [
        ("fid", "fid", "inception", {}),
        ("fid@inception", "fid", "inception", {}),
        ("fid@inception-clean", "fid@inception-clean", "inception-clean", {}),
        ("fid@inception-random", "frechet@inception-random", "inception-random", {}),
        ("kid@dinov2-vits14:size=5", "kernel_mmd@dinov2-vits14", "dinov2-vits14", {"size": 5}),
        ("kid:subsets=3:size=10", "kid", "inception", {"subsets": 3, "size": 10}),
        ("precision_recall@dinov2-vits14", "precision_recall@dinov2-vits14", "dinov2-vits14", {}),
        ("swd", "swd", "", {}),
    ],
)
def test_a_spec_is_read(networks, spec, label, extractor, options):
    found = judge.request(spec)
    assert (found.label, found.extractor, found.options) == (label, extractor, options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("swdd", "unknown name in metrics 'swdd'; did you mean swd?"),
        ("fid@inceptoin", "did you mean inception"),
        ("kid:sise=3", "unknown option of kid 'sise'; did you mean size?"),
        ("kid:size", "kid:size: size needs a value, like kid:size=1"),
        ("swd@inception", "swd reads the images themselves; leave out @inception"),
    ],
)
def test_a_wrong_spec_is_told_the_right_one(networks, spec, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        judge.request(spec)


@pytest.mark.slow
def test_scores_are_the_metrics_on_the_features(networks):
    generated, real, train = images(12, 0), images(9, 1, 0.1), images(20, 2)
    facts = judge.judge(["fid"], generated, real, train, 0)

    def mean(x):
        return from_float(x).astype(np.float64).mean((1, 2))

    expected = fid.distance(fid.statistics(mean(real)), fid.statistics(mean(generated)))["fid"]
    assert facts["scores"]["fid"] == pytest.approx(expected, rel=1e-3)
    against = fid.distance(fid.statistics(mean(train[judge.drawn(20, 9, 0)])), fid.statistics(mean(generated)))["fid"]
    assert facts["scores"]["fid_train"] == pytest.approx(against, rel=1e-3)
    assert facts["counts"] == {"generated": 12, "real": 9, "train": 20}
    assert facts["features"] == {"fid": {"extractor": "inception", "layer": "2048"}}
    assert facts["networks"]["inception"]["resize"] == "none"


def test_copies_are_nearer_to_the_training_images(networks):
    train = images(40, 0, 0.05)
    scores = judge.judge(["fid"], train, images(40, 1), train, 0)["scores"]
    assert scores["fid_train"] == pytest.approx(0, abs=1e-6)
    assert scores["fid"] > 1


@pytest.mark.slow
def test_as_many_of_train_are_drawn_by_the_seed(networks):
    """Of training images in the order of their classes some of each: copies of a few of all are near to them."""
    train = np.concatenate([images(20, k, mean) for k, mean in enumerate((-0.6, 0.0, 0.6))])
    real = np.concatenate([images(7, 3 + k, mean + 0.05) for k, mean in enumerate((-0.6, 0.0, 0.6))])
    facts = judge.judge(["fid", "kid@dinov2-vits14:size=9"], train[::3], real, train, 0)
    assert facts["scores"]["fid_train"] < facts["scores"]["fid"]
    for label in ("fid", "kernel_mmd@dinov2-vits14"):
        subset = f"{label}_train is against 21 of the 60 training images, drawn by the seed."
        assert facts["protocol"][label].endswith(subset)
    assert judge.judge(["fid"], train[::3], real, train[:7], 0)["protocol"]["fid"].endswith(
        "7 of the 7 training images, drawn by the seed."
    )


def test_a_draw_is_without_replacement_and_of_all():
    draws = np.array([judge.drawn(60, 21, seed) for seed in range(400)])
    assert all(len(set(draw)) == 21 for draw in draws)
    np.testing.assert_array_equal(draws[7], judge.drawn(60, 21, 7))
    often = np.bincount(draws.ravel(), minlength=60)  # binomial, of mean 140 and deviation 9.5
    assert 95 < often.min() <= often.max() < 185
    assert sorted(judge.drawn(5, 9, 0)) == [0, 1, 2, 3, 4]


def test_sets_that_cannot_be_compared_are_refused_first():
    """Neither broadcast nor met halfway: sizes and channels are said."""
    x = images(4, 0)
    with pytest.raises(
        UserError, match=r"swd compares images of one size .*generated are 8 x 8 x 3 and real are 6 x 8 x 3"
    ):
        judge.judge(["swd"], x, x[:, :6], None, 0)
    with pytest.raises(
        UserError, match=r"drift compares images of one number of channels: generated are 1 and real are 3"
    ):
        judge.judge(["drift"], x[..., :1], x, None, 0)
    with pytest.raises(UserError, match=r"neighbours compares .*generated are 8 x 8 x 3 and train are 8 x 8 x 1"):
        judge.judge(["neighbours"], x, x, x[..., :1], 0)
    assert judge.judge(["drift"], x, x[:, :6], None, 0)["scores"]["drift"] < 0.1


@pytest.mark.slow
def test_features_of_several_sizes_are_told(networks):
    notes = judge.judge(["fid"], images(4, 0), images(4, 1)[:, :6], None, 0)["notes"]
    assert notes["size"][0].startswith("images differ in size (generated 8 x 8, real 6 x 8)")


def test_random_weights_never_bear_the_name(networks):
    facts = judge.judge(["fid@inception-random", "kid@inception-random:size=4"], images(5, 0), images(6, 1), None, 0)
    assert not [key for key in facts["scores"] if "fid" in key or "kid" in key]
    assert {"frechet@inception-random", "kernel_mmd@inception-random"} <= facts["scores"].keys()


def test_a_caveat_stands_beside_its_number(networks):
    facts = judge.judge(["fid"], images(3, 0), images(3, 1), None, 0)
    assert "bias" in facts["notes"]["fid"][0]
    assert any(line.startswith("note: fid: ") for line in judge.table(facts))


def test_real_features_are_computed_once(networks, monkeypatch):
    generated, real = images(5, 0), images(6, 1)
    first = judge.judge(["fid"], generated, real, None, 0)
    whole, seen = features.extract, []
    monkeypatch.setattr(features, "extract", lambda name, x, **how: seen.append(len(x)) or whole(name, x, **how))
    assert judge.judge(["fid"], generated, real, None, 0) == first
    assert seen == [5]


@pytest.mark.parametrize(
    ("specs", "real", "train", "kind", "message"),
    [
        (["fid"], None, 4, "images", "give them with --reference=PATH"),
        (["authpct"], 4, None, "images", "give them with --train=PATH"),
        (["fid", "fid"], 4, 4, "images", "fid is asked for twice"),
        (["fid"], 4, 4, "volumes", "fid scores images, and these are volumes"),
    ],
)
def test_what_cannot_be_scored_is_refused_first(networks, specs, real, train, kind, message):
    sets = [n and images(n, 1) for n in (4, real, train)]
    with pytest.raises(UserError, match=message):
        judge.judge(specs, *sets, 0, kind)


def test_an_interval_stands_in_one_line():
    scores = {"precision": 0.5, "precision_low": 0.4, "precision_high": 0.6}
    facts = {"scores": scores, "counts": {"real": 3}, "seed": 1, "networks": {}, "notes": {}}
    lines = judge.table(facts)
    assert len(lines) == 2
    assert lines[0].split() == ["precision", "0.5", "95", "%:", "0.4", "to", "0.6"]


def test_scores_of_features_are_given_for_each_class(networks):
    """The second class is a copy of its real images; what reads the images themselves has no rows."""
    generated, real = images(12, 0), images(12, 1, 0.4)
    generated[6:] = real[6:]
    label = np.repeat([0, 1], 6)[:, None]
    known = classes.of({"generated": label, "real": label}, ["grade"])
    facts = judge.judge(["fid", "drift"], generated, real, None, 0, classes=known)
    assert facts["classes"]["counts"]["grade 1"] == {"generated": 6, "real": 6}
    assert facts["classes"]["scores"].keys() == {"fid"}
    rows = facts["classes"]["scores"]["fid"]
    assert rows["grade 1"] == pytest.approx(0, abs=1e-6)
    assert rows["grade 0"] > facts["scores"]["fid"]
    assert "classes" not in judge.judge(["drift"], generated, real, None, 0, classes=known)


@pytest.mark.slow
def test_a_metric_that_takes_features_by_itself_is_scored_by_class_too(networks):
    """Of each image once, for all classes and against training images."""
    generated, real, train = (images(8, seed).repeat(2, 1).repeat(2, 2) for seed in range(3))
    generated[4:] = real[4:]
    known = classes.Classes(("a", "b"), dict.fromkeys(("generated", "real"), np.eye(2, dtype=bool).repeat(4, 0)))
    facts = judge.judge(["frd"], generated, real, train, 0, classes=known)
    assert facts["classes"]["scores"]["frd"]["b"] < 0 < facts["classes"]["scores"]["frd"]["a"]
    assert facts["scores"]["frd_train"] > facts["scores"]["frd"]
    assert any(line.split() == ["frd", "by", "class"] for line in judge.table(facts))


def test_sets_of_several_depths_are_told(tmp_path):
    """White of 8 bits is 127/128, of 16 it is 1."""
    grey = np.linspace(0, 255, 64).astype(np.uint8).reshape(2, 4, 8, 1)
    np.save(tmp_path / "8.npy", grey)
    np.save(tmp_path / "16.npy", grey * np.uint16(257))
    eight, sixteen = sets.open(tmp_path / "8.npy"), sets.open(tmp_path / "16.npy")
    notes = judge.judge(["drift"], sixteen, eight, None, 0)["notes"]
    assert notes["depth"][0].startswith("pixels are stored in several depths (generated uint16, real uint8)")
    assert "depth" not in judge.judge(["drift"], eight, eight, None, 0)["notes"]


@pytest.mark.slow
def test_halves_say_how_far_a_score_may_be_off(networks):
    """Of what compares with real images: the deviation of that score over halves of both sets; nothing more."""
    generated, real, train = images(20, 0), images(16, 1), images(12, 2)
    specs = ("fid@inception-clean", "drift", "neighbours")
    scores = judge.judge(specs, generated, real, train, 5, halves=6)["scores"]
    plain = judge.judge(specs, generated, real, train, 5)["scores"]
    some = {name: value for name, value in scores.items() if name.endswith("_error")}
    label = next(name for name in plain if name.startswith("f"))
    assert some.keys() == {f"{label}_error", "drift_error"}
    assert {name: value for name, value in scores.items() if name not in some} == plain
    features_of = [features.extract("inception-clean", x, layers=["2048"])["2048"] for x in (generated, real)]
    expected = bootstrap.error(features_of, 5, lambda x, y: fid.score(x, y, None, seed=5)["fid"], 6)
    assert some[f"{label}_error"] == pytest.approx(expected, rel=1e-6)
