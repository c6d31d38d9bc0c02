"""Names in a config become objects, and a wrong name gets the nearest right one."""

import dataclasses
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from nca_gen import build
from nca_gen import config as configs
from nca_gen.config import load
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.tasks.learner import Learner

ROOT = Path(__file__).resolve().parents[1]


def config(form="smoke", **changes):
    out = load(f"{ROOT}/configs/fourier_diff_nca.py:{form}")
    out.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return out


def test_every_field_arrives():
    task = build.task(config(model__hidden=24, diffusion__schedule="linear", task__ema=0.5, optimizer__clip=2.0))
    assert (task.model.channels, task.model.hidden, task.model.fourier_steps) == (8, 24, 4)
    assert (task.process.schedule, task.process.timesteps, task.ema) == ("linear", 8, 0.5)
    assert (task.learner.clip, task.learner.b2) == (2.0, 0.99)
    assert task.codec == Codec()


@pytest.mark.slow
def test_a_cosine_as_long_as_training():
    """-1 falls to 0 where training ends, also when that is later than it was."""
    for steps in (60, 90):
        rate = build.learner(config(optimizer__cosine_steps=-1, train__steps=steps)).schedule(1.0)
        assert rate(steps - 1) > 0
        assert rate(steps) == pytest.approx(0, abs=1e-7)
        assert rate(steps // 2) == pytest.approx(0.5)
    assert build.learner(config(optimizer__cosine_steps=40, train__steps=90)).cosine_steps == 40


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
    assert build.metric("swd") is swd


def test_splits_of_the_shipped_field():
    """512 rows; the right-most 128 columns are the test strip, the 64 beside them the validation strip."""
    shapes = {name: source[0]["image"].shape for name, source in build.splits(config()).items()}
    assert shapes == {"train": (512, 320, 3), "val": (512, 64, 3), "test": (512, 128, 3)}


def stated(**sections):
    return ConfigDict(
        {"model": {"name": "diff_nca"}, "task": {"name": "denoise"}, "data": {"name": "tissue", "patch": (8, 8)}}
        | {"train": {"steps": 3, "batch": 2}}
        | sections
    )


def test_what_a_page_leaves_out_is_the_default_of_what_it_configures():
    whole = build.completed(stated(model={"name": "diff_nca", "hidden": 7}, evals={"scores": {"every": 5}}))
    assert set(whole) < set(build.SECTIONS)
    assert (whole.seed, whole.model.hidden, whole.model.channels, whole.model.dtype) == (0, 7, 96, "float32")
    assert (whole.diffusion.name, whole.diffusion.timesteps) == ("discrete", 300)
    assert whole.codec.to_dict() == {"mean": (0.0,), "std": (1.0,), "block": 1}
    assert whole.optimizer.to_dict() == dataclasses.asdict(Learner())
    assert (whole.sample.sampler, whole.sample.size, whole.generate.name) == ("ddpm", (8, 8), "sample")
    assert (whole.train.steps, whole.train.log_every, whole.data.flips, whole.held.split) == (3, 50, "all", "test")
    assert (whole.evals.scores.every, whole.evals.scores.name) == (5, "scores")
    assert "timesteps" not in whole.model  # said by the process
    assert "bench" not in whole
    assert build.completed(stated(), "bench").bench.rounds == 3
    assert build.completed(whole).to_dict() == whole.to_dict()


def test_a_task_without_a_process_has_no_sections_of_one():
    whole = build.completed(stated(task={"name": "classify"}, model={"name": "resnet34", "classes": 2}))
    assert not {"diffusion", "codec", "sample", "generate"} & set(whole)


def test_a_name_that_is_usual_need_not_be_said():
    """Of the discrete process, which is meant where none is named, the other one does not take ``timesteps``."""
    whole = configs.override(stated(diffusion={"timesteps": 8}), ["--config.diffusion.name=continuous"])
    assert (whole.diffusion.name, whole.diffusion.schedule) == ("continuous", "cosine")
    assert "timesteps" not in whole.diffusion


def test_a_new_name_takes_the_fields_along_that_the_new_module_has():
    config = stated(model={"name": "fourier_diff_nca", "window": 8, "hidden": 5})
    names = build.names(config)
    config.model.name = "diff_nca"
    build.renamed(config, names)
    assert config.model.to_dict() == {"name": "diff_nca", "hidden": 5}


OUTSIDE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Model:
    wide: int = 2

def evaluate(pipeline, data, folder, /, *, deep=3):
    return deep
"""


def test_a_name_with_a_dot_is_a_module_of_anybody(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "ours.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    evals = {"twice": {"name": "lab.ours", "deep": 9, "every": 2}, "once": {"name": "lab.ours"}}
    whole = build.completed(stated(model={"name": "lab.ours"}))
    assert whole.model.wide == 2
    assert build.model(whole).wide == 2
    found = build.evaluators(stated(evals=evals))
    asked = {name: (every, ask(None, None, None)) for name, (every, ask) in found.items()}
    assert asked == {"twice": (2, 9), "once": (0, 3)}
    with pytest.raises(UserError, match=r"'lab.theirs' for models: there is no module lab.theirs; .* PYTHONPATH"):
        build.completed(stated(model={"name": "lab.theirs"}))
    with pytest.raises(UserError, match=r"'lab.ours' for tasks: .*ours.py has no Task"):
        build.completed(stated(task={"name": "lab.ours"}))


def test_an_error_of_a_constructor_gets_the_path_in_the_config():
    with pytest.raises(UserError, match=r"^config\.optimizer\.cosine_steps=3 ends .* or config\.optimizer\.warmup"):
        build.learner(config(optimizer__cosine_steps=3, optimizer__warmup=5))


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
        ({"codec__blok": 2}, "unknown field 'config.codec.blok'; did you mean config.codec.block?"),
        ({"sample__step": 2}, "unknown field 'config.sample.step'; did you mean config.sample.steps?"),
        ({"held__spli": "val"}, "unknown field 'config.held.spli'; did you mean config.held.split?"),
        ({"evals__scores__metric": ()}, "unknown field 'config.evals.scores.metric'; did you mean config.evals.sc"),
        ({"evals__score": {"every": 1}}, "unknown name in evaluators 'score'; did you mean scores?"),
        ({"evls": {"a": 1}}, "unknown section 'config.evls'; did you mean config.evals?"),
    ],
)
def test_a_wrong_name(changes, line):
    broken = config(**changes)
    with pytest.raises(UserError) as e:
        build.completed(broken)
    assert str(e.value).startswith(line)


def test_a_wrong_name_in_a_config_that_nobody_completed():
    broken = config(model__fire_rat=0.5, data__pth="x")
    for make, line in ((build.task, "config.model.fire_rate?"), (build.splits, "config.data.path?")):
        with pytest.raises(UserError, match=re.escape(line)):
            make(broken)


def test_helpers_of_a_room_are_no_choice():
    """``source`` and ``pipeline`` lie in the data room and are no data sets."""
    with pytest.raises(UserError) as e:
        build.splits(config(data__name="pipeline"))
    assert "source" not in str(e.value)
    assert "tissue" in str(e.value)


def test_build_stays_small():
    lines = (ROOT / "nca_gen" / "build.py").read_text().splitlines()
    assert sum(map(bool, lines)) < 200
