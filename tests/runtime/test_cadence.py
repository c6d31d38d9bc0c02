import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nca_gen.runtime.cadence import due, stop_signals


def test_due_on_every_multiple_and_only_there():
    assert [s for s in range(1, 11) if due(s, 3, s - 1)] == [3, 6, 9]


def test_due_once_after_a_jump_over_several_multiples():
    assert due(11, 3, 2)
    assert not due(11, 3, 11)
    assert not due(11, 3, 9)


def test_never_due_at_the_start_nor_when_off():
    assert not due(0, 5, 0)
    assert not any(due(s, every, 0) for s in range(20) for every in (0, -1))


@pytest.mark.slow
@given(st.integers(1, 50), st.lists(st.integers(0, 500), min_size=1).map(sorted))
def test_looking_more_often_or_resuming_anywhere_changes_nothing(every, looks):
    """Each look that is due stands for the multiples since the last; in all they are those up to the last look."""
    last = times = 0
    for step in looks:
        if due(step, every, last):
            times += step // every - last // every
            last = step
    assert times == looks[-1] // every


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_work_goes_on(number, capfd):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with stop_signals() as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    assert f"{signal.Signals(number).name}: stopping after this step" in capfd.readouterr().err


def test_the_second_sigint_kills():
    code = """
import os, signal
from nca_gen.runtime.cadence import stop_signals
with stop_signals():
    os.kill(os.getpid(), signal.SIGINT)
    print("working", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("still working", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "working\n")
