"""Slides: regions of tissue, sizes that are read, contexts; TIFF, OME-Zarr, and OpenSlide in disguise."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import tensorstore
import tifffile

from nca_gen.data import pipeline, slides
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.io import slides as files

RNG = np.random.default_rng(0)


def tissue(height=256, width=320):
    """Stained everywhere but in the left 96 columns, which are glass."""
    pixels = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    pixels[..., 0] |= 128
    pixels[..., 1] &= 63
    pixels[:, :96] = 240
    return pixels


def pyramid(pixels, levels=3):
    sizes = [pixels]
    while len(sizes) < levels:
        sizes.append(images.reduce(sizes[-1], 2))
    return sizes


def tiff(path, pixels, levels=3, **options):
    """A tiled pyramid of exact 2 x 2 means."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = pyramid(pixels, levels)
    with tifffile.TiffWriter(path) as file:
        for i, level in enumerate(sizes):
            file.write(level, tile=(64, 64), photometric="rgb", subfiletype=min(i, 1), **(options if i == 0 else {}))
    return sizes


def ome(path, pixels, new=True, axes="cyx", unit="micrometer"):
    """The same as OME-Zarr, of version 0.5 or 0.4."""
    order = {"y": 0, "x": 1, "c": 2}
    datasets, sizes = [], pyramid(pixels, 2)
    for i, level in enumerate(sizes):
        data = level.transpose([order[a] for a in axes if a in order]).reshape(
            [level.shape[order[a]] if a in order else 1 for a in axes]
        )
        spec = {"driver": "zarr3" if new else "zarr", "kvstore": {"driver": "file", "path": str(path / str(i))}}
        store = tensorstore.open(spec, create=True, dtype=tensorstore.uint8, shape=data.shape).result()
        store[...] = data
        scale = [0.5 * 2**i if a in "yx" else 1.0 for a in axes]
        datasets.append({"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = [{"name": a, "type": "space", "unit": unit} if a in "yx" else {"name": a, "type": "channel"} for a in axes]
    shown = {"multiscales": [{"axes": kinds, "datasets": datasets}]}
    if new:
        text = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5"} | shown}}
        (path / "zarr.json").write_text(json.dumps(text))
    else:
        (path / ".zattrs").write_text(json.dumps(shown))
    return sizes


@pytest.fixture
def three(tmp_path):
    """Three slides, and their levels."""
    return tmp_path, {f"{i}.tif": tiff(tmp_path / f"{i}.tif", tissue()) for i in range(3)}


def plane(path, height=1200, width=1600, **options):
    """A slide of 16 bits whose values are 32 times the place, down in red and to the right in green."""
    y, x = np.mgrid[:height, :width]
    return tiff(path, np.stack([32 * y + 16, 32 * x + 16, 0 * x], -1).astype(np.uint16), 3, **options)


def examples(splits):
    return [(source, i) for source in splits.values() for i in range(len(source))]


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 1])
def test_regions_of_tissue_are_the_pixels_of_their_level(three, level):
    root, levels = three
    splits = slides.splits(str(root), level=level, region=32, tissue=0.9)
    glass = 96 // 2**level
    names = set()
    for source, i in examples(splits):
        example = source[i]
        name, _, corner = example["name"].partition("@")
        top, left = map(int, corner.split(","))
        stored = levels[name][level]
        np.testing.assert_array_equal(example["image"], stored[top : top + 32, left : left + 32])
        assert example["patient"] == name
        assert left >= glass
        names.add(example["name"])
    rows, columns = 256 // 2**level // 32, len([x for x in range(0, 320 // 2**level - 31, 32) if x >= glass])
    assert len(names) == 3 * rows * columns
    source = splits["train"]
    assert (source.resident, source.ndim, source.shapes[0]) == (False, 2, (32, 32, 3))


@pytest.mark.slow
def test_microns_a_pixel(tmp_path):
    """A level of about that size is taken as it is; between levels pixels are made of the next finer one."""
    levels = {}
    for i in range(3):
        options = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}  # 0.5 microns
        levels[f"{i}.tif"] = tiff(tmp_path / f"{i}.tif", tissue(), **options)
    assert files.open_slide(tmp_path / "0.tif").mpp == pytest.approx(0.5)
    source = slides.splits(str(tmp_path), mpp=1.02, region=32)["train"]
    name, _, corner = source[0]["name"].partition("@")
    top, left = map(int, corner.split(","))
    np.testing.assert_array_equal(source[0]["image"], levels[name][1][top : top + 32, left : left + 32])
    source = slides.splits(str(tmp_path), mpp=0.75, region=32)["train"]
    name, _, corner = source[3]["name"].partition("@")
    top, left = (int(x) * 1.5 for x in corner.split(","))
    expected = files.window(files.open_slide(tmp_path / name), (top, left, 48, 48), (32, 32))
    np.testing.assert_array_equal(source[3]["image"], expected)
    with pytest.raises(UserError, match=r"its pixels are of 0\.5 microns, coarser than mpp=0\.2"):
        slides.splits(str(tmp_path), mpp=0.2, strict=True)


