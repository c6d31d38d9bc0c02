"""--mode=export: what lies in the folder, who can read it, and what it draws."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import flatbuffers
import jax
import jax.export
import numpy as np
import pytest
import tiny
import yaml
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from nca_gen import build, main
from nca_gen import config as configs
from nca_gen.contracts import Part
from nca_gen.data import latents
from nca_gen.data.source import Origin
from nca_gen.errors import UserError
from nca_gen.io import exports, images
from nca_gen.runtime import checkpoint, record, run
from nca_gen.sections import Export
from nca_gen.verbs import export as verb
from nca_gen.verbs import export_card, export_sampler, generate

OLD = Path(__file__).resolve().parents[1] / "old_exports"
# All that jax needs, and what its programs are stored in.
NEEDED = ("jax", "jaxlib", "numpy", "numpy.libs", "ml_dtypes", "opt_einsum", "scipy", "scipy.libs", "flatbuffers")
ALONE = """
import sys
from pathlib import Path

import jax.export
import numpy as np

for place, seed, classes in (line.split(":") for line in sys.argv[1:]):
    program = jax.export.deserialize(bytearray(Path(place, "sampler.stablehlo").read_bytes()))
    np.save(Path(place, "drawn.npy"), program.call(np.uint32(seed), np.array(classes.split(","), np.int32)))
try:
    import nca_gen
except ModuleNotFoundError:
    sys.exit(0)
sys.exit("this is not alone")
"""


def workdir(root, config, step=4):
    """A run of ``config`` of one checkpoint."""
    task = build.task(config)
    with checkpoint.manager(root) as saved:
        checkpoint.save(saved, step, tiny.state(task, seed=step)._replace(step=np.int32(step)))
    record.save_config(root, config)
    return root


def graded():
    """Cells that know three grades, of the drawn eyes; guidance and heredity are in what they draw."""
    sample = {"sample.n": 3, "sample.steps": 2, "sample.batch": 4, "diffusion.timesteps": 4}
    data = {"data.name": "spots", "data.size": 16, "data.grades": 3, "data.patients": 10}
    return tiny.conditional(**sample, **data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of graded cells, evaluated, and what it was exported to."""
    root = workdir(tmp_path_factory.mktemp("run"), graded())
    page = {
        "scores": {"swd": 12.5, "swd_16": 12.5, "neighbours": 0.75, "neighbours_min": 0.5},
        "protocol": {"swd": "Lower is better.", "neighbours": "Near 1 is better."},
        "counts": {"generated": 8, "real": 2},
        "notes": {"real": ["only 2 patches of test are used"]},
        "page": {"title": "Samples"},
        "split": "test",
        "seed": 3,
    }
    for step, scores in ((2, {"swd": 99.0}), (4, {})):
        folder = run.evaluation(root, step)
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps(page | {"scores": page["scores"] | scores}))
    return root, verb.export(configs.saved(root / "config.json", "export"), root)


def pictures(folder):
    return np.stack([images.read(path) for path in sorted(folder.glob("*.png"))])


@pytest.mark.slow
def test_jax_alone_draws_the_pixels_of_the_package(runs, tmp_path, monkeypatch):
    """The program of an export, and one that an earlier version wrote, where nothing but jax can be imported."""
    root, folder = runs
    config = configs.saved(root / "config.json")
    shutil.copytree(OLD / "diff_nca", tmp_path / "old")
    shutil.copytree(folder, tmp_path / "new")
    lines = [f"{tmp_path / 'new'}:{config.seed}:0,1,2", f"{tmp_path / 'old'}:5:0,0"]
    (tmp_path / "site").mkdir()
    for name in NEEDED:
        for found in (Path(part.__file__).parents[1] / name for part in (jax, flatbuffers)):
            if found.is_dir() and not (tmp_path / "site" / name).exists():
                (tmp_path / "site" / name).symlink_to(found)
    alone = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-S", "-c", ALONE, *lines], check=True, env=alone, cwd=tmp_path)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    own = pictures(generate.generate(config, root, tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "drawn.npy"), own)
    assert own.std((1, 2, 3)).min() > 1  # they show something
    then = pictures(OLD / "drawn").astype(int)
    assert abs(np.load(tmp_path / "old" / "drawn.npy") - then).max() <= 1


@pytest.mark.slow
def test_an_older_export_is_opened_as_it_was(tmp_path):
    """An export of before: the same parameters, and the same pictures by the package."""
    part = run.open_run(OLD / "diff_nca")
    jax.tree.map(np.testing.assert_array_equal, part.params, tiny.params(part.task.model, seed=8))
    assert part.step == 7
    config = configs.saved(OLD / "diff_nca" / "config.json")
    drawn = pictures(generate.generate(config, OLD / "diff_nca", tmp_path))
    assert abs(drawn.astype(int) - pictures(OLD / "drawn")).max() <= 1


