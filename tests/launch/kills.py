"""Runs that are killed at random moments and go on with another number of processes, against one that was not.

python tests/launch/kills.py [TIMES [SEED]]

The run of page.py, 20 steps, by local.sh; each time one of its processes is killed (kill -9) at a random moment after a
random step, and 1, 2 or 4 others go on, up to three times. Prints JSON: how many of them had the losses of the whole
run within 1e-6, and how far the worst was off.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEPS, BOUND = 20, 1e-6


def start(workdir, n):
    """``n`` processes that train in ``workdir``, with 4 devices in all."""
    page, local = ROOT / "tests" / "launch" / "page.py", ROOT / "launch" / "local.sh"
    command = ["bash", local, str(n), f"--config={page}", f"--workdir={workdir}", "--config.evals.scores.every=0"]
    with (workdir / "said").open("a") as said:
        return subprocess.Popen(command, env=os.environ | {"CORES": "4"}, stdout=said, stderr=subprocess.STDOUT)


def losses(workdir):
    """The loss of each step so far."""
    path = workdir / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.is_file() else []
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def members(pid):
    """The processes that local.sh has started."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "nca_gen.main"], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def killed(workdir, n, rng, step):
    """``n`` processes train until one of them is killed, after ``step``, or they are done; their exit code."""
    run, delay = start(workdir, n), rng.uniform(0, 0.5)
    while run.poll() is None and max(losses(workdir), default=0) < step:
        time.sleep(0.05)
    time.sleep(delay)
    if run.poll() is None and (alive := members(run.pid)):
        os.kill(rng.choice(alive), signal.SIGKILL)
    return run.wait()


def main(times=20, seed=0):
    """What is printed."""
    rng, off, courses = random.Random(seed), [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        whole = Path(root, "whole")
        whole.mkdir()
        assert start(whole, 1).wait() == 0, (whole / "said").read_text()
        expected = losses(whole)
        for i in range(times):
            workdir, course, n = Path(root, str(i)), [], 0
            workdir.mkdir()
            for _ in range(rng.randint(1, 2)):
                n = rng.choice([each for each in (1, 2, 4) if each != n])
                step = rng.randint(max(losses(workdir), default=0), STEPS - 1)
                course.append([n, step, killed(workdir, n, rng, step)])
            n = rng.choice([each for each in (1, 2, 4) if each != n])
            course.append([n, STEPS, start(workdir, n).wait()])
            here = losses(workdir)
            off.append(max(abs(here[k] - expected[k]) for k in expected) if here.keys() == expected.keys() else None)
            courses.append(course)
            said = (workdir / "said").read_text()[-1500:] if off[-1] is None else ""
            print(course, off[-1], said, file=sys.stderr, flush=True)
    good = [each for each in off if each is not None and each <= BOUND]
    worst = None if None in off else max(off)
    facts = {"times": times, "seed": seed, "within": BOUND, "good": len(good), "worst": worst, "courses": courses}
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
