from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from nca_gen.data import pipeline
from nca_gen.data.source import Source
from nca_gen.errors import UserError
from nca_gen.io import images

RNG = np.random.default_rng(0)


def examples(*sizes, labelled=True, dtype=np.uint8):
    """Images whose first channel is the row, the second the column, the third the image."""
    out = []
    for i, (h, w) in enumerate(sizes):
        image = np.stack([*np.mgrid[:h, :w], np.full((h, w), i)], -1).astype(dtype)
        out.append({"image": image, "name": f"x{i}", "patient": f"p{i}"})
        if labelled:
            out[-1]["label"] = np.array([i, -i], np.int32)
    return out


SOURCE = examples((16, 16), (16, 24), (20, 16), (16, 16), (16, 16))


def take(n, source=SOURCE, **options):
    return list(islice(pipeline.batches(source, **{"patch": (8, 8), "batch": 6, "seed": 3} | options), n))


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.slow
def test_any_step_equals_reading_up_to_it():
    whole = take(12)
    for step in (0, 1, 7, 11):
        for got, expected in zip(take(12 - step, step=step), whole[step:], strict=True):
            same(got, expected)


def test_far_steps_are_reached_at_once():
    same(*take(1, step=10**9), take(2, step=10**9 - 1)[1])


def test_a_batch_of_one():
    """The rows of larger batches, one by one."""
    rows = [row for batch in take(2) for row in batch["image"]]
    np.testing.assert_array_equal([one["image"][0] for one in take(9, batch=1, step=3)], rows[3:12])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_rows_of_one_batch(processes):
    whole = take(4)
    parts = [take(4, process=p, processes=processes) for p in range(processes)]
    for k, batch in enumerate(whole):
        for p in range(processes):
            same(parts[p][k], {key: np.array_split(value, processes)[p] for key, value in batch.items()})


def test_threads_change_nothing():
    shapes = [e["image"].shape for e in SOURCE]
    for resident in (True, False):
        source = Source(lambda i: SOURCE[i], shapes, resident)
        for got, expected in zip(take(5, source), take(5), strict=True):
            same(got, expected)


def test_seed_decides():
    assert not np.array_equal(take(1)[0]["image"], take(1, seed=4)[0]["image"])
    assert not np.array_equal(*(b["image"] for b in take(2)))


def pixels(batch):
    return images.from_float(batch["image"]).astype(int)


def test_crops_are_windows_of_their_image_with_its_label():
    for batch in take(20, flips="none"):
        assert batch["image"].dtype == np.float32
        for x, label in zip(pixels(batch), batch["label"], strict=True):
            i = x[0, 0, 2]
            y, c = x[0, 0, :2]
            np.testing.assert_array_equal(x, SOURCE[i]["image"][y : y + 8, c : c + 8])
            np.testing.assert_array_equal(label, [i, -i])


@pytest.mark.slow
def test_every_window_is_cut_about_equally_often():
    x = np.concatenate([pixels(b) for b in take(60, examples((10, 11)), batch=50, flips="none")])
    counts = np.zeros((3, 4))
    np.add.at(counts, (x[:, 0, 0, 0], x[:, 0, 0, 1]), 1)
    expected = 3000 / 12
    assert ((counts - expected) ** 2 / expected).sum() < 31.3  # chi-squared, 11 degrees of freedom, p = 0.001


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flips", "down", "right"),
    [("all", 0.5, 0.5), (True, 0.5, 0.5), ("horizontal", 0, 0.5), ("none", 0, 0), (False, 0, 0)],
)
def test_flips(flips, down, right):
    x = np.concatenate([pixels(b) for b in take(20, batch=100, flips=flips)])
    upside_down = x[:, 0, 0, 0] > x[:, -1, 0, 0]
    mirrored = x[:, 0, 0, 1] > x[:, 0, -1, 1]
    for share, p in ((upside_down, down), (mirrored, right), (upside_down & mirrored, down * right)):
        assert share.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2000))