def test_several_magnifications_are_told(tmp_path, capsys):
    """Of one level; at one number of micrometres a pixel all are alike. An example says how large its pixels are."""
    for i, dots in enumerate((20000, 20000, 40000)):
        tiff(tmp_path / f"{i}.tif", tissue(), resolution=(dots, dots), resolutionunit="CENTIMETER")
    found = slides.splits(str(tmp_path), level=1, region=32)
    assert "0.tif has 1 µm a pixel, 2.tif has 0.5 µm" in found.notes[0]
    assert found.notes[0] in capsys.readouterr().err
    sizes = {source.head(i)["name"][:1]: source.head(i)["mpp"] for source, i in examples(found)}
    assert sizes == {"0": (1.0, 1.0), "1": (1.0, 1.0), "2": (0.5, 0.5)}
    found = slides.splits(str(tmp_path), mpp=1.0, region=32)
    assert found.notes == ()
    assert {source.head(i)["mpp"] for source, i in examples(found)} == {(1.0, 1.0)}


def test_few_bits_in_many_are_told(tmp_path):
    """Slides of 12 bits in 16: nothing in them is stained as 16 bits would be."""
    for i in range(3):
        grey = (tissue()[..., 0].astype(np.uint16) * 16)[:, 96:]
        tifffile.imwrite(tmp_path / f"{i}.tif", grey, tile=(64, 64))
    assert "end at" in slides.splits(str(tmp_path), region=32).notes[0]
    for i in range(3):
        tifffile.imwrite(tmp_path / f"{i}.tif", tissue().astype(np.uint16) * 16, tile=(64, 64), photometric="rgb")
    with pytest.raises(UserError, match=r"no region of it has 50% tissue \(pixels are of 16 bits and end at"):
        slides.splits(str(tmp_path), region=32, strict=True)
    found = slides.splits(str(tmp_path), region=32, window=(0, 4095))
    assert found.notes == ()
    name, _, corner = (example := found["train"][0])["name"].partition("@")
    top, left = map(int, corner.split(","))
    stored = tifffile.imread(tmp_path / name)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(example["image"], np.rint(stored * (65535 / 4095)))
    with pytest.raises(UserError, match="the lower first"):
        slides.splits(str(tmp_path), window=(4095, 0))


def test_aperio_and_ome_say_their_microns(tmp_path):
    tiff(tmp_path / "a.svs", tissue(64, 128), 1, description="Aperio Image|AppMag = 20|MPP = 0.4990|x = 1")
    xml = '<OME><Image><Pixels PhysicalSizeX="0.25" PhysicalSizeXUnit="{}"/></Image></OME>'
    tiff(tmp_path / "b.tif", tissue(64, 128), 1, description=xml.format("&#181;m"))
    tiff(tmp_path / "c.tif", tissue(64, 128), 1, description=xml.format("mm"))
    tiff(tmp_path / "d.tif", tissue(64, 128), 1, resolution=(72, 72), resolutionunit="INCH")
    found = [files.open_slide(tmp_path / name).mpp for name in ("a.svs", "b.tif", "c.tif", "d.tif")]
    assert found == [0.499, 0.25, None, None]


