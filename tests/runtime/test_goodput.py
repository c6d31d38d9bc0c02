"""Where the time of a run has gone, by a clock that the tests move."""

import json

import pytest

from nca_gen.runtime import goodput


@pytest.fixture
def clock(monkeypatch):
    """Moves both clocks on."""
    now = [1000.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(goodput.time, "time", lambda: now[0])

    def pass_(seconds):
        now[0] += seconds

    return pass_


def start(workdir, clock, step):
    """A start of 5 seconds, 3 of which are waited for the compiler."""
    account = goodput.Account(workdir)
    clock(2)
    with account.spent("compiling"):
        clock(3)
    account.rewind(step)
    return account


def steps(account, clock, first, last):
    """Steps of 2 seconds, a quarter of it for data, and a line of the log after the last."""
    for _ in range(first, last):
        with account.spent("data"):
            clock(0.5)
        clock(1.5)
    account.reach(last)


def stated(workdir):
    return json.loads((workdir / "goodput.json").read_text())


def test_every_second_is_of_one_kind(tmp_path, clock):
    account = start(tmp_path, clock, 0)
    steps(account, clock, 0, 10)
    with account.spent("checkpoints"):
        clock(1)
        with account.spent("evaluation"):
            clock(4)
    steps(account, clock, 10, 12)
    known = stated(tmp_path)
    times = {"starting": 2, "compiling": 3, "data": 6, "steps": 18, "checkpoints": 1, "evaluation": 4}
    assert known["seconds"] == times | {"lost": 0, "away": 0}
    assert known["steps"] == {"computed": 12, "lost": 0, "repeated": 0}
    assert known["goodput"] == known["shares"]["steps"] == 18 / 34
    assert sum(known["shares"].values()) == pytest.approx(1)


def test_what_a_kill_costs(tmp_path, clock):
    """Twelve steps were taken, the checkpoint is of step 8; a minute later the run goes on to step 16."""
    steps(start(tmp_path, clock, 0), clock, 0, 12)
    clock(60)
    steps(start(tmp_path, clock, 8), clock, 8, 16)
    known = stated(tmp_path)
    assert known["steps"] == {"computed": 20, "lost": 4, "repeated": 4}
    assert known["seconds"]["steps"] == 16 * 1.5  # those that count, once each
    assert known["seconds"]["lost"] == 4 * 1.5
    assert known["seconds"]["away"] == 60
    assert known["seconds"]["starting"] == 4
    assert "away" not in known["shares"]


def test_a_rollback_loses_steps_too_and_a_second_kill_is_counted_once(tmp_path, clock):
    account = start(tmp_path, clock, 0)
    steps(account, clock, 0, 6)
    account.rewind(4)
    steps(account, clock, 4, 6)
    steps(start(tmp_path, clock, 0), clock, 0, 3)
    known = stated(tmp_path)
    assert known["steps"] == {"computed": 11, "lost": 8, "repeated": 5}
    assert known["seconds"]["lost"] == pytest.approx(8 * 1.5)
    assert known["seconds"]["steps"] == pytest.approx(3 * 1.5)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": {}}'])
def test_a_file_that_is_not_whole_is_begun_anew(tmp_path, clock, text):
    (tmp_path / "goodput.json").write_text(text)
    steps(start(tmp_path, clock, 0), clock, 0, 2)
    assert stated(tmp_path)["steps"]["computed"] == 2
