"""Names in a config become objects, and a wrong name gets the nearest right one."""

from pathlib import Path

import pytest

from nca_gen import build, main
from nca_gen.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def config(form="smoke", **changes):
    out = main.load(f"{ROOT}/configs/fourier_diff_nca.py:{form}")
    out.unlock()
    out.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return out


def test_every_field_arrives():
    task = build.task(config(model__hidden=24, diffusion__schedule="linear", task__ema=0.5, optimizer__clip=2.0))
    assert (task.model.channels, task.model.hidden, task.model.fourier_steps) == (8, 24, 4)
    assert (task.diffusion.schedule, task.diffusion.timesteps, task.ema) == ("linear", 8, 0.5)
    assert (task.optimizer["clip"], task.optimizer["b2"]) == (2.0, 0.99)


def test_the_steps_of_the_diffusion_are_said_once():
    assert build.model(config(diffusion__timesteps=77)).timesteps == 77


def test_the_name_picks_the_module():
    from nca_gen.metrics import swd
    from nca_gen.models import diff_nca, fourier_diff_nca

    local = config()
    local.model.name = "diff_nca"
    del local.model["window"], local.model["fourier_steps"]
    assert type(build.model(config())) is fourier_diff_nca.Model
    assert type(build.model(local)) is diff_nca.Model
    assert build.named("metrics", "score", "swd") is swd


def test_splits_of_the_shipped_field():
    """512 rows; the right-most 128 columns are the test strip, the 64 beside them the validation strip."""
    shapes = {name: source[0]["image"].shape for name, source in build.splits(config()).items()}
    assert shapes == {"train": (512, 320, 3), "val": (512, 64, 3), "test": (512, 128, 3)}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model__name": "fourier_dif"}, "unknown name in models 'fourier_dif'; did you mean fourier_diff_nca?"),
        ({"model__name": "xyz"}, "unknown name in models 'xyz'; choose one of: diff_nca, "),
        ({"model__fire_rat": 0.5}, "unknown field 'config.model.fire_rat'; did you mean config.model.fire_rate?"),
        ({"task__name": "denoize"}, "unknown name in tasks 'denoize'; did you mean denoise?"),
        ({"task__emma": 0.5}, "unknown field 'config.task.emma'; did you mean config.task.ema?"),
        ({"diffusion__steps": 5}, "unknown field 'config.diffusion.steps'; did you mean config.diffusion.timesteps?"),
        ({"optimizer__wamup": 5}, "unknown field 'config.optimizer.wamup'; did you mean config.optimizer.warmup?"),
        ({"data__name": "tisue"}, "unknown name in data 'tisue'; did you mean tissue?"),
        ({"data__pth": "x"}, "unknown field 'config.data.pth'; did you mean config.data.path?"),
    ],
)
def test_a_wrong_name(changes, line):
    broken = config(**changes)
    with pytest.raises(UserError) as e:
        (build.task(broken), build.splits(broken))
    assert str(e.value).startswith(line)


def test_helpers_of_a_room_are_no_choice():
    """``source`` and ``pipeline`` lie in the data room and are no data sets."""
    with pytest.raises(UserError) as e:
        build.splits(config(data__name="pipeline"))
    assert "source" not in str(e.value)
    assert "tissue" in str(e.value)


def test_build_stays_small():
    lines = (ROOT / "nca_gen" / "build.py").read_text().splitlines()
    assert sum(map(bool, lines)) < 40
