"""Slides by a cascade of cascades: every patch in its place, the same slide wherever it is cut, killed, or spread."""

import hashlib
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import echo
import jax
import numpy as np
import pytest
import tiny

from nca_gen import arrays, devices, hosts
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.io import images, slides
from nca_gen.models import efficient_unet, resolving_nca
from nca_gen.pipelines import cascade, sampling, urcdm
from nca_gen.pipelines.sampling import Settings
from nca_gen.tiling.mosaic import Grid, Plane

PLACE, SIZE = echo.PLACE, echo.SIZE
KEY = arrays.keys(3, 1)


def painted(folder, parts, size=SIZE, **how):
    pipeline = urcdm.Pipeline(parts, place=PLACE, **{"glass": False} | how)
    levels = pipeline.painted(folder, KEY, size)
    return np.moveaxis(levels[0].read().result(), 0, -1)


def digest(pixels):
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def plane(folder, picture, patch=16):
    """``picture`` as if it had been painted."""
    grid = Grid.of(picture.shape[:2], patch, patch * 7 // 8)
    there = Plane.at(folder, grid, 3)
    for index in (index for wave in grid.waves() for index in wave):
        top, left = grid.corner(index)
        there.write(index, picture[top : top + patch, left : left + patch])
    return there


# Where patches lie.


@pytest.mark.parametrize(
    ("size", "patches"), [((41344, 41344), (2, 8, 46)), ((40000, 40000), (1, 7, 45)), ((6400, 6400), (1, 1, 7))]
)
def test_planes_of_the_published_cascade(size, patches):
    """1024, 6400 and 40000 pixels by a factor of 6.25; 41344 ends 35 pixels of the overview beyond one patch."""
    names = ("stage1", "stage2", "stage3")
    found = [urcdm.level(names, (64, 256, 1024), 6.25, (), [n / 6.25**m for n in size]) for m in (2, 1, 0)]
    assert [level.grid.shape for level in found] == [(n, n) for n in patches]
    for level, m in zip(found, (2, 1, 0), strict=True):
        assert min(level.at(-1).sides) >= max(size) / 6.25**m


@pytest.mark.parametrize("size", [(5001, 3333), (33, 20), (1024, 7000)])
def test_a_slide_of_any_size_lies_in_the_middle_of_its_planes(size):
    for m in (2, 1, 0):
        level = urcdm.level(("stage1", "stage3"), (64, 1024), 6.25, (), [n / 6.25**m for n in size])
        for side, first, n in zip(level.at(-1).sides, level.origin, size, strict=True):
            before, behind = -first, side + first - n / 6.25**m
            assert before >= 0
            assert behind >= 0
            assert abs(before - behind) <= 2
            assert side == 1024 or before + behind < 16 + 1


enlarged = jax.jit(efficient_unet.middle, static_argnums=1)  # one program for each size, not forty


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2.0, 6.25])
def test_a_context_is_where_the_patch_is(factor, tmp_path):
    """On a plane of known colours: context pixel u of a patch lies ``factor`` times as far from its middle as pixel u
    of the patch."""
    size = (3000, 2500)
    here = urcdm.level(("mag1_stage1", "mag1_stage2"), (16, 64), factor, (), size)
    before = urcdm.level(("mag0_stage1", "mag0_stage2"), (16, 64), 0.0, (), [n / factor for n in size])
    height, width = before.at(-1).sides
    y, x = (np.arange(n) + 0.5 + first for n, first in zip((height, width), before.origin, strict=True))
    ramp = lambda y, x: np.stack(np.broadcast_arrays(250 * y / height, 250 * x / width, 128), -1)
    below = plane(tmp_path / "below", np.rint(ramp(y[:, None], x[None])).clip(0, 255).astype(np.uint8), 64)
    for number, side in enumerate(here.sides):
        stage = urcdm.Stage(here, number, below, None, (before, below), set(), False)
        for index in ((2, 3), (here.grid.shape[0] // 2, here.grid.shape[1] - 3)):
            corner = here.corner(index)
            middle = [(at + here.sides[-1] / 2) / factor for at in corner]
            offsets = (np.arange(side) + 0.5 - side / 2) * here.sides[-1] / side
            ys, xs = (at + offsets for at in middle)
            inside = np.ix_((ys > 0) & (ys < size[0] / factor), (xs > 0) & (xs < size[1] / factor))
            told = (stage.context(index) * 128 + 128)[inside]
            np.testing.assert_allclose(told, ramp(ys[:, None], xs[None])[inside], atol=1.01)
            own = (np.arange(side) + 0.5) * here.sides[-1] / side
            ys, xs = ((at + own) / factor for at in corner)
            np.testing.assert_allclose(stage.enlarged(index), ramp(ys[:, None], xs[None]), atol=1.5)
            if index == (2, 3):  # far from edges, the middle of a context is what lies beneath the patch
                shown = enlarged(stage.context(index)[None], factor)[0] * 128 + 128
                np.testing.assert_allclose(shown, stage.enlarged(index), atol=2.5)


@pytest.mark.slow
@pytest.mark.parametrize("codec", [Codec(), Codec((0.3, 0.0, -0.2), (0.5, 0.4, 0.6))])
def test_what_is_painted_is_registered(codec, tmp_path):
    """Networks that say what they are told: the slide is what the first has drawn, enlarged, with no seam and no shift,
    however its patches overlap."""
    slide = painted(tmp_path, echo.cascade(codec=codec))
    first = Plane.at(tmp_path / "mag0_stage2", urcdm.levels(echo.cascade(), PLACE, SIZE)[0].at(1), 3)
    overview = first.read(0, 0, *first.grid.sides)
    assert overview.shape == (44, 60, 3)
    assert overview.std() > 20
    np.testing.assert_array_equal(slide, overview.repeat(2, 0).repeat(2, 1))


@pytest.mark.slow
def test_one_patch_is_what_the_network_samples(tmp_path):
    """Of one magnification, one patch: noise, smaller image and steps are those of sampling."""
    parts = {
        "mag1_stage1": echo.part(echo.Model(mixed=True), 16),
        "model": echo.part(echo.Model(low=True, mixed=True), 32, 2),
    }
    slide = painted(tmp_path, parts, (32, 32))
    how = Settings.of(echo.SAMPLE)
    small = sampling.sample(parts["mag1_stage1"], arrays.fold(KEY, 0), (16, 16), how)
    kept = images.to_float(images.from_float(np.asarray(small), np.uint8))
    low = {"low": arrays.enlarged(jax.numpy.asarray(kept), 2)}
    large = sampling.sample(parts["model"], arrays.fold(KEY, 1), (32, 32), how, low)
    np.testing.assert_array_equal(slide, images.from_float(np.asarray(large)[0], np.uint8))


@pytest.mark.slow
def test_a_slide_by_automata(tmp_path, monkeypatch):
    """Cells that read the context, at first, and then the smaller image alone: the same slide on one device and on two,
    and another one of another overview."""
    parts = echo.cascade()
    small = {"channels": 14, "hidden": 8, "steps": 2, "start": "torch"}

    def cells(name):
        part, first = parts[name], name.endswith("stage1")
        around = first and "context" in part.task.model.conditions
        told = {"context_channels": 3 * around, "zoom": 2 * around, "low_resolution": not first}
        model = resolving_nca.Model(**small, **told, timesteps=part.task.process.span)
        return replace(part, task=replace(part.task, model=model), params=tiny.params(model, int(first)))

    parts = {name: cells(name) for name in parts}
    found = []
    for count in (1, 2):
        monkeypatch.setattr(urcdm, "local", lambda count=count: devices.mesh(jax.local_devices(), count))
        found.append(painted(tmp_path / str(count), parts))
    np.testing.assert_array_equal(*found)
    other = {"mag0_stage2": replace(parts["mag0_stage2"], params=tiny.params(parts["mag0_stage2"].task.model, 9))}
    assert (painted(tmp_path / "other", parts | other) != found[0]).any()


# The same slide.


@pytest.mark.slow
@pytest.mark.parametrize(("n", "how"), [(2, {}), (4, {"resample": 2})])
def test_devices_do_not_change_it(n, how, tmp_path, monkeypatch):
    """1, 2 and 4 devices paint the same pixels."""
    found = []
    for count in (1, n):
        monkeypatch.setattr(urcdm, "local", lambda count=count: devices.mesh(jax.local_devices(), count))
        found.append(painted(tmp_path / str(count), echo.cascade(mixed=True), **how))
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_slide(tmp_path, monkeypatch):
    """Killed at any patch: those that are there are not painted again, and the slide is the same."""
    whole = painted(tmp_path / "whole", echo.cascade(mixed=True))
    keep, left, kept = urcdm.Stage.keep, 0, []

    def dying(stage, index, pixels):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        keep(stage, index, pixels)
        kept.append((stage.name, index))

    monkeypatch.setattr(urcdm.Stage, "keep", dying)
    for left in (1, 7, 20):  # noqa: B007
        with pytest.raises(KeyboardInterrupt):
            painted(tmp_path / "cut", echo.cascade(mixed=True))
    left = 1000
    again = painted(tmp_path / "cut", echo.cascade(mixed=True))
    assert digest(again) == digest(whole)
    assert len(kept) == len(set(kept)) == sum(2 * level.patches for level in urcdm.levels(echo.cascade(), PLACE, SIZE))


@pytest.mark.slow
def test_kill_9(tmp_path):
    """A process that is killed twice on its way leaves what the next one finishes: the file of one left alone."""
    count = lambda: len([*tmp_path.glob("cut/*.part/mag1_stage*/c/*/*/0")])
    seen = []
    for patches in (2, 9):
        child = subprocess.Popen([sys.executable, echo.__file__, str(tmp_path / "cut")], env=os.environ)
        while child.poll() is None and count() < patches:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL  # it was not done
        seen.append(count())
    assert 2 <= seen[0] < seen[1]
    echo.write(tmp_path / "cut", glass=False)
    echo.write(tmp_path / "alone", glass=False)
    [one], [other] = tmp_path.glob("cut/*.tiff"), tmp_path.glob("alone/*.tiff")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_seeds_and_settings_make_other_slides(tmp_path):
    parts = echo.cascade(mixed=True)
    found = [painted(tmp_path / str(i), parts, **how) for i, how in enumerate(({}, {"steps": (3, 2)}, {"resample": 2}))]
    assert len({digest(slide) for slide in found}) == 3


# Glass.


@pytest.mark.slow
def test_glass_is_enlarged_and_never_drawn(tmp_path, monkeypatch):
    """All patches that cover tissue, or what is near it, are drawn; all others are the overview, enlarged."""
    parts = echo.cascade(pad=(242, 243, 242))
    floors = urcdm.levels(parts, PLACE, (400, 400))
    below = np.full((*floors[0].at(-1).sides, 3), (242, 243, 242), np.uint8)
    below[60:90, 60:110] = (200, 60, 140)
    stages = urcdm.Pipeline(parts, place=PLACE).stages(tmp_path, floors)
    stage = stages[2]._replace(before=(floors[0], plane(tmp_path / "below", below, 32)))
    mask = urcdm.glass(stage.before[1], 2)
    assert 0.5 < mask.mean() < 0.99
    glassy = urcdm.skipped(floors[1], floors[0], mask, 2)
    assert 0 < len(glassy) < floors[1].patches
    for index in (index for wave in floors[1].grid.waves() for index in wave):
        box = urcdm.beneath(floors[1], floors[0], index)
        tissue = box.top < 90 and box.top + box.height > 60 and box.left < 110 and box.left + box.width > 60
        assert not (tissue and index in glassy)
    stage = stage._replace(glassy=glassy)
    part = echo.part(echo.Model(context=True), 16, context_factor=2)
    monkeypatch.setattr(urcdm.Stage, "keep", lambda stage, index, pixels: drawn.add(index))
    drawn = set()
    urcdm.paint(stage, part, urcdm.How(Settings.of(echo.SAMPLE), 1, 1, False), KEY, 4, lambda n: None)
    assert drawn == {index for wave in floors[1].grid.waves() for index in wave} - glassy
    for index in [*glassy][::10]:
        top, left = stage.plane.grid.corner(index)
        own = stage.plane.grid.own(index)
        np.testing.assert_array_equal(stage.plane.read(top, left, 16, 16)[own], stage.enlarged(index)[own])


@pytest.mark.slow
def test_glass_is_measured_in_patches(tmp_path):
    """A picture four times as large, of patches as large, has the same mask; and a speck is no tissue."""
    picture = np.full((128, 128, 3), (242, 243, 242), np.uint8)
    picture[40:70, 30:90] = picture[100, 100] = (200, 60, 140)
    small = plane(tmp_path / "small", picture, 64)
    large = plane(tmp_path / "large", picture.repeat(4, 0).repeat(4, 1), 256)
    masks = [urcdm.glass(small, 1), urcdm.glass(large, 4)]
    np.testing.assert_array_equal(*masks)
    expected = np.ones((128, 128), bool)
    expected[39:71, 29:91] = expected[99:102, 99:102] = False  # 51 / 1024 of 64 pixels: 3, the middle and its next
    np.testing.assert_array_equal(masks[0], expected)
    fine = urcdm.glass(large, 1)  # where a pixel is small enough for specks: 5 / 1024 of 256 are one, not yet
    assert not fine[100 * 4, 100 * 4]
    thin = np.full((1024, 1024, 3), (242, 243, 242), np.uint8)
    thin[300:304, 300:304] = thin[600:700, 600:700] = (200, 60, 140)
    whole = urcdm.glass(plane(tmp_path / "whole", thin, 1024), 1)
    assert whole[302, 302]
    assert not whole[577, 650]
    assert whole[576, 650]  # 51 pixels wide, about what 5 have left of it


def test_a_patch_fades_into_glass_behind_it():
    """Over the pixels that it shares with a later neighbour that is glass, evenly from all to nothing."""
    grid = Grid.of((30, 30), 16, 14)
    assert (urcdm.fading(grid, (0, 0), set()) == 1).all()
    right = urcdm.fading(grid, (0, 0), {(0, 1)})[..., 0]
    np.testing.assert_array_equal(right[:, 14:], np.tile([0.75, 0.25], (16, 1)))
    assert (right[:, :14] == 1).all()
    np.testing.assert_array_equal(urcdm.fading(grid, (0, 0), {(1, 0)})[..., 0], right.T)
    both = urcdm.fading(grid, (0, 0), {(1, 0), (0, 1)})[..., 0]
    np.testing.assert_allclose(both, right * right.T)
    assert (urcdm.fading(grid, (1, 1), {(0, 1), (1, 0)}) == 1).all()  # drawn in sight of these


# What URCDM's code does otherwise.


def test_published_contexts_begin_at_zero(tmp_path):
    parts = echo.cascade()
    floors = urcdm.levels(parts, PLACE, SIZE)
    below = np.random.default_rng(0).integers(0, 256, (*floors[0].at(-1).sides, 3), np.uint8)
    stages = urcdm.Pipeline(parts, place=PLACE).stages(tmp_path, floors)
    stage = stages[2]._replace(before=(floors[0], plane(tmp_path / "below", below, 32)))
    published = stage._replace(published=True).context((1, 1))
    assert published.min() >= 0
    assert published.max() <= 1
    assert stage.context((1, 1)).min() < -0.2
    colours = {tuple(c) for c in np.rint(published.reshape(-1, 3) * 256).astype(int).tolist()}
    assert colours <= {tuple(c) for c in below.reshape(-1, 3).tolist()}  # nearest: none is mixed


# The command.


@pytest.mark.slow
def test_a_slide_is_written_with_its_size_and_its_overviews(tmp_path):
    lines = echo.write(tmp_path / "a", mpp=(0.5,), glass=False, format="both")
    assert "88 x 120 = 10.6 k pixels by 4 networks" in lines[0]
    [tiff], [zarr] = tmp_path.glob("a/*.tiff"), tmp_path.glob("a/*.ome.zarr")
    for path in (tiff, zarr):
        slide = slides.open_slide(path)
        assert (slide.levels[0].height, slide.levels[0].width, slide.mpp) == (*SIZE, 0.5)
    for name in ("mag0", "mag1"):
        assert images.read(tiff.with_name(f"{tiff.stem}_{name}.png")).std() > 0
    assert "is there already" in echo.write(tmp_path / "a", mpp=(0.5,), glass=False, format="both")[-1]
    assert not [*tmp_path.glob("a/*.part")]


@pytest.mark.slow
def test_a_glance_holds_one_piece_at_a_time(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (64, 512, 3), np.uint8)
    there = plane(tmp_path, np.tile(picture, (128, 1, 1)), 512)
    urcdm.glance(there, 64)  # what is loaded at first use
    tracemalloc.start()
    seen = urcdm.glance(there, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * math.prod(there.grid.sides) * 3
    np.testing.assert_array_equal(seen, images.reduce(there.read(0, 0, *there.grid.sides), 128))


@pytest.mark.slow
def test_a_dry_run_says_what_it_takes_and_leaves_nothing(tmp_path):
    lines = echo.write(tmp_path / "a", dry_run=True)
    assert "GB" in lines[1]
    assert lines[2].startswith("time ")
    assert not [*(tmp_path / "a").iterdir()]


def test_a_missing_network_is_named_with_what_trains_it():
    parts = echo.cascade()

    class Lacking(dict):
        def __getitem__(self, name):
            if name == "mag0_stage2":
                raise UserError("../mag0_stage2 is no trained part")
            return super().__getitem__(name)

    with pytest.raises(UserError, match=r"mag0_stage2 is missing .* --config=configs/urcdm.py:mag0,stage2 "):
        urcdm.levels(Lacking(parts), PLACE, SIZE)


@pytest.mark.slow
def test_a_full_disk_keeps_what_stands(tmp_path, monkeypatch):
    write, left = Plane.write, 9

    def full(plane, index, pixels):
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write [OS error 28: ENOSPC No space left on device]")
        write(plane, index, pixels)

    monkeypatch.setattr(Plane, "write", full)
    with pytest.raises(UserError, match="is full: make room, and start the same command again"):
        echo.write(tmp_path / "a", glass=False)
    assert len([*tmp_path.glob("a/*.part/mag*/c/*/*/0")]) == 5  # of the first network nothing is needed any more
    left = 1000
    echo.write(tmp_path / "a", glass=False)
    monkeypatch.undo()
    echo.write(tmp_path / "b", glass=False)
    [one], [other] = tmp_path.glob("a/*.tiff"), tmp_path.glob("b/*.tiff")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"place": "third"}, "config.generate.place='third' says no place in a cascade"),
        ({"steps": (3,)}, r"config.generate.steps=\(3,\): give a number for each network"),
    ],
)
def test_wrong_settings_are_named(change, message, tmp_path):
    pipeline = replace(urcdm.Pipeline(echo.cascade(), place=PLACE, glass=False), **change)
    with pytest.raises(UserError, match=message):
        pipeline.painted(tmp_path, KEY, SIZE)


