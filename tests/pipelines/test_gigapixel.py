"""Pictures in tiles: equal to those made whole, wherever the run is cut, spread over disk, or killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import blur
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from painting import PROCESS, params, part, settings

from nca_gen import arrays
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.io import huge, images, slides
from nca_gen.pipelines import gigapixel, sampling
from nca_gen.tiling import streaming

STAINED = Codec(mean=(0.3, 0.0, -0.3), std=(0.3, 0.5, 0.4), block=2)
LOCAL, TORUS = tiny.diff(norm="cell"), tiny.diff(norm="cell", border="wrap")
BLUR, NEAR, BLOCKS = blur.Model(), blur.Model(halo=2), blur.Model(channels=12, halo=2)
FOURIER = tiny.fourier(norm="cell")
HOW = {"sampler": "ddpm", "steps": 4, "clip": "static"}
slow = partial(pytest.param, marks=pytest.mark.slow)


def whole(model, size, codec=Codec(), cond=None, scale=1.0, **how):  # noqa: B008
    given = settings(**HOW | how | {"guidance": scale})
    return np.asarray(sampling.sample(part(model, codec=codec), arrays.keys(1, 1), size, given, cond))[0]


def tiled(folder, model, size, tile, calls=1, codec=Codec(), dtype=np.float32, cond=None, **how):  # noqa: B008
    """The picture and its halves, of float32 pixels: the cells are not kept."""
    job = streaming.job(model, PROCESS, codec, size, tile=tile, calls=calls, cond=cond, **HOW | how)
    levels = streaming.run(job, params(model), arrays.keys(1, 1), folder, dtype, cond)
    return np.moveaxis(levels[0].read().result(), 0, -1)


# A tile of 9 has 17 x 15 cells in its window, in passes of two steps 25 x 19: not the whole, but all columns.
ODD = (27, 19)
CASES = [
    (LOCAL, ODD, 9, 1, {"sampler": "dpm_solver_pp"}),
    slow(BLUR, ODD, 9, 1, {}),
    slow(LOCAL, ODD, 9, 1, {}),
    slow(TORUS, ODD, 9, 1, {}),
    slow(BLUR, ODD, 9, 1, {"steps": 1, "clip": "none"}),
    slow(BLUR, ODD, 9, 2, {"clip": "none"}),
    slow(BLUR, ODD, 9, 1, {"sampler": "ddim"}),
    slow(BLUR, ODD, 9, 2, {"sampler": "ddim", "grid": "karras"}),
    slow(BLUR, ODD, 9, 2, {"sampler": "consistency", "grid": "karras"}),
    slow(BLUR, ODD, 3, 1, {"steps": 3}),  # less than the halo
    slow(NEAR, (7, 5), 1, 1, {"steps": 2}),
    slow(BLUR, ODD, 99, 0, {}),  # one tile
    slow(BLUR, (41, 3), 8, 1, {}),  # strips: one tile wide
    slow(BLUR, (2, 37), 8, 2, {}),
    slow(BLUR.bordered("wrap"), ODD, 9, 1, {"sampler": "ddim"}),
    slow(BLUR.bordered("wrap"), ODD, 9, 2, {"sampler": "dpm_solver_pp"}),
    slow(NEAR.bordered("wrap"), (13, 11), 2, 2, {"sampler": "dpm_solver_pp", "steps": 5}),  # passes of 2, 1 and 2 steps
    slow(BLUR.bordered("wrap"), (41, 3), 8, 1, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size", "tile", "calls", "how"), CASES)
def test_tiles_are_the_whole(tmp_path, model, size, tile, calls, how):
    mine, expected = tiled(tmp_path, model, size, tile, calls, **how), whole(model, size, **how)
    assert expected.std() > 0.1
    np.testing.assert_allclose(mine, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "sampler"), [(LOCAL, "ddpm"), (LOCAL, "dpm_solver_pp"), (LOCAL, "ddim")])
def test_bit_for_bit(tmp_path, model, sampler):
    """Where a window has the columns of the whole, and a pass several steps: XLA then rounds both alike.

    Except for noise, which it fuses otherwise where coordinates are no constants: that of one large tile is the same.
    """
    mine, expected = tiled(tmp_path / "tiles", model, ODD, 9, 2, sampler=sampler), whole(model, ODD, sampler=sampler)
    if sampler == "ddpm":
        np.testing.assert_allclose(mine, expected, atol=1e-6)
        expected = tiled(tmp_path / "one tile", model, ODD, 99, 0, sampler=sampler)
    np.testing.assert_array_equal(mine, expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(23, 17), (24, 18)])
def test_cells_of_several_pixels(tmp_path, size):
    mine = tiled(tmp_path, BLOCKS, size, 8, 1, STAINED)
    np.testing.assert_allclose(mine, whole(BLOCKS, size, STAINED), atol=1e-6)


@pytest.mark.parametrize(
    ("border", "how"), [slow("reflect", {"sampler": "dpm_solver_pp", "steps": 3}), slow("wrap", {})]
)
def test_fourier_tiles_are_the_whole(tmp_path, border, how):
    """To the rounding of a spectrum that is summed in another order, and of cells that are about 10."""
    model = tiny.fourier(norm="cell", border=border)
    np.testing.assert_allclose(tiled(tmp_path, model, ODD, 9, **how), whole(model, ODD, **how), atol=2e-5)


@pytest.mark.slow
def test_a_spectrum_is_heard(tmp_path):
    """Without the shares of the other tiles the picture is another."""
    job = streaming.job(FOURIER, PROCESS, Codec(), ODD, tile=9, **HOW | {"steps": 1})
    disk = streaming.stores(job, tmp_path)
    for some in ([0], range(9)):
        stage = streaming.listening(job, arrays.keys(1, 1), disk)
        streaming.sweep(stage, list(some), lambda i: None)
        real, imag = np.split(streaming._total(disk.shares[0]), 2, -1)
        noise = sampling.samplers.initial_noise(arrays.keys(1, 1), ODD, 3)
        full = np.fft.fftn(np.asarray(noise, np.float64), axes=(1, 2), norm="forward")[:, :4, :4]
        close = np.allclose(real + 1j * imag, full, atol=1e-7)
        assert close == (len(some) == len(stage.tiles))


@pytest.mark.slow
def test_pixels_of_8_bits_and_their_halves(tmp_path):
    size = (600, 10)
    job = streaming.job(BLUR, PROCESS, Codec(), size, tile=200, calls=1, **HOW | {"steps": 1})
    levels = streaming.run(job, params(BLUR), arrays.keys(1, 1), tmp_path)
    seen = [level.read().result() for level in levels]
    assert [level.shape for level in seen] == [(3, 600, 10), (3, 300, 5), (3, 150, 2)]
    assert np.abs(np.moveaxis(seen[0], 0, -1).astype(int) - images.from_float(whole(BLUR, size, steps=1))).max() <= 1
    for fine, coarse in pairwise(seen):
        _, h, w = coarse.shape
        mean = fine[:, : 2 * h, : 2 * w].reshape(3, h, 2, w, 2).mean((2, 4))
        assert np.abs(mean - coarse).max() <= 0.5
    assert not (tmp_path / streaming.CELLS).exists()


class PowerError(Exception):
    """It is cut."""


@pytest.mark.slow
@pytest.mark.parametrize(("model", "steps"), [(LOCAL, 4), slow(FOURIER, 3)])
def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch, model, steps):
    """After every few tiles, between what is written and its line in the journal: the same picture, bit for bit."""
    how = {"sampler": "dpm_solver_pp", "steps": steps}
    expected = tiled(tmp_path / "at once", model, ODD, 9, **how)
    add, left, stops = streaming.Journal.add, 0, 0

    def cut(journal, stage, tile):
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerError
        add(journal, stage, tile)

    monkeypatch.setattr(streaming.Journal, "add", cut)
    while True:
        left = 6
        try:
            mine = tiled(tmp_path / "in parts", model, ODD, 9, **how)
            break
        except PowerError:
            stops += 1
            with open(tmp_path / "in parts" / "journal", "ab") as journal:
                journal.write(b"7 1")  # of a line that was cut short nothing counts
    assert stops >= 4
    np.testing.assert_array_equal(mine, expected)


CHILD = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
from pathlib import Path
from pipelines import test_gigapixel as t
t.tiled(Path(sys.argv[1]), t.BLUR, (40, 32), 8, 1)
"""


