"""ResNets against torchvision's digits and those of Keras's in PyTorch; number by number, and in training, in
tests/peers."""

import jax
import numpy as np
import pytest
import seeded

from nca_gen.nn import port, resnet

DIGITS = {  # of torchvision 0.28.0, and of tests/peers/test_fid_25d.py with PyTorch 2.13.0
    "resnet34": {
        "layer1": (5.644611, 6.227062, 0.5137997),
        "layer2": (15.21564, 17.09538, 10.63457),
        "layer3": (63.47492, 69.26705, -59.96037),
        "layer4": (85.26609, 98.64468, -132.6525),
        "pool": (85.26609, 66.34914, 3.799011),
        "logits": (4.614475, 151.3127, 112.5561),
    },
    "resnet50": {
        "layer1": (3.402039, 4.406298, 0.926175),
        "layer2": (16.22964, 18.79131, -1.144863),
        "layer3": (106.5004, 119.7506, -178.6504),
        "layer4": (221.2211, 254.8304, -189.0981),
        "pool": (221.2211, 197.0084, 90.17533),
        "logits": (-0.1195346, 424.2948, 434.4466),
    },
    "radimagenet50": {
        "layer1": (5.664819, 7.091186, -0.1787161),
        "layer2": (23.56722, 29.34853, 0.3213959),
        "layer3": (183.6874, 208.7247, 125.4212),
        "layer4": (355.8389, 399.6127, -996.8645),
        "pool": (355.8389, 305.0041, -311.5984),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet.resnet34, resnet.resnet50, resnet.radimagenet50])
def test_every_layer_has_the_digits_of_the_peer(make):
    seeded.agree(seeded.layers(make(), 35), DIGITS[make.__name__])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "published"),
    [(resnet.resnet34, 21_797_672), (resnet.resnet50, 25_557_032), (resnet.radimagenet50, 23_534_592)],
)
def test_parameters_are_as_many_as_published(make, published):
    assert seeded.count(make(), 35) == published


@pytest.mark.slow
def test_classes_are_chosen():
    assert seeded.count(resnet.resnet34(0), 35) == 21_797_672 - 513 * 1000


@pytest.mark.slow
def test_training():
    """A batch normalises itself, so a factor of the first kernel is not seen, and the running statistics move to it."""
    network, x = resnet.ResNet(resnet.basic, 3, 16, stages=(1, 2, 1, 1)), seeded.images(35, 4)
    state = seeded.state(network, 35)

    def loss(params, stats, x):
        out, moved = network.apply({"params": params} | stats, x, train=True, mutable="batch_stats")
        return (out["logits"] ** 2).sum(), (out["logits"], moved["batch_stats"])

    def train(factor):
        stats = port.variables(state | {"conv1.weight": factor * state["conv1.weight"]}, network, x)
        gradients, seen = step(stats.pop("params"), stats, x)
        return gradients, *seen

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradients, logits, moved = train(1)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))
    np.testing.assert_allclose(train(32)[1], logits, atol=2e-3 * np.abs(logits).max())
    kernel = np.moveaxis(state["conv1.weight"], (0, 1), (-1, -2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)]), (7, 7), (1, 2))
    first = np.einsum("bhwcij,ijco->bhwo", np.float64(windows[:, ::2, ::2]), kernel)
    for name, of in (("mean", np.mean), ("var", np.var)):
        expected = 0.9 * state[f"bn1.running_{name}"] + 0.1 * of(first, (0, 1, 2))
        np.testing.assert_allclose(moved["bn1"][name], expected, rtol=1e-4, atol=1e-5)