@pytest.mark.slow
def test_what_is_not_finite_is_not_kept(tmp_path):
    parts = echo.cascade()
    bad = replace(parts["mag1_stage1"], params={"scale": np.float32(np.nan)})
    with pytest.raises(UserError, match="mag1_stage1 paints what is not finite"):
        painted(tmp_path, parts | {"mag1_stage1": bad})


# A cascade of one magnification, without a mosaic.


@pytest.mark.slow
def test_a_cascade_draws_small_and_then_resolves(tmp_path):
    codec = Codec((0.3, 0.0, -0.2), (0.5, 0.4, 0.6))
    parts = {"mag2_stage1": echo.part(echo.Model(), 16, codec=codec)}
    parts["model"] = echo.part(echo.Model(low=True), 32, 2, codec=codec)
    pipeline = cascade.Pipeline(parts, place="mag2_stage2")
    key = arrays.keys(0, 6)
    drawn = np.stack([*pipeline.draw(key, (32, 32))])
    small = sampling.sample(parts["mag2_stage1"], arrays.fold(key, 0), (16, 16), Settings.of(echo.SAMPLE))
    np.testing.assert_allclose(drawn, np.asarray(arrays.enlarged(small, 2)), atol=1e-5)
    pipeline.write(tmp_path)
    assert images.read(tmp_path / "00001.png").shape == (32, 32, 3)


