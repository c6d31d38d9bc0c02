"""--mode=generate: what lies in the folder, and that it can be stopped anywhere."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays, build
from nca_gen import config as configs
from nca_gen.config import override, stages
from nca_gen.contracts import Part
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import sampling
from nca_gen.runtime import checkpoint, run
from nca_gen.verbs import generate as verb
from nca_gen.verbs.describe_slide import bare
from nca_gen.verbs.describe_work import call_gflop


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two checkpoints, the newer of other weights."""
    root = tmp_path_factory.mktemp("run")
    task = build.task(tiny.config())
    with checkpoint.manager(root) as saved:
        for step in (2, 4):
            checkpoint.save(saved, step, tiny.state(task, seed=step)._replace(step=np.int32(step)))
    return root


def pixels(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.slow
def test_restores_the_average_of_the_newest(workdir):
    part = run.part(tiny.config(), workdir)
    assert part.step == 4
    jax.tree.map(np.testing.assert_array_equal, part.params, tiny.params(part.task.model, seed=5))


@pytest.mark.slow
def test_files_are_the_pictures(workdir):
    """Eight files, each the picture of (seed, i) from the averaged weights, and a grid of all beside the folder."""
    config = tiny.config()
    folder = verb.generate(config, workdir)
    part, settings = run.part(config, workdir), sampling.Settings.of(config.sample)
    drawn = np.concatenate(list(sampling.images(part, arrays.keys(3, 8), (16, 16), settings, batch=4)))
    assert folder == workdir / "generated" / "00000004_16x16_dpm_solver_pp4_static_seed3"
    assert [p.name for p in sorted(folder.iterdir())] == [f"{i:05d}.png" for i in range(8)]
    assert not verb.cost_file(folder).exists()
    kept = np.stack([images.read(folder / f"{i:05d}.png") for i in range(8)])
    np.testing.assert_array_equal(kept, images.from_float(drawn))
    np.testing.assert_array_equal(images.read(folder.with_suffix(".png")), images.grid(kept))


@pytest.mark.slow
def test_what_a_slide_took_stands_beside_its_folder(tmp_path, monkeypatch):
    """Once, of all of it: what is drawn again after a stop took less, what is asked about nothing, images are many."""
    chain = [override(stage.config, ["--config.sample.steps=2"]) for stage in stages("configs/nca_cascade.py:smoke")]
    parts = {f"stage{i}": bare(config) for i, config in enumerate(chain, 1)}
    parts = {name: replace(part, params=part.task.model.init(jax.random.key(0))) for name, part in parts.items()}
    parts["model"] = parts.pop("stage3")
    monkeypatch.setattr(verb.run, "parts", lambda config, _: parts)
    monkeypatch.setattr(verb, "COUNTED", 24 * 32)
    [config] = chain[-1:]
    config.sample.size = (24, 32)
    with config.unlocked():
        config.generate.dry_run = True
        config.generate.memory_gb = 64.0  # the process of the tests is large already
    folder = verb.generate(config, tmp_path)
    assert not verb.cost_file(folder).exists()
    config.generate.dry_run = False
    assert verb.generate(config, tmp_path) == folder
    took = json.loads(verb.cost_file(folder).read_text())
    assert verb.cost_file(folder) == folder.with_name(f"{folder.name}.json")
    assert (took["size"], took["processes"]) == ([24, 32], 1)
    assert took["parameters"] == sum(x.size for part in parts.values() for x in jax.tree.leaves(part.params))
    sides = {"stage1": (3, 4), "stage2": (12, 16), "model": (24, 32)}
    gflop = sum(2 * call_gflop(parts[name].task, (*side, 3)) for name, side in sides.items())
    assert took["flop"] == pytest.approx(gflop * 1e9)
    assert min(took[name] for name in ("seconds", "cpu_seconds", "memory_mb")) > 0
    verb.cost_file(folder).unlink()
    next(folder.glob("*.tiff")).unlink()
    verb.generate(config, tmp_path)
    assert not verb.cost_file(folder).exists()


@pytest.mark.slow
def test_goes_on_where_it_was_stopped(workdir):
    """What is missing is drawn again, the same; what is there is not touched."""
    folder = verb.generate(tiny.config(), workdir)
    before = pixels(folder)
    (folder / "00002.png").unlink()
    (folder / "00005.png").unlink()
    folder.with_suffix(".png").unlink()
    again = verb.generate(tiny.config(), workdir)
    assert again == folder
    assert pixels(folder) == before
    assert folder.with_suffix(".png").is_file()


@pytest.mark.slow
def test_what_is_there_is_not_drawn_again(workdir, monkeypatch):
    folder = verb.generate(tiny.config(), workdir)
    before = pixels(folder)
    monkeypatch.setattr(sampling, "images", lambda *_, **__: pytest.fail("nothing is missing"))
    assert pixels(verb.generate(tiny.config(), workdir)) == before


@pytest.mark.slow
def test_a_file_cut_short_by_a_kill_is_never_left(workdir, monkeypatch):
    """Pictures are written whole or not at all, the last of a batch included."""
    config = tiny.config(**{"sample.n": 4, "seed": 4})
    write = images.write

    def killed(path, image, mpp):
        write(path, image, mpp)
        if "00003" in path.name:
            path.write_bytes(path.read_bytes()[:40])
            raise KeyboardInterrupt

    monkeypatch.setattr(images, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        verb.generate(config, workdir)
    monkeypatch.setattr(images, "write", write)
    folder = verb.generate(config, workdir)
    assert [images.read(p).shape for p in sorted(folder.glob("*.png"))] == [(16, 16, 3)] * 4


@pytest.mark.slow
def test_fewer_and_more(workdir):
    """Asking for more keeps the first ones."""
    few = verb.generate(tiny.config(**{"sample.n": 4, "seed": 5}), workdir)
    four = pixels(few)
    more = verb.generate(tiny.config(**{"sample.n": 8, "seed": 5}), workdir)
    assert more == few
    assert len(pixels(more)) == 8
    assert {name: pixels(more)[name] for name in four} == four


@pytest.mark.slow
def test_other_settings_are_other_pictures(workdir):
    """Each has its own folder, so that none is taken for another."""
    few = {"sample.n": 1, "sample.size": (16, 28)}
    changes = [{}, {"sample.clip": "none"}, {"sample.steps": 3}, {"sample.sampler": "ddim"}, {"seed": 9}]
    folders = [verb.generate(tiny.config(**few | change), workdir) for change in changes]
    assert len({p for folder in folders for p in pixels(folder).values()}) == len(changes)


@pytest.mark.slow
def test_blocks_are_files_for_people(tmp_path):
    """What a cell holds is not what a picture has: 12 channels in blocks of 2 x 2 are RGB, in PNG files."""
    changes = {"model.image_channels": 12, "model.channels": 26, "codec.block": 2, "sample.n": 4}
    config = tiny.config(**changes)
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 1, tiny.state(build.task(config)))
    folder = verb.generate(config, tmp_path)
    assert [images.read(p).shape for p in sorted(folder.glob("*.png"))] == [(16, 16, 3)] * 4


def test_without_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        verb.generate(tiny.config(), tmp_path)


@pytest.mark.slow
def test_with_another_model(workdir):
    with pytest.raises(UserError, match="is of another model"):
        verb.generate(tiny.config(**{"model.hidden": 24}), workdir)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("sample", {"sample.size": (16, 16)}, {"sample.size": (16, 20)}),
        ("sample", {"sample.grid": "uniform"}, {"sample.grid": "karras"}),
        ("sample", {"generate.dtype": "uint8"}, {"generate.dtype": "uint16"}),
        ("gigapixel", {"generate.mpp": "0.25,0.5"}, {"generate.mpp": "0.25"}),
        ("gigapixel", {"sample.size": (16, 16)}, {"sample.size": (16, 20)}),
        ("inpaint", {"generate.known": "noised"}, {"generate.known": "clean"}),
        ("inpaint", {"generate.box": (1, 2, 3, 4)}, {"generate.box": (1, 2, 3, 5)}),
        ("inpaint", {"generate.mask": "a.png"}, {"generate.mask": "a.png", "generate.box": (1, 2, 3, 4)}),
        ("upscale", {"generate.known": "noised"}, {"generate.known": "clean"}),
        ("upscale", {"generate.factor": 2}, {"generate.factor": 4}),
    ],
)
def test_what_differs_has_another_folder(name, one, other):
    """Or the second would be taken for the first."""
    folders = []
    for changes in (one, other):
        flags = [f"--config.{field}={value}" for field, value in changes.items()]
        config = configs.override(tiny.stated(), [f"--config.generate.name={name}", *flags])
        pipeline = build.pipeline(config, {"model": Part(config, build.task(config), {})})
        folders.append([*verb.title(config, pipeline, 4)])
    assert folders[0] != folders[1]