def test_contexts_go_beyond_their_region_and_stop_at_the_edge(three):
    root, levels = three
    source = slides.splits(str(root), region=64, context_factor=4)["train"]
    for i in range(len(source)):
        name, _, corner = source.head(i)["name"].partition("@")
        top, left = map(int, corner.split(","))
        whole = levels[name][0]
        patch = source.read(i, [(16, 32), (24, 40)])
        y, x = top + 16, left + 24
        np.testing.assert_array_equal(patch["image"], whole[y : y + 16, x : x + 16])
        padded = np.pad(whole, ((32, 32), (32, 32), (0, 0)), "edge")
        around = images.reduce(padded[y + 8 : y + 72, x + 8 : x + 72], 4)
        # From a level of rounded means where all of it is there.
        assert np.abs(patch["context"].astype(int) - around).max() <= 1
    batch = next(pipeline.batches(source, patch=(16, 16), batch=2, seed=0))
    assert batch["image"].shape == batch["context"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize(("new", "axes"), [(True, "cyx"), (True, "yxc"), (False, "tczyx")])
def test_ome_zarr(tmp_path, new, axes):
    levels = {f"{i}.ome.zarr": ome(tmp_path / f"{i}.ome.zarr", tissue(), new, axes) for i in range(3)}
    assert files.open_slide(tmp_path / "0.ome.zarr").mpp == 0.5
    splits = slides.splits(str(tmp_path), mpp=1.0, region=32, tissue=0.9)
    assert len(examples(splits)) == 3 * 4 * 3
    for source, i in examples(splits):
        name, _, corner = source[i]["name"].partition("@")
        top, left = map(int, corner.split(","))
        np.testing.assert_array_equal(source[i]["image"], levels[name][1][top : top + 32, left : left + 32])


def test_openslide_is_asked_where_it_is_there(tmp_path, monkeypatch):
    """A stand-in with its interface: corners in pixels of the full size, RGBA, nothing where nothing was scanned."""
    (tmp_path / "a.mrxs").touch()
    with pytest.raises(UserError, match=r"a\.mrxs.*pip install openslide-python openslide-bin"):
        files.open_slide(tmp_path / "a.mrxs")
    levels = pyramid(tissue(), 2)

    class OpenSlide:
        level_count, level_downsamples = 2, (1.0, 2.0)
        level_dimensions, properties = ((320, 256), (160, 128)), {"openslide.mpp-x": "0.25"}

        def __init__(self, path):
            assert path.endswith("a.mrxs")

        def read_region(self, corner, level, size):
            x, y = (int(c / self.level_downsamples[level]) for c in corner)
            pixels = levels[level][y : y + size[1], x : x + size[0]]
            alpha = np.where(pixels[..., :1] == 240, 0, 255)
            return np.concatenate([pixels * (alpha > 0), alpha], -1).astype(np.uint8)

    fake = types.SimpleNamespace(OpenSlide=OpenSlide, OpenSlideError=OSError)
    monkeypatch.setitem(sys.modules, "openslide", fake)
    slide = files.open_slide(tmp_path / "a.mrxs")
    assert (slide.mpp, slide.channels, [x[:2] for x in slide.levels]) == (0.25, 3, [(256, 320), (128, 160)])
    seen = slide.read(slide.levels[1], 10, 40, 20, 30)
    expected = np.where(levels[1][10:30, 40:70, :1] == 240, 255, levels[1][10:30, 40:70])
    np.testing.assert_array_equal(seen, expected)


def test_patients_of_tcga_are_in_their_names(tmp_path):
    for name in (
        "u/TCGA-A1-A0SK-01Z-00-DX1.svs",
        "v/TCGA-A1-A0SK-01Z-00-DX2.svs",
        "TCGA-B2-0000.x.svs",
        "c.svs",
        "d.svs",
    ):
        tiff(tmp_path / name, tissue(64, 160), 1)
    splits = slides.splits(str(tmp_path), region=32)
    patients = {source.head(i)["name"].partition("@")[0]: source.head(i)["patient"] for source, i in examples(splits)}
    assert [*patients.values()].count("TCGA-A1-A0SK") == 2
    assert set(patients.values()) == {"TCGA-A1-A0SK", "TCGA-B2-0000", "c.svs", "d.svs"}


def test_slides_that_cannot_be_used(tmp_path, capsys):
    splits = {"a.tif": "train", "b.tif": "val", "c.tif": "test", "glass.tif": "train", "small.tif": "train"}
    for name in splits:
        tiff(tmp_path / name, tissue(64, 160), 1)
    tiff(tmp_path / "glass.tif", np.full((64, 64, 3), 240, np.uint8), 1)
    tiff(tmp_path / "small.tif", tissue(16, 200), 1)
    (tmp_path / "labels.csv").write_text("filename,split\n" + "".join(f"{n},{s}\n" for n, s in splits.items()))
    found = slides.splits(str(tmp_path), region=32)
    assert [name for name, _ in found["train"].unreadable] == ["glass.tif", "small.tif"]
    lines = capsys.readouterr().err
    assert "glass.tif: no region of it has 50% tissue" in lines
    assert "small.tif: 16 x 200 pixels have no region of 32; config.data.pad, a colour, makes it one" in lines
    for fields, message in (
        ({"level": 1}, "it has 1 levels, and no level 1"),
        ({"reduce": 8}, "8 x 20 pixels have no region of 32"),
        ({"region": 48}, "16 x 200 pixels have no region of 48; .* makes it one, or config.data.region=16 for such"),
        ({"pad": (1, 2)}, r"pad=\(1, 2\) is no colour of .*: give 3 numbers from 0 to 255"),
        ({"pad": (1, 2, 256)}, "from 0 to 255"),
        ({"tissue": 2}, "a share"),
        ({"region": 8}, "less than 16"),
    ):
        with pytest.raises(UserError, match=message):
            slides.splits(str(tmp_path), **{"region": 32, "strict": True} | fields)
    with pytest.raises(UserError, match="put slides"):
        slides.splits(str(tmp_path / "nowhere"))


# Magnifications of URCDM: reduced pixels, contexts by any factor, pieces of squares, what lies beyond the slide.


def middle(source):
    """An example about the middle of its slide, and where it begins."""
    corners = [[int(v) for v in source.head(i)["name"].partition("@")[2].split(",")] for i in range(len(source))]
    ends = np.max(corners, 0)
    i = int(np.argmin(np.abs(np.array(corners) - ends / 2).sum(1)))
    return i, np.array(corners[i])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "pixel"),
    [({"reduce": 3}, 3), ({"reduce": 6.25}, 6.25), ({"mpp": 1.25, "reduce": 1.2}, 3), ({"mpp": 0.5}, 1)],
)
@pytest.mark.parametrize(("factor", "square"), [(1.6, 0), (4, 0), (2.5, 32), (6.25, 24)])
def test_pixels_and_their_contexts_lie_where_they_should(tmp_path, scale, pixel, factor, square):
    """Of a slide that is linear in its coordinates: a mean is the value at the middle of what it covers.

    Where it takes parts of pixels, it is that to a tenth of its width, and over all to a hundredth.
    """
    plane(tmp_path / "0.tif", resolution=(20000, 20000), resolutionunit="CENTIMETER")  # 0.5 microns
    fields = {"tissue": 0, "region": 24, "context_factor": factor, "square": square} | scale
    found = slides.splits(str(tmp_path), **fields)["train"]
    assert found.head(0)["mpp"] == pytest.approx((0.5 * pixel,) * 2)
    i, corner = middle(found)
    read, corner = found.read(i, [(3, 19), (5, 21)]), np.add(corner, (3, 5))
    places, side = np.arange(16) + 0.5, square or 16
    offset = (side - 16) // 2
    for axis, across in enumerate([(slice(None), 7), (7, slice(None))]):
        context = corner[axis] - offset + side / 2 + (offset + places - side / 2) * factor
        for field, expected, width in (("image", corner[axis] + places, 1), ("context", context, factor)):
            error = (read[field][*across, axis] / (32 * pixel) - expected) / width
            assert np.abs(error).max() <= 0.1
            assert abs(error.mean()) < 0.01


