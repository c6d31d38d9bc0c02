"""VGG16 against torchvision's digits; number by number, and the head, in tests/peers."""

import pytest
import seeded

from nca_gen.nn import vgg

DIGITS = {  # of torchvision 0.28.0
    "relu1_2": (0.5436379, 0.8133582, -0.1387433),
    "relu2_2": (0.9092875, 1.216897, 0.007898447),
    "relu3_3": (0.9515324, 1.404052, 0.22336),
    "relu4_3": (0.8186297, 1.211192, 0.2991414),
    "relu5_3": (0.3652072, 0.5343738, -0.06551577),
}


@pytest.mark.slow
def test_every_layer_has_the_digits_of_torchvision():
    seeded.agree(seeded.layers(vgg.VGG16(head=False), 35), DIGITS)


@pytest.mark.slow
def test_parameters_are_as_many_as_published():
    assert seeded.count(vgg.VGG16(), 224) == 138_357_544 - 4097 * 1000  # less the class logits
