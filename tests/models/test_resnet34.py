"""The classifier's network: its size, its start, and published weights below a new head. Its layers: tests/nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen.errors import UserError
from nca_gen.models.resnet34 import MEAN, Model
from nca_gen.nn import port, resnet


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.slow
def test_parameters():
    """Published with 1000 classes: 21,797,672; each takes 512 weights and a bias of the head."""
    shapes = tiny.shapes(Model(11))
    assert count(shapes) == 21_797_672 - 989 * 513 == 21_290_315
    assert count(jax.eval_shape(Model(5).init_statistics)) == 2 * 8512  # two for every channel that is normalised


@pytest.mark.slow
def test_the_statistics_start_as_a_standard_normal():
    leaves, _ = jax.tree.flatten_with_path(Model(3, width=2).init_statistics())
    assert {path[-1].key for path, _ in leaves} == {"mean", "var"}
    assert all(np.all(np.asarray(x) == (path[-1].key == "var")) for path, x in leaves)


@pytest.mark.slow
def test_published_weights_but_the_head(tmp_path):
    network = resnet.resnet34(7, width=2)
    state = port.random_state(network, jnp.zeros((1, 32, 32, 3)), 0)
    np.savez(tmp_path / "weights.npz", **state)
    model = Model(3, width=2, weights=str(tmp_path / "weights.npz"))
    params, statistics = tiny.born(model), model.init_statistics()
    np.testing.assert_array_equal(params["conv1"]["kernel"], np.moveaxis(state["conv1.weight"], (0, 1), (-1, -2)))
    np.testing.assert_array_equal(statistics["layer4.2"]["bn2"]["var"], state["layer4.2.bn2.running_var"])
    assert params["fc"]["kernel"].shape == (16, 3)
    with pytest.raises(UserError, match="another network"):
        Model(3, width=4, weights=str(tmp_path / "weights.npz")).init_statistics()


@pytest.mark.slow
def test_grey_images_are_taken_three_times_and_colours_as_imagenet_has_them():
    model = Model(3, width=2)
    params, statistics = tiny.born(model), model.init_statistics()
    grey = np.tanh(np.random.default_rng(0).standard_normal((2, 32, 32, 1))).astype(np.float32)
    apply = jax.jit(model.apply)
    logits = apply(params, statistics, grey)[0]
    np.testing.assert_allclose(apply(params, statistics, np.repeat(grey, 3, -1))[0], logits, rtol=1e-5)
    # The mean colour is 0, of which nothing but the head's bias, 0 at the start, is left.
    mean = np.broadcast_to(np.float32(MEAN / 128 - 1), (1, 32, 32, 3))
    np.testing.assert_allclose(apply(params, statistics, mean)[0], 0, atol=1e-4)
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        model.apply(params, statistics, jnp.zeros((1, 32, 32, 2)))


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="classes must be at least 2; got 1"):
        Model(1)
