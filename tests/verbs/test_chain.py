"""--mode=chain: which stages run, with which config, where."""

import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import jax
import pytest
import tiny

from nca_gen import build, main
from nca_gen.errors import UserError
from nca_gen.runtime import checkpoint, course, record
from nca_gen.verbs import chain, train

PAGE = """
from ml_collections import ConfigDict
from nca_gen.config import Stage

def stage(name, path=""):
    config = ConfigDict({
        "model": {"name": "vae_kl"}, "task": {"name": "autoencode"}, "data": {"name": "folder", "path": path},
        "train": {"steps": 5, "batch": 2, "keep": 2 if path else 1},
    })
    config.data.patch = (8, 8)
    return config

def get_config():
    return stage("last")

def smoke(config):
    config.train.steps = 1

def chain(forms):
    stages = [Stage("first", stage("first"), ("train", "encode")), Stage("last", stage("last", "../first"))]
    for one in stages:
        if "smoke" in forms:
            smoke(one.config)
    return stages
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What each verb was called with, in a folder that has the page."""
    (tmp_path / "page.py").write_text(PAGE)
    (tmp_path / "plain.py").write_text("def get_config():\n    return {}\n")
    monkeypatch.chdir(tmp_path)
    noted = []

    def verb(mode):
        note = lambda config, workdir: noted.append((mode, str(workdir), config))
        return chain if mode == "chain" else Namespace(**{mode: note})

    monkeypatch.setattr(build, "verb", verb)
    return noted


def run(*flags, page="page.py"):
    return main.run([f"--config={page}", "--mode=chain", "--workdir=runs", *flags])


@pytest.mark.slow
def test_stages_come_in_turn_each_with_its_own_config(calls):
    assert run("--config.first.train.steps=7", "--config.first.encode.batch=3", "--config.last.seed=4") == 0
    assert [(mode, workdir) for mode, workdir, _ in calls] == [
        ("train", "runs/first"),
        ("encode", "runs/first"),
        ("train", "runs/last"),
    ]
    first, _, last = (config for _, _, config in calls)
    assert (first.train.steps, first.encode.batch, first.seed) == (7, 3, 0)
    assert (last.train.steps, last.seed, last.model.width) == (5, 4, 128)
    assert last.data.path == "runs/first"  # as it is seen from here
    assert last.is_locked


@pytest.mark.slow
def test_programs_of_a_stage_are_gone_where_it_took_long():
    """Where it took a few steps they stay, for the next one."""
    program = jax.jit(lambda x: x + 1)
    program(1.0)
    chain.forget(False)
    assert program._cache_size() == 1
    chain.forget(True)
    assert program._cache_size() == 0


@pytest.mark.slow
def test_forms_and_another_start(calls):
    assert run("--stage=last", page="page.py:smoke") == 0
    [(mode, workdir, config)] = calls
    assert (mode, workdir, config.train.steps) == ("train", "runs/last", 1)


@pytest.mark.slow
def test_what_is_finished_is_passed_over(calls, tmp_path, monkeypatch, capsys):
    """With its own config: what is left to do beside training is still done."""
    assert run() == 0
    trained = calls[0][2]
    calls.clear()
    (tmp_path / "runs/first").mkdir(parents=True, exist_ok=True)
    record.save_config(tmp_path / "runs/first", trained)
    monkeypatch.setattr(checkpoint, "steps", lambda folder: [5] if folder.name == "first" else [2])
    assert run() == 0
    assert [mode for mode, _, _ in calls] == ["encode", "train"]
    assert "first: trained to step 5 already" in capsys.readouterr().out
    assert run("--config.first.model.width=64") == 2
    assert "was begun with config.model.width=128, not 64" in capsys.readouterr().err
    calls.clear()
    assert run("--config.first.train.steps=9") == 0
    assert [mode for mode, _, _ in calls] == ["train", "encode", "train"]


@pytest.mark.slow
def test_what_is_said_of_no_stage_is_said_of_all(calls):
    """Where they do not differ in it; what is said of one of them goes before."""
    assert run("--config.last.train.batch=3", "--config.train.batch=4", "--config.seed=9") == 0
    assert [(c.train.batch, c.seed) for mode, _, c in calls if mode == "train"] == [(4, 9), (3, 9)]


