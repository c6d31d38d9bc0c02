"""Radiomic features and their distance against PyRadiomics and frd-score, on pictures and on a volume."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from nca_gen.io import images as pixels
from nca_gen.metrics import frd, radiomics
from nca_gen.metrics.notes import collecting

sitk = pytest.importorskip("SimpleITK", reason="the peer needs SimpleITK, the package does not")
pytest.importorskip("radiomics")
peer = pytest.importorskip("frd_score.frd")
logging.getLogger("radiomics").setLevel(logging.ERROR)


def texture(seed, *shape):
    z = np.random.RandomState(seed).standard_normal(shape)
    for axis in range(len(shape)):
        z = z + np.roll(z, 1, axis)
    return np.clip(128 + 20 * z, 0, 255).astype(np.uint8)


def named(path, dimensions):
    """Features by our names."""
    extractor = peer.get_feature_extractor("v1", image_dim=dimensions)
    values = peer.process_image_mask_pair((path, None), feature_extractor=extractor)[1]
    plain = {k.removeprefix("diagnostics_").replace("-0-mm-3D", "-mm"): v for k, v in values.items()}
    return {k if k.startswith(("Image", "Mask", "wavelet", "log")) else f"original_{k}": v for k, v in plain.items()}


@pytest.mark.parametrize("shape", [(33, 30), (64, 48), (17, 23)])
def test_all_398_of_a_picture(tmp_path, shape):
    """Means of wavelets of even sides are rounding noise in both."""
    image = texture(1, *shape)
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "x.png")
    theirs, ours = named(tmp_path / "x.png", 2), frd.described(image.astype(float), "package")
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([*ours.values()], [theirs[k] for k in ours], rtol=1e-7, atol=1e-9)


def test_a_volume(tmp_path):
    """All but the Laplacians, which ITK takes by a recursive filter: their ends are a few percent away."""
    image = texture(2, 20, 18, 22)
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "x.nii.gz")
    theirs, ours = named(tmp_path / "x.nii.gz", 3), frd.described(image.astype(float))
    assert len(ours) == 13 * 77
    exact = [k for k in ours if not k.startswith("log")]
    np.testing.assert_allclose([ours[k] for k in exact], [theirs[k] for k in exact], rtol=1e-7, atol=1e-9)
    near = [k for k in ours if k.startswith("log") and k.endswith(("Maximum", "Minimum"))]
    np.testing.assert_allclose([ours[k] for k in near], [theirs[k] for k in near], rtol=0.05)


def test_the_laplacian_of_itk():
    """In two dimensions, which the package leaves out: within two percent of the deviation, inside."""
    image = radiomics.normal(texture(3, 64, 64).astype(float))
    (_, ours), *_ = radiomics.laplacians(image, 1.0, (3.0,))
    itk = sitk.LaplacianRecursiveGaussian(sitk.GetImageFromArray(image), 3.0, True)
    apart = (ours - sitk.GetArrayFromImage(itk))[8:-8, 8:-8]
    assert np.abs(apart).max() < 0.05 * ours.std()


def test_the_distance(tmp_path):
    sets = {"a": [texture(s, 33, 31) for s in range(8)], "b": [texture(s, 33, 31) // 2 + 20 for s in range(20, 27)]}
    for name, some in sets.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(some):
            sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / name / f"{i}.png")
    expected = peer.compute_frd([str(tmp_path / "a"), str(tmp_path / "b")], num_workers=1)
    real, generated = (pixels.to_float(np.stack(some)[..., None]) for some in sets.values())
    with collecting():
        ours = frd.distance(*(frd.statistics(x, "package") for x in (real, generated)), "package")
    assert ours["frd"] == pytest.approx(expected, rel=1e-5)