@pytest.mark.slow
def test_all_eight_views_come_evenly_and_alike():
    """Of image, map and context; the other words draw the numbers that they drew before there was this one."""
    source = volumes((8, 8), context_factor=2)
    batch = take(1, source, batch=800, flips="dihedral")[0]
    x, maps, wide = pixels(batch), batch["label_map"][..., 0], images.from_float(batch["context"]).astype(int)
    np.testing.assert_array_equal(x.sum(-1), maps)
    views = np.stack([x[:, 0, 0], x[:, 0, -1], x[:, -1, 0]], 1).reshape(len(x), -1)  # three corners tell a view
    _, counts = np.unique(views, axis=0, return_counts=True)
    assert len(counts) == 8
    assert ((counts - 100) ** 2 / 100).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = 0.001
    assert (np.sign(np.diff(x[:, :, 0, :], axis=1)).sum(1) == np.sign(wide[:, -1, 0] - wide[:, 0, 0]) * 7).all()
    with pytest.raises(UserError, match="for square patches"):
        take(1, flips="dihedral", patch=(8, 6))


@pytest.mark.slow
def test_an_epoch_visits_images_by_area():
    source = examples((8, 8), (16, 16), (24, 40), labelled=False)
    batch, *_ = take(1, source, batch=20 * 205)  # 1 + 4 + 15 visits, as often as an epoch repeats them
    np.testing.assert_array_equal(np.bincount(pixels(batch)[:, 0, 0, 2]), np.array([1, 4, 15]) * 205)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_depths_keep_their_values(dtype):
    source = [{"image": RNG.random((8, 8, 5)).astype(np.float32), "name": "x", "patient": "x"}]
    if dtype == np.uint16:
        source[0]["image"] = RNG.integers(0, 65536, (8, 8, 5)).astype(np.uint16)
    batch, *_ = take(1, source, flips="none")
    assert batch.keys() == {"image"}
    np.testing.assert_array_equal(batch["image"][0], images.to_float(source[0]["image"]))


def test_evaluation_patches_are_fixed_unflipped_and_spread():
    a = pipeline.patches(SOURCE, patch=(8, 8), n=40, seed=1)
    np.testing.assert_array_equal(a, pipeline.patches(SOURCE, patch=(8, 8), n=40, seed=1))
    assert not np.array_equal(a, pipeline.patches(SOURCE, patch=(8, 8), n=40, seed=2))
    for x in pixels({"image": a}):
        y, c, i = x[0, 0]
        np.testing.assert_array_equal(x, SOURCE[i]["image"][y : y + 8, c : c + 8])
    whole = pipeline.patches(examples(*[(8, 8)] * 12), patch=(8, 8), n=12, seed=0)
    assert sorted(images.from_float(whole)[:, 0, 0, 2].tolist()) == list(range(12))


def test_errors_say_what_to_do():
    with pytest.raises(UserError, match=r"4 images are smaller than config.data.patch=\(17, 16\): x0 has \(16, 16\)"):
        take(1, patch=(17, 16))
    with pytest.raises(UserError, match=r"batch=6 .* 4 processes"):
        take(1, processes=4)
    with pytest.raises(UserError, match="did you mean horizontal"):
        take(1, flips="horizontl")


def test_labels_of_the_images_that_are_shown():
    """``examples`` are ``patches`` with the labels of the images that they were cut from."""
    whole = [np.full((8, 8, 1), 10 * i, np.uint8) for i in range(5)]
    source = [{"image": x, "label": np.array([i]), "name": f"{i}", "patient": f"{i}"} for i, x in enumerate(whole)]
    found = pipeline.examples(source, patch=(4, 4), n=33, seed=2)
    np.testing.assert_array_equal((found["image"][:, 0, 0] + 1) * 12.8, found["label"])
    np.testing.assert_array_equal(pipeline.patches(source, patch=(4, 4), n=33, seed=2), found["image"])


def volumes(*sizes, **more):
    """Volumes whose channels are the place along each axis; a map of the same places, and a label."""
    out = []
    for i, sides in enumerate(sizes):
        image = np.stack(np.mgrid[tuple(slice(n) for n in sides)], -1).astype(np.uint8)
        out.append({"image": image, "label_map": image.sum(-1, dtype=np.int32, keepdims=True) + 1000 * i})
        out[-1] |= {"name": f"v{i}", "patient": f"p{i}", "label": np.array([i], np.int32)}
    shapes = [example["image"].shape for example in out]
    return Source(lambda i: out[i], shapes, fields=("label_map",), **more)


