"""Volumes by four parts: what each says is what it says alone; the same volume, batched, killed or spread."""

import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pydicom
import pytest
import tiny
from ml_collections import ConfigDict

from nca_gen import arrays, build, devices, screen
from nca_gen import config as configs
from nca_gen.contracts import Part
from nca_gen.errors import UserError
from nca_gen.io import images, volumes
from nca_gen.io.stored import Stack
from nca_gen.pipelines import ca_ldm, sampling
from nca_gen.pipelines.sampling import Settings

KEY, SIZE = arrays.keys(3, 1), layers.SIZE
CLOSE = {"rtol": 0, "atol": 2e-5}  # of voxels in [-1, 1]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return layers.parts(tmp_path_factory.mktemp("latents"))


def drawn(parts, size=SIZE, key=KEY, **how):
    """One volume."""
    [volume] = ca_ldm.Pipeline(parts, **how).draw(key, size)
    return volume


@pytest.fixture(scope="module")
def volume(parts):
    """As a pipeline draws it where nothing is said."""
    found = drawn(parts)
    assert found.shape == (*SIZE, 1)
    assert found.std() > 0.05
    return found


def digest(voxels):
    return hashlib.sha256(np.ascontiguousarray(voxels)).hexdigest()


# What is drawn.


def said(parts, places):
    """The latents of slices that the latent of the whole says, as its two networks make them by themselves."""
    part, coder = parts["diff3d"], parts["nhae"]
    z = sampling.sample(part, arrays.fold(KEY, 0), places, Settings.of(part.config.sample))
    mean, std = map(np.float32, layers.SCALES["whole"])
    return coder.task.model.latents(coder.params, z * std + mean)


PLACES = tuple(side // 2 for side in SIZE)


@pytest.mark.slow
def test_without_refiner_and_adaptors_it_is_what_the_autoencoder_decodes(parts):
    """The paper's first ablation: the latent of the whole, unstandardised, through the autoencoder of volumes."""
    part, coder = parts["diff3d"], parts["nhae"]
    z = sampling.sample(part, arrays.fold(KEY, 0), PLACES, Settings.of(part.config.sample))
    mean, std = map(np.float32, layers.SCALES["whole"])
    expected = np.clip(coder.task.model.decode(coder.params, z * std + mean)[0], -1, 1)
    np.testing.assert_allclose(drawn(parts, refine=False, mixed=False), expected, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 3, 5])
def test_a_volume_is_what_its_parts_say(parts, keep):
    """Each slice by itself, from noise of its own, told what was said of it, standardised like slices; then windows."""
    mean, std = map(np.float32, layers.SCALES["slices"])
    part, settings = parts["refiner"], Settings.of(layers.SAMPLE)
    context = (said(parts, PLACES)[0] - mean) / std
    key = ca_ldm.keys(KEY, range(SIZE[0]))
    slices = sampling.sample(part, key, PLACES[1:], settings, {"image": context}) * std + mean
    expected = parts["model"].task.model.decode(parts["model"].params, slices[None], keep)[0]
    np.testing.assert_allclose(drawn(parts, keep=keep), np.clip(expected, -1, 1), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        tiny.diff(ndim=3, image_channels=4, channels=12, neighbourhood="von_neumann"),
        tiny.cells(ndim=3, image_channels=4, classes=0, learned_variance=False),
    ],
    ids=["diff_nca", "geca"],
)
def test_the_latent_of_the_whole_by_an_automaton(model, parts):
    """In place of the U-Net: the volume is what its cells have drawn, whole on one device or cut over two."""
    part = replace(parts["diff3d"], task=replace(parts["diff3d"].task, model=model), params=tiny.params(model))
    z = sampling.sample(part, arrays.fold(KEY, 0), PLACES, Settings.of(part.config.sample))
    mean, std = map(np.float32, layers.SCALES["whole"])
    coder = parts["nhae"]
    expected = np.clip(coder.task.model.decode(coder.params, z * std + mean)[0], -1, 1)
    assert expected.std() > 0.05
    for space in (1, 2):
        part.config.mesh.space = space
        mine = drawn({**parts, "diff3d": part}, refine=False, mixed=False)
        np.testing.assert_allclose(mine, expected, **CLOSE)
    part.config.mesh.space = 1


