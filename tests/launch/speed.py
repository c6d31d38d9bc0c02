"""Generation by two processes of one core each, against one: how much less of the work does each have?

python tests/launch/speed.py [WORKDIR [ROUNDS]]

Of WORKDIR (a run of page.py; made where it is not there) 128 images and a slide of 768 x 768 pixels are made, by one
process on core 0 and by two on cores 0 and 1, in turns. Prints JSON: of each turn the CPU seconds and the seconds by
the clock of each process, after one that warms up; their best, and the ratios.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHAT = {
    "images": ["--config.sample.n=128", "--config.sample.batch=16", "--config.sample.size=64,64"],
    "gigapixel": ["--config.generate.name=gigapixel", "--config.sample.size=768,768", "--config.generate.tile=128"],
}
STEPS = "--config.sample.steps=8"


def member(workdir, what, turn):
    """One process: makes ``what`` twice, and prints what the second time took."""
    from nca_gen import main

    for seed in (2 * turn + 1, 2 * turn + 2):
        began, used = time.perf_counter(), sum(os.times()[:2])
        assert main.run(["--mode=generate", f"--workdir={workdir}", f"--config.seed={seed}", STEPS, *WHAT[what]]) == 0
    took = {"cpu": sum(os.times()[:2]) - used, "wall": time.perf_counter() - began}
    print("TOOK", json.dumps(took), flush=True)


def turn(folder, workdir, n, what, number):
    """What each of ``n`` processes took."""
    python = folder / "python"
    words = f'exec taskset -c "$JAX_PROCESS_ID" {sys.executable} -u {__file__} member'
    python.write_text(f'#!/bin/sh\ncase $1 in -c) exec {sys.executable} "$@";; esac\nshift 3\n{words} "$@"\n')
    python.chmod(0o755)
    command = ["bash", ROOT / "launch" / "local.sh", str(n), workdir, what, str(number)]
    environment = os.environ | {"PYTHON": str(python), "CORES": str(n), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    said = done.stdout
    return [json.loads(line.partition("TOOK ")[2]) for line in said.splitlines() if "TOOK " in line]


def compare(workdir="", rounds="3"):
    """What is printed."""
    with tempfile.TemporaryDirectory() as root:
        workdir = Path(workdir or Path(root, "run")).absolute()
        if not (workdir / "config.json").is_file():
            page = ROOT / "tests" / "launch" / "page.py"
            command = [sys.executable, "-m", "nca_gen.main", f"--config={page}", f"--workdir={workdir}"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        facts = {}
        for what in WHAT:
            turns = [{n: turn(Path(root), workdir, n, what, 2 * i + n) for n in (1, 2)} for i in range(int(rounds))]
            slowest = {n: [{k: max(each[k] for each in took[n]) for k in took[n][0]} for took in turns] for n in (1, 2)}
            best = {n: {k: min(each[k] for each in slowest[n]) for k in ("cpu", "wall")} for n in (1, 2)}
            ratios = {k: best[1][k] / best[2][k] for k in ("cpu", "wall")}
            facts[what] = {"best": best, "times as fast": ratios, "turns": turns}
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    member(*sys.argv[2:4], int(sys.argv[4])) if sys.argv[1:2] == ["member"] else compare(*sys.argv[1:])
