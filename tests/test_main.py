"""The command line: what it answers, and how it says no."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from nca_gen import build, main
from nca_gen import config as configs
from nca_gen.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(FIELDS)

def large(config):
    config.model.hidden = 640

def smoke(config):
    config.train.steps = config.model.hidden

def _private(config):
    pass
"""
FIELDS = {
    "model": {"name": "diff_nca", "hidden": 512},
    "task": {"name": "denoise", "ema": 0.9, "ema_warmup": True},
    "data": {"name": "folder", "path": "", "patch": (64, 64)},
    "train": {"steps": 100, "batch": 2},
    "evals": {"scores": {"metrics": ("swd", "drift")}},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a config, in which the verbs only note what they were called with."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "small.py").write_text(PAGE.replace("FIELDS", repr(FIELDS)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(monkeypatch):
    noted = []
    verb = lambda mode: Namespace(main=lambda config, args: noted.append((mode, config, args)))
    monkeypatch.setattr(build, "verb", verb)
    return noted


def config(**changes):
    """The config of the page above, whole, with some fields changed."""
    out = ConfigDict(FIELDS)
    out.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return build.completed(out)


NAME = "--config.generate.name"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", config()),
        ("--config.seed=7", config(seed=7)),
        ("--config.seed 7", config(seed=7)),
        ("--config.codec.mean=-0.7", config(codec={"mean": (-0.7,)})),
        ("--config.codec.mean -0.7,1", config(codec={"mean": (-0.7, 1.0)})),
        ("--config.train.steps=1e5", config(train__steps=100_000)),
        ("--config.train.steps=200_000", config(train__steps=200_000)),
        ("--config.task.ema=1", config(task__ema=1.0)),
        ("--config.task.ema=1e-3 --config.seed=3", config(task__ema=1e-3, seed=3)),
        ("--config.seed=3 --config.seed=4", config(seed=4)),
        ("--config.task.ema_warmup=false", config(task__ema_warmup=False)),
        ("--config.task.ema_warmup=True", config(task__ema_warmup=True)),
        ("--config.model.name=geca", config(model__name="geca")),
        ("--config.data.path=/a=b,c", config(data__path="/a=b,c")),
        ("--config.data.path=12", config(data__path="12")),
        ("--config.data.path=", config()),
        ("--config.data.patch=96,128", config(data__patch=(96, 128))),
        ("--config.data.patch=(96,128,8)", config(data__patch=(96, 128, 8))),
        ("--config.data.patch=[96,128]", config(data__patch=(96, 128))),
        ("--config.data.resize=8,9", config(data__resize=(8, 9))),
        ("--config.evals.scores.metrics=swd", config(evals__scores__metrics=("swd",))),
        ("--config.evals.scores.metrics=swd,fid,kid", config(evals__scores__metrics=("swd", "fid", "kid"))),
        ("--config.evals.scores.metrics=()", config(evals__scores__metrics=())),
        (
            "--config.model.name=resnet34 --config.model.classes=3",
            config(model={"name": "resnet34", "classes": 3}),
        ),
        ("--config.study.runs=2024", config(study={"runs": ("2024",)})),
        ("--config.study.runs=2024,runs/a", config(study={"runs": ("2024", "runs/a")})),
        ("--config.study.runs=", config(study={"runs": ()})),
        # Any field of what is configured, and sections that the page leaves out.
        ("--config.model.norm=cell", config(model__norm="cell")),
        ("--config.diffusion.timesteps=9", config(diffusion={"timesteps": 9})),
        ("--config.evals.films.every=9", config(evals__films={"every": 9})),
        ("--config.bench.rounds=1", config(bench={"rounds": 1})),
        # A name brings its own defaults, and what the page said of fields that both know.
        (
            "--config.generate.name=upscale --config.generate.factor=4",
            config(generate={"name": "upscale", "factor": 4}),
        ),
        (
            "--config.data.name=tissue --config.data.val=32",
            config(data={"name": "tissue", "val": 32, "patch": (64, 64)}),
        ),
    ],
)
def test_overrides(here, calls, flags, expected):
    assert main.run(["--config=configs/small.py", "--workdir=w", *flags.split()]) == 0
    [(mode, found, args)] = calls
    assert (mode, args.workdir, found.to_dict()) == ("train", "w", expected.to_dict())
    assert found.is_locked