@pytest.fixture(scope="module")
def cellular(tmp_path_factory):
    """A run of a conditional model."""
    root, task = tmp_path_factory.mktemp("cells"), build.task(tiny.conditional())
    with checkpoint.manager(root) as saved:
        checkpoint.save(saved, 4, tiny.state(task)._replace(step=np.int32(4)))
    return root


@pytest.mark.slow
def test_classes_take_turns_and_rows(cellular):
    """Picture i has class i of those asked for, in turn; in the grid a class is a row."""
    config = tiny.conditional(**{"sample.n": 6, "sample.labels": (2, 0)})
    folder = verb.generate(config, cellular)
    assert folder.name == "00000004_16x16_ddpm4_static_guidance1.5_heredityhidden_labels2-0_seed3"
    part, settings = run.part(config, cellular), sampling.Settings.of(config.sample)
    cond = {"label": jnp.eye(3)[np.array([2, 0, 2, 0, 2, 0])]}
    drawn = np.concatenate(list(sampling.images(part, arrays.keys(3, 6), (16, 16), settings, cond, batch=4)))
    kept = np.stack([images.read(folder / f"{i:05d}.png") for i in range(6)])
    np.testing.assert_array_equal(kept, images.from_float(drawn))
    beside = images.read(folder.with_name(f"{folder.name}.png"))
    np.testing.assert_array_equal(beside, images.grid(kept[[0, 2, 4, 1, 3, 5]], 3))


@pytest.mark.slow
def test_latents_become_images(cellular, monkeypatch):
    """What lies in the folder is decoded; what is made for pixels is refused."""
    decode = lambda x: np.asarray(x, np.float32).repeat(2, 1).repeat(2, 2)
    monkeypatch.setattr(build, "decoder", lambda config: decode)
    config = tiny.conditional(**{"sample.n": 4, "seed": 5})
    folder = verb.generate(config, cellular)
    assert [images.read(p).shape for p in sorted(folder.glob("*.png"))] == [(32, 32, 3)] * 4
    with pytest.raises(UserError, match="upscale keeps pixels of images"):
        verb.generate(configs.override(config, ["--config.generate.name=upscale"]), cellular)
