"""An autoencoder's prior against a sum by hand; its size is free, and a picture is one of a larger one."""

from dataclasses import dataclass
from types import SimpleNamespace

import jax
import numpy as np
import painting
import pytest
import tiny
from ml_collections import ConfigDict

from nca_gen import arrays
from nca_gen.contracts import Part, Pipeline
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import decode

KERNEL = np.random.default_rng(0).normal(0, 0.3, (4, 12)).astype(np.float32)


@dataclass(frozen=True)
class Linear:
    """Two by two pixels are a place, and sums of its latent."""

    factor: int = 2
    latent_channels: int = 4
    image_channels: int = 3

    def init(self, key):
        return KERNEL

    def encode(self, params, image):
        raise NotImplementedError

    def decode(self, params, z):
        return arrays.unblocked(z @ params, 2)


def pipeline(**sample):
    config = {"seed": 1, "sample": {"n": 3, "batch": 2, "size": (6, 8)} | sample, "data": {"patch": (4, 4)}}
    return decode.Pipeline({"model": Part(ConfigDict(config), SimpleNamespace(model=Linear()), KERNEL)})


@pytest.mark.slow
def test_images_of_noise_by_hand():
    """Each of its key alone, whatever the batch; a part of a larger one, for noise belongs to its place."""
    key = arrays.keys(1, 3)
    z = np.asarray(jax.jit(lambda key: arrays.cell_normal(key, 0, arrays.coords((3, 4)), 4))(key))
    blocks = (z @ KERNEL).reshape(3, 3, 4, 2, 2, 3)
    expected = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(3, 6, 8, 3)
    np.testing.assert_allclose(np.stack(list(pipeline().draw(key, (6, 8)))), expected, atol=1e-5)
    [part] = pipeline().draw(key[1:2], (5, 3))
    np.testing.assert_allclose(part, expected[1, :5, :3], atol=1e-5)


@pytest.mark.slow
def test_files(tmp_path):
    (folder := tmp_path / "out").mkdir()
    one = pipeline()
    assert isinstance(one, Pipeline)
    assert (one.kind, one.title()) == ("images", ["6x8"])
    assert "3 pictures are in" in one.write(folder)[0]
    assert sorted(path.name for path in folder.iterdir()) == [f"{i:05d}.png" for i in range(3)]
    drawn = next(one.draw(arrays.keys(1, 1, 2), (6, 8)))
    np.testing.assert_array_equal(images.read(folder / "00002.png"), images.from_float(drawn))


def test_of_autoencoders_alone():
    with pytest.raises(UserError, match="decode is for autoencoders"):
        decode.Pipeline({"model": painting.part(tiny.diff(), weights={})}).title()
