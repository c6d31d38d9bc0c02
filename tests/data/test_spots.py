from __future__ import annotations

import numpy as np

from nca_gen.data import spots


def test_patients_have_two_eyes_of_one_grade_and_lie_in_one_split():
    splits = spots.splits(patients=30)
    assert {s: len(x) for s, x in splits.items()} == {"train": 48, "val": 6, "test": 6}
    rows = [(e["patient"], int(e["label"][0]), s) for s, x in splits.items() for e in x]
    assert len(set(rows)) == 30
    assert np.bincount([grade for _, grade, _ in set(rows)]).tolist() == [6] * 5
    assert {e["name"].split("_")[1] for e in splits["train"]} == {"left", "right"}


def test_spots_darken_the_disc_and_pixels_are_the_same_each_time():
    """The disc is as bright for all but its spots, each 0.04 wide: darker pixels by the grade."""
    train, again = spots.splits()["train"], spots.splits()["train"]
    dark = {grade: [] for grade in range(5)}
    for one, other in zip(train, again, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        y, x = np.mgrid[:32, :32] / 32 - 0.5
        dark[int(one["label"][0])].append((one["image"][np.hypot(y, x) < 0.38, 0] < 110).sum())
    assert max(dark[0]) == 0
    assert all(min(dark[grade]) > 0 for grade in (1, 2, 3, 4))
    assert np.mean(dark[1]) < np.mean(dark[2]) < np.mean(dark[4])