@pytest.mark.slow
@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text()))
def test_a_value_is_read_back_as_it_is_printed(value):
    assert configs._value("config.x", str(value), value) == value
    assert configs._value("config.x", repr((value, value)), (value,)) == (value, value)


def test_a_page_that_says_what_cannot_be(here, calls, capsys):
    """Also where nothing is said on the command line."""
    (here / "page.py").write_text(PAGE.replace("FIELDS", repr(FIELDS | {"train": {"steps": 0, "batch": 2}})))
    assert main.run(["--config=page.py", "--workdir=w"]) == 2
    assert capsys.readouterr().err == "error: config.train.steps must be at least 1; got 0\n"
    with pytest.raises(UserError, match="steps must be at least 1"):
        configs.load("page.py")


def test_a_cosine_that_ends_before_training_is_said():
    said = lambda **changes: [*configs.notes(config(optimizer=changes, train__steps=9))]
    assert said() == said(cosine_steps=-1) == said(cosine_steps=9) == []
    [note] = said(cosine_steps=8)
    assert note.startswith("the learning rate is 0 from step 8 on, where its cosine ends, and training takes 9 steps: ")


def test_forms_are_applied_in_turn(here, calls):
    main.run(["--config=configs/small.py:large,smoke", "--mode=describe", "--json", "--config.seed=5"])
    main.run(["--config", "configs/small.py:smoke,large", "--mode", "describe"])
    (_, first, args), (_, second, _) = calls
    assert first.to_dict() == config(model__hidden=640, train__steps=640, seed=5).to_dict()
    assert second.to_dict() == config(model__hidden=640, train__steps=512).to_dict()
    assert args.json


def test_forms_come_in_the_order_that_a_page_states(here):
    """Those of none of its groups last, as written; an ORDER of something else is refused in one line."""
    page = here / "configs" / "small.py"
    known = page.read_text()
    ask = lambda order: (page.write_text(f"{known}ORDER = {order}\n"), configs.page(f"{page}:large,smoke,large")[1])[1]
    assert ask("(('smoke',), ('large',))") == ["smoke", "large", "large"]
    assert ask("(('smoke',), ('absent',))") == ["smoke", "large", "large"]
    assert ask("(('large', 'smoke'),)") == ask("()") == ["large", "smoke", "large"]
    for wrong in ("2", "('smoke', 'large')", "'smoke'"):
        with pytest.raises(UserError, match=r"small\.py: ORDER is a tuple of groups of forms"):
            ask(wrong)


def test_a_run_brings_its_own_config(here, calls):
    (here / "w").mkdir()
    (here / "w" / "config.json").write_text(json.dumps(config(model__hidden=8).to_dict()))
    assert main.run(["--mode=generate", "--workdir=w", "--config.data.patch=8,8"]) == 0
    assert main.run(["--mode=generate", "--workdir=w", "--config=configs/small.py"]) == 0
    (_, kept, _), (_, given, _) = calls
    assert kept.to_dict() == config(model__hidden=8, data__patch=(8, 8), sample={"size": (64, 64)}).to_dict()
    assert given.to_dict() == config().to_dict()


