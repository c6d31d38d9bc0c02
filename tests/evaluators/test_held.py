"""What samples are held against: as many real images as are asked for, and never more than there are."""

import jax
import numpy as np
import pytest
import tiny

from nca_gen import build
from nca_gen.evaluators.held import Held


def held(config, splits):
    return Held(config, build.task(config), splits)


def test_no_real_image_is_used_twice():
    """Of twelve images all, once, where twenty are asked for; that is said, and twenty samples are drawn."""
    data = held(tiny.conditional(**{"held.n": 20, "held.train": 13}), tiny.graded())
    assert (data.n, data.real.shape, data.train.shape) == (20, (12, 16, 16, 3), (12, 16, 16, 3))
    grades = [int(tiny.graded()["test"][i]["label"][0]) for i in range(12)]
    assert sorted(data.pixels["label"][:, 0]) == sorted(grades)
    assert data.notes() == {
        "real": ["only 12 patches of test are used, all that there are, and not config.held.n=20"],
        "train": ["only 12 patches of train are used, all that there are, and not config.held.train=13"],
    }
    assert held(tiny.conditional(**{"held.n": 12, "held.train": 12}), tiny.graded()).notes() == {}


@pytest.mark.slow
def test_samples_have_the_conditions_of_real_images_in_turn():
    data = held(tiny.conditional(**{"held.n": 20}), tiny.graded())
    labels = np.eye(3)[np.resize(data.pixels["label"][:, 0], 20)]
    np.testing.assert_array_equal(data.cond["label"], labels)
    np.testing.assert_array_equal(data.rows(14)["label"], labels[:14])
    few = held(tiny.conditional(**{"held.n": 5}), tiny.graded())
    assert jax.tree.map(np.shape, few.cond) == {"label": (5, 3)}


def test_the_draw_is_that_of_the_seed_for_all_who_ask():
    one, again, other = (held(tiny.conditional(**{"held.n": 6, "seed": seed}), tiny.graded()) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.real, again.real)
    assert not np.array_equal(one.pixels["label"], other.pixels["label"])
