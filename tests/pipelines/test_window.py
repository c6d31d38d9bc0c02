"""Rectangles of a plane as files."""

import blur
import numpy as np
import pytest
import tiny
from painting import part

from nca_gen import arrays
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import window
from nca_gen.tiling import plane

BLUR = blur.Model(halo=2)


def pipeline(model=BLUR, sample=None, **fields):
    return window.Pipeline({"model": part(model, **sample or {})}, **{"tile": 16, "box": (-9, 4, 30, 21)} | fields)


@pytest.mark.slow
def test_the_command(tmp_path):
    """A rectangle of the plane of the seed, as deep and as large as it is said to be; a second call keeps it."""
    *said, last = pipeline(mpp=(0.5,)).write(tmp_path)
    path = tmp_path / last.partition(": ")[2].rpartition("/")[2]
    assert said[0].startswith("27 calls on tiles of 16 pixels, 4 steps of ddpm; halo 2 pixels a step, 8 in all")
    pixels, mpp = images.sized(path)
    whole = pipeline(box=(-10, 0, 40, 40)).seeded(1).grow(plane.bounds((-10, 0, 40, 40)), np.uint8)
    np.testing.assert_array_equal(pixels, whole[1:31, 4:25])
    assert mpp == pytest.approx((0.5, 0.5), rel=1e-3)
    assert pipeline(mpp=(0.5,)).write(tmp_path) == [f"{path} is there already"]
    pipeline(dtype="float32").write(tmp_path)
    [deep] = tmp_path.glob("*.tif")
    np.testing.assert_array_equal(images.from_float(images.read(deep)), pixels)
    other = part(BLUR, weights=images_of_kernel())
    window.Pipeline({"model": other}, box=(-9, 4, 30, 21), tile=16).write(tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 2  # other parameters are another plane


def images_of_kernel():
    return {"kernel": 1.5 * tiny.params(BLUR)["kernel"]}


@pytest.mark.slow
def test_a_rectangle_a_key():
    """At the corner of the box, of the size that is asked for."""
    one = pipeline()
    drawn = [*one.draw(arrays.keys(1, 2), (7, 5))]
    for i, mine in enumerate(drawn):
        np.testing.assert_array_equal(mine, one.of(arrays.keys(1, 1, i)).grow(plane.bounds((-9, 4, 7, 5))))
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1
    assert (one.kind, one.title()) == ("images", ["-9_4", "30x21"])


@pytest.mark.parametrize(
    ("box", "line"),
    [
        ((0, 0, 0, 5), "box=0,0,0,5: give Y,X,H,W, sides of 1 pixel or more"),
        ((2**31 - 5, 0, 6, 5), "that end at 2147483648 or before"),
        ((0, 0, 2**16, 2**16), "of 65536 x 65536 pixels is too large for one picture"),
    ],
)
def test_what_is_no_rectangle(box, line):
    with pytest.raises(UserError, match=line):
        window.on_plane(box)
    assert window.on_plane((-(2**31), 2**31 - 6, 5, 6))


def test_what_grows_no_plane():
    with pytest.raises(UserError, match="heredity=hidden: tiles hand nothing on"):
        _ = pipeline(blur.Family(), {"heredity": "hidden"}).part
