"""`python several.py COMMANDS.json`: one of several processes does one verb after the other, each as on a command line.

`python several.py lost`: they meet, and the last is killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from nca_gen import hosts, main
from nca_gen.runtime import mesh


def lose():
    """All gather what each made of 6 arrays; then the last process goes, as a preempted host does."""
    with mesh.joined(ConfigDict({"mesh": {"patience": 300}})):
        gather = lambda: hosts.together(lambda some: np.arange(12.0, dtype=np.float32).reshape(6, 2)[some], 6)
        print("gathered", gather().tolist(), flush=True)
        if jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        print("gathered", gather().tolist(), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "lost":
        lose()
    else:
        for command in json.loads(Path(sys.argv[1]).read_text()):
            if code := main.run(command):
                sys.exit(code)
