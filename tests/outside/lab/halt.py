"""An evaluator that is the end: it kills its process the first time that it is asked, as a machine that fails would."""

import os
import signal
from pathlib import Path

from nca_gen.contracts import Page


def halted(config, flag: str):
    """``config`` of a run that is killed at step 4."""
    config.evals.halt = {"name": "lab.halt", "every": 4, "flag": flag}
    return config


def evaluate(pipeline, data, folder, /, *, flag: str = "") -> Page:
    """``flag``: a file that says that this was the first time."""
    if flag and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Page("Halt")