GIVEN = "--config=configs/small.py --workdir=w"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (f"{GIVEN} --config.model.hiden=3", "unknown field 'config.model.hiden'; did you mean config.model.hidden?"),
        (f"{GIVEN} --config.modl.hidden=3", "unknown field 'config.modl.hidden'; did you mean config.model.hidden?"),
        (f"{GIVEN} --config.hidden=3", "unknown field 'config.hidden'; did you mean config.model.hidden?"),
        (f"{GIVEN} --config.patch=3", "unknown field 'config.patch'; did you mean config.data.patch?"),
        (f"{GIVEN} --config.data.xyz=3", "unknown field 'config.data.xyz'; choose one of: config.data.c"),
        (f"{GIVEN} --config.data={{}}", "unknown field 'config.data'; did you mean config.data.path?"),
        (f"{GIVEN} --config.model.hidden=abc", "config.model.hidden is of type int, like 512; got 'abc'"),
        (f"{GIVEN} --config.model.hidden=2.5", "config.model.hidden is of type int, like 512; got '2.5'"),
        (f"{GIVEN} --config.model.hidden=1e999", "config.model.hidden is of type int, like 512; got '1e999'"),
        (f"{GIVEN} --config.model.hidden=1j", "config.model.hidden is of type int, like 512; got '1j'"),
        (f"{GIVEN} --config.task.ema_warmup=maybe", "config.task.ema_warmup is of type bool, like True; got 'maybe'"),
        (f"{GIVEN} --config.task.ema_warmup=2", "config.task.ema_warmup is of type bool, like True; got '2'"),
        (f"{GIVEN} --config.task.ema=fast", "config.task.ema is of type float, like 0.9; got 'fast'"),
        (f"{GIVEN} --config.data.patch=64,a", "config.data.patch is of type tuple, like (64, 64); got '64,a'"),
        (f"{GIVEN} --config.data.patch=(64", "config.data.patch is of type tuple, like (64, 64); got '(64'"),
        (f"{GIVEN} --config.model.name=resnet34", "config.model.classes has no default: give it, like --"),
        (f"{GIVEN} --config.data.name=table", "unknown name in data 'table'; choose one of: bcss, celeba"),
        (f"{GIVEN} --config.model.hidden=0", "config.model.hidden must be at least 4; got 0"),
        (f"{GIVEN} --config.sample.steps=0", "config.sample.steps must be at least 1; got 0"),
        (f"{GIVEN} --config.task.ema=1.5", "config.task.ema must be at least 0 and at most 1; got 1.5"),
        (f"{GIVEN} --config.seed=-7", "config.seed must be at least 0 and less than 4294967296; got -7"),
        (
            f"{GIVEN} --config.seed=4294967296",
            "config.seed must be at least 0 and less than 4294967296; got 4294967296",
        ),
        (f"{GIVEN} --config.evals.scores.metrics=swdd", "unknown name in metrics 'swdd'; did you mean swd?"),
        (f"{GIVEN} --config.evals.scores.metrics=kid:size=0", "kid:size=0: size must be more than 0; got 0"),
        (f"{GIVEN} --config.data.flips=up", "unknown value of config.data.flips 'up'; choose one of: all, depth, "),
        (f"{GIVEN} --config.model.hidden", "config.model.hidden needs a value, like --config.model.hidden=512"),
        (f"{GIVEN} --mode=trian", "unknown mode 'trian'; did you mean train?"),
        (
            f"{GIVEN} --mode=x",
            "unknown mode 'x'; choose one of: bench, budget, chain, check, classify, describe, encode, evaluate, "
            "expand, export, generate, readers, segment, study, tables, train, view",
        ),
        (f"{GIVEN} --mode", "--mode: expected one argument"),
        (f"{GIVEN} --wrkdir=x", "unknown flag '--wrkdir'; did you mean --workdir?"),
        (f"{GIVEN} --modes check", "unknown flag '--modes'; did you mean --mode?"),
        (f"{GIVEN} -x", "unknown flag '-x'; choose one of: --config, --for, --help, --json, --metrics, --mode"),
        (f"{GIVEN} train", "unexpected argument 'train'; flags are written --name=value"),
        ("--config=configs/small.py", "--mode=train needs --workdir=DIR, where the run is kept"),
        ("--config=configs/small.py --mode=evaluate", "--mode=evaluate needs --workdir=DIR, where the run is kept"),
        ("--mode=check", "name a config with --config=FILE, one of: configs/small.py"),
        ("--workdir=w", "name a config with --config=FILE, one of: configs/small.py"),
        ("--mode=generate --workdir=w", "there is no run in w; train first, or correct --workdir"),
        ("--config=x.py --mode=check", "there is no config x.py; name one of: configs/small.py"),
        ("--config=configs/small.py:smke --workdir=w", "unknown form of configs/small.py: 'smke'; did you mean smoke?"),
        ("--config=configs/small.py:x --mode=check", "unknown form of configs/small.py: 'x'; choose one of: large"),
        ("--config=empty.py --workdir=w", "empty.py is no config: it has no get_config()"),
        ("--mode=describe --workdir=broken", "broken/config.json is damaged"),
    ],
)
def test_errors_are_one_line(here, calls, capsys, flags, line):
    (here / "empty.py").touch()
    (here / "broken").mkdir()
    (here / "broken" / "config.json").write_text('{"seed": 0')
    assert main.run(flags.split()) == 2
    out, err = capsys.readouterr()
    assert (out, calls) == ("", [])
    assert err.count("\n") == 1
    assert err.startswith(f"error: {line}")


