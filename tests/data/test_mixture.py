"""Some of a source, several together, and generated images with their maps: every example in its place."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.data import mixture, pipeline
from nca_gen.data.source import Source
from nca_gen.errors import UserError
from nca_gen.io import images, volumes

RNG = np.random.default_rng(0)


def source(n, dtype=np.uint8, window=False, size=(6, 5)):
    grids = [RNG.integers(0, 256, (*size, 1)).astype(np.uint8) for _ in range(n)]
    rows = [
        {"image": g if dtype == np.uint8 else images.to_float(g), "label_map": g.astype(np.int32) % 3}
        | {"name": f"{dtype.__name__}{i}", "patient": f"p{i}"}
        for i, g in enumerate(grids)
    ]
    part = lambda i, field, box, k: images.reduce(rows[i][field][tuple(slice(*b) for b in box)], k)
    about = lambda i: {"name": rows[i]["name"], "patient": rows[i]["patient"]}
    return Source(
        lambda i: rows[i],
        [(*size, 1)] * n,
        not window,
        (),
        ("label_map",),
        1,
        part if window else None,
        about,
        lambda: f"{dtype.__name__} {n}",
    ), rows


@pytest.mark.parametrize("window", [False, True])
def test_some(window):
    whole, rows = source(5, window=window)
    found = mixture.some(whole, [4, 0])
    assert [found.head(i)["name"] for i in range(2)] == ["uint84", "uint80"]
    np.testing.assert_array_equal(found[0]["image"], rows[4]["image"])
    np.testing.assert_array_equal(found.read(1, [(1, 3), (2, 5)])["label_map"], rows[0]["label_map"][1:3, 2:5])
    assert len({mixture.some(whole, at).digest() for at in ([4, 0], [0, 4], [4])}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("window", [False, True])
def test_eight_bits_and_floats_together(window):
    """A batch of both is what each alone gives, in [-1, 1]."""
    (a, rows), (b, others) = source(2, window=window), source(3, np.float32)
    both = mixture.joined([a, b])
    assert [both.head(i)["patient"] for i in range(5)] == ["p0", "p1", "p0", "p1", "p2"]
    assert both.resident is not window
    for i, row in enumerate([*rows, *others]):
        np.testing.assert_array_equal(both[i]["image"], images.to_float(row["image"]))
        read = both.read(i, [(0, 4), (1, 5)])
        np.testing.assert_array_equal(read["image"], images.to_float(row["image"])[:4, 1:5])
        np.testing.assert_array_equal(read["label_map"], row["label_map"][:4, 1:5])
    batch = next(pipeline.batches(both, patch=(6, 5), batch=5, seed=0, flips="none"))
    assert batch["image"].min() < -0.9
    assert 0.9 < batch["image"].max() < 1
    np.testing.assert_array_equal(images.from_float(batch["image"]) % 3, batch["label_map"])
    with pytest.raises(UserError, match="2 axes, 1 channels and label_map; with 3 axes"):
        mixture.joined([a, source(1, size=(4, 4, 4))[0]])


def folder(root, n=3, size=(4, 5, 6), write=volumes.write, end=".nii.gz"):
    grids = [RNG.integers(0, 256, (*size, 1)).astype(np.uint8) for _ in range(n)]
    for name in ("images", "label_maps"):
        (root / name).mkdir(parents=True)
    for i, grid in enumerate(grids):
        write(root / "images" / f"{i}{end}", grid)
        write(root / "label_maps" / f"{i}{end}", (grid % 4).astype(np.uint8))
    return grids


@pytest.mark.slow
def test_generated_volumes_and_their_maps(tmp_path):
    grids = folder(tmp_path)
    (tmp_path / "images/labels.csv").write_text("filename,patient_id\n0.nii.gz,eva\n1.nii.gz,ben\n2.nii.gz,eva\n")
    found = mixture.generated(str(tmp_path))
    assert [found.head(i)["patient"] for i in range(3)] == ["eva", "ben", "eva"]
    for i, grid in enumerate(grids):
        np.testing.assert_array_equal(found[i]["image"], images.to_float(grid))
        np.testing.assert_array_equal(found.read(i, [(1, 3), (0, 5), (2, 4)])["label_map"], grid[1:3, :, 2:4] % 4)
    before = found.digest()
    volumes.write(tmp_path / "label_maps/1.nii.gz", np.zeros((4, 5, 6, 1), np.uint8))
    assert mixture.generated(str(tmp_path)).digest() != before
    volumes.write(tmp_path / "label_maps/1.nii.gz", np.zeros((4, 5, 5, 1), np.uint8))
    with pytest.raises(UserError, match="a label map of 4 x 5 x 5 x 1 for an image of 4 x 5 x 6"):
        mixture.generated(str(tmp_path))
    (tmp_path / "label_maps/1.nii.gz").unlink()
    with pytest.raises(UserError, match="no label map of that name"):
        mixture.generated(str(tmp_path))


def test_generated_images(tmp_path):
    grids = folder(tmp_path, 2, (6, 7), images.write, ".png")
    found = mixture.generated(str(tmp_path))
    assert found.ndim == 2
    np.testing.assert_array_equal(found[1]["label_map"], grids[1] % 4)
    with pytest.raises(UserError, match=r"no folder .*nowhere/images: put generated images"):
        mixture.generated(str(tmp_path / "nowhere"))