@pytest.mark.slow
def test_kill_9(tmp_path):
    """Twice, in passes that differ; then the picture of a run that nobody disturbed."""
    journal = tmp_path / "killed" / "journal"
    count = lambda: journal.read_bytes().count(b"\n") if journal.is_file() else 0
    seen = []
    for share in (0.3, 0.6):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "killed")], env=os.environ)
        while child.poll() is None and count() < share * 80:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL  # it was not done
        seen.append(count())
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] < 80
    mine = tiled(tmp_path / "killed", BLUR, (40, 32), 8, 1)
    np.testing.assert_array_equal(mine, tiled(tmp_path / "left alone", BLUR, (40, 32), 8, 1))


@pytest.mark.parametrize(
    ("changes", "how", "line"),
    [
        ({"norm": "group"}, {}, "every cell of this model depends on the whole image.*norm=cell"),
        ({}, {"clip": "dynamic"}, "dynamic takes a quantile over the whole image.*static or none"),
        ({}, {"sampler": "ddmp"}, "did you mean ddpm"),
        ({}, {"clip": "statc"}, "did you mean static"),
        ({}, {"steps": 13}, "1 to 12 steps"),
        ({}, {"tile": 0}, "1 pixel or more"),
        ({"ndim": 3}, {}, "two axes"),
    ],
)
def test_what_cannot_be_tiled(changes, how, line):
    with pytest.raises(UserError, match=line):
        streaming.job(tiny.diff(**{"norm": "cell"} | changes), PROCESS, Codec(), ODD, **HOW | how)