@pytest.mark.slow
def test_a_small_hole_is_as_bright_as_the_network_says():
    """A dynamic threshold is taken of what the network is shown: known pixels that differ from what it says of them,
    however many, do not dim the hole."""
    task = echo.part(echo.Model(low=True), 16, 2).task
    hole = np.zeros((4, 16, 16, 1), bool)
    hole[:, :, 13:] = True
    known, low = (np.full((4, 16, 16, 3), value, np.float32) for value in (-1, 0.9))
    at = (np.tile(np.arange(16, dtype=np.int32).reshape(shape), (4, 1, 1)) for shape in ((1, 16, 1), (1, 1, 16)))
    run = urcdm.program(task, urcdm.How(Settings.of(echo.SAMPLE | {"steps": 4}), 1, 1, False), urcdm.local())
    made = np.asarray(run({"scale": np.float32(1)}, known, hole, {"low": low}, jax.random.key_data(KEY), *at))
    np.testing.assert_allclose(made, np.where(hole, low, known), atol=1e-5)


@pytest.mark.slow
def test_a_slide_that_is_drawn_is_of_one_process(tmp_path, monkeypatch):
    """Evaluation deals slides to processes: none waits for another, or leaves it a patch."""
    parts = echo.cascade(mixed=True)
    whole = painted(tmp_path, parts)
    monkeypatch.setattr(hosts, "dealt", lambda items: items[1::2])
    monkeypatch.setattr(hosts, "meet", lambda: pytest.fail("nobody comes"))
    [drawn] = urcdm.Pipeline(parts, place=PLACE, glass=False).draw(KEY, SIZE)
    np.testing.assert_array_equal(images.from_float(drawn, np.uint8), whole)
