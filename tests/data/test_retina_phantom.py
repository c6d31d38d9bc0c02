"""Drawn retinas: the same everywhere, and as bright as what is true of them says."""

from __future__ import annotations

import hashlib
import math

import ml_collections
import numpy as np
import pytest
from scipy import ndimage, special

from nca_gen.data import layers, pipeline, retina_phantom
from nca_gen.data.retina_anatomy import DEPTH, FIELD, SHADOW, Anatomy, anatomy
from nca_gen.data.source import slices
from nca_gen.verbs import check

SIZE = (48, 56, 64)
GOLDEN = ["432ee9bbe15c", "7833867f5ce3", "0c878b27ba13"]  # of image, vessels and surfaces
GREY = 255 / retina_phantom.DECADES / math.log(10)  # grey levels of a factor e of intensity


def plain(*edges, base=128, height=40, grid=(64, 64)):
    """A volume of one grey level, and ``edges`` (row, step) that are flat, without noise of its own."""
    planes = [np.full(grid, at, np.float32) for at, _ in edges]
    steps = [np.full(grid, 16 * step, np.int16) for _, step in edges]
    flat = np.zeros((0, *grid))
    truth = Anatomy(
        np.zeros((6, *grid), np.float32),
        np.zeros(grid, np.uint8),
        np.full(grid, base, np.int16),
        np.stack(planes) if planes else flat.astype(np.float32),
        np.stack(steps) if steps else flat.astype(np.int16),
    )
    return retina_phantom.scans(truth, height, 0, 0, 0, grid[0])[..., 0].astype(int)


def key(array):
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def test_the_same_on_every_machine():
    """The bytes of a small one: whoever changes what is drawn raises VERSION, and these."""
    example = retina_phantom.splits(n=3, size=(16, 24, 20), labels="vessels", seed=3)["train"][0]
    truth = anatomy((16, 24, 20), 3, int(example["name"][-4:]))
    assert retina_phantom.VERSION == 1
    assert [key(x)[:12] for x in (example["image"], example["label_map"], truth.surfaces)] == GOLDEN


@pytest.mark.parametrize("labels", ["layers", "vessels"])
def test_parts_are_those_of_the_whole(labels):
    """Volumes that do not fit into memory are drawn by the B-scan, beyond the edges too."""
    whole, parts = (retina_phantom.splits(n=4, size=SIZE, labels=labels, memory_gb=gb)["train"] for gb in (1.0, 0.0))
    assert (whole.window, whole.resident) == (None, True)
    assert parts.window is not None
    for box in ([(3, 9), (0, 56), (10, 12)], [(-2, 2), (50, 60), (60, 70)], [(47, 48), (7, 8), (0, 64)]):
        a, b = whole.read(0, box), parts.read(0, box)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert whole.digest() == parts.digest() != retina_phantom.splits(n=4, size=SIZE, seed=1)["train"].digest()


@pytest.mark.slow
def test_eyes_differ_and_are_in_one_split():
    splits = retina_phantom.splits(n=20, size=(16, 16, 16))
    assert {word: len(source) for word, source in splits.items()} == {"train": 16, "val": 2, "test": 2}
    examples = [example for source in splits.values() for example in source]
    assert len({example["patient"] for example in examples}) == len({key(e["image"]) for e in examples}) == 20
    assert splits.notes == (retina_phantom.NOTE,)
    assert examples[0]["mpp"] == (FIELD / 16, DEPTH / 16, FIELD / 16)


def test_a_step_between_two_rows_is_shared_by_both(monkeypatch):
    monkeypatch.setattr(retina_phantom, "BLUR", 0)
    for at, expected in ((10.25, [0, 30, 40]), (9.5, [20, 40, 40]), (10, [0, 40, 40])):
        rise = plain((at, 40)) - plain()
        assert (rise == rise[:1, :, :1]).all()
        assert rise[0, 9:12, 0].tolist() == expected
        assert set(rise[0, :9, 0]) | set(rise[0, 12:, 0]) == {0, 40}
    assert (plain((-3.2, 40)) - plain() == 40).all()
    assert (plain((40.0, 40), (55.5, 40)) == plain()).all()