@pytest.mark.parametrize(
    ("size", "calls", "line"), [((32, 7), 0, "at least 8 pixels"), ((32, 32), 2, "calls is 0 or 1")]
)
def test_what_fourier_refuses(size, calls, line):
    with pytest.raises(UserError, match=line):
        streaming.job(FOURIER, PROCESS, Codec(), size, calls=calls, **HOW)


def test_steps_a_pass():
    """As many as cost 5 %: (1024 + 8 n)^2 cells for 1024^2. Passes are even, and all steps are taken."""
    chosen = streaming.job(LOCAL, PROCESS, Codec(), (8192, 8192), tile=1024, sampler="ddpm", steps=12)
    assert ((1024 + 8 * 3) / 1024) ** 2 < 1.05 < ((1024 + 8 * 4) / 1024) ** 2
    assert chosen.calls == 3
    job = streaming.job(LOCAL, PROCESS, Codec(), (99, 99), tile=32, calls=5, sampler="ddpm", steps=12)
    assert [times.tolist() for times in job.passes] == [[11, 10, 9, 8, 7], [7, 6, 5, 4, 3], [3, 2, 1, 0, -1]]
    assert [job.plan(len(times) - 1).window for times in job.passes] == [(25 + 32, 25 + 32)] * 3
    assert streaming.job(FOURIER, PROCESS, Codec(), (8192, 8192), tile=1024, **HOW).calls == 1


def test_room_on_disk():
    """Two arrays of 4 bytes a channel and the picture, or the pyramid and its file; twice the cells for x0. Between two
    passes there is one array, and one pass alone writes pixels."""
    size = (1000, 1000)
    job = partial(streaming.job, LOCAL, PROCESS, Codec(), size, steps=4)
    assert gigapixel.disk(job(sampler="ddpm", calls=1)) == 10**6 * 3 * (8 + 1)
    assert gigapixel.disk(job(sampler="dpm_solver_pp", calls=1)) == 10**6 * 3 * (16 + 1)
    assert gigapixel.disk(job(sampler="ddpm", calls=2)) == 10**6 * 3 * (4 + 1)
    assert gigapixel.disk(job(sampler="dpm_solver_pp", calls=4)) == pytest.approx(2 * 4.04e6)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [1, 2, 4])
