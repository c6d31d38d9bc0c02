"""Training that begins with the weights of another run: what is taken, what is not, and what is refused."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
from ml_collections import ConfigDict

from nca_gen.contracts import Part
from nca_gen.diffusion import discrete
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.io import weights
from nca_gen.models import diff_nca, multislice, resnet34, unet, vq_vae
from nca_gen.runtime import run
from nca_gen.tasks import autoencode, classify, denoise
from nca_gen.tasks.learner import Learner

KEY = jax.random.key(0)


def task(hidden=4):
    model = diff_nca.Model(channels=8, hidden=hidden, steps=2)
    return denoise.Task(model, Learner(), discrete.Process(), Codec())


def asked(path="runs/a"):
    return ConfigDict({"seed": 0, "train": {"init": path}})


@pytest.mark.slow
def test_it_begins_with_what_the_other_generates_with():
    """Weights and average are those of the other run; steps, moments and keys are its own; nothing is shared."""
    state = task().init(KEY)
    other = jax.tree.map(lambda x: np.full(x.shape, 3.0, np.float64), state.params)
    begun = run.begin(task(), state, Part(None, task(), other))
    for found in (begun.params, begun.ema, task().eval_params(begun)):
        chex.assert_trees_all_equal(found, jax.tree.map(jnp.float32, other))
    rest = lambda s: (s.step, s.optimizer, jax.random.key_data(s.key))
    chex.assert_trees_all_equal(rest(begun), rest(state))
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((begun.params, begun.ema))]
    assert len({*places}) == len(places)  # a state that is donated must not hold one buffer twice


@pytest.mark.slow
def test_a_classifier_takes_statistics_along():
    one = classify.Task(resnet34.Model(classes=2, width=1), Learner())
    shapes = jax.eval_shape(one.init, KEY)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes._replace(key=jnp.zeros(())))
    other = jax.tree.map(jnp.ones_like, one.eval_params(state))
    chex.assert_trees_all_equal(one.eval_params(one.begin(state, other)), other)


@pytest.mark.slow
def test_another_shape_is_refused_in_one_line(monkeypatch):
    other = task(hidden=8)
    part = Part(None, other, jax.eval_shape(other.model.init, KEY), step=7)
    monkeypatch.setattr(run, "open_run", lambda path: part)
    line = r"config.train.init=runs/a is of another model: image/fc0/bias is \(8,\) there and \(4,\) here; give a"
    with pytest.raises(UserError, match=line):
        run.first(asked(), "w", task())
    assert run.first(asked(), "w", other) is part
    assert run.first(asked(""), "w", task()) is None


@pytest.mark.slow
def test_what_was_taken_is_said(monkeypatch, capsys):
    part = Part(None, task(), jax.eval_shape(task().model.init, KEY), step=7)
    monkeypatch.setattr(run, "open_run", lambda path: part)
    run.first(asked(), "w", task())
    assert capsys.readouterr().out == (
        "training begins with the 29 arrays that runs/a, step 7, generates with; all else begins anew\n"
    )


def test_a_task_that_cannot_begin_so_says_it(monkeypatch):
    monkeypatch.setattr(run, "open_run", lambda path: None)
    with pytest.raises(UserError, match="this task cannot begin with weights"):
        run.first(asked(), "w", object())


def test_a_path_with_a_dot_is_seen_from_the_workdir(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "open_run", lambda path: seen.append(str(path)))
    for path in ("../other", "runs/a"):
        with pytest.raises(UserError, match="cannot begin"):
            run.first(asked(path), "runs/b", object())
    assert seen == ["runs/b/../other", "runs/a"]


def test_what_is_asked_for_by_a_path_is_opened_and_no_part(monkeypatch):
    monkeypatch.setattr(run, "open_run", lambda path: Part(None, f"of {path}", {}))
    near = run.Beside({"a": "runs/one"})
    tasks = [near[name].task for name in ("a", "zoo:tissue", "runs/b")]
    assert tasks == ["of runs/one", "of zoo:tissue", "of runs/b"]
    assert [*near] == ["a"]
    with pytest.raises(KeyError):
        near["b"]


def test_training_begins_with_a_part_by_its_name(monkeypatch):
    """A student with its teacher; a part whose path nobody has given is named, and not the path that is none."""
    part = Part(None, task(), jax.eval_shape(task().model.init, KEY))
    monkeypatch.setattr(run, "open_run", {Path("runs/b/../long"): part}.__getitem__)
    config = ConfigDict({"seed": 0, "train": {"init": "teacher"}, "parts": {"teacher": "../long", "other": ""}})
    assert run.first(config, "runs/b", task()) is part
    config.train.init = "other"
    with pytest.raises(UserError, match=r"^config.parts.other is empty: say which"):
        run.first(config, "runs/b", task())


@pytest.mark.slow
def test_a_model_that_stands_on_another_one_needs_it(monkeypatch, capsys):
    """It takes its weights whole, as those that stay; without a run of one there is nothing to begin with."""
    small = {"width": 8, "multipliers": (1,), "blocks": 1, "groups": 4, "entries": 4, "attention": False}
    below, above = (autoencode.Task(module.Model(**small), Learner()) for module in (vq_vae, multislice))
    part = Part(None, below, jax.eval_shape(below.model.init, KEY))
    monkeypatch.setattr(run, "open_run", lambda path: part)
    assert run.first(asked(), "w", above) is part
    assert f"the {len(jax.tree.leaves(part.params))} arrays" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"config\.train\.init is empty, and this model stands on"):
        run.first(asked(""), "w", above)


@pytest.mark.slow
def test_a_page_and_a_file_of_published_weights_are_a_part(tmp_path):
    """The smallest U-Net of Kalkhof et al., from a file of diffusers; an automaton's weights nobody has published."""
    page, file = "configs/ddpm_unet.py:s", tmp_path / "unet.safetensors"
    model = run.build.model(run.configs.load(page))
    state = rivals.diffusers_state(model)
    weights.write(file, state)
    part = run.open_run(f"{page}@{file}")
    assert part.task.model == model
    chex.assert_trees_all_equal(part.params, unet.published(state, model))
    with pytest.raises(UserError, match=f"{file}: no weights of diff_nca are published"):
        run.open_run(f"configs/diff_nca.py@{file}")
    weights.write(file, {name: x for name, x in state.items() if name != "conv_out.bias"})
    with pytest.raises(UserError, match=f"{file}: the weights lack conv_out.bias .*; give a U-Net of diffusers"):
        run.open_run(f"{page}@{file}")