@pytest.mark.parametrize("form", ["", ":laptop", ":hippocampus", ":guided"])
def test_the_stage_of_volumes_takes_an_automaton_by_name(form, monkeypatch):
    """Of the fields of the U-Net those stay that cells have too; label maps they are not told."""
    monkeypatch.chdir(Path(__file__).parents[2])
    forms = ":laptop,phantom,layers" if form == ":guided" else form
    [stage] = [one for one in configs.stages(f"configs/ca_ldm.py{forms}") if one.name == "diff3d"]
    for name in ("diff_nca", "geca"):
        flags = [f"--config.model.name={name}", *["--config.model.remat=step"] * (form == "")]
        task = build.task(configs.override(stage.config, flags))
        assert (task.model.ndim, task.model.reads, task.model.predicts) == (3, 4, 4)
        assert dict(task.model.conditions) == {}


@pytest.mark.slow
def test_the_noise_of_a_slice_is_of_its_number():
    """Not of what is drawn beside it; and another one for each, for the whole, and for another key."""
    words = lambda key: [tuple(word) for word in np.asarray(jax.random.key_data(key)).tolist()]
    some = words(ca_ldm.keys(KEY, [7, 3, 500]))
    assert some == [words(ca_ldm.keys(KEY, [d]))[0] for d in (7, 3, 500)]
    every = (
        words(ca_ldm.keys(KEY, range(512))) + words(arrays.fold(KEY, 0)) + words(ca_ldm.keys(arrays.keys(4, 1), [3]))
    )
    assert len({*every}) == 514


def test_half_the_products_and_half_the_parameters():
    """Kernels of bfloat16 and nothing else, as a network reads them that multiplies so."""
    part = Part({}, None, {"a": {"kernel": np.full(2, 1.001, np.float32), "scale": np.ones(2, np.float32)}})
    light = ca_ldm.lighter(part, "bfloat16").params["a"]
    assert (light["kernel"].dtype.name, light["scale"].dtype.name) == ("bfloat16", "float32")
    assert ca_ldm.lighter(part, "float32") is part


# Label maps.


CLASSES, GUIDED = 3, {"guidance": 2.0}
LABELS = np.random.default_rng(0).integers(0, CLASSES, (*SIZE, 1)).astype(np.int32)


