"""Samples as files, of any number of axes: a volume is one file, and a picture of its middle planes."""

import blur
import numpy as np
import painting
import pytest
import rivals
import tiny

from nca_gen import arrays
from nca_gen.contracts import Pipeline
from nca_gen.data.source import Splits, of
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.io import images, sets, volumes
from nca_gen.pipelines import files, sample, sampling

VOLUMES = blur.Model(channels=1, halo=1, ndim=3)
HOW = {"n": 3, "batch": 2, "size": (6, 7, 8), "steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three volumes."""
    root = tmp_path_factory.mktemp("volumes") / "samples"
    root.mkdir()
    pipeline = sample.Pipeline({"model": painting.part(VOLUMES, **HOW)})
    assert isinstance(pipeline, Pipeline)
    assert (pipeline.kind, pipeline.title()) == ("volumes", ["6x7x8"])
    assert pipeline.write(root)[0].startswith("3 volumes are in ")
    return root


@pytest.mark.slow
def test_volumes_are_files(folder):
    key, given = arrays.keys(1, 3), painting.settings(steps=2)
    expected = np.asarray(sampling.sample(painting.part(VOLUMES), key, (6, 7, 8), given))
    assert expected.std() > 0.1
    names = [f"{i:05d}.{suffix}" for i in range(3) for suffix in ("nii.gz", "png")]
    assert [path.name for path in sorted(folder.iterdir())] == names
    for i, x in enumerate(expected):
        stored = volumes.read(folder / f"{i:05d}.nii.gz")
        assert stored.dtype == np.uint8
        assert np.abs(stored.astype(int) - images.from_float(x)).max() <= 1
        np.testing.assert_array_equal(images.read(folder / f"{i:05d}.png"), volumes.planes(stored))
    assert images.read(folder.with_suffix(".png")).shape[-1] == 1


GREY = np.linspace(-1.2, 1.2, 6 * 7 * 8, dtype=np.float32).reshape(6, 7, 8, 1)


@pytest.mark.parametrize(
    ("dtype", "suffix", "top"),
    [("", ".png", 128), ("uint8", ".png", 128), ("uint16", ".png", 2**15), ("float32", ".tif", 0)],
)
def test_images_are_as_deep_as_asked(tmp_path, dtype, suffix, top):
    """All levels of integers; floats between -1 and 1, as they are read again. Files state how large a pixel is."""
    path = files.write(tmp_path / "x", GREY[0], dtype, (0.5, 0.25))
    assert path == tmp_path / f"x{suffix}"
    stored, mpp = images.sized(path)
    bounded = np.clip(GREY[0], -1, 1)
    expected = np.clip(np.rint((bounded + 1) * top), 0, 2 * top - 1) if top else bounded
    np.testing.assert_array_equal(stored, expected.astype(dtype or "uint8"))
    assert mpp == pytest.approx((0.5, 0.25))
    assert files.write(tmp_path / "y", np.repeat(GREY[0], 4, -1), dtype).suffix == ".tif"


@pytest.mark.parametrize(("dtype", "held"), [("", "uint8"), ("uint16", "float32"), ("float32", "float32")])
def test_volumes_are_as_deep_as_asked(tmp_path, dtype, held):
    """Types that scoring takes as they are; others it would stretch."""
    path = files.write(tmp_path / "x", GREY, dtype, (700,))
    stored = volumes.read(path)
    assert stored.dtype == held
    bounded = np.clip(GREY, -1, 127 / 128 if held == "uint8" else 1)
    np.testing.assert_allclose(images.to_float(stored), bounded, atol=1 / 255 if held == "uint8" else 0)
    assert volumes.microns(path) == pytest.approx((700, 700, 700))
    np.testing.assert_array_equal(sets.open(path)[0], images.to_float(stored))


@pytest.mark.parametrize("form", files.FORMATS)
def test_volumes_are_of_the_format_that_was_asked_for(tmp_path, form):
    """Each with its picture; what is there in another format is not taken for it."""
    path = files.write(tmp_path / "00000", GREY, "uint8", (700, 600, 500), form)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([f"00000{files.FORMATS[form]}", "00000.png"])
    np.testing.assert_array_equal(volumes.read(path), images.from_float(np.clip(GREY, -1, 1)))
    np.testing.assert_allclose(volumes.microns(path), (700, 600, 500), rtol=1e-6)
    assert sets.open(tmp_path).shape == (1, 6, 7, 8, 1)
    for other in files.FORMATS:
        made = files.FORMATS[other] == files.FORMATS[form]
        assert files.missing(tmp_path, 1, 4, files.endings("volumes", other, (1,))) == ([] if made else [range(1)])


def test_dicom_needs_the_size_of_a_voxel():
    """This is said before anything is drawn."""
    with pytest.raises(UserError, match=r"config\.generate\.volume_format=opt: .* set config\.generate\.mpp"):
        files.endings("volumes", "opt")
    assert files.endings("images", "opt") == (".png", ".tif")


def test_deep_samples_in_dicom_are_of_16_bits(tmp_path):
    stored = volumes.read(files.write(tmp_path / "x", GREY, "float32", (700,), "mr"))
    np.testing.assert_array_equal(stored, images.from_float(np.clip(GREY, -1, 1), np.uint16))


def test_sizes_of_a_pixel():
    assert files.sides((), 3) == ()
    assert files.sides((2,), 3) == (2.0, 2.0, 2.0)
    assert files.sides((1, 2), 2) == (1.0, 2.0)
    with pytest.raises(UserError, match=r"mpp=.* has 2 numbers: give one, or 3"):
        files.sides((1, 2), 3)


def test_what_training_data_say_is_filled_in():
    """Where it is left open; of latents what they say of their images, and not their own type."""
    image = {"image": np.zeros((9, 8, 1), np.uint16), "name": "x", "patient": "x", "mpp": (0.5, 0.25)}
    config, splits = tiny.config(), Splits({"train": of([image])})
    found = files.learned(config, splits).generate
    assert (found.dtype, tuple(found.mpp)) == ("uint16", (0.5, 0.25))
    assert (config.generate.dtype, config.generate.mpp) == ("", ())
    config.generate.dtype, config.generate.mpp = "uint8", (1.0,)
    assert files.learned(config, splits) is config
    for said, dtype in (({}, ""), ({"dtype": "uint16"}, "uint16")):
        latents = Splits({"train": of([image | said])}, origin=lambda: splits)
        found = files.learned(tiny.config(), latents).generate
        assert (found.dtype, tuple(found.mpp)) == (dtype, (0.5, 0.25))


@pytest.mark.slow
def test_only_what_is_missing_is_drawn(folder, monkeypatch):
    """The third of three in batches of two is a batch by itself."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "00002.nii.gz").unlink()
    draw, drawn = sampling.images, []

    def counted(part, key, *more, **how):
        drawn.append(len(key))
        return draw(part, key, *more, **how)

    monkeypatch.setattr(sampling, "images", counted)
    sample.Pipeline({"model": painting.part(VOLUMES, **HOW)}).write(folder)
    assert drawn == [1]
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.keys() == before.keys()
    assert (folder / "00000.nii.gz").read_bytes() == before["00000.nii.gz"]


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        (tiny.diff(norm="cell", image_channels=12, channels=26), (15, 16), "make config.sample.size multiples of 2"),
        (None, (16, 16), "a torus is for automata"),
    ],
)
def test_no_torus(model, size, words):
    whole = painting.part(model or rivals.small_unet(), codec=Codec(block=2), weights={})
    with pytest.raises(UserError, match=words):
        next(sample.Pipeline({"model": whole}, torus=True).draw(arrays.keys(0, 1), size))
