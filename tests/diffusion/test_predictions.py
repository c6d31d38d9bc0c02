"""What the network says, as a coordinate of the pair (x0, eps)."""

import numpy as np
import pytest

from nca_gen.diffusion import predictions

ANGLES = [0.01, 0.5, np.pi / 4, 1.2, 1.56]


def pair():
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((2, 4, 5, 3))


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("name", predictions.PREDICTIONS)
def test_the_target_implies_x0(name, angle):
    (x0, eps), (a, s) = pair(), (np.cos(angle), np.sin(angle))
    predict = predictions.PREDICTIONS[name]
    target = predict.target(x0, eps, a, s)
    np.testing.assert_allclose(predict.x0(target, a * x0 + s * eps, a, s), x0, atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
def test_v_is_the_velocity(angle):
    """d/dphi of x(phi) = cos(phi) x0 + sin(phi) eps (Salimans & Ho 2022, appendix D), by a central difference."""
    x0, eps = pair()

    def x(phi):
        return np.cos(phi) * x0 + np.sin(phi) * eps

    slope = (x(angle + 1e-5) - x(angle - 1e-5)) / 2e-5
    np.testing.assert_allclose(predictions.v.target(x0, eps, np.cos(angle), np.sin(angle)), slope, atol=1e-8)


def test_ends_of_v():
    """v is the noise where the image is clean, and minus the image where it is noise."""
    x0, eps = pair()
    np.testing.assert_array_equal(predictions.v.target(x0, eps, 1.0, 0.0), eps)
    np.testing.assert_array_equal(predictions.v.target(x0, eps, 0.0, 1.0), -x0)


def test_eps_and_x0_by_name():
    x0, eps = pair()
    np.testing.assert_array_equal(predictions.eps.target(x0, eps, 0.6, 0.8), eps)
    np.testing.assert_array_equal(predictions.x0.target(x0, eps, 0.6, 0.8), x0)
