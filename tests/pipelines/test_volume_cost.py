"""A volume of 512 x 512 x 512 by the published networks: at most 4 GB of buffers at any stage, and 3.5 PFLOP."""

from functools import partial

import pytest
import volume_cost

from nca_gen.models import multislice
from nca_gen.models.multislice import windows

GB = 1e9
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", volume_cost.STAGES.values(), ids=[*volume_cost.STAGES])
def test_buffers_of_a_stage(stage):
    assert stage().buffers <= 4 * GB


def test_one_image_at_a_time_takes_less():
    """Between adaptors, of a window of five, and the same slices with 8 % fewer products."""
    part = volume_cost.pipeline().parts["model"]
    params, how = volume_cost.untrained(part)
    model = how.stage(part.task.model)
    assert isinstance(model, multislice.Model)
    plain = volume_cost.cost(partial(model.opened, lean=False), params, volume_cost.abstract(1, 5, 64, 64, 4))
    lean = volume_cost.window()
    assert lean.buffers < 0.8 * plain.buffers
    assert plain.flop == pytest.approx(24.7e12, rel=0.005)
    # The three convolutions behind an enlargement, of 512, 512 and 256 channels, take 16 products of 36 for a place.
    saved = sum(5 * 2 * c**2 * (9 * (2 * n) ** 2 - 16 * (n + 1) ** 2) for c, n in ((512, 64), (512, 128), (256, 256)))
    assert plain.flop - lean.flop == pytest.approx(saved)
    assert 0.9 * plain.flop < plain.compiled <= plain.flop  # XLA leaves out what is multiplied with a border of zeros


def test_products_of_a_volume():
    """Counted, and as they are compiled, where a loop of steps counts once."""
    steps = {name: volume_cost.pipeline().parts[name].config.sample.steps for name in ("diff3d", "refiner")}
    deep, slices, window = volume_cost.diff3d(), volume_cost.refiner(), volume_cost.window()
    assert deep.flop / steps["diff3d"] == pytest.approx(9.69e12, rel=0.005)
    assert slices.flop / steps["refiner"] / 16 == pytest.approx(0.2e12, rel=0.005)
    assert 0.9 < steps["diff3d"] * deep.compiled / deep.flop <= 1.001
    assert 0.9 < steps["refiner"] * slices.compiled / slices.flop <= 1.001
    n = len([*windows(512, 5, volume_cost.pipeline().keep)])
    whole = deep.flop + volume_cost.nhae().flop + 512 / 16 * slices.flop + n * window.flop
    assert whole <= 3.5e15
