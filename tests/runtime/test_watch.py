"""The end of a process that is one of several, by what the coordination service of jax (0.10.2, 0.11.2) has written."""

import signal
import subprocess
import sys

import pytest

from nca_gen.runtime import watch

LAST = (
    "F1129 02:14:09.924477   29271 client.h:80] Terminating process because the JAX distributed service detected fatal "
    "errors. This most likely indicates that another task died; see the other task logs for more. absl::Status: "
)
FROZEN = """UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
The tasks have crashed. Check the task logs for an earlier error, or scheduler events to debug further.

RPC: /xla.coordination.CoordinationService/PollForError [type.googleapis.com/tensorflow.CoordinationServiceError='']
*** Check failure stack trace: ***
    @     0x7faf29440634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
LATE = """DEADLINE_EXCEEDED: Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0. This usually happens
# of tasks that reached the barrier: 1/3.
The first task at the barrier: 0. Some timed out task names:
2
1


RPC: /xla.coordination.CoordinationService/RegisterTask [type.googleapis.com/tensorflow.CoordinationServiceError='']
"""
FIRST = """DEADLINE_EXCEEDED: Deadline Exceeded

RPC: /xla.coordination.CoordinationService/Heartbeat
*** Check failure stack trace: ***
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (FROZEN, "process 1 was lost"),
        (LATE, "process 1 and 2 did not come"),
        (FIRST, "process 0, by which all hear of each other, was lost"),
    ],
)
def test_who_is_missing_is_one_line_and_a_code(words, said, capfd):
    child = f"import os, sys; print('a line', file=sys.stderr); os.write(2, {(LAST + words).encode()!r}); os.abort()"
    assert watch.over([sys.executable, "-S", "-c", child]) == 75
    assert capfd.readouterr().err == f"a line\nerror: {said}; {watch.ADVICE}\n"


def test_what_was_said_is_not_said_again(capfd):
    line = f"error: process 1 on a was lost; {watch.ADVICE}\n"
    child = f"import os; os.write(2, {(line + LAST + FROZEN).encode()!r}); os.abort()"
    assert watch.over([sys.executable, "-S", "-c", child]) == 75
    assert capfd.readouterr().err == line


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(3)", 3), ("os.abort()", 134), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)]
)
def test_any_other_end_is_passed_on_with_all_its_words(end, code, capfd):
    words = "F1129 02:14:09.924477   29271 other.cc:80] Check failed: a bug\nand where\n"
    child = f"import os, sys; os.write(1, b'out'); os.write(2, {words.encode()!r}); {end}"
    assert watch.over([sys.executable, "-S", "-c", child]) == code
    assert capfd.readouterr() == ("out", words)


SLEEPS = "import time; print('here', flush=True); time.sleep(60)"
WATCHES = "import sys; sys.argv = ['']; from nca_gen.runtime import watch; "
TIED = f"from nca_gen.runtime import watch; watch.tie(); {SLEEPS}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_both_end_by_one_signal(number, code):
    """What asks the first to stop asks the second; what kills the first kills the second."""
    program = f"{WATCHES}sys.exit(watch.over([sys.executable, '-c', {TIED!r}]))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        assert process.wait(20) == code
        assert process.stdout.read() == ""  # the end of it: the second is gone


@pytest.mark.parametrize(
    ("words", "environment", "needed"),
    [
        (["--config=a"], {}, False),
        (["--config=a"], {"JAX_COORDINATOR_ADDRESS": "a:1"}, True),
        (["--config.mesh.distributed=true"], {}, True),
        (["--config.mesh.distributed=true"], {watch.MARK: "1"}, False),
    ],
)
def test_only_one_of_several_is_watched_and_only_once(words, environment, needed):
    assert watch.needed(words, environment) == needed
