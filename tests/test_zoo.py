"""The automata that lie in the package: small, whole, licensed, and as good as a picture of them."""

import jax
import jax.export
import numpy as np
import pytest
import yaml

from nca_gen import build
from nca_gen import config as configs
from nca_gen.io import exports, images
from nca_gen.runtime import run
from nca_gen.verbs import generate

NAMES = sorted(path.parent.name for path in exports.ZOO.glob("*/model.safetensors"))
FILES = {"README.md", "config.json", "model.safetensors", "sampler.stablehlo"}


def test_there_are_some():
    assert NAMES == ["spots", "tissue"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_automaton_is_small_and_says_what_it_is(name):
    """At most 400 kB, four files, its weights those of its config, its licence and its scores on the card."""
    folder = exports.ZOO / name
    assert {path.name for path in folder.iterdir()} == FILES
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
    part = run.open_run(f"zoo:{name}")
    assert part.step == part.config.train.steps
    text = (folder / "README.md").read_text()
    facts = yaml.safe_load(text.split("---\n")[1])
    assert facts["license"] in ("other", "apache-2.0")
    [result] = facts["model-index"][0]["results"]
    assert {score["type"] for score in result["metrics"]} >= {"swd", "drift", "neighbours"}
    assert "**Not for clinical use.**" in text
    assert "*missing*" not in text
    assert "-dirty" not in text
    assert b".py" not in (folder / "sampler.stablehlo").read_bytes()  # nor where it was made


@pytest.mark.slow
def test_its_program_draws_what_the_package_draws(tmp_path, monkeypatch):
    """The same pixels, and the colours of the field that it learned: means within 32 grey levels."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    folder = exports.ZOO / "tissue"
    config = configs.saved(folder / "config.json")
    drawn = images.read(generate.generate(config, folder, tmp_path) / "00000.png")
    program = jax.export.deserialize(bytearray((folder / "sampler.stablehlo").read_bytes()))
    np.testing.assert_array_equal(program.call(np.uint32(0), np.zeros(1, np.int32))[0], drawn)
    [field] = build.splits(config)["test"]
    assert abs(drawn.mean((0, 1)) - field["image"].mean((0, 1))).max() < 32