def test_speckle_is_a_gamma_variate_of_four_looks_of_mean_one():
    """In grey levels its mean and spread are those of the logarithm; half is alike in neighbours along D and W."""
    noise = plain(grid=(96, 96)) - 128
    assert noise.mean() == pytest.approx(GREY * (special.digamma(4) - math.log(4)), abs=0.15)
    assert noise.std() == pytest.approx(GREY * math.sqrt(special.polygamma(1, 4)), rel=0.02)
    assert np.exp(noise / GREY).mean() == pytest.approx(1, abs=0.01)
    likeness = lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert likeness(noise[1:], noise[:-1]) == pytest.approx(0.5, abs=0.03)
    assert likeness(noise[..., 1:], noise[..., :-1]) == pytest.approx(0.5, abs=0.03)
    assert likeness(noise[:, 1:], noise[:, :-1]) == pytest.approx(0, abs=0.01)


def test_surfaces_are_in_their_order_and_lowest_at_the_fovea():
    for index in range(4):
        truth = anatomy(SIZE, 0, index)
        assert (np.diff(truth.surfaces, axis=0) > 0).all()
        assert (truth.surfaces[0] > 2).all()
        assert (truth.surfaces[-1] < SIZE[1] - 8).all()
        inner = truth.surfaces[1] - truth.surfaces[0]
        assert truth.vessels[np.unravel_index(inner.argmin(), inner.shape)] == 4  # in the FAZ
        assert 1.5 < np.quantile(inner, 0.9) / inner.min() < 12


def test_of_another_size_it_is_the_same_eye():
    small, large = anatomy((32, 32, 32), 0, 5), anatomy((64, 96, 64), 0, 5)
    means = large.surfaces.reshape(6, 32, 2, 32, 2).mean((2, 4)) / 3
    assert np.abs(means - small.surfaces).max() < 0.5  # of a row of 22 micrometres
    assert np.abs(means - small.surfaces).mean() < 0.05
    faz = (large.vessels == 4).reshape(32, 2, 32, 2).mean((1, 3)) - (small.vessels == 4)
    assert np.abs(faz).sum() < 0.3 * (small.vessels == 4).sum()


def test_the_zone_without_vessels():
    """One piece around the fovea, as large as is known of it, without a large vessel, and capillaries around it."""
    for index in range(4):
        classes = anatomy((128, 64, 128), 0, index).vessels
        faz = classes == 4
        pieces, n = ndimage.label(faz)
        largest = np.bincount(pieces.ravel())[1:].max()
        assert largest == faz.sum(), n
        assert 0.1 < faz.sum() * (FIELD / 1000 / 128) ** 2 < 0.7  # square millimetres
        assert not ndimage.binary_fill_holes(faz)[(classes == 2) | (classes == 3)].any()
        ring = ndimage.binary_dilation(faz) & ~faz
        assert (classes[ring] == 1).mean() > 0.9
        assert set(np.unique(classes)) == {0, 1, 2, 3, 4}
        assert all(0.02 < (classes == k).mean() < 0.2 for k in (2, 3))


@pytest.mark.slow
def test_large_vessels_are_long_and_cast_a_shadow():
    """Below them it is as much darker as is stated; the arteries and veins are few pieces that cross the field."""
    size, side = (96, 160, 96), FIELD / 96
    below, beside = [], []
    for index in range(3):
        truth = anatomy(size, 0, index)
        image = retina_phantom.scans(truth, size[1], 0, index, 0, size[0])[..., 0].astype(float)
        drawn = layers.layer_map(truth.surfaces, np.arange(size[1]))[..., 0]
        for k in (2, 3):
            pieces, _ = ndimage.label(truth.vessels == k, np.ones((3, 3)))
            extent = max(np.ptp(np.nonzero(pieces == p)[1]) for p in range(1, pieces.max() + 1))
            assert extent * side > 2500
        cores = ndimage.binary_erosion(np.isin(truth.vessels, (2, 3)), np.ones((3, 3)))
        far = ~ndimage.binary_dilation(np.isin(truth.vessels, (2, 3)), np.ones((3, 3)), 2)
        for where, into in ((cores, below), (far, beside)):
            into.append(image[(drawn == 3) & where[:, None]].mean())
    assert np.mean(below) - np.mean(beside) == pytest.approx(SHADOW, abs=8)


