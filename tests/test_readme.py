"""Every command of the README in its smoke form: the same verbs in the same order, on small data of the test's own."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
import tiny

from nca_gen import main
from nca_gen.io import images, volumes
from nca_gen.metrics import swd
from nca_gen.nn import resnet

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    shlex.split(line, comments=True)[3:]
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python -m nca_gen.main ")
]
GRADES = 5
SMALL = {  # what a flag of the README becomes
    "--config.sample.size=512,512": "--config.sample.size=24,40",
    "--config.sample.size=4096,4096": "--config.sample.size=64,48",
    "--config.sample.size=2048,2048": "--config.sample.size=40,56",
    "--config.generate.box=40,40,44,52": "--config.generate.box=4,4,8,10",
    "--config.generate.factor=4": "--config.generate.factor=2",
    "--config.evals.samplers.rows=ddpm:300,ddim:50,dpm_solver_pp:20": "--config.evals.samplers.rows=ddpm:4,ddim:2",
    "--config.evals.heredity.inherit=none,hidden,out,both": "--config.evals.heredity.inherit=hidden",
    "--config.evals.growth.steps=2,4,8,16": "--config.evals.growth.steps=2",
    "--config.study.runs=runs/geca,runs/dit,runs/ldm": "--config.study.runs=runs/geca",
    "--metrics=fid,kid,authpct": "--metrics=swd,drift",
}
MORE = {  # by mode and page or workdir: what makes it small where a form cannot know
    ("train", "configs/diff_nca.py:laptop,volumes"): ["--config.data.patch=8,8,8", "--config.sample.size=8,8,8"],
    ("train", "configs/diff_nca.py:slides,laptop"): ["--config.data.region=32"],
    ("train", "configs/geca.py"): [  # latents of 8 x 8, of as many grades as there are: the cells of the chain below
        *("--config.data.name=latents", "--config.data.patch=8,8", "--config.sample.size=8,8"),
        *(f"--config.model.classes={GRADES}", "--config.model.image_channels=4"),
        *("--config.codec.block=1", "--config.codec.std=1.0,"),
    ],
    ("train", "configs/vae_kl.py"): [  # whose critic and perceptual loss are trained by test_configs.py
        *("--config.data.name=folder", "--config.data.resize=32,32", "--config.data.patch=32,32"),
        *("--config.task.adversarial=0.0", "--config.task.perceptual=none"),
    ],
    ("generate", "runs/a"): ["--config.sample.n=2", "--config.sample.steps=2"],
    ("bench", "configs/diff_nca.py"): ["--config.bench.what=()"],  # what it measures is run by verbs/test_bench.py
    ("study", "configs/geca.py"): ["--config.study.n=8", "--config.study.train=16", "--config.study.metrics=swd"],
    ("classify", "configs/classifier.py"): [
        *("--config.data.name=folder", "--config.data.patch=32,32"),
        *("--config.classify.repeats=1", "--config.held.split=test", "--config.model.width=2"),
    ],
    ("chain", "configs/geca_chain.py"): [
        *("--config.autoencoder.data.name=folder", f"--config.cells.model.classes={GRADES}"),
        *("--config.autoencoder.mesh.data=1", "--config.cells.mesh.data=1"),
        *("--config.autoencoder.task.adversarial=0.0", "--config.autoencoder.task.perceptual=none"),
    ],
    ("chain", "configs/urcdm.py"): [
        *("--config.data.name=slides", "--config.data.pad=242,243,242", "--config.train.steps=1"),
        "--config.mesh.data=1",
        *(f"--config.mag2_stage3.evals.{name}.every=0" for name in ("scores", "nearest", "films")),
    ],
    ("chain", "configs/ca_ldm.py"): ["--config.train.steps=1", "--config.mesh.data=1"],
    ("generate", "runs/ca_ldm/multislice"): ["--config.sample.n=1"],
    ("expand", "runs/geca"): ["--config.expand.times=1", "--config.expand.tries=1"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of graded images, one of volumes, an image; and where runs/ lies."""
    folder, rng = tmp_path_factory.mktemp("readme"), np.random.default_rng(0)
    for name in ("DIR", "VOLUMES", "SLIDES"):
        (folder / name).mkdir()
    rows = ["filename,patient_id,grade"]
    for i in range(24):
        picture = np.full((32, 32, 3), 60 + 120 * (i % 2), np.uint8) + rng.integers(0, 40, (32, 32, 3), np.uint8)
        images.write(folder / "DIR" / f"{i}.png", picture)
        volumes.write(folder / "VOLUMES" / f"{i}.nii.gz", rng.standard_normal((16, 16, 16, 1)).astype(np.float32))
        tissue = rng.integers(90, 200, (128, 128, 3), np.uint8) // np.uint8((1, 2, 1))  # stained, at any size
        tifffile.imwrite(folder / "SLIDES" / f"{i}.tif", tissue, tile=(64, 64), photometric="rgb")
        rows.append(f"{i}.png,p{i},{i % GRADES}")
    (folder / "DIR" / "labels.csv").write_text("\n".join(rows))
    images.write(folder / "FILE.png", rng.integers(0, 255, (16, 24, 3), np.uint8))
    return folder


def test_there_are_commands():
    assert len(COMMANDS) > 15


@pytest.mark.slow
def test_every_command_of_the_readme_in_its_smoke_form(data, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(swd, "DIRECTIONS", 8)  # a distance that takes no time
    monkeypatch.setattr(resnet, "resnet34", tiny.shallow)  # test_configs.py trains the deep one
    for command in COMMANDS:
        flags = list(small(command, data))
        assert main.run(flags) == 0, f"{' '.join(command)}\n{' '.join(flags)}\n{capsys.readouterr().err}"
        if f"--workdir={data}/runs/chain" in flags:
            check_chain(data / "runs" / "chain", flags)


def check_chain(folder, flags):
    """There are an autoencoder, its latents, and cells that learned them; again, and nothing is trained twice."""
    curve = (folder / "cells" / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in curve.splitlines()] == [1, 2, 3, 4]
    assert (folder / "autoencoder" / "latents" / "index.json").is_file()
    assert main.run(flags) == 0
    assert (folder / "cells" / "metrics.jsonl").read_text() == curve


def small(command, data):
    """The flags of ``command`` in its smoke form."""
    page, mode, workdir = (
        next((w.partition("=")[2] for w in command if w.startswith(f"{flag}=")), "")
        for flag in ("--config", "--mode", "--workdir")
    )
    for word in command:
        word = SMALL.get(word, word).replace("runs/", f"{data}/runs/")
        name, _, value = word.partition("=")
        if name == "--config":
            path, _, forms = value.partition(":")
            kept = [form for form in forms.split(",") if form not in ("", "laptop")]
            word = f"--config={path}:{','.join([*kept, 'smoke'])}"
        kind = next((kind for kind in ("volumes", "slides") if kind in page), "slides" if "urcdm" in page else "dir")
        places = {"DIR": kind.upper(), "FILE": "FILE.png"}
        yield f"{name}={data / places[value]}" if value in places else word
    if mode != "evaluate" or page:
        yield from ["--config.mesh.data=1"] if mode != "chain" and "--samples" not in " ".join(command) else []
    if "--config.generate.name=gigapixel" in command:
        yield "--config.generate.memory_gb=64"  # the process of the tests is large already
    mode = mode or "train"
    yield from MORE.get((mode, page), MORE.get((mode, page.partition(":")[0] or workdir), []))