def told(each):
    """The shares of classes in blocks, place by place, in steps of 1/255."""
    sides = [n // k for n, k in zip(SIZE, each, strict=True)]
    found = np.empty((*sides, CLASSES), np.float32)
    for at in np.ndindex(*sides):
        block = LABELS[tuple(slice(i * k, (i + 1) * k) for i, k in zip(at, each, strict=True))]
        found[at] = [np.rint(255 * (block == k).mean()) / 255 for k in range(CLASSES)]
    return found


@pytest.mark.slow
def test_a_volume_follows_its_label_map(tmp_path):
    """Both networks are told what of it lies in each of their places, and guided by it."""
    parts = layers.parts(tmp_path, classes=CLASSES, **GUIDED)
    part, coder, settings = parts["diff3d"], parts["nhae"], Settings.of(layers.SAMPLE | GUIDED)
    whole = sampling.sample(part, arrays.fold(KEY, 0), PLACES, settings, {"map": jnp.asarray(told((2, 2, 2))[None])})
    mean, std = map(np.float32, layers.SCALES["whole"])
    said = coder.task.model.latents(coder.params, whole * std + mean)[0]
    mean, std = map(np.float32, layers.SCALES["slices"])
    cond = {"image": (said - mean) / std, "map": jnp.asarray(told((1, 2, 2)))}
    key = ca_ldm.keys(KEY, range(SIZE[0]))
    slices = sampling.sample(parts["refiner"], key, PLACES[1:], settings, cond) * std + mean
    expected = parts["model"].task.model.decode(parts["model"].params, slices[None], 5)[0]
    [found] = ca_ldm.Pipeline(parts).draw(KEY, SIZE, {"label_map": jnp.asarray(LABELS[None])})
    np.testing.assert_allclose(found, np.clip(expected, -1, 1), **CLOSE)
    free = drawn(parts)
    assert np.abs(found - free).max() > 0.05
    np.testing.assert_array_equal(free, drawn(layers.parts(tmp_path, classes=CLASSES)))  # nothing to be guided by


@pytest.mark.slow
def test_label_maps_of_a_folder(tmp_path):
    """A map for each volume in turn; another map is another folder, and a guided step two calls."""
    (tmp_path / "maps").mkdir()
    for i, labels in enumerate((LABELS, 2 - LABELS)):
        volumes.write(tmp_path / "maps" / f"{i}.nii.gz", labels.astype(np.uint8))
    how = {"label_maps": str(tmp_path / "maps")}
    pipeline = ca_ldm.Pipeline(layers.parts(tmp_path, n=3, classes=CLASSES, **GUIDED), **how)
    for found, labels in zip(pipeline.maps(), (LABELS, 2 - LABELS, LABELS), strict=True):
        np.testing.assert_array_equal(found[:, :, :], labels)
    assert [pipeline.counts(SIZE)[name].each for name in ("diff3d", "refiner")] == [4, 4]
    assert pipeline.title() != replace(pipeline, label_maps=str(tmp_path / "maps" / "0.nii.gz")).title()
    layers.write(tmp_path, classes=CLASSES, label_maps=str(tmp_path / "maps" / "1.nii.gz"))
    [expected] = ca_ldm.Pipeline(layers.parts(tmp_path, classes=CLASSES)).draw(
        arrays.keys(1, 1), SIZE, {"label_map": jnp.asarray(2 - LABELS[None])}
    )
    np.testing.assert_array_equal(volumes.read(tmp_path / "made" / "00000.nii.gz"), images.from_float(expected))


@pytest.mark.slow
def test_wrong_label_maps_are_named(parts, tmp_path):
    with pytest.raises(UserError, match="the part diff3d learned without label maps"):
        [*ca_ldm.Pipeline(parts).draw(KEY, SIZE, {"label_map": jnp.asarray(LABELS[None])})]
    two = layers.parts(tmp_path, classes=2)
    with pytest.raises(UserError, match="a label map has classes from 0 to 2, and networks learned 2"):
        [*ca_ldm.Pipeline(two).draw(KEY, SIZE, {"label_map": jnp.asarray(LABELS[None])})]
    with pytest.raises(UserError, match=r"label_maps=.*: there are no volumes in this folder"):
        ca_ldm.Pipeline(two, label_maps=str(tmp_path / "whole")).maps()
    with pytest.raises(UserError, match=r"label_maps=.*gone.nii"):
        ca_ldm.Pipeline(two, label_maps=str(tmp_path / "gone.nii")).maps()
    volumes.write(tmp_path / "a.nii.gz", LABELS[1:].astype(np.uint8))
    with pytest.raises(UserError, match=r"a.nii.gz is of 15x8x12 voxels: make config.sample.size that"):
        ca_ldm.Pipeline(two, label_maps=str(tmp_path / "a.nii.gz")).maps()


# The same volume.


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_devices_do_not_change_it(n, parts, volume, monkeypatch):
    """1, 2 and 4 of them."""
    monkeypatch.setattr(ca_ldm, "local", lambda: devices.mesh(jax.local_devices(), n))
    np.testing.assert_array_equal(drawn(parts), volume)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_batches_do_not_change_it(batch, parts, volume):
    np.testing.assert_allclose(drawn(parts, batch=batch), volume, **CLOSE)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_volume(parts, volume, tmp_path, monkeypatch):
    """Killed at any slice: those that are there are not made again, and the volume is the same."""
    append, left, made = Stack.append, 0, []

    def dying(stack, first, slices):
        nonlocal left
        for d, one in enumerate(slices, first):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            append(stack, d, one[None])
            made.append((stack.folder.name, d))

    monkeypatch.setattr(Stack, "append", dying)
    pipeline = ca_ldm.Pipeline(parts, batch=1)
    for left in (0, 5, 13, 8):  # noqa: B007
        with pytest.raises(KeyboardInterrupt):
            pipeline.made(tmp_path, KEY, SIZE)
    left = 1000
    again = pipeline.made(tmp_path, KEY, SIZE)[:, :, :]
    counts = Counter(made)
    assert digest(again) == digest(drawn(parts, batch=1))
    assert {(name, d) for name in ("latents", "slices") for d in range(SIZE[0])} == set(counts)
    assert all(n == 1 for (name, _), n in counts.items() if name == "latents")
    assert max(counts.values()) <= 2  # slices of the window that was cut


@pytest.mark.slow
def test_kill_9(tmp_path):
    """A process that is killed twice on its way leaves what the next one finishes: the file of one left alone."""
    count = lambda: len([*tmp_path.glob("cut/made/.*.part/*/*.npy")])
    seen = []
    for slices in (3, 20):
        child = subprocess.Popen([sys.executable, layers.__file__, str(tmp_path / "cut")], env=os.environ)
        while child.poll() is None and count() < slices:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL  # it was not done
        seen.append(count())
    assert 3 <= seen[0] < seen[1]
    layers.write(tmp_path / "cut")
    layers.write(tmp_path / "alone")
    one, other = (tmp_path / name / "made" / "00000.nii.gz" for name in ("cut", "alone"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_seeds_and_settings_make_other_volumes(parts, volume):
    others = [
        drawn(parts, **how) for how in ({"key": arrays.keys(4, 1)}, {"keep": 1}, {"refine": False}, {"mixed": False})
    ]
    assert len({digest(x) for x in (volume, *others)}) == 5


@pytest.mark.slow
def test_what_is_at_work_at_once_does_not_grow_with_the_volume(parts, monkeypatch):
    """The same two programs, on arrays of the same shapes, for a volume twice as deep."""
    asked = []

    def spied(make):
        def made(*given):
            run = make(*given)
            return lambda params, *x: (asked.append([one.shape for one in jax.tree.leaves(x)]), run(params, *x))[1]

        return made

    for name in ("refining", "decoding"):
        monkeypatch.setattr(ca_ldm, name, spied(vars(ca_ldm)[name]))
    shapes = []
    for depth in (16, 32):
        asked.clear()
        drawn(parts, (depth, *SIZE[1:]), batch=2)
        shapes.append({str(x) for x in asked})
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 2


# The command.


@pytest.mark.slow
def test_a_volume_is_written_with_its_size(tmp_path):
    """What is drawn, in 8 bits, as a NIfTI file of voxels of so many micrometres, and a picture beside it."""
    lines = layers.write(tmp_path, mpp=(10.0, 20.0, 30.0))
    assert "1 volumes are in" in lines[0]
    file = tmp_path / "made" / "00000.nii.gz"
    expected = drawn(layers.parts(tmp_path), key=arrays.keys(1, 1))
    np.testing.assert_array_equal(volumes.read(file), images.from_float(expected))
    assert volumes.microns(file) == (10.0, 20.0, 30.0)
    assert images.read(file.with_name("00000.png")).std() > 0
    assert sorted(path.name for path in file.parent.iterdir()) == ["00000.nii.gz", "00000.png"]
    before = file.stat().st_mtime_ns
    (file.parent / ".00000.nii.gz.part" / "slices").mkdir(parents=True)  # killed before it could tidy up
    layers.write(tmp_path, mpp=(10.0, 20.0, 30.0))
    assert file.stat().st_mtime_ns == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["00000.nii.gz", "00000.png"]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "ending"), [("zarr", ".ome.zarr"), ("opt", ".dcm"), ("ct", ".ct.dicom")])
def test_a_volume_in_other_formats_is_the_same(format, ending, tmp_path):
    layers.write(tmp_path, mpp=(10.0, 20.0, 30.0), volume_format=format)
    file = tmp_path / "made" / f"00000{ending}"
    expected = drawn(layers.parts(tmp_path), key=arrays.keys(1, 1))
    np.testing.assert_array_equal(volumes.read(file), images.from_float(expected))
    assert volumes.microns(file) == (10.0, 20.0, 30.0)


@pytest.mark.slow
def test_series_of_ct_and_mr_lie_side_by_side(tmp_path):
    """The same voxels twice, each a series of its own that says what it is, and neither is taken for the other."""
    for format in ("ct", "mr"):
        layers.write(tmp_path, mpp=(10.0, 20.0, 30.0), volume_format=format)
    series = {}
    for format in ("ct", "mr"):
        folder = tmp_path / "made" / f"00000.{format}.dicom"
        heads = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
        assert len(heads) == SIZE[0]
        assert {head.Modality for head in heads} == {format.upper()}
        assert {head.SeriesDescription for head in heads} == {"00000"}
        series[format] = {head.SeriesInstanceUID for head in heads}
    assert len(series["ct"]) == len(series["mr"]) == len(series["ct"] ^ series["mr"]) / 2 == 1
    one, other = (volumes.read(tmp_path / "made" / f"00000.{format}.dicom") for format in ("ct", "mr"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_every_step_and_slice_is_counted(parts, tmp_path):
    """Of the latent of the whole its steps, then the slices that are refined, then those that are decoded."""
    seen = []
    bar = screen.Bar(lambda done, total, text: seen.append((done, total, text)), unit="slices")
    seen.clear()
    bar.drawn = -math.inf
    ca_ldm.Pipeline(parts, batch=1).made(tmp_path, KEY, SIZE, bar=bar)
    steps = Settings.of(parts["diff3d"].config.sample).steps
    ends = [(done, total) for done, total, _ in seen if done == total]
    assert ends == [(steps, steps), (SIZE[0], SIZE[0]), (SIZE[0], SIZE[0])]
    texts = [text for done, total, text in seen if done == total]
    assert [text.split("  ")[0] for text in texts] == ["drawing the latent of the whole", "refining", "decoding"]
    assert [next(u for u in ("steps/s", "slices/s") if u in text) for text in texts] == ["steps/s", *["slices/s"] * 2]


def test_calls_are_those_of_the_paper(parts):
    """512 slices in 508 windows of which one stays, or in 103 of which all do."""
    size = (512, 8, 12)
    for keep, n in ((1, 508), (3, 170), (5, 103)):
        found = ca_ldm.Pipeline(parts, keep=keep).counts(size)
        counts = {name: (calls.patches, calls.each, calls.shape) for name, calls in found.items()}
        assert counts == {
            "diff3d": (1, 2, (256, 4, 6, 4)),
            "nhae": (1, 1, (256, 4, 6, 4)),
            "refiner": (512, 2, (4, 6, 4)),
            "model": (n, 1, (5, 4, 6, 4)),
        }
    assert "refiner" not in ca_ldm.Pipeline(parts, refine=False).counts(size)
    assert ca_ldm.Pipeline(parts, mixed=False).counts(size)["model"].patches == 512


def test_all_that_voxels_depend_on_names_the_folder(parts):
    """Steps, scales and weights of the parts too; batches do not."""
    title = lambda parts=parts, **how: ca_ldm.Pipeline(parts, **how).title()
    assert title() == title(batch=3)
    assert title()[0] == "16x8x12"
    bad = replace(parts["refiner"], params={"kernel": np.float32(0.8)})
    others = [title(keep=1), title(refine=False), title(mixed=False), title(parts | {"refiner": bad})]
    assert len({str(one) for one in (title(), *others)}) == 5


def test_a_missing_part_is_named_with_what_trains_it(parts):
    lacking = {name: part for name, part in parts.items() if name != "refiner"}
    with pytest.raises(UserError, match=r"refiner is missing .* --config=configs/ca_ldm.py:refiner "):
        drawn(lacking)
    assert drawn(lacking, refine=False).shape == (*SIZE, 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"keep": 6}, "config.generate.keep=6: a window has 5 slices"),
        ({"size": (16, 8, 13)}, r"config.sample.size=\(16, 8, 13\): give three multiples of 2"),
        ({"size": (8, 8)}, r"config.sample.size=\(8, 8\): give three multiples of 2"),
        ({"size": (4, 8, 12)}, "volumes of 4 slices are no window of 5"),
    ],
)
def test_wrong_settings_are_named(how, message, parts):
    with pytest.raises(UserError, match=message):
        drawn(parts, **how)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diff3d", "refiner"])
def test_what_is_not_finite_is_not_kept(name, parts):
    bad = replace(parts[name], params={"kernel": np.float32(np.nan)})
    with pytest.raises(UserError, match=f"the part {name} draws what is not finite"):
        drawn(parts | {name: bad})


def test_a_scale_that_was_never_measured_is_named(parts, tmp_path):
    (tmp_path / "index.json").write_text('{"version": 1}')
    part = parts["diff3d"]
    gone = replace(part, config=ConfigDict(part.config.to_dict() | {"data": {"path": str(tmp_path)}}))
    with pytest.raises(UserError, match="is not finished: run --mode=encode again"):
        drawn(parts | {"diff3d": gone})
