"""A cascade of automata: in tiles equal to what is made whole, on any number of devices, wherever it is killed."""

from collections import Counter
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
import tifffile
import tiny
from ml_collections import ConfigDict
from painting import PROCESS, SAMPLE, params

from nca_gen import arrays, main
from nca_gen import config as configs
from nca_gen.contracts import Part
from nca_gen.data import slides, tissue
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.io import exports, images
from nca_gen.models import resolving_nca
from nca_gen.pipelines import cascade, nca_cascade, sampling, window
from nca_gen.runtime import run
from nca_gen.tasks.denoise import Task
from nca_gen.tasks.learner import Learner
from nca_gen.tiling import plane, streaming, tiles

SIZE = (41, 30)  # of the last picture: 21 x 15 of the second, 7 x 5 of the first
BLOCKS = Codec(mean=(0.3, 0.0, -0.3), std=(0.3, 0.5, 0.4), block=2)


def resolving(**changes):
    small = {"channels": 12, "hidden": 16, "steps": 2, "start": "torch", "timesteps": tiny.T, "norm": "cell"}
    return resolving_nca.Model(**small | changes)


def network(model, low=0, codec=Codec(), space=1, **sample):  # noqa: B008
    config = {"seed": 1, "sample": SAMPLE | {"sampler": "ddim", "size": SIZE} | sample, "mesh": {"space": space}}
    config["data"] = {"patch": (16, 12)}
    return Part(ConfigDict(config), Task(model, Learner(), PROCESS, codec, low=low), params(model))


@cache
def parts(space=1):
    """From 3 times smaller cells of a pixel to twice as many pixels, of which a cell has four."""
    return {
        "stage1": network(tiny.diff(norm="cell", steps=2), space=space, steps=3),
        "stage2": network(resolving(), 3, space=space, sampler="dpm_solver_pp", steps=3),
        "model": network(resolving(channels=40, image_channels=12), 2, BLOCKS, space, steps=2),
    }


def pipeline(space=1, **fields):
    return nca_cascade.Pipeline(parts(space), **{"tile": 8, "calls": 1, "memory_gb": 64} | fields)


@cache
def whole(space=1):
    return next(pipeline(space).draw(arrays.keys(1, 1), SIZE))


def tiled(folder, **fields):
    """The picture in tiles, of floats."""
    mine = pipeline(**fields)
    levels = mine.painted(folder, arrays.keys(1, 1), mine.planned(SIZE, folder), np.float32)
    return np.moveaxis(levels[0].read().result(), 0, -1)