def test_patches_of_volumes_with_their_maps_and_contexts():
    """Cut at one place and mirrored alike, along any axes; maps stay whole numbers."""
    source = volumes((9, 8, 10), (8, 12, 8), context_factor=2)
    [batch] = take(1, source, patch=(4, 4, 6), batch=64)
    assert {name: x.shape for name, x in batch.items()} == {
        "image": (64, 4, 4, 6, 3),
        "context": (64, 4, 4, 6, 3),
        "label_map": (64, 4, 4, 6, 1),
        "label": (64, 1),
    }
    assert batch["label_map"].dtype == np.int32
    places = pixels(batch)
    np.testing.assert_array_equal(places.sum(-1) + 1000 * batch["label"][:, :, None, None], batch["label_map"][..., 0])
    steps = np.stack([places[:, 1, 0, 0, 0] - places[:, 0, 0, 0, 0], places[:, 0, 1, 0, 1] - places[:, 0, 0, 0, 1]])
    assert set(steps.ravel()) == {-1, 1}
    # The context goes the same way, twice as fast, about the same middle; at the edges it stands still.
    wide = images.from_float(batch["context"]).astype(int)
    for axis in range(3):
        fine, coarse = (np.moveaxis(x[..., axis], axis + 1, -1)[:, 0, 0] for x in (places, wide))
        assert (np.sign(coarse[:, -1] - coarse[:, 0]) == np.sign(fine[:, -1] - fine[:, 0])).all()
        assert np.abs(np.diff(coarse)).max() == 2
    fixed = pipeline.examples(source, patch=(4, 4, 6), n=5, seed=1)
    assert fixed.keys() == batch.keys()
    assert (np.diff(pixels(fixed)[..., 0], axis=1) == 1).all()


def test_one_axis_of_volumes_is_mirrored():
    x = pixels(take(1, volumes((9, 8, 10)), patch=(4, 4, 6), batch=64, flips="depth")[0])
    assert set(np.diff(x[..., 0], axis=1).ravel()) == {-1, 1}
    assert set(np.diff(x[..., 1], axis=2).ravel()) == set(np.diff(x[..., 2], axis=3).ravel()) == {1}


def test_a_patch_of_the_wrong_number_of_axes_is_one_clear_line():
    says = r"^config.data.patch=\(8, 8\) has 2 axes; these are volumes with 3: give 3 numbers$"
    with pytest.raises(UserError, match=says):
        take(1, volumes((9, 8, 10)))
    with pytest.raises(UserError, match=r"patch=\(8, 8, 8\) has 3 axes; these are images with 2: give 2 numbers$"):
        pipeline.patches(SOURCE, patch=(8, 8, 8), n=1, seed=0)


def test_evaluation_patches_are_never_the_same_twice():
    """All there are of images that a patch fills or nearly fills; of larger ones every place, once, and no sooner."""
    whole = examples(*[(8, 8)] * 3, (12, 15))  # into the last one patch fits, and not two
    found = pipeline.examples(whole, patch=(8, 8), n=50, seed=0)
    assert sorted(found["label"][:, 0]) == [0, 1, 2, 3]
    alike = pipeline.examples(whole, patch=(8, 8), n=3, seed=0)["image"]
    np.testing.assert_array_equal(alike, found["image"][:3])  # a smaller draw is the beginning of a larger one
    mixed = examples((8, 8), (16, 10), labelled=False)  # 1, and 9 x 3 places
    x = pipeline.patches(mixed, patch=(8, 8), n=100, seed=0)
    assert len(x) == len(np.unique(x, axis=0)) == 28
    small = pipeline.patches(mixed, patch=(8, 8), n=20, seed=0)
    assert len(np.unique(small, axis=0)) == 20


@pytest.mark.slow
def test_evaluation_patches_are_drawn_evenly_and_by_the_seed():
    """Of images in the order of their classes any may come first."""
    whole = examples(*[(4, 4)] * 20)
    draws = [pipeline.examples(whole, patch=(4, 4), n=5, seed=seed)["label"][:, 0] for seed in range(200)]
    often = np.bincount(np.concatenate(draws), minlength=20)  # binomial, of mean 50 and deviation 6
    assert 25 < often.min() <= often.max() < 75
