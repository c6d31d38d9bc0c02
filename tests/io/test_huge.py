"""Huge images: what is written is what every reader sees, level by level."""

import json

import numpy as np
import pytest
import tifffile

from nca_gen.io import huge, slides, space

SIZE = (523, 300)


def pixels(channels, seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (channels, *size), np.uint8)


@pytest.fixture(scope="module", params=[3, 1, 2, 4, 5])
def pyramid(request, tmp_path_factory):
    """A group of levels, whole and halved twice, and the same as arrays."""
    group, channels = tmp_path_factory.mktemp("huge") / "image.ome.zarr", request.param
    stores, arrays = [], [pixels(channels)]
    for i, size in enumerate(huge.sizes(*SIZE)):
        arrays += [huge.halved(arrays[-1])] if i else []
        stores.append(huge.level(group, i, size, channels, np.uint8, (128, 192), (64, 96)))
        stores[-1].write(arrays[-1]).result()
    huge.describe(group, len(stores), channels, "image")
    huge.tiff(group.with_name("image.tiff"), stores)
    return group, stores, arrays


def test_a_path_that_goes_up_is_a_path(tmp_path):
    """TensorStore takes none; a workdir may be ../runs/a."""
    (tmp_path / "below").mkdir()
    group = tmp_path / "below" / ".." / "image.ome.zarr"
    huge.level(group, 0, (4, 6), 1, np.uint8, (4, 6), (4, 6)).write(np.full((1, 4, 6), 7, np.uint8)).result()
    huge.describe(group, 1, 1, "image")
    assert len(slides.open_slide(group).levels) == 1
    assert (tmp_path / "image.ome.zarr" / "zarr.json").is_file()


def test_sizes_of_levels():
    """Down to one tile; a line of pixels has no half."""
    assert huge.sizes(1024, 1024) == [(1024, 1024), (512, 512), (256, 256)]
    assert huge.sizes(1025, 700) == [(1025, 700), (512, 350), (256, 175)]
    assert huge.sizes(100, 7) == [(100, 7)]
    assert huge.sizes(5000, 3) == [(5000, 3), (2500, 1)]


def test_halves():
    """1 + 2 + 3 + 5 = 11 quarters are 3, as are 10; an odd edge is left out."""
    block = np.array([[1, 2, 9], [3, 5, 9], [9, 9, 9]])
    assert huge.halved(block[None].astype(np.uint8)).tolist() == [[[3]]]
    assert huge.halved(block[None].astype(np.uint8) - np.uint8([[[1, 0, 0]] * 3])).tolist() == [[[2]]]
    assert huge.halved(np.full((2, 4, 4), 255, np.uint8)).tolist() == [[[255] * 2] * 2] * 2
    assert huge.halved(block[None].astype(np.float32)).tolist() == [[[2.75]]]


def test_arrays_stay(pyramid, tmp_path):
    """Opened again as they were; what was never written is zero; a shard is a file."""
    _, stores, arrays = pyramid
    for store, array in zip(stores, arrays, strict=True):
        np.testing.assert_array_equal(store.read().result(), array)

    def make():
        return huge.array(tmp_path / "a", (10, 6), np.float32, (4, 6), (2, 3))

    make()[4:8].write(np.ones((4, 6), np.float32)).result()
    again = make().read().result()
    np.testing.assert_array_equal(again, np.repeat(np.float32([0, 1, 0]), (4, 4, 2))[:, None].repeat(6, 1))
    assert [p.name for p in sorted((tmp_path / "a").rglob("*")) if p.is_file()] == ["0", "zarr.json"]


def test_a_slide_of_ours(pyramid):
    """Every level, pixel for pixel, through the reader that evaluation uses; and no half-written file is left."""
    group, _, arrays = pyramid
    path = group.with_name("image.tiff")
    assert not path.with_name("image.tiff.part").exists()
    slide = slides.open_slide(path)
    for level, array in zip(slide.levels, arrays, strict=True):
        seen = slides._read(slide, level, 0, 0, level.height, level.width)
        np.testing.assert_array_equal(np.moveaxis(seen, -1, 0), array)


def test_a_slide_to_tifffile(pyramid):
    """BigTIFF, tiled, the smaller pages marked as reduced."""
    group, _, arrays = pyramid
    with tifffile.TiffFile(group.with_name("image.tiff")) as file:
        assert file.is_bigtiff
        assert [page.is_reduced for page in file.pages] == [i > 0 for i in range(len(arrays))]
        for page, array in zip(file.pages, arrays, strict=True):
            assert page.tile == (huge.PAGE, huge.PAGE)
            np.testing.assert_array_equal(np.moveaxis(np.atleast_3d(page.asarray()), -1, 0), array)