@pytest.mark.slow
def test_sizes_cover_what_is_resolved():
    assert pipeline().sizes(SIZE) == [(7, 5), (21, 15), SIZE]
    np.testing.assert_array_equal(tiles.below(3, 9, 3, 2), [1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(tiles.below(1, 6, 2, 9), [0, 1, 1, 2, 2])


@pytest.mark.slow
def test_calls_are_counted_as_they_are_made(tmp_path, monkeypatch):
    """Of every network the tiles, with what they hear around them, times the denoising steps."""
    made, program = Counter(), streaming.program

    def counting(job, window, steps):
        def run(*given):
            made[job.size, tuple(side * job.codec.block for side in window)] += steps
            return program(job, window, steps)(*given)

        return run

    monkeypatch.setattr(streaming, "program", counting)
    tiled(tmp_path)
    counts = pipeline().counts(SIZE)
    sizes = dict(zip(counts, pipeline().sizes(SIZE), strict=True))
    assert made == {(sizes[name], of.shape[:2]): of.patches * of.each for name, of in counts.items()}


@pytest.mark.slow
def test_every_pixel_sees_the_place_that_covers_it():
    """Where cells reach beyond the picture, the last place once more."""
    part, small = parts()["model"], tiny.images(0, 1, 3, 2, 3)
    low = part.task.codec.decode(cascade.resolving(part, small, (5, 3))["low"])
    rows, columns = [0, 0, 1, 1, 2, 2], [0, 0, 1, 1]
    np.testing.assert_allclose(low[0], small[0][np.ix_(rows, columns)], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, pytest.param({"tile": 13, "calls": 2}, marks=pytest.mark.slow)])
def test_tiles_are_the_whole_through_all_networks(tmp_path, fields):
    assert whole().std() > 0.1
    np.testing.assert_allclose(tiled(tmp_path, **fields), whole(), atol=1e-5)
    assert not (tmp_path / "stage1").exists()  # read by nobody any more


@pytest.mark.slow
def test_a_layout_that_hears_all_of_it(tmp_path):
    """FourierDiff-NCA first: the spectrum of its picture is summed over tiles."""
    first = network(tiny.fourier(norm="cell", steps=2), steps=2)
    mine = nca_cascade.Pipeline(
        {"stage1": first, "model": network(resolving(), 3, steps=2)}, tile=6, calls=1, memory_gb=64
    )
    key, size = arrays.keys(1, 1), (31, 26)
    levels = mine.painted(tmp_path, key, mine.planned(size, tmp_path), np.float32)
    np.testing.assert_allclose(np.moveaxis(levels[0].read().result(), 0, -1), next(mine.draw(key, size)), atol=5e-5)


@pytest.mark.slow
def test_each_network_hears_the_one_before():
    """Another layout, by other weights of the first network alone, is another picture."""
    first = parts()["stage1"]
    other = nca_cascade.Pipeline(parts() | {"stage1": replace(first, params=tiny.params(first.task.model, 5))})
    assert np.abs(next(other.draw(arrays.keys(1, 1), SIZE)) - whole()).max() > 0.01


@pytest.mark.slow
def test_devices_do_not_matter():
    """The rows of every network's picture over four devices."""
    assert jax.device_count() == 4
    np.testing.assert_allclose(whole(space=4), whole(), atol=1e-5)


@pytest.mark.slow
def test_a_picture_does_not_depend_on_its_batch():
    both = [*pipeline().draw(arrays.keys(1, 2), SIZE)]
    np.testing.assert_allclose(both[0], whole(), atol=1e-5)
    assert np.abs(both[1] - both[0]).max() > 0.1


def planes(**fields):
    return window.Pipeline(parts(), **{"tile": 16} | fields)


@pytest.mark.slow
def test_inside_a_picture_is_the_plane():
    """Far from its edges, by all that is heard in all networks, a picture is what the plane has there."""
    here = planes().of(arrays.keys(1, 1))
    heard = [one.job.steps * one.job.halo * one.job.codec.block for one in here.all]
    far = (heard[0] * 3 + heard[1]) * 2 + heard[2]
    y, x, h, w = far + 1, far + 4, 9, 6
    [whole] = pipeline().draw(arrays.keys(1, 1), (2 * far + 14, 2 * far + 12))
    np.testing.assert_allclose(here.grow(plane.bounds((y, x, h, w))), whole[y : y + h, x : x + w], atol=1e-5)


@pytest.mark.slow
def test_rectangles_of_a_cascade_fit_together():
    """To the byte, in any order, on both sides of the origin and of where a smaller pixel ends."""
    box = plane.bounds((-17, -9, 40, 31))
    whole, again = (planes(cache_gb=gb).of(arrays.keys(1, 1)) for gb in (1, 1e-4))
    pixels = whole.grow(box)
    assert pixels.std() > 0.1
    rng = np.random.default_rng(0)
    for _ in range(6):
        corner = rng.integers((-17, -9), (10, 12)).tolist()
        h, w = rng.integers(1, 13, 2).tolist()
        part = again.grow(plane.bounds((*corner, h, w)))
        y, x = np.subtract(corner, (-17, -9))
        np.testing.assert_array_equal(part, pixels[y : y + h, x : x + w])
    assert len(whole.all) == 3
    assert all(one.calls for one in whole.all)


@pytest.mark.slow
def test_the_plane_of_a_cascade_is_written(tmp_path):
    """Of its seed, and named by all of its networks; what each took is told."""
    said = planes(box=(-5, 3, 12, 20)).write(tmp_path)
    assert ["calls on tiles" in line for line in said] == [True, False] * 3 + [False]
    first = parts()["stage1"]
    other = parts() | {"stage1": replace(first, params=tiny.params(first.task.model, 5))}
    window.Pipeline(other, tile=16, box=(-5, 3, 12, 20)).write(tmp_path)
    one, two = (images.read(path).astype(int) for path in tmp_path.glob("*.png"))
    assert np.abs(one - two).max() > 1


@pytest.mark.slow
def test_what_is_stopped_anywhere_goes_on(tmp_path, monkeypatch):
    """After so many tiles of each start: in the first network, the second, the last, and its pyramid."""
    expected, noted = tiled(tmp_path / "left alone"), streaming.Journal.add

    def until(most):
        left = iter(range(most))

        def add(journal, stage, tile):
            if next(left, None) is None:
                raise KeyboardInterrupt
            noted(journal, stage, tile)

        return add

    for most in (1, 2, 9, 17, 30):
        monkeypatch.setattr(streaming.Journal, "add", until(most))
        with pytest.raises(KeyboardInterrupt):
            tiled(tmp_path / "stopped")
    monkeypatch.setattr(streaming.Journal, "add", noted)
    np.testing.assert_array_equal(tiled(tmp_path / "stopped"), expected)


@pytest.mark.slow
def test_the_command(tmp_path):
    """A pyramid of the picture of the seed, and what it took; a second call has nothing to do."""
    said = pipeline().write(tmp_path)
    assert [line.partition(":")[0] for line in said if " tiles of " in line] == ["stage1", "stage2", "model"]
    [path] = tmp_path.glob("*.tiff")
    assert np.abs(tifffile.imread(path).astype(int) - images.from_float(whole())).max() <= 1
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".png", ".tiff"]
    assert "there already" in pipeline().write(tmp_path)[0]
    dry = "\n".join(pipeline(dry_run=True, format="zarr").write(tmp_path))
    assert dry.count("pixels/s") == 3
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".png", ".tiff"]