def test_layers_are_as_bright_as_in_an_eye():
    """Vitreous dark; the outer nuclear layer the darkest of the retina, the pigment epithelium the brightest."""
    truth = anatomy(SIZE, 0, 1)
    image = retina_phantom.scans(truth, SIZE[1], 0, 1, 0, SIZE[0])[..., 0]
    drawn = layers.layer_map(truth.surfaces, np.arange(SIZE[1]))[..., 0]
    means = [image[drawn == k].mean() for k in range(7)]
    assert means[0] < 30
    assert min(means[1:6]) == means[3]
    assert max(means) == means[5]
    assert means[5] > means[3] + 80
    assert means[1] > means[2] > means[3]
    assert (image == 255).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["layers", "vessels"])
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_label_maps_stay_registered_under_crops_and_flips(labels, memory_gb, monkeypatch):
    """Of volumes whose grey levels are their classes, batches have both alike, wherever cut and however mirrored."""
    true = retina_phantom.scans

    def coded(truth, height, seed, index, start, stop):
        shape = true(truth, height, seed, index, start, stop).shape
        drawn = layers.layer_map(truth.surfaces, np.arange(height)) if labels == "layers" else None
        classes = layers.en_face(truth.vessels, height) if drawn is None else drawn
        assert classes[start:stop].shape == shape
        return (32 * classes[start:stop]).astype(np.uint8)

    monkeypatch.setattr(retina_phantom, "scans", coded)
    source = retina_phantom.splits(n=6, size=(24, 32, 28), labels=labels, memory_gb=memory_gb)["train"]
    seen = set()
    stream = pipeline.batches(source, patch=(8, 16, 12), batch=4, seed=0, flips="all")
    for _ in range(6):
        batch = next(stream)
        np.testing.assert_array_equal((batch["image"] + 1) * 4, batch["label_map"])
        seen |= set(np.unique(batch["label_map"]))
    assert seen == set(range(len(layers.CLASSES[labels])))
    examples = pipeline.examples(source, patch=(8, 16, 12), n=9, seed=0)
    np.testing.assert_array_equal((examples["image"] + 1) * 4, examples["label_map"])


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_slices_are_images_with_their_maps(memory_gb):
    source = retina_phantom.splits(n=4, size=(6, 16, 12), labels="layers", memory_gb=memory_gb)["train"]
    images = slices(source)
    assert len(images) == 6 * len(source)
    whole, part = source[1], images.read(6 + 4, [(2, 10), (0, 12)])
    for name in ("image", "label_map"):
        np.testing.assert_array_equal(part[name], whole[name][4, 2:10])


@pytest.mark.slow
def test_check_reads_it_through(capsys):
    """--mode=check says that it is drawn, and finds nothing else wrong."""
    data = {"name": "retina_phantom", "n": 8, "size": (16, 24, 16), "labels": "layers"}
    report = check.check(ml_collections.ConfigDict({"data": data | {"patch": (8, 8, 8), "flips": "all"}}))
    assert report["problems"] == [retina_phantom.NOTE]
    assert report["splits"]["train"]["shapes"] == {"16x24x16x1": 6}
    classes = report["splits"]["train"]["classes"]["label_map"]
    assert set(classes) == set(range(7))
    assert sum(classes.values()) == 6 * 16 * 24 * 16
    capsys.readouterr()