def test_readers_need_no_config(here, calls):
    """Their fields are flags, and in a workdir of theirs those that it was begun with."""
    assert main.run(["--mode=readers", "--workdir=w", "--readers.pairs=3", "--config.readers.port=0"]) == 0
    config = calls[-1][1]
    assert (config.readers.pairs, config.readers.port, config.readers.serve) == (3, 0, True)
    (here / "w" / "config.json").write_text('{"readers": {"pairs": 4, "size": [8, 9]}}')
    assert main.run(["--mode=readers", "--workdir=w", "--readers.serve=false"]) == 0
    config = calls[-1][1]
    assert (config.readers.pairs, config.readers.size, config.readers.serve) == (4, (8, 9), False)


@pytest.mark.parametrize("mode", ["train", "generate", "evaluate"])
def test_a_workdir_that_cannot_be(here, capsys, mode):
    (here / "file").touch()
    assert main.run(["--config=configs/small.py", f"--mode={mode}", "--workdir=file/w"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_only_training_makes_a_workdir(here, capsys):
    assert main.run(["--config=configs/small.py", "--mode=generate", "--workdir=w"]) == 2
    assert capsys.readouterr().err == "error: there is no workdir w; train first, or correct --workdir\n"
    assert not (here / "w").exists()


def test_metrics_are_those_of_the_scores(here, calls):
    main.run(["--config=configs/small.py", "--workdir=w", "--mode=train"])
    flags = ["--config=configs/small.py", "--workdir=w", "--mode=evaluate", "--metrics=fid,kid:size=10"]
    assert main.run([*flags, "--config.evals.heredity.inherit=none"]) == 0
    evals = calls[-1][1].evals
    assert (evals.scores.metrics, evals.heredity.metrics) == (("fid", "kid:size=10"), ())


@pytest.mark.slow
def test_flags_of_before_are_those_of_today(here, calls, capsys):
    flags = ["--config=configs/small.py", "--workdir=w", "--config.evals.nearest.every=7"]
    flags += [
        "--config.eval.n=3",
        "--config.train.eval_every=40",
        "--config.diffusion.block=2",
        "--config.model.init=torch",
    ]
    assert main.run([*flags, "--config.eval.metrics=swd"]) == 0
    config = calls[-1][1]
    assert (config.held.n, config.codec.block, config.model.start) == (3, 2, "torch")
    assert {key: section.every for key, section in config.evals.items()} == {"scores": 0, "nearest": 40}
    assert config.evals.scores.metrics == ("swd",)
    assert "note: --config.eval.n=3 is --config.held.n=3 now" in capsys.readouterr().err
    assert main.run([*flags, "--config.eval.n=none"]) == 2
    assert "config.held.n" in capsys.readouterr().err


def verb_that_raises(error):
    def verb(config, args):
        raise error

    return lambda mode: Namespace(main=verb)


def test_how_a_verb_ends(here, capsys, monkeypatch):
    flags = ["--config=configs/small.py", "--mode=check"]
    monkeypatch.setattr(build, "verb", verb_that_raises(UserError("no folder '/data'")))
    assert main.run(flags) == 2
    assert capsys.readouterr().err == "error: no folder '/data'\n"
    monkeypatch.setattr(build, "verb", verb_that_raises(KeyboardInterrupt()))
    assert main.run(flags) == 130
    assert capsys.readouterr().err == "interrupted\n"
    # What nobody foresaw keeps its traceback.
    monkeypatch.setattr(build, "verb", verb_that_raises(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main.run(flags)


def process(*flags):
    command = [sys.executable, "-X", "importtime", "-m", "nca_gen.main", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done.returncode, done.stdout, said, loaded


def test_help_is_instant_because_it_loads_nothing():
    code, out, said, loaded = process("--help")
    assert (code, said) == (0, [])
    assert all(f"  {mode} " in out for mode in main.VERBS)
    assert "argparse" in loaded
    assert not loaded & {"jax", "numpy", "flax", "ml_collections", "PIL", "skimage", "grain"}


@pytest.mark.slow
def test_a_misspelt_flag_in_a_real_process(tmp_path):
    code, out, said, loaded = process("--config=configs/diff_nca.py", f"--wrkdir={tmp_path}", "--mode=check")
    assert (code, out) == (2, "")
    assert said == ["error: unknown flag '--wrkdir'; did you mean --workdir?"]
    assert "jax" not in loaded