@pytest.mark.slow
def test_what_lies_beyond_a_slide_is_the_colour(three):
    """In patches and contexts; regions are as many as hold the slide, in their middle."""
    root, levels = three
    colour = (242, 243, 242)
    found = slides.splits(str(root), region=96, tissue=0, pad=colour, context_factor=2.5, strict=True)
    seen = {}
    for source, i in examples(found):
        example = source[i]
        name, _, corner = example["name"].partition("@")
        top, left = map(int, corner.split(","))
        seen.setdefault(name, set()).add((top, left))
        wide = np.pad(levels[name][0].astype(float), ((400, 400), (400, 400), (0, 0)), constant_values=np.nan)
        wide = np.where(np.isnan(wide), colour, wide)
        y, x = top + 400, left + 400
        np.testing.assert_array_equal(example["image"], wide[y : y + 96, x : x + 96])
        read = source.read(i, [(20, 60), (0, 40)])
        np.testing.assert_array_equal(read["image"], example["image"][20:60, :40])
        fine = wide[y - 10 : y + 90, x - 30 : x + 70].repeat(2, 0).repeat(2, 1)  # 5 halves are one
        mean = fine.reshape(40, 5, 40, 5, 3).mean((1, 3))
        # Made of the level of half the size, it mixes what neighbours there share.
        assert np.abs(read["context"].mean((0, 1)) - mean.mean((0, 1))).max() < 1.5
    places = {(top, left) for top in (-16, 80, 176) for left in (-32, 64, 160, 256)}  # 288 x 384 about 256 x 320
    assert seen == dict.fromkeys(levels, places)
    patch = found["train"].read(0, [(-300, -290), (0, 10)])
    assert np.unique(patch["image"].reshape(-1, 3), axis=0).tolist() == [[*colour]]


