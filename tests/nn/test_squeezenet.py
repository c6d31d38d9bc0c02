"""SqueezeNet against torchvision's digits; number by number in tests/peers."""

import pytest
import seeded

from nca_gen.nn import squeezenet

DIGITS = {  # of torchvision 0.28.0
    "relu1": (0.5764851, 0.8471549, -0.331287),
    "relu2": (0.8205687, 1.284187, 0.2058209),
    "relu3": (1.844452, 2.685252, -0.05318394),
    "relu4": (2.794157, 4.269519, 2.917819),
    "relu5": (3.120118, 4.352327, -1.0021),
    "relu6": (2.850288, 4.228883, -3.765943),
    "relu7": (2.370119, 3.47373, -1.912451),
}


@pytest.mark.slow
def test_every_layer_has_the_digits_of_torchvision():
    """At a size where a pool's last window reaches over the edge."""
    seeded.agree(seeded.layers(squeezenet.SqueezeNet(), 66), DIGITS)


@pytest.mark.slow
def test_parameters_are_as_many_as_published():
    assert seeded.count(squeezenet.SqueezeNet(), 66) + 513 * 1000 == 1_235_496
