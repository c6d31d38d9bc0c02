"""AlexNet against torchvision's digits; number by number in tests/peers."""

import pytest
import seeded

from nca_gen.nn import alexnet

DIGITS = {  # of torchvision 0.28.0
    "relu1": (0.5433143, 0.8013138, -0.3544994),
    "relu2": (0.9879485, 1.483267, 0.1462284),
    "relu3": (1.330355, 1.968688, 0.1431307),
    "relu4": (1.027931, 1.564318, 0.6785027),
    "relu5": (0.8985958, 1.286392, 0.2413626),
}


@pytest.mark.slow
def test_every_layer_has_the_digits_of_torchvision():
    seeded.agree(seeded.layers(alexnet.AlexNet(), 67), DIGITS)


def test_parameters_are_as_many_as_published():
    classifier = 9217 * 4096 + 4097 * 4096 + 4097 * 1000
    assert seeded.count(alexnet.AlexNet(), 67) + classifier == 61_100_840
