"""What a run writes about itself, and what must stay when it is resumed."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy
from ml_collections import ConfigDict

from nca_gen.data.source import Source, of
from nca_gen.errors import UserError
from nca_gen.runtime import record


def test_config_comes_back(tmp_path):
    record.save_config(tmp_path, toy.config(**{"model.width": 5}))
    assert ConfigDict(json.loads((tmp_path / "config.json").read_text())).model.width == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.width": 5}, r"config\.model\.width=3, not 5"),
        ({"optimizer.lr": 0.1}, r"config\.optimizer\.lr=0\.01, not 0\.1"),
        ({"data.patch": (16, 16)}, r"config\.data\.patch=\[8, 8\], not \[16, 16\]"),
        ({"data.extra": 1}, r"config\.data\.extra=absent, not 1"),
        ({"seed": 8}, r"config\.seed=7, not 8"),
    ],
)
def test_resuming_with_another_model_or_other_data_is_refused(tmp_path, change, told):
    record.save_config(tmp_path, toy.config())
    record.check_config(tmp_path, toy.config())
    with pytest.raises(UserError, match=f"was begun with {told}; choose another --workdir"):
        record.check_config(tmp_path, toy.config(**change))
    assert record.config_hash(toy.config()) != record.config_hash(toy.config(**change))


def test_resuming_for_longer_on_other_devices_is_said(tmp_path, capsys):
    record.save_config(tmp_path, toy.config())
    changed = toy.config(**{"train.steps": 99, "held.n": 2, "mesh.data": 2})
    record.check_config(tmp_path, changed)
    assert capsys.readouterr().out.splitlines() == [
        "config.held.n: 1 before, 2 from here on",
        "config.mesh.data: -1 before, 2 from here on",
        "config.train.steps: 8 before, 99 from here on",
    ]
    assert record.config_hash(toy.config()) == record.config_hash(changed)


def test_of_a_refused_run_nothing_else_is_said(tmp_path, capsys):
    """Its model before all else, which explains the rest."""
    record.save_config(tmp_path, toy.config())
    with pytest.raises(UserError, match=r"config\.model\.name"):
        record.check_config(tmp_path, toy.config(**{"held.n": 2, "data.path": "there", "model.name": "other"}))
    assert capsys.readouterr().out == ""


def test_environment_says_how_to_do_it_again_and_remembers_every_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--workdir=a b"])
    record.save_environment(tmp_path, 12)
    record.save_environment(tmp_path, 12)
    saved = json.loads((tmp_path / "environment.json").read_text())
    assert saved["command"].endswith(" '--workdir=a b'")
    assert saved["argv"] == ["main.py", "--workdir=a b"]
    assert (saved["parameters"], saved["processes"], len(saved["devices"])) == (12, 1, 4)
    assert saved["versions"]["jax"] == jax.__version__
    assert saved["cpus"] >= 1
    assert len(saved["starts"]) == 2


def test_the_commit_is_that_of_the_checkout(tmp_path):
    assert record.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run(git + command, check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert record.commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert record.commit(tmp_path) == f"{head}-dirty"


def test_only_one_run_in_a_workdir_until_it_ends_however_it_ends(tmp_path):
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="another run is training in"), record.alone(tmp_path):
            pass
        other.kill()
        other.wait()
        with record.alone(tmp_path):
            pass


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "a").write_text("a file")
    told = r"cannot write .*/a: File exists; free space, or choose another --workdir"
    with pytest.raises(UserError, match=told), record.alone(tmp_path / "a"):
        pass


def test_data_may_have_moved(tmp_path, capsys):
    """Where the images lie is not what they are: a run goes on when its folder has another name."""
    record.save_config(tmp_path, toy.config(**{"data.path": "/here"}))
    moved = toy.config(**{"data.path": "/there"})
    assert record.check_config(tmp_path, moved)
    assert capsys.readouterr().out == 'config.data.path: "/here" before, "/there" from here on\n'
    assert record.config_hash(moved) == record.config_hash(toy.config())
    assert not record.check_config(tmp_path / "elsewhere", moved)


def images(*values):
    return {"train": of([{"image": np.full((2, 2, 1), value, np.uint8), "name": f"{value}"} for value in values])}


def test_a_run_goes_on_with_its_own_images_alone(tmp_path):
    """By their content and order; what they are called makes no difference, nor what cannot be known."""
    record.check_data(tmp_path, images(1, 2, 3), False)
    record.check_data(tmp_path, images(1, 2, 3), True)
    for others, counts in ((images(1, 2), "3 then, 2 now"), (images(1, 2, 4), "3 then, 3 now"), (images(1, 3, 2), "3")):
        with pytest.raises(UserError, match=rf"begun with other images or labels of train \({counts}"):
            record.check_data(tmp_path, others, True)
    unknown = Source(lambda i: {}, [(2, 2, 1)] * 3)
    record.check_data(tmp_path, {"train": unknown}, True)  # a data set that names nothing
    with pytest.raises(UserError, match="other images"):  # which does not make one forget
        record.check_data(tmp_path, images(1, 2, 4), True)
    record.check_data(tmp_path, images(1, 2, 4), False)  # a run that is not begun has none


def test_a_run_of_before_takes_the_images_that_it_finds(tmp_path):
    record.check_data(tmp_path, images(1, 2), True)
    with pytest.raises(UserError, match="other images"):
        record.check_data(tmp_path, images(1, 5), True)


def test_settings_of_before_are_those_of_now():
    """A field that came later says nothing where it is empty."""
    then = {"sample": {"steps": 2}, "data": ["folder", {"reduce": 1}]}
    now = {"sample": {"steps": 2}, "data": ["folder", {"reduce": 1, "window": [], "labels": []}]}
    assert record.agree(then, now)
    assert not record.agree(then, {**now, "dtype": "uint16"})
    assert not record.agree(then, {**now, "data": ["folder", {"reduce": 1, "window": [0, 4095]}]})
    assert not record.agree(then, {**now, "sample": {"steps": 3}})