def test_the_room_is_that_of_the_files(tmp_path, calls):
    """What lies there before the pyramid is made, but for a little that says what it is; noise is not compressed."""
    todo = streaming.job(LOCAL, PROCESS, Codec(), (64, 64), tile=32, sampler="ddpm", steps=4, calls=calls)
    disk = streaming.stores(todo, tmp_path, pyramid=False)
    for number in range(len(todo.passes)):
        stage = streaming.denoising(todo, params(LOCAL), arrays.keys(1, 1), disk, number)
        for i, tile in enumerate(stage.tiles):
            for written in stage.write(i, stage.work(tile, stage.read(tile))):
                written.result()
    found = sum(path.stat().st_size for path in (tmp_path / streaming.CELLS).rglob("*") if path.is_file())
    between = min(len(todo.passes) - 1, 2)
    assert found == pytest.approx(64 * 64 * 3 * 4 * between, rel=0.05, abs=4000)


def paint(folder, weights=None, **fields):
    """Picture 0 of seed 1 of a model that has ``weights``, in tiles of 16 pixels."""
    whole = part(BLUR, weights=weights, size=(40, 33))
    return gigapixel.Pipeline({"model": whole}, **{"tile": 16, "calls": 1, "memory_gb": 64.0} | fields).write(folder)


@pytest.mark.slow
def test_the_command(tmp_path):
    """Picture 0 of the seed in both formats, and one to look at; a second call has nothing to do."""
    said = paint(tmp_path, format="both")
    assert "9 tiles of 14 x 11" in said[0]
    stem = next(tmp_path.glob("*.tiff")).stem
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{stem}.ome.zarr", f"{stem}.png", f"{stem}.tiff"]
    expected = whole(BLUR, (40, 33), steps=4)
    [level] = (slide := slides.open_slide(tmp_path / f"{stem}.tiff")).levels
    seen = slides._read(slide, level, 0, 0, 40, 33)
    assert np.abs(seen.astype(int) - images.from_float(expected)).max() <= 1
    np.testing.assert_array_equal(images.read(tmp_path / f"{stem}.png"), seen)
    assert all("there already" in line for line in paint(tmp_path, format="both"))
    paint(tmp_path, jax.tree.map(lambda x: 1.5 * x, params(BLUR)))
    assert len(list(tmp_path.glob("*.tiff"))) == 2  # other parameters are another picture


@pytest.mark.slow
def test_what_is_killed_while_the_file_is_written_leaves_nothing_behind(tmp_path, monkeypatch):
    """Not even the half of a file, which may be of gigabytes, once the picture is there."""

    def dying(path, *rest):
        path.with_name(f".1.{path.name}").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(huge, "tiff", dying)
        with pytest.raises(KeyboardInterrupt):
            paint(tmp_path)
    assert [*tmp_path.rglob(".1.*")]
    paint(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png", ".tiff"]


@pytest.mark.slow
def test_pixels_of_16_bits_that_are_so_large(tmp_path):
    """What floats are learned from is written so, too; another depth is another file."""
    paint(tmp_path, format="both", dtype="float32", mpp=(0.25,))
    expected = whole(BLUR, (40, 33), steps=4)
    for path in [*tmp_path.glob("*.tiff"), *tmp_path.glob("*.zarr")]:
        slide = slides.open_slide(path)
        assert (slide.dtype, slide.mpp) == (np.uint16, 0.25)
        seen = slide.read(slide.levels[0], 0, 0, 40, 33)
        assert np.abs(seen.astype(int) - images.from_float(expected, np.uint16)).max() <= 1
    paint(tmp_path)
    assert len(list(tmp_path.glob("*.tiff"))) == 2


@pytest.mark.slow
def test_a_dry_run_says_what_it_takes(tmp_path):
    said = "\n".join(paint(tmp_path, dry_run=True))
    for words in ("1.32 k pixels", "9 tiles", "halo 4 pixels", "% more cells", "GB, disk 0.00 GB", "pixels/s"):
        assert words in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 10_000))
    for dry in (True, False):
        with pytest.raises(UserError, match=r"40 x 33 pixels need .* of disk .* make room"):
            paint(tmp_path, dry_run=dry)


