"""Where a volume lies: against nibabel, for every way in which axes can be stored."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from nca_gen.io.geometry import Geometry, turned

TILT = nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3)
OBLIQUE = nibabel.affines.from_matvec(TILT @ np.diag([0.5, 0.75, 2.0]), [10.0, -20.0, 33.3])  # of (w, h, d)
WAYS = ["".join(some) for axes in permutations(("RL", "AP", "SI")) for some in product(*axes)]


def stored_as(codes, volume, affine=OBLIQUE):
    """A NIfTI image whose axes run as ``codes`` say, of a volume [D, H, W] that lies as RAS."""
    turn = nibabel.orientations
    turn = turn.ornt_transform(turn.axcodes2ornt("RAS"), turn.axcodes2ornt(tuple(codes)))
    return nibabel.Nifti1Image(volume.T, affine).as_reoriented(turn)


@pytest.mark.parametrize("codes", WAYS)
def test_every_way_to_store_a_volume_is_the_same_volume(codes):
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(np.int16)
    image = stored_as(codes, volume)
    axes, flips, geometry = turned(image.affine, image.shape)
    found = np.asarray(image.dataobj).transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    np.testing.assert_array_equal(found, volume)
    np.testing.assert_allclose(geometry.affine, OBLIQUE, atol=1e-12)
    assert geometry.mpp == (2000, 750, 500)


def test_a_voxel_stays_where_it_is_when_axes_are_flipped():
    """And two times is none."""
    geometry, shape = Geometry.of(OBLIQUE), (4, 5, 6)
    other = geometry.flipped((True, False, True), shape)
    (d, h, w), at = (1, 2, 3), geometry.affine @ (3, 2, 1, 1)
    np.testing.assert_allclose(other.affine @ (5 - w, h, 3 - d, 1), at)
    np.testing.assert_allclose(other.flipped((True, False, True), shape).affine, OBLIQUE, atol=1e-12)


def test_sizes_alone():
    geometry = Geometry.of_sizes((3000, 700, 500))
    np.testing.assert_array_equal(geometry.affine, np.diag([0.5, 0.7, 3, 1]))
    assert geometry.mpp == (3000, 700, 500)
    assert geometry == Geometry.of(np.diag([0.5, 0.7, 3, 1]))


def test_what_is_no_geometry():
    for affine in (np.diag([1, 0, 1, 1]), np.diag([1, np.nan, 1, 1])):
        with pytest.raises(ValueError, match="no three axes"):
            Geometry.of(affine)
    sheared = OBLIQUE.copy()
    sheared[:3, 1] += 0.2 * sheared[:3, 0]
    assert Geometry.of(OBLIQUE).square
    assert not Geometry.of(sheared).square
