"""Samples as files, of any number of axes: a volume is one file, and a picture of its middle planes."""

import numpy as np
import painting
import pytest
import rivals
import tiny

from nca_gen import arrays
from nca_gen.contracts import Pipeline
from nca_gen.diffusion.codec import Codec
from nca_gen.errors import UserError
from nca_gen.io import images, volumes
from nca_gen.pipelines import sample, sampling

VOLUMES = tiny.diff(norm="cell", ndim=3, steps=2, image_channels=1)
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