@pytest.mark.slow
def test_it_holds_the_averaged_weights_under_their_names(runs):
    root, folder = runs
    part, again = run.open_run(root), run.open_run(folder)
    jax.tree.map(np.testing.assert_array_equal, part.params, again.params)
    assert (again.step, again.task) == (4, part.task)
    stored = load_file(folder / "model.safetensors")
    assert {*stored} == {*run.named(part.params)}
    assert "block.qkv.kernel" in stored
    assert all(array.flags.c_contiguous for array in stored.values())


@pytest.mark.slow
def test_nothing_says_where_files_lay(runs):
    root, folder = runs
    for file in folder.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not [
            words for words in (str(root.parent), str(OLD.parents[1]), "export_sampler.py") if words.encode() in content
        ]
    there = {
        "data": {"path": "/home/me/x", "patch": (8, 8)},
        "evals": {"own": {"file": "~/y"}},
        "model": {"name": "lab.x"},
    }
    assert verb.placeless(there) == {
        "data": {"path": "", "patch": [8, 8]},
        "evals": {"own": {"file": ""}},
        "model": {"name": "lab.x"},
    }


@pytest.mark.slow
def test_what_is_of_another_model_is_refused(runs, tmp_path):
    _, folder = runs
    shutil.copytree(folder, tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    config["model"]["mlp"] = 20
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"of another model: block.fc0.bias is \(16,\) there and \(20,\) here"):
        run.open_run(tmp_path / "x")
    with pytest.raises(UserError, match="of step 4, and of no other; step 2 is asked for"):
        run.open_run(folder, 2)


def test_a_run_is_not_written_over(runs):
    root, folder = runs
    for path in (root, folder):
        config = configs.override(configs.saved(path / "config.json"), [f"--config.export.path={path}"], (), "export")
        with pytest.raises(UserError, match="is what a run is kept in; choose another"):
            verb.export(config, path)


# The card.


def test_the_card_has_the_metadata_of_a_hub_and_the_newest_scores(runs):
    text = (runs[1] / "README.md").read_text()
    facts = yaml.safe_load(text.split("---\n")[1])
    [model] = facts["model-index"]
    [result] = model["results"]
    assert facts["license"] == "apache-2.0"
    assert "pipeline_tag" not in facts  # it is told of grades
    assert result["metrics"] == [{"type": "swd", "value": 12.5}, {"type": "neighbours", "value": 0.75}]
    assert result["dataset"]["type"] == "spots"
    for words in (
        "**Not for clinical use.**",
        "Patients: 8 trained on; of these, 0 also among the held-out images",
        "at step 4, 8 generated, 2 real; real ones of the split\ntest, seed 3:",
        "- **swd**: Lower is better.",
        "- Note on real: only 2 patches of test are used",
        "- neighbours_min: 0.5\n",
        "of each image, 0 to 2; -1 for none",
        "- Command, commit and versions: *missing*",
    ):
        assert words in text, words


def test_what_the_card_does_not_know_it_says(tmp_path):
    """Of files of one's own, which are gone, and never evaluated: nothing is made up."""
    config = tiny.config(**{"data.path": str(tmp_path / "gone.png")})
    part = Part(run.frozen(config), build.task(config), {}, 3)
    text = export_card.card(part, Export(), tmp_path, "mine")
    facts = yaml.safe_load(text.split("---\n")[1])
    assert facts.keys() == {"library_name", "pipeline_tag", "tags"}
    assert text.count("*missing*") == 7
    assert (
        yaml.safe_load(export_card.card(part, Export(licence="cc-by-4.0"), tmp_path, "mine").split("---\n")[1])[
            "license"
        ]
        == "cc-by-4.0"
    )


def test_the_card_of_an_autoencoder_names_no_sampler(tmp_path):
    config = configs.load("configs/vnca.py:smoke")
    text = export_card.card(Part(run.frozen(config), build.task(config), {}, 3), Export(), tmp_path, "mine")
    assert "by one call of the decoder: those that nca_gen draws from this seed." in text


def test_the_licence_of_the_weights_is_that_of_the_data():
    known = Origin("x", "cc-by-4.0", "https://x")
    assert export_card.licence(known) == {"license": "cc-by-4.0", "license_link": "https://x"}
    terms = {"license": "other", "license_name": "no-known-copyright", "license_link": "https://x"}
    assert export_card.licence(Origin("x", "other", "https://x", "no known copyright")) == terms
    assert export_card.licence(None) == {}
    assert export_card.licence(known, "mit") == {"license": "mit"}