def test_a_wide_slide(tmp_path):
    """More tiles in a row than are read at once; every pixel is announced."""
    array, told = pixels(3, size=(10, 5000)), []
    store = huge.level(tmp_path / "wide", 0, (10, 5000), 3, np.uint8, (10, 1000), (10, 500))
    store.write(array).result()
    huge.tiff(tmp_path / "wide.tiff", [store], told.append)
    [level] = (slide := slides.open_slide(tmp_path / "wide.tiff")).levels
    np.testing.assert_array_equal(np.moveaxis(slides._read(slide, level, 0, 0, 10, 5000), -1, 0), array)
    assert sum(told) == 50_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_readers_of_slides_see_all_levels(pyramid, reader):
    library = pytest.importorskip(reader)
    group, _, arrays = pyramid
    if len(arrays[0]) not in (1, 3) or (len(arrays[0]) == 1 and reader == "tiffslide"):
        pytest.skip("it reads colours only")
    slide = {"openslide": "OpenSlide", "tiffslide": "TiffSlide"}[reader]
    with getattr(library, slide)(str(group.with_name("image.tiff"))) as slide:
        assert slide.level_count == len(arrays)
        assert slide.level_dimensions == tuple(array.shape[:0:-1] for array in arrays)
        np.testing.assert_allclose(slide.level_downsamples, [1, 2, 4][: len(arrays)], rtol=0.02)
        for i, array in enumerate(arrays):
            # Odd sides have no half, so elsewhere OpenSlide mixes the pixels of smaller levels.
            left, top = (10, 20) if i == 0 else (0, 0)
            seen = np.asarray(slide.read_region((left, top), i, (20, 15)).convert("RGB"))
            part = np.broadcast_to(array[:, top : top + 15, left : left + 20], (3, 15, 20))
            np.testing.assert_array_equal(np.moveaxis(seen, -1, 0), part)


def test_ome_zarr(pyramid):
    """The fields that ngff.openmicroscopy.org/0.5 demands, and what they say."""
    group, _, arrays = pyramid
    meta = json.loads((group / "zarr.json").read_text())
    assert (meta["zarr_format"], meta["node_type"]) == (3, "group")
    ome = meta["attributes"]["ome"]
    assert ome["version"] == "0.5"
    [image] = ome["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["c", "y", "x"]
    assert [axis["type"] for axis in image["axes"]] == ["channel", "space", "space"]
    assert [data["path"] for data in image["datasets"]] == [str(i) for i in range(len(arrays))]
    assert len(ome["omero"]["channels"]) == len(arrays[0])
    for i, (data, array) in enumerate(zip(image["datasets"], arrays, strict=True)):
        scale, shift = data["coordinateTransformations"]
        assert (scale["type"], scale["scale"]) == ("scale", [1, 2**i, 2**i])
        # Pixel 0 of a level is the mean of 2^i pixels: its middle lies between them.
        assert (shift["type"], shift["translation"]) == ("translation", [0, *[np.arange(2**i).mean()] * 2])
        level = json.loads((group / data["path"] / "zarr.json").read_text())
        assert level["dimension_names"] == ["c", "y", "x"]
        assert level["shape"] == list(array.shape)


@pytest.mark.parametrize(("channels", "dtype", "ends"), [(3, np.uint8, (0, 255)), (2, np.uint16, (0, 65535))])
def test_how_large_a_pixel_is_and_what_a_channel_is_called(tmp_path, channels, dtype, ends):
    """In every level of both formats, as the readers of slides see it; names and ranges of channels for viewers."""
    stores = [
        huge.level(tmp_path / "x.zarr", i, size, channels, dtype, size, size)
        for i, size in enumerate([(64, 48), (32, 24)])
    ]
    huge.describe(tmp_path / "x.zarr", 2, channels, "x", dtype, (0.5, 0.25))
    huge.tiff(tmp_path / "x.tiff", stores, mpp=(0.5, 0.25))
    for name in ("x.zarr", "x.tiff"):
        assert slides.open_slide(tmp_path / name).mpp == 0.25
    with tifffile.TiffFile(tmp_path / "x.tiff") as file:
        assert [space.of_page(page) for page in file.pages] == [(0.5, 0.25), (1.0, 0.5)]
        assert all(sample == 0 for page in file.pages for sample in page.extrasamples)  # no alpha
    ome = json.loads((tmp_path / "x.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    [image] = ome["multiscales"]
    assert [axis.get("unit") for axis in image["axes"]] == [None, "micrometer", "micrometer"]
    steps = [[step[step["type"]] for step in data["coordinateTransformations"]] for data in image["datasets"]]
    assert steps == [[[1, 0.5, 0.25], [0, 0, 0]], [[1, 1.0, 0.5], [0, 0.25, 0.125]]]
    names = ["red", "green", "blue"] if channels == 3 else ["channel 1", "channel 2"]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == names
    window = ome["omero"]["channels"][-1]["window"]
    assert [window[k] for k in ("min", "max", "start", "end")] == [*ends, *ends]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ome_zarr_to_zarr_python(pyramid):
    zarr = pytest.importorskip("zarr", minversion="3")
    path, _, arrays = pyramid
    group = zarr.open_group(path, mode="r")
    for data, array in zip(group.attrs["ome"]["multiscales"][0]["datasets"], arrays, strict=True):
        np.testing.assert_array_equal(group[data["path"]][:], array)
