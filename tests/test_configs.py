"""Every file in configs/: what it promises, and that its smoke form trains."""

import inspect
import json
import math
import runpy
from pathlib import Path

import jax
import pytest

from nca_gen import build, main

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(f.relative_to(ROOT).as_posix() for f in (ROOT / "configs").glob("*.py"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_begins_with_its_command(path):
    assert f"python -m nca_gen.main --config={path}" in runpy.run_path(path)["__doc__"]


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_survives_its_run(path, tmp_path):
    """What is written to config.json is read back as it was: tuples, ints and floats included."""
    config = main.load(path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert repr(main.saved(tmp_path / "config.json").to_dict()) == repr(config.to_dict())


@pytest.mark.parametrize("path", CONFIGS)
def test_every_form_is_understood(path):
    """Each form of a config builds a task, and has the fields of its data set; ``smoke`` is the last one."""
    page = runpy.run_path(path, run_name="config")
    forms = [k for k, v in page.items() if inspect.isfunction(v) and v.__module__ == "config" and k != "get_config"]
    forms = [form for form in forms if not form.startswith("_")]
    assert forms[-1] == "smoke"
    for form in ["", *forms]:
        config = main.load(f"{path}:{form}")
        build.task(config)
        build.fields(config, "data", build.named("data", "splits", config.data.name).splits, ("patch", "flips"))


@pytest.mark.parametrize(
    ("spec", "paper", "steps"),
    [
        ("diff_nca.py", 331_464, 20),
        ("fourier_diff_nca.py", 1_101_216, 20),
        ("fourier_diff_nca.py:c96_h512", 1_101_216, 20),
        ("fourier_diff_nca.py:c128_h640", 1_849_632, 20),
        ("fourier_diff_nca.py:c96_h256", 737_184, 20),
        ("fourier_diff_nca.py:c48_h512", 525_792, 20),
        ("fourier_diff_nca.py:s10", 1_101_216, 10),
        ("fourier_diff_nca.py:s30", 1_101_216, 30),
    ],
)
def test_sizes_are_those_of_the_paper(spec, paper, steps):
    """The paper also counts a normalisation of 2 * hidden parameters that its forward pass never reaches."""
    model = build.model(main.load(f"configs/{spec}"))
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) + 2 * model.hidden == paper
    assert model.steps == steps


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS)
def test_the_smoke_form_trains(path, tmp_path):
    config = main.load(f"{path}:smoke")
    flags = [f"--config={path}:smoke", f"--workdir={tmp_path}", "--config.mesh.data=1"]
    assert main.run(flags) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-1] == config.train.steps
    if config.task.get("loss") == "l1_l2" and config.diffusion.prediction == "eps" and config.model.init == "zero":
        # An automaton that has learned nothing predicts 0 for unit noise e: E[e^2] + E|e|; one pixel deviates by 2.
        pixels = config.train.batch * math.prod(config.data.patch) * 3
        assert abs(lines[0]["loss"] - (1 + math.sqrt(2 / math.pi))) < 4 * 2 / math.sqrt(pixels)
    [evaluation] = (tmp_path / "eval").iterdir()
    assert evaluation.name == f"{config.train.steps:08}"
    scores = json.loads((evaluation / "scores.json").read_text())["scores"]
    assert set(config.eval.metrics) <= set(scores)
    assert all(map(math.isfinite, scores.values()))
    assert "<html" in (tmp_path / "report.html").read_text()
    # The same command again finds everything done; the run alone is enough to sample and score it again.
    assert main.run(flags) == 0
    use = "generate" if "sample" in config else "encode" if "encode" in config else "evaluate"
    assert main.run([f"--mode={use}", f"--workdir={tmp_path}"]) == 0
    before = json.loads((evaluation / "scores.json").read_text())["scores"]
    assert main.run(["--mode=evaluate", f"--workdir={tmp_path}"]) == 0
    assert json.loads((evaluation / "scores.json").read_text())["scores"] == before
