"""DICOM, NIfTI and OME-Zarr that this package writes, as others read them: the same voxels at the same places."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nca_gen.io import volumes
from nca_gen.io.geometry import LPS, Geometry

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 2**15, (4, 5, 6, 1)).astype(np.uint16)
TILT = nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3)
OBLIQUE = nibabel.affines.from_matvec(TILT @ np.diag([0.45, 0.7, 3.0]), [-11.7, 20.1, 33.3])  # of (w, h, d)


def canonical(voxels, affine):
    """Voxels (w, h, d) and an affine to LPS millimetres, brought to the axes of the body."""
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels.astype(np.float64), LPS @ affine))
    return np.asarray(image.dataobj).T, image.affine


@pytest.mark.parametrize(("name", "modality"), [("x.dicom", "CT"), ("x.dicom", "MR"), ("x.nii.gz", ""), ("x.nii", "")])
def test_simpleitk(tmp_path, name, modality):
    sitk = pytest.importorskip("SimpleITK", reason="a peer, which the package does not need")
    volumes.save(tmp_path / name, VOXELS, Geometry.of(OBLIQUE), modality)
    if modality:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / name)))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(str(tmp_path / name))
    affine = nibabel.affines.from_matvec(
        np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing()), image.GetOrigin()
    )
    voxels, there = canonical(sitk.GetArrayFromImage(image).T, affine)
    np.testing.assert_array_equal(voxels, VOXELS[..., 0])
    np.testing.assert_allclose(there, OBLIQUE, atol=2e-6)


def test_highdicom(tmp_path):
    """Frames of OCT; it counts slices so that axes are right-handed."""
    highdicom = pytest.importorskip("highdicom", reason="a peer, which the package does not need")
    volumes.save(tmp_path / "x.dcm", VOXELS, Geometry.of(OBLIQUE))
    volume = highdicom.imread(tmp_path / "x.dcm").get_volume(apply_voi_transform=False)
    voxels, there = canonical(volume.array.T, volume.affine[:, [2, 1, 0, 3]])
    np.testing.assert_array_equal(voxels, VOXELS[..., 0])
    np.testing.assert_allclose(there, OBLIQUE, atol=1e-6)


@pytest.mark.parametrize(("name", "modality"), [("x.dcm", ""), ("x.dicom", "CT"), ("x.dicom", "MR")])
def test_what_the_standard_asks_for(tmp_path, name, modality):
    """highdicom's tables of PS3.3: every attribute of type 1 and 2 of a mandatory module, and no unknown one."""
    highdicom = pytest.importorskip("highdicom", reason="a peer, which the package does not need")
    pydicom = pytest.importorskip("pydicom")
    volumes.save(tmp_path / name, VOXELS, Geometry.of(OBLIQUE), modality)
    path = tmp_path / name
    head = pydicom.dcmread(min(path.iterdir()) if path.is_dir() else path, stop_before_pixels=True)
    folder = Path(highdicom.__path__[0], "_standard")
    names = ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    classes, modules, attributes = (json.loads((folder / f"{one}.json").read_text()) for one in names)
    known, missing = set(), []
    for module in modules[classes[head.SOPClassUID]]:
        here = [one for one in attributes[module["key"]] if not one["path"]]
        known |= {one["keyword"] for one in here}
        needed = [one for one in here if module["usage"] == "M" and one["type"] in ("1", "2")]
        missing += [one["keyword"] for one in needed if one["keyword"] not in head]
        missing += [one["keyword"] for one in needed if one["type"] == "1" and head.get(one["keyword"]) in (None, "")]
    assert missing == []
    assert {element.keyword for element in head} <= known


def test_zarr_peer(tmp_path):
    """zarr-python reads what TensorStore has written: level 0, channels first."""
    zarr = pytest.importorskip("zarr", reason="a peer, which the package does not need")
    volumes.save(tmp_path / "x.ome.zarr", VOXELS, Geometry.of(OBLIQUE))
    np.testing.assert_array_equal(zarr.open(str(tmp_path / "x.ome.zarr" / "0"), mode="r")[:][0], VOXELS[..., 0])