@pytest.mark.slow
def test_what_is_said_of_data_is_said_of_those_that_no_stage_makes(calls):
    assert run("--config.data.path=a", "--config.data.flips=none") == 0
    assert [(c.data.path, c.data.flips) for mode, _, c in calls if mode == "train"] == [
        ("a", "none"),
        ("runs/first", "all"),
    ]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--stage=lst", "unknown stage 'lst'; did you mean last?"),
        ("--config.frst.seed=1", "unknown stage in 'config.frst.seed'; did you mean config.first.seed?"),
        ("--config.sed=1", "unknown stage in 'config.sed'; "),
        ("--config.train.keep=9", "the stages differ in config.train.keep: say which one, --config.first.train.keep"),
        ("--config.last.train.step=1", "unknown field 'config.train.step'; did you mean config.train.steps?"),
        ("--seed=1", "unknown flag '--seed'; "),
    ],
)
def test_errors_are_one_line(calls, capsys, flags, line):
    assert run(*flags.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
    assert calls == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "chosen", "names"),
    [
        ("nca_cascade.py:laptop,stage2", "stage2", "stage1, stage2, stage3"),
        ("urcdm.py:outpainting,mag2,stage1", "mag2 or stage1", "mag2_stage1, mag2_stage2, mag2_stage3"),
        ("ca_ldm.py:ldm3d,vae2d", "vae2d", "vae2d, diff3d"),
    ],
)
def test_a_form_that_chooses_a_stage_is_refused(calls, capsys, page, chosen, names):
    """It would choose nothing, and days of training would be of all stages; the line says how to begin at one."""
    page = f"{Path(__file__).resolve().parents[2]}/configs/{page}"
    assert run(page=page) == 2
    line = f"error: a chain trains all its stages, of which the form {chosen} chooses none: leave it out; --stage=NAME"
    assert capsys.readouterr().err == f"{line} begins at one of {names}\n"
    assert calls == []


def test_other_pages_list_no_stages(calls, capsys):
    assert run(page="plain.py") == 2
    assert "plain.py lists no stages" in capsys.readouterr().err
    assert main.run(["--mode=chain", "--workdir=runs"]) == 2
    assert "name the page of the chain" in capsys.readouterr().err
    assert main.run(["--mode=train", "--workdir=runs", "--stage=last"]) == 2
    assert "--stage is for --mode=chain" in capsys.readouterr().err


@pytest.fixture
def told(caplog):
    """What jax compiles, in all threads."""
    jax.config.update("jax_log_compiles", True)
    yield caplog
    jax.config.update("jax_log_compiles", False)


@pytest.mark.slow
def test_what_is_foreseen_is_compiled_once(tmp_path, told):
    """A stage that begins later finds its two programs."""
    config = tiny.config(**{"model.hidden": 20, "train.steps": 1})
    counted = lambda: [sum(f"XLA compilation of jit({name})" in x for x in told.messages) for name in ("init", "step")]
    with ThreadPoolExecutor(2) as pool:
        course.foresee(config, tmp_path, pool)
    before = counted()
    train.train(config, tmp_path)
    assert (before, counted()) == ([1, 1], [1, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("effort", "foreseen"), [("little", ["last"]), ("full", [])])
def test_stages_of_few_steps_are_compiled_while_others_train(calls, monkeypatch, effort, foreseen):
    """What cannot be known yet, as data that the first stage makes, is no fault by then."""
    seen = []

    def foresee(config, folder, pool):
        seen.append(folder.name)
        raise OSError("no such data yet")

    monkeypatch.setattr(course, "foresee", foresee)
    assert run(f"--config.train.effort={effort}") == 0
    assert (seen, [mode for mode, *_ in calls]) == (foreseen, ["train", "encode", "train"])


def test_a_stage_that_fails_waits_for_none_of_the_others(calls, monkeypatch, tmp_path, capsys):
    """Of their programs only those that are being traced and compiled are; one more has been asked for by then."""
    more = 'stages = [*(Stage(f"stage{i}", stage("")) for i in range(4)), '
    (tmp_path / "page.py").write_text(PAGE.replace("stages = [", more))
    seen, asked, failing = [], [], Event()

    def foresee(config, folder, pool):
        seen.append(folder.name)
        for _ in range(2):
            pool.submit(lambda: failing.wait(30) and time.sleep(0.4))
        asked.append(pool.submit(seen.append, "a program more"))
        assert failing.wait(30)
        time.sleep(0.8)  # by then the stage has failed, and what was being compiled is
        return asked

    def train(config, workdir):
        while not asked:
            time.sleep(0.01)
        failing.set()
        raise UserError("no such data")

    monkeypatch.setattr(course, "foresee", foresee)
    monkeypatch.setattr(build, "verb", lambda mode: chain if mode == "chain" else Namespace(train=train))
    assert run("--config.train.effort=little") == 2
    assert "no such data" in capsys.readouterr().err
    assert seen == ["stage1"]
    assert asked[0].cancelled()
