"""The house is open: systems from a folder outside the package train, are killed, resume, generate and are judged.

outside/ has a denoiser of volumes in continuous time that is told of a volume, an autoencoder of volumes, and a chain
of it and a denoiser of its latents. No file of the package knows of them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nca_gen import main
from nca_gen.io import volumes
from nca_gen.runtime import checkpoint, run

OUTSIDE = Path(__file__).parent / "outside"
KILLED = {  # page, mode and workdir of what is killed at step 4 by its own evaluator
    "balls": ["--config=killed_balls.py", "--workdir=balls"],
    "autoencoder": ["--config=killed_latent_balls.py", "--workdir=vae"],
    "chain": ["--config=killed_latent_balls.py", "--mode=chain", "--workdir=chain"],
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the outside modules and pages, in which each system was trained until it was killed."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(OUTSIDE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(folder)])}
    start = lambda flags: subprocess.Popen(
        [sys.executable, "-m", "nca_gen.main", *flags], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    running = {name: start(flags) for name, flags in KILLED.items()}
    for name, process in running.items():
        _, said = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, f"{name}: {said}"
    return folder


@pytest.fixture
def inside(here, monkeypatch):
    """The test in that folder, whose modules are found like any other."""
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    return here


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def page(workdir, name, step=6):
    return json.loads((run.evaluation(workdir, step) / f"{name}.json").read_text())


def resumed(workdir, killed):
    """The command goes on from a checkpoint, with the page that does not kill it; the losses of all steps."""
    flags = [flag.replace("killed_", "") for flag in killed]
    assert checkpoint.steps(workdir)[-1] in (2, 4)  # the last save may have been cut
    before = lines(workdir)
    assert main.run(flags) == 0
    after = lines(workdir)
    assert [line["step"] for line in after] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in after[: len(before)]] == pytest.approx([line["loss"] for line in before])
    return [line["loss"] for line in after]


def sampled(workdir, n=2):
    """--mode=generate in a resumed run: the volumes that it wrote."""
    assert main.run(["--mode=generate", f"--workdir={workdir}"]) == 0
    [folder] = [path for path in (workdir / "generated").iterdir() if path.is_dir()]
    return np.stack([volumes.read(folder / f"{i:05d}.nii.gz") for i in range(n)])


def judged(workdir, name, scores):
    """--mode=evaluate says again what training said, and the report shows it."""
    said = page(workdir, name)["scores"]
    assert scores <= set(said)
    assert main.run(["--mode=evaluate", f"--workdir={workdir}"]) == 0
    assert page(workdir, name)["scores"] == said
    assert "<html" in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_volumes_in_continuous_time_told_of_a_volume(inside):
    losses = resumed(inside / "balls", KILLED["balls"])
    assert losses[0] == pytest.approx(1, abs=0.2)  # what it says at first is 0, for noise
    assert sampled(inside / "balls").shape == (2, 8, 8, 8, 1)
    judged(inside / "balls", "scores", {"total_variation"})


@pytest.mark.slow
def test_an_autoencoder_of_volumes(inside):
    losses = resumed(inside / "vae", KILLED["autoencoder"])
    assert losses[-1] < losses[0]
    assert sampled(inside / "vae").shape == (2, 8, 8, 8, 1)
    judged(inside / "vae", "reconstruction", {"psnr", "l1"})


@pytest.mark.slow
def test_a_chain_whose_second_part_uses_the_first(inside, capsys):
    resumed(inside / "chain" / "denoiser", KILLED["chain"])
    assert "autoencoder: trained to step 6 already" in capsys.readouterr().out
    part = run.open_run(inside / "chain" / "denoiser")
    beside = run.beside(part.config, inside / "chain" / "denoiser")
    assert (part.step, beside["autoencoder"].step) == (6, 6)
    assert sampled(inside / "chain" / "denoiser").shape == (2, 8, 8, 8, 1)
    judged(inside / "chain" / "denoiser", "scores", {"total_variation"})
