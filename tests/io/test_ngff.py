"""Volumes in OME-Zarr: both versions, any order of axes, how large a voxel is, the pyramid, and what is no volume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorstore

from nca_gen.errors import UserError
from nca_gen.io import huge, images, ngff, sets, slides, volumes
from nca_gen.io.geometry import Geometry

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 60000, (4, 5, 6)).astype(np.uint16)
OBLIQUE = np.array([[0.5, 0.1, 0.2, 9], [-0.1, 0.7, 0.1, 8], [0, -0.1, 3, 7], [0, 0, 0, 1]])


def group(path, voxels, axes, scale=(), unit="micrometer", version="0.4"):
    """An OME-Zarr image as others write it: one level, of version 0.4 (zarr 2) or 0.5."""
    kinds = {"c": "channel", "t": "time"}
    said = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    said = [one | ({"unit": unit} if unit and one["type"] == "space" else {}) for one in said]
    levels = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [*scale] or [1] * len(axes)}]}]
    image = {"axes": said, "datasets": levels, "version": version}
    driver = "zarr" if version == "0.4" else "zarr3"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path / "s0")}}
    tensorstore.open(spec, create=True, dtype=voxels.dtype, shape=voxels.shape).result().write(voxels).result()
    if version == "0.4":
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    else:
        ome = {"version": version, "multiscales": [image]}
        (path / "zarr.json").write_text(
            json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}})
        )
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["zyx", "czyx", "zyxc", "tczyx", "xyz"])
def test_as_others_write_it(tmp_path, version, axes):
    """Whole and by parts; channels where there are some; millimetres become micrometres."""
    voxels = np.stack([VOXELS, VOXELS[::-1]], -1) if "c" in axes else VOXELS[..., None]
    stored = voxels.transpose(["zyxc".index(axis) for axis in axes if axis != "t"] + ([] if "c" in axes else [3]))
    stored = stored.reshape([1 if axis == "t" else voxels.shape["zyxc".index(axis)] for axis in axes])
    scale = [{"z": 3e-3, "y": 0.7e-3, "x": 0.5e-3}.get(axis, 1) for axis in axes]
    path = group(tmp_path / "a.ome.zarr", stored, axes, scale, "millimeter", version)
    np.testing.assert_array_equal(volumes.read(path), voxels)
    box = slice(1, 3), slice(0, 4), slice(5, 6)
    np.testing.assert_array_equal(volumes.stored(path)[box], voxels[box])
    np.testing.assert_allclose(volumes.microns(path), (3, 0.7, 0.5))


def test_truth_values_are_0_and_1(tmp_path):
    path = group(tmp_path / "a.zarr", VOXELS > 30000, "zyx")
    np.testing.assert_array_equal(volumes.read(path)[..., 0], VOXELS > 30000)
    assert volumes.read(path).dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_what_is_written_comes_back_where_it_was(tmp_path, dtype):
    """Voxels, type, and an affine that is oblique."""
    voxels = (RNG.random((20, 5, 6, 2)) * 99).astype(dtype)
    volumes.save(tmp_path / "a.ome.zarr", voxels, Geometry.of(OBLIQUE))
    np.testing.assert_array_equal(volumes.read(tmp_path / "a.ome.zarr"), voxels)
    assert volumes.read(tmp_path / "a.ome.zarr").dtype == dtype
    np.testing.assert_array_equal(volumes.geometry(tmp_path / "a.ome.zarr").affine, OBLIQUE)
    bare = tmp_path / "b.zarr"
    volumes.save(bare, voxels)
    assert volumes.geometry(bare) is None


def test_others_are_told_sizes_and_directions(tmp_path):
    volumes.write(tmp_path / "a.ome.zarr", VOXELS, (3, 0.7, 0.5))
    [image] = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert image["name"] == "a"
    assert [axis["name"] for axis in image["axes"]] == ["c", "z", "y", "x"]
    assert [axis.get("unit") for axis in image["axes"]] == [None, *["micrometer"] * 3]
    assert image["axes"][1]["orientation"] == {"type": "anatomical", "value": "inferior-to-superior"}
    np.testing.assert_allclose(image["datasets"][0]["coordinateTransformations"][0]["scale"], (1, 3, 0.7, 0.5))


def test_a_pyramid_of_means(tmp_path, monkeypatch):
    """Of every 2 x 2 x 2 voxels; its levels lie where their voxels do. An affine that was resampled is not believed."""
    monkeypatch.setattr(ngff, "LEAST", 3)
    monkeypatch.setattr(ngff, "RUN", 1)
    voxels = RNG.random((4, 7, 6)).astype(np.float32)
    volumes.write(tmp_path / "a.ome.zarr", voxels, (3, 0.7, 0.5))
    image = huge.multiscale(tmp_path / "a.ome.zarr")
    assert [level.shape for level in image.levels] == [(1, 4, 7, 6), (1, 2, 3, 3)]
    expected = voxels[:, :6].reshape(2, 2, 3, 2, 3, 2).mean((1, 3, 5))
    np.testing.assert_allclose(image.levels[1].read().result()[0], expected, rtol=1e-6)
    file = tmp_path / "a.ome.zarr" / "zarr.json"
    said = json.loads(file.read_text())
    second = said["attributes"]["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    np.testing.assert_allclose(second[0]["scale"], (1, 6, 1.4, 1))
    np.testing.assert_allclose(second[1]["translation"], (0, 1.5, 0.35, 0.25))
    del said["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    file.write_text(json.dumps(said))
    assert volumes.microns(tmp_path / "a.ome.zarr") == (6, 1.4, 1)
    assert volumes.geometry(tmp_path / "a.ome.zarr") == Geometry.of_sizes((6, 1.4, 1))


@pytest.mark.parametrize(
    ("shape", "axes", "says"),
    [
        ((5, 6), "yx", "it has no axis z, and a volume has z, y and x"),
        ((3, 4, 5, 6), "tzyx", "it has 3 volumes along its axis t: store one"),
    ],
)
def test_what_is_no_volume(tmp_path, shape, axes, says):
    path = group(tmp_path / "a.zarr", np.ones(shape, np.uint8), axes)
    with pytest.raises(images.Unreadable, match=says):
        volumes.read(path)
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(UserError, match="no OME-Zarr volume"):
        volumes.read(tmp_path / "b.zarr")


def test_a_set_of_volumes_and_a_slide(tmp_path):
    """By depth; a picture beside a volume shows it, and one beside a slide is passed over for what it shows."""
    volumes.write(tmp_path / "v" / "a.ome.zarr", VOXELS, (3, 0.7, 0.5))
    images.write(tmp_path / "v" / "a.png", VOXELS[0, ..., None])
    found = sets.open(tmp_path / "v")
    assert (sets.kind(found), found.names, found.shape) == ("volumes", ("a.ome.zarr",), (1, 4, 5, 6, 1))
    np.testing.assert_allclose(found.mpp, [(3, 0.7, 0.5)])
    path = group(tmp_path / "s" / "b.zarr", np.ones((3, 5, 6), np.uint8), "cyx", (1, 0.5, 0.25))
    assert not ngff.is_volume(path)
    assert sets.kind(sets.open(path)) == "slides"
    assert slides.open_slide(path).mpp == 0.25