@pytest.mark.slow
def test_an_image_of_the_last_network_alone():
    """As evaluation of its training asks for it."""
    part, low = parts()["model"], {"low": jax.device_put(tiny.images(0, 1, 8, 6, 12))}
    mine = next(pipeline().draw(arrays.keys(1, 1), (16, 12), low))
    [expected] = sampling.images(part, arrays.keys(1, 1), (16, 12), sampling.Settings.of(part.config.sample), low)
    np.testing.assert_array_equal(mine, expected[0])


def test_what_is_no_cascade(tmp_path):
    first, second, last = parts().values()
    around = replace(second, task=replace(second.task, model=resolving(channels=15, context_channels=3)))
    for wrong, line in [
        ({"stage1": first, "model": around}, "model is told a context, and here is none"),
        ({"stage1": second, "model": last}, "stage1 is none of a cascade"),
        ({"stage1": first, "model": first}, "model is none of a cascade"),
        (run.Beside({"stage1": str(tmp_path / "nowhere"), "model": ""}, {"model": last}), "--mode=chain trains all"),
    ]:
        with pytest.raises(UserError, match=line):
            nca_cascade.Pipeline(wrong).sizes(SIZE)


def counts(spec):
    """Parameters of the networks of a chain."""
    from nca_gen import build

    shapes = [tiny.shapes(build.model(build.completed(stage.config))) for stage in configs.stages(spec)]
    return [sum(x.size for x in jax.tree.leaves(tree)) for tree in shapes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("", [329_416, 332_716, 332_716]),
        (":fourier", [1_098_144, 332_716, 332_716]),
        (":slides,fourier", [1_098_144, 332_716, 332_716]),
        (":laptop", [25_976, 52_924, 52_924]),
        (":quickstart", [25_976, 45_428]),
    ],
)
def test_a_few_parameters(form, expected):
    """At most 3 million in all networks together."""
    assert counts(f"configs/nca_cascade.py{form}") == expected
    assert sum(expected) <= 3_000_000


@pytest.mark.slow
def test_small_slides_have_places_at_every_magnification(tmp_path):
    """Of 1536 pixels a side one of the whole, at two of them, and nine of 512 at full size."""
    stain = np.random.default_rng(0).integers(100, 200, (1536, 1536, 3), np.uint8) // np.uint8([1, 2, 1])
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", stain, tile=(256, 256))
    places = []
    for stage in configs.stages("configs/nca_cascade.py:slides"):
        fields = {name: stage.config.data[name] for name in ("reduce", "region")}
        source = slides.splits(str(tmp_path), strict=True, **fields)["train"]
        assert min(source[0]["image"].shape[:2]) >= stage.config.data.patch[0]
        places.append(len(source))
    assert places == [1, 1, 9]


def columns(config, split, path):
    """Of a field 512 pixels wide, those that ``split`` shows, where nothing is reduced."""
    fields = {name: config.data[name] for name in ("val", "test", "right")}
    source = tissue.splits(path=str(path), **fields)[split]
    return {int(n) for example in source for n in example["image"][0].astype(int) @ (256, 1, 0)}


def test_the_quickstart_is_judged_by_what_its_rival_has_not_seen_either(tmp_path):
    """The strip that is held out of both networks lies in what was held out of the automaton of the zoo."""
    row = np.arange(512)
    images.write(tmp_path / "f.png", np.uint8(np.stack([row // 256, row % 256, 0 * row], -1))[None].repeat(8, 0))
    chain = [stage.config for stage in configs.stages("configs/nca_cascade.py:quickstart")]
    held = columns(chain[-1], "test", tmp_path / "f.png")
    assert len(held) == 128
    rival = configs.saved(run.config_file(exports.located("zoo:tissue")))
    assert chain[-1].evals.structure.rivals == ("zoo:tissue",)
    for config in (*chain, rival):
        assert not held & columns(config, "train", tmp_path / "f.png")


@pytest.mark.slow
def test_the_chain_in_its_smoke_form(tmp_path):
    """Trained, and drawn at a size that no network knows: the file is what is drawn in memory."""
    page, mesh = "configs/nca_cascade.py:smoke", "--config.mesh.data=1"
    assert main.run([f"--config={page}", "--mode=chain", f"--workdir={tmp_path}", mesh]) == 0
    folder = tmp_path / "stage3"
    assert main.run(["--mode=evaluate", f"--workdir={folder}"]) == 0
    memory = "--config.generate.memory_gb=64"  # the process of the tests is large already
    assert main.run(["--mode=generate", f"--workdir={folder}", "--config.sample.size=52,37", memory]) == 0
    [path] = folder.glob("generated/**/*.tiff")
    config = configs.saved(folder / "config.json")
    mine = nca_cascade.Pipeline(run.parts(config, folder))
    expected = next(mine.draw(arrays.keys(config.seed, 1), (52, 37)))
    assert np.abs(tifffile.imread(path).astype(int) - images.from_float(expected)).max() <= 1
