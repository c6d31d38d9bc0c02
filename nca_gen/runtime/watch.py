"""A process that is one of several, watched by another that does nothing else, so that its end is one line and a code.

jax's coordination service ends a process by abort() in C++, with pages of text, where another one has died, is frozen
or never came; no code of its own can run then (the callback that jaxlib offers takes no Python function). So
:mod:`nca_gen.main` runs itself once more, and its first self passes on what the second says, and reads its last words.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

LOST = 75  # EX_TEMPFAIL of sysexits.h: to be tried again
MARK = "NCA_GEN_WATCHED"  # by which process
ADVICE = "the same command on all hosts goes on from the last checkpoint"
FATAL = re.compile(rb"F\d{4} [\d:.]+ ")
COORDINATION = ("distributed service detected fatal errors", "CoordinationService")


def needed(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a process with these is one of several, and is not watched yet."""
    several = "JAX_COORDINATOR_ADDRESS" in environment or any("mesh.distributed=" in word for word in arguments)
    return several and MARK not in environment


def over(command: Sequence[str]) -> int:
    """Runs ``command`` and returns its exit code; LOST, and one line, where it was ended for another process's sake.

    SIGTERM is passed on. A Ctrl-C reaches it without us.
    """
    environment = os.environ | {MARK: str(os.getpid())}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as child:
        former = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number)),
            signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        }
        last, told = [], False
        assert child.stderr is not None
        for line in child.stderr:
            ours = line.startswith(b"error: ")
            told = told or ours
            if (last or FATAL.match(line)) and not ours:
                last.append(line)
            else:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
        code = child.wait()
    for number, handler in former.items():
        signal.signal(number, handler)
    words = b"".join(last).decode(errors="replace")
    if code == -signal.SIGABRT and all(sign in words for sign in COORDINATION):
        if not told:
            print(f"error: {missing(words)}; {ADVICE}", file=sys.stderr, flush=True)
        return LOST
    sys.stderr.write(words)
    return 128 - code if code < 0 else code


def missing(words: str) -> str:
    """Who is missing by the last ``words`` of the coordination service."""
    lost = names(words)
    if not lost:  # all hear of each other by the first
        return "process 0, by which all hear of each other, was lost"
    what = "did not come" if "Wait_for_all_tasks_to_register" in words else "was lost"
    return f"process {' and '.join(map(str, lost))} {what}"


def names(words: str) -> list[int]:
    """The processes that the coordination service lists in ``words``, a line each."""
    return sorted({int(number) for number in re.findall(r"^(?:\S*task:)?(\d+)$", words, re.MULTILINE)})


def tie() -> None:
    """Ends this process when the one that watches it is killed, where the operating system can (Linux)."""
    if MARK in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(os.environ[MARK]):
            os._exit(128 + signal.SIGKILL)
