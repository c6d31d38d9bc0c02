"""Killed, halted or short of disk: what goes on in the same workdir ends bit for bit as if nothing had happened."""

import signal

import pytest
import toy

from nca_gen.runtime import checkpoint

BALLAST = {"ballast": 8_000_000}  # 32 MB: written for some tenths of a second after the save has begun


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """2 N steps in one go, in this process: the state's digest and the curve."""
    workdir = tmp_path_factory.mktemp("whole")
    return toy.digest(toy.run(workdir)), toy.curve(workdir)


@pytest.mark.slow
def test_killed_between_two_checkpoints(tmp_path, whole):
    """The child dies by SIGKILL at step 6: two steps and a line of the log are lost with it."""
    dead = toy.child(tmp_path, signal=signal.SIGKILL, config={"evals.scores.every": 6})
    assert dead.returncode == -signal.SIGKILL
    assert checkpoint.steps(tmp_path) == [4]
    assert [x["step"] for x in toy.curve(tmp_path)] == [2, 4, 6]
    assert (toy.digest(toy.run(tmp_path)), toy.curve(tmp_path)) == whole


@pytest.mark.slow
def test_damaged_after_the_run(tmp_path, whole, capsys):
    """The newest checkpoint is damaged: resumed from the one before, and the lost one is written anew."""
    toy.run(tmp_path, **{"train.steps": 6, "train.checkpoint_every": 2})
    seal = tmp_path / "checkpoints/6" / checkpoint.SEAL
    seal.write_text("")
    assert (toy.digest(toy.run(tmp_path, **{"train.checkpoint_every": 2})), toy.curve(tmp_path)) == whole
    assert "checkpoint 6 is damaged" in capsys.readouterr().out
    assert checkpoint.steps(tmp_path) == [4, 6, 8]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save_and_again_in_the_next(tmp_path):
    """Wherever in the save the kill comes, the checkpoint before it is whole and the run goes on from there."""
    changes = {"train.checkpoint_every": 2}
    expected = toy.digest(toy.run(tmp_path / "whole", toy.Task(**BALLAST), **changes))
    workdir = tmp_path / "killed"
    toy.run(workdir, toy.Task(**BALLAST), **changes, **{"train.steps": 2})
    for delay in (0.0, 0.01, 0.05):
        dead = toy.child(workdir, delay=delay, task=BALLAST, config=changes)
        assert dead.returncode == -signal.SIGKILL
        last = checkpoint.steps(workdir)[-1]
        assert [p.name for p in workdir.glob("checkpoints/*-tmp")] == [f"{last + 2}.orbax-checkpoint-tmp"]
    assert toy.digest(toy.run(workdir, toy.Task(**BALLAST), **changes)) == expected
