"""local.sh: the same run by one process, by two and by four; and what becomes of the others where one is lost."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from nca_gen import build, main
from nca_gen.io import images
from nca_gen.runtime import checkpoint, record, watch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEMORY = ["--config.generate.memory_gb=64"]  # the process of the tests is large already
EXPAND = {"times": 2, "fold": -1, "quantile": 0.05, "tries": 2, "name": "expanded"}


def run(folder, n, *words):
    """What ``n`` processes of several.py, started by local.sh, say, with 4 devices in all; the finished process."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\ncase $1 in -c) exec {sys.executable} "$@";; esac\nshift 3\n')
    with python.open("a") as file:
        file.write(f'exec {sys.executable} -u {HERE / "several.py"} "$@"\n')
    python.chmod(0o755)
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    environment = os.environ | {"PYTHON": str(python), "CORES": "4", "XLA_FLAGS": flags, "GRACE": "120"}
    command = ["bash", str(ROOT / "launch" / "local.sh"), str(n), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def labelled(folder):
    """A run of a small transformer of 3 grades that has not been trained, and its data: 10 images of 5 patients."""
    (folder / "data").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), ["filename,patient_id,grade,split"]
    for i in range(10):
        images.write(folder / "data" / f"{i}.png", rng.integers(0, 256, (8, 8, 3), np.uint8))
        rows.append(f"{i}.png,p{i // 2},{i % 3},{'train' if i < 6 else 'val' if i < 8 else 'test'}")
    (folder / "data" / "labels.csv").write_text("\n".join(rows))
    c = tiny.config()
    c.model = {"name": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4, "classes": 3, "image_channels": 3}
    c.diffusion = {"name": "discrete", "schedule": "linear", "timesteps": tiny.T, "prediction": "eps"}
    c.data = {"name": "folder", "path": str(folder / "data"), "patch": (8, 8), "flips": "horizontal"}
    c.sample.update(batch=4, sampler="ddim", clip="none", steps=2, size=(8, 8))
    c.expand = EXPAND
    c = build.completed(c)
    with checkpoint.manager(folder / "run") as saved:
        state = tiny.state(build.task(c))
        checkpoint.save(saved, 3, state._replace(step=np.int32(3)))
    record.save_config(folder / "run", c)
    return folder / "run"


def train(workdir):
    return [f"--config={HERE / 'page.py'}", f"--workdir={workdir}"]


def uses(root):
    """The verbs that several processes share, of what was trained: in "trained" and in "labelled"."""
    trained, gigapixel = f"--workdir={root / 'trained'}", "--config.generate.name=gigapixel"
    return [
        ["--mode=generate", trained, "--config.sample.size=24,20"],
        ["--mode=generate", trained, "--config.sample.size=64,48", gigapixel, "--config.generate.tile=16", *MEMORY],
        ["--mode=evaluate", trained],
        ["--mode=expand", f"--workdir={labelled(root / 'labelled')}"],
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a run that one process has trained."""
    workdir = tmp_path_factory.mktemp("trained")
    assert main.run(train(workdir)) == 0
    return workdir


@pytest.fixture(scope="module")
def one(tmp_path_factory, trained):
    """The folder of what one process makes of it."""
    root = tmp_path_factory.mktemp("one")
    shutil.copytree(trained, root / "trained")
    for command in uses(root):
        assert main.run(command) == 0
    return root


@pytest.fixture(scope="module")
def two(tmp_path_factory, trained):
    """The folder of what two processes make of it, a "run" that they have trained themselves, and what they said."""
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(trained, root / "trained")
    (root / "commands.json").write_text(json.dumps([train(root / "run"), *uses(root)]))
    done = run(root, 2, root / "commands.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done.stdout


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one(trained, two):
    """The same batches in the same order: the loss of each tells which images it held."""
    root, said = two
    assert len(losses(trained)) == 20
    np.testing.assert_allclose(losses(root / "run"), losses(trained), rtol=0, atol=1e-6)
    assert checkpoint.steps(root / "run") == checkpoint.steps(trained)
    assert re.search(
        r"^0 \| 2 processes, 4 devices\n0 \| process +machine +devices +kind\n0 \| 0 .* 2 +cpu$", said, re.M
    )
    assert said.count("training to step 20 on 4 cpu device(s)") == 1


@pytest.mark.slow
def test_two_processes_make_the_same_pictures(one, two):
    made = [path.relative_to(one) for path in (one / "trained" / "generated").rglob("*.*") if path.is_file()]
    pictures = [path for path in made if path.suffix != ".json"]
    assert len(pictures) == 7  # four and their grid; a slide, and a glance at it
    assert all((two[0] / path).is_file() for path in made)  # what the slide took too
    for path in pictures:
        np.testing.assert_array_equal(images.read(two[0] / path), images.read(one / path), str(path))


@pytest.mark.slow
def test_two_processes_find_the_same_scores(one, two):
    [here, there] = [json.loads(next(root.glob("trained/eval/*/scores.json")).read_text()) for root in (one, two[0])]
    assert there["scores"] == here["scores"]
    files = [{str(p.relative_to(root)) for p in root.rglob("eval/*/*")} for root in (one, two[0] / ".")]
    assert files[0] <= files[1]
    assert (two[0] / "trained" / "report.html").is_file()


@pytest.mark.slow
def test_two_processes_expand_to_the_same_set(one, two):
    folder = Path("labelled", "run", "expanded")
    for table in ("train_syn_0.csv", "fold0/labels.csv"):
        assert (two[0] / folder / table).read_text() == (one / folder / table).read_text()
    pictures = sorted((one / folder).rglob("*.png"))
    assert len(pictures) == 12
    for path in pictures:
        here, there = (images.read(file).astype(int) for file in (path, two[0] / path.relative_to(one)))
        assert np.abs(here - there).max() <= 1


@pytest.mark.slow
def test_one_of_four_is_lost(tmp_path):
    """The others name it, in one line each, and leave with 75; the script ends as the one that was killed."""
    done = run(tmp_path, 4, "lost")
    assert done.returncode == 137, done.stdout + done.stderr
    assert done.stderr == "local: process 3 of 4 ended with 137\n"
    assert "0 | 4 processes, 4 devices\n" in done.stdout
    whole = np.arange(12.0).reshape(6, 2).tolist()
    for i in range(4):
        assert f"{i} | gathered {whole}\n" in done.stdout
    line = rf"error: process 3 (on \S+ )?was lost.*; {watch.ADVICE}"
    for i in range(3):
        assert len(re.findall(rf"^{i} \| {line}$", done.stdout, re.M)) == done.stdout.count(f"{i} | error: ") == 1
    assert "Traceback" not in done.stdout
