"""`python several.py COMMANDS.json`: one of several processes does one verb after the other, each as on a command line.

`python several.py lost`: they meet, and the last is killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

from nca_gen.runtime import watch


def lose():
    """All gather what each made of 6 arrays; then the last process goes, as a preempted host does."""
    import jax
    import numpy as np
    from ml_collections import ConfigDict

    from nca_gen import hosts
    from nca_gen.runtime import mesh

    with mesh.joined(ConfigDict({"mesh": {"patience": 300}})):
        gather = lambda: hosts.together(lambda some: np.arange(12.0, dtype=np.float32).reshape(6, 2)[some], 6)
        print("gathered", gather().tolist(), flush=True)
        if jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        print("gathered", gather().tolist(), flush=True)


def do(commands):
    """One after the other; ends at the first that fails."""
    from nca_gen import main

    for command in commands:
        if code := main.run(command):
            sys.exit(code)


if __name__ == "__main__":
    if watch.needed(sys.argv, os.environ):
        sys.exit(watch.over([sys.executable, *sys.orig_argv[1:]]))
    watch.tie()
    lose() if sys.argv[1] == "lost" else do(json.loads(Path(sys.argv[1]).read_text()))