def test_a_slide_smaller_than_a_region_is_one(tmp_path):
    """The share of tissue is that of what is slide."""
    tiff(tmp_path / "0.tif", tissue()[:, 96:], 1)
    [train, *_] = slides.splits(str(tmp_path), region=300, reduce=4, tissue=0.9, pad=(242, 243, 242)).values()
    assert [train.head(i)["name"] for i in range(len(train))] == ["0.tif@-118,-122"]
    image = train[0]["image"]
    assert (image != (242, 243, 242)).any(-1).sum() <= 64 * 56


def test_slides_that_do_not_say_their_microns(tmp_path, capsys):
    """They are taken to be of what the config says; where that says nothing, and sizes matter, it is asked for."""
    for name in "abcd":
        tiff(tmp_path / f"{name}.tif", tissue(128, 192), 1)
    tiff(tmp_path / "said.tif", tissue(128, 192), 1, resolution=(40000, 40000), resolutionunit="CENTIMETER")
    found = slides.splits(str(tmp_path), mpp=0.25, reduce=2, region=32)
    [note] = found.notes
    says = "a.tif, b.tif, c.tif and 1 more does not say how many microns a pixel is: taken as config.data.mpp=0.25"
    assert note == says
    assert note in capsys.readouterr().err
    assert {source.head(i)["mpp"] for source, i in examples(found)} == {(0.5, 0.5)}
    (tmp_path / "said.tif").unlink()
    for fields in ({"reduce": 2}, {"context_factor": 2.5}):
        [note] = slides.splits(str(tmp_path), region=32, **fields).notes
        assert "no slide says how many microns a pixel is" in note
        assert "--config.data.mpp=" in note
    assert slides.splits(str(tmp_path), region=32).notes == ()


def test_a_truncated_slide_is_named(tmp_path):
    for name in "abcd":
        tiff(tmp_path / f"{name}.tif", tissue(64, 160), 1)
    splits = dict(zip("abcd", ("train", "train", "val", "test"), strict=True))
    (tmp_path / "labels.csv").write_text("filename,split\n" + "".join(f"{n}.tif,{s}\n" for n, s in splits.items()))
    data = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(data[: len(data) // 2])
    found = slides.splits(str(tmp_path), region=32)
    assert [*found["train"].unreadable] == [("b.tif", "the file is truncated")]
    with pytest.raises(UserError, match=r"unreadable files \(1.*b\.tif"):
        slides.splits(str(tmp_path), region=32, strict=True)


def test_one_patient_in_two_splits_is_told(tmp_path, capsys):
    rows = {"TCGA-A1-A0SK-01.tif": "train", "TCGA-A1-A0SK-02.tif": "test", "c.tif": "val"}
    for name in rows:
        tiff(tmp_path / name, tissue(64, 160), 1)
    (tmp_path / "labels.csv").write_text("filename,split\n" + "".join(f"{n},{s}\n" for n, s in rows.items()))
    slides.splits(str(tmp_path), region=32)
    assert "patients in two splits (1): TCGA-A1-A0SK" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("levels", [4, 1])
def test_training_decodes_no_level_whole(tmp_path, monkeypatch, levels):
    """The tiles of a patch and of its context; of a slide without a pyramid those of the patch: the rest is in memory,
    where it fits."""
    for i in range(3):
        tiff(tmp_path / f"{i}.tif", tissue(512, 640), levels)
    fields = {"region": 64, "context_factor": 6.25, "pad": (242, 243, 242)}
    found = slides.splits(str(tmp_path), **fields)
    batches = pipeline.batches(found["train"], patch=(32, 32), batch=4, seed=0)
    reads = []
    true = files._read
    monkeypatch.setattr(files, "_read", lambda *a: reads.append((a[1], a[4] * a[5])) or true(*a))
    for _ in range(6):
        next(batches)
    stored = [area for level, area in reads if isinstance(level, files.Level)]
    assert stored
    assert max(stored) <= 51**2  # 32 * 6.25 / 4, and the parts of pixels at its ends
    if levels == 1:
        small = slides.splits(str(tmp_path), memory_gb=0, **fields)
        box = [(10, 42), (20, 52)]
        middle = len(found["train"]) // 2
        one, other = (some["train"].read(middle, box)["context"] for some in (found, small))
        np.testing.assert_allclose(one.mean((0, 1)), other.mean((0, 1)), atol=0.5)
        assert max(area for _, area in reads) >= 200**2