# The program.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torus", "fourier", "volumes"])
def test_any_system_becomes_a_program_of_any_number_of_images(name):
    """For every platform, and without a call of what only some of them have."""
    small = {"sample.steps": 2, "diffusion.timesteps": 4, "model.steps": 2}
    config = {
        "torus": lambda: tiny.config(**small, **{"generate": {"torus": True}}),
        "fourier": lambda: configs.load("configs/fourier_diff_nca.py:smoke"),
        "volumes": lambda: tiny.config(**small, **{"model.ndim": 3, "sample.size": (8, 8, 8), "data.patch": (8, 8, 8)}),
    }[name]()
    task = build.task(config)
    part = Part(run.frozen(config), task, tiny.params(task.model))
    sides = tuple(config.sample.size)
    program = jax.export.deserialize(
        bytearray(export_sampler.serialized(build.pipeline(config, {"model": part}), sides))
    )
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert program.mlir_module().count("custom_call") == program.mlir_module().count("@shape_assertion")
    [drawn] = program.out_avals
    assert (str(drawn.shape[0]), drawn.shape[1:], drawn.dtype) == ("n", (*sides, 3), np.uint8)


CODEC = '''
"""An autoencoder whose decoder doubles every side."""
from dataclasses import dataclass
import jax.numpy as jnp

@dataclass(frozen=True)
class Model:
    factor: int = 2
    image_channels: int = 3
    latent_channels: int = 3

    def init(self, key):
        return {"gain": jnp.ones(3)}

    def encode(self, params, image):
        return image, image

    def decode(self, params, z):
        return (z * params["gain"]).repeat(2, 1).repeat(2, 2)
'''


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """The workdir of a denoiser of latents of 8 x 8, and beside it what decodes these."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "codec.py").write_text(CODEC)
    monkeypatch.syspath_prepend(str(tmp_path))
    there = tmp_path / "encoded" / "latents"
    there.mkdir(parents=True)
    facts = {"version": 1, "scale": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 0.125]}, "shape": [8, 8, 3]}
    facts["config"] = {"data": {"name": "tissue", "patch": [16, 16]}, "model": {"name": "mine.codec"}}
    (there / "index.json").write_text(json.dumps(facts))
    latents.keep(
        there, build.model(ConfigDict({"model": {"name": "mine.codec"}})), {"gain": np.full(3, 0.5, np.float32)}
    )
    small = {"sample.steps": 2, "diffusion.timesteps": 4, "model.steps": 1, "sample.size": (8, 8), "sample.n": 2}
    data = {"data": {"name": "latents", "path": str(tmp_path / "encoded"), "patch": (8, 8)}}
    return workdir(tmp_path / "run", tiny.config(**small, **data)), tmp_path / "encoded"


@pytest.mark.slow
def test_latents_are_drawn_to_pixels_where_their_autoencoder_is(encoded, tmp_path, monkeypatch):
    """Its decoder is in the program and beside the weights: what was encoded may be gone."""
    root, there = encoded
    config = configs.saved(root / "config.json", "export")
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    own = pictures(generate.generate(config, root))
    folder = verb.export(config, root)
    program = jax.export.deserialize(bytearray((folder / "sampler.stablehlo").read_bytes()))
    np.testing.assert_array_equal(program.call(np.uint32(config.seed), np.zeros(2, np.int32)), own)
    assert (own[:, ::2, ::2] == own[:, 1::2, 1::2]).all()  # as the decoder has it
    assert "license_name: no-known-copyright-restrictions" in (folder / "README.md").read_text()
    shutil.rmtree(there)
    again = configs.saved(folder / "config.json")
    assert again.data.path == ""
    np.testing.assert_array_equal(pictures(generate.generate(again, folder, tmp_path / "out")), own)
    with pytest.raises(UserError, match=r"no latents in '.*encoded': make them with --mode=encode"):
        verb.export(config, root)


@pytest.mark.slow
def test_parts_go_along(runs, tmp_path):
    """What a run needs beside its own network lies in the export, and is found there wherever that is."""
    root, folder = runs
    config = configs.saved(root / "config.json", "export")
    with config.unlocked():
        config.parts = ConfigDict({"first": str(folder)})
        config.export.path = str(tmp_path / "x")
    verb.export(config, root)
    (tmp_path / "x").rename(tmp_path / "y")
    [(name, part)] = run.beside(configs.saved(tmp_path / "y" / "config.json"), tmp_path / "y").items()
    assert (name, part.step) == ("first", 4)


@pytest.mark.slow
def test_half_the_room(runs, tmp_path):
    """Weights are rounded once: an export of the export is the same, and its program draws what it draws."""
    flags = [f"--config.export.path={tmp_path / 'x'}", "--config.export.dtype=float16"]
    config = configs.override(configs.saved(runs[0] / "config.json"), flags, (), "export")
    folder = verb.export(config, runs[0])
    whole, half = (load_file(place / "model.safetensors") for place in (runs[1], folder))
    for name, array in whole.items():
        np.testing.assert_array_equal(half[name], array.astype(np.float16))
        assert half[name].dtype == np.float16
    sizes = [(place / "sampler.stablehlo").stat().st_size for place in (runs[1], folder)]
    assert sizes[0] - sizes[1] > 0.4 * sum(array.nbytes for array in whole.values())
    part = run.open_run(folder)
    assert {str(x.dtype) for x in jax.tree.leaves(part.params)} == {"float32"}
    assert "rounded to float16" in (folder / "README.md").read_text()


# Where exports lie.


def test_the_cache_of_a_hub_is_a_workdir(runs, tmp_path):
    cached = tmp_path / "models--lab--cells"
    shutil.copytree(runs[1], cached / "snapshots" / "0a1b")
    assert exports.located(str(cached)) == str(cached / "snapshots" / "0a1b")
    (cached / "snapshots" / "ffff").mkdir()
    with pytest.raises(UserError, match="does not say which of its snapshots is meant"):
        exports.located(str(cached))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0a1b")
    assert exports.located(str(cached)) == str(cached / "snapshots" / "0a1b")
    assert exports.lent(cached / "snapshots" / "0a1b")
    assert run.open_run(cached).step == 4


@pytest.mark.parametrize("mode", ["generate", "evaluate", "expand", "export", "study", "train"])
def test_what_is_not_ones_own_is_not_written_to(mode, capsys, monkeypatch, tmp_path):
    """Every verb that writes asks for --out in one line, and takes it."""
    asked = []
    monkeypatch.setattr(build, "verb", lambda _: type("Verb", (), {"main": lambda config, args: asked.append(args)}))
    assert main.run([f"--mode={mode}", "--workdir=zoo:tissue"]) == 2
    line = f"error: {exports.ZOO / 'tissue'} is not yours to write to; say where results go with --out=DIR\n"
    assert (capsys.readouterr().err, asked) == (line, [])
    assert main.run([f"--mode={mode}", "--workdir=zoo:tissue", f"--out={tmp_path / 'x'}"]) == 0
    assert asked[0].out == str(tmp_path / "x")
    assert asked[0].workdir == (asked[0].out if mode in ("study", "train") else str(exports.ZOO / "tissue"))


def test_what_says_only_needs_no_place(capsys):
    assert main.run(["--mode=check", "--workdir=zoo:tissue", "--out=x"]) == 2
    assert capsys.readouterr().err == "error: --out is for what writes files, and --mode=check writes none\n"
    assert main.run(["--mode=generate", "--workdir=zoo:tisue"]) == 2
    assert capsys.readouterr().err == "error: unknown name in the zoo 'tisue'; did you mean tissue?\n"


def test_an_export_is_not_trained_on(runs, capsys):
    assert main.run(["--mode=train", f"--workdir={runs[1]}"]) == 2
    line = (
        f"error: {runs[1]} is an export, which is not trained on; train elsewhere, with --config.train.init={runs[1]}"
    )
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.slow
def test_a_page_for_a_browser_goes_along(runs, tmp_path):
    """Where the rule is one that a page can run; where not, nothing is written."""
    for workdir, name in ((OLD / "diff_nca", "page"), (runs[0], "none")):
        config = configs.saved(workdir / "config.json", "export")
        config = configs.override(config, [f"--config.export.path={tmp_path / name}", "--config.export.html"])
        if name == "page":
            folder = verb.export(config, workdir)
            assert len((folder / "grow.html").read_bytes()) < 100_000
            assert "`grow.html` grows pictures in a browser" in (folder / "README.md").read_text()
        else:
            with pytest.raises(UserError, match="a page grows pictures by cells"):
                verb.export(config, workdir)
            assert not (tmp_path / name).exists()


def test_the_flags_of_an_export_are_short(runs, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(build, "verb", lambda _: type("Verb", (), {"main": lambda config, args: asked.append(config)}))
    assert (
        main.run(["--mode=export", f"--workdir={runs[0]}", f"--export.path={tmp_path / 'x'}", "--export.size", "8,8"])
        == 0
    )
    assert (asked[0].export.path, asked[0].export.size, asked[0].export.html) == (str(tmp_path / "x"), (8, 8), False)
    flags = ["--export.html", "--export.size=8,8", "--export.html", "False", "--export.html"]
    assert main.run(["--mode=export", f"--workdir={runs[0]}", f"--out={tmp_path / 'x'}", *flags]) == 0
    assert asked[1].export.html is True
    assert main.run(["--mode=export", f"--workdir={runs[0]}", f"--out={tmp_path / 'x'}", *flags[:-1]]) == 0
    assert asked[2].export.html is False