def test_tiles_are_halved_until_they_fit(monkeypatch):
    """With a memory of 100 bytes a cell of the window."""
    monkeypatch.setattr(gigapixel, "memory", lambda job: 100 * np.prod(job.plan(job.calls).window))
    make = partial(streaming.job, LOCAL, PROCESS, Codec(), (1024, 1024), calls=1, **HOW)
    assert gigapixel.fitted(make, 512, 100 * 520**2).sides == (512, 512)
    assert gigapixel.fitted(make, 512, 100 * 520**2 - 1).sides == (256, 256)
    with pytest.raises(UserError, match="memory_gb"):
        gigapixel.fitted(make, 512, 1000)


def test_unknown_formats(tmp_path):
    with pytest.raises(UserError, match="did you mean tiff"):
        paint(tmp_path, format="tif")


CELLS, RED = blur.Family(steps=2), {"label": jnp.eye(3)[:1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "how"),
    [
        (CELLS, {"scale": 1.5}),
        slow(CELLS, {"clip": "none", "sampler": "dpm_solver_pp"}),
        slow(tiny.cells(steps=2), {"clip": "none", "scale": 1.5}),
    ],
)
def test_tiles_of_a_class_are_the_whole(tmp_path, model, how):
    """Cells under a condition and a guidance, with the variance that they have learned."""
    mine, expected = tiled(tmp_path, model, (13, 9), 6, cond=RED, **how), whole(model, (13, 9), cond=RED, **how)
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    if "scale" in how:
        assert np.abs(expected - whole(model, (13, 9), cond={"label": jnp.zeros((1, 3))}, **how)).max() > 1e-3


@pytest.mark.slow
def test_a_picture_in_memory():
    """Each is that of its key and of its row of the condition."""
    pipeline = gigapixel.Pipeline({"model": part(CELLS, guidance=1.5)}, tile=6, calls=1, memory_gb=64)
    cond = {"label": jnp.eye(3)[:2]}
    assert pipeline.kind == "slides"
    for i, mine in enumerate(pipeline.draw(arrays.keys(1, 2), (13, 9), cond)):
        row = sampling.rows(cond, slice(i, i + 1))
        expected = sampling.sample(part(CELLS), arrays.keys(1, 1, i), (13, 9), settings(guidance=1.5), row)[0]
        np.testing.assert_allclose(mine, np.clip(expected, -1, 1), atol=1 / 64)


@pytest.mark.slow
@pytest.mark.parametrize("model", [LOCAL, FOURIER, CELLS], ids=["diff", "fourier", "cells"])
def test_tiles_by_growth_guidance_are_the_whole(model):
    """With the halo that there is without."""
    here = part(tiny.cells(steps=2) if model is CELLS else model, growth_guidance=1.0)
    pipeline = gigapixel.Pipeline({"model": here}, tile=9, calls=1, memory_gb=64)
    [mine] = pipeline.draw(arrays.keys(1, 1), ODD)
    plain, guided = (sampling.sample(here, arrays.keys(1, 1), ODD, settings(growth_guidance=w))[0] for w in (0.0, 1.0))
    np.testing.assert_allclose(mine, np.clip(guided, -1, 1), atol=1 / 64)
    assert np.abs(guided - plain).max() > 0.1


def test_tiles_hand_nothing_on():
    with pytest.raises(UserError, match="heredity=hidden: tiles hand nothing on"):
        gigapixel.Pipeline({"model": part(CELLS, heredity="hidden")}).title()
