"""Holes: the same picture whichever windows it is computed in, known pixels bit for bit, cost that follows the hole."""

from dataclasses import replace
from functools import partial

import blur
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
import tiny
from painting import PROCESS, params, part, settings

from nca_gen import arrays
from nca_gen.contracts import unchanged
from nca_gen.diffusion import samplers
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.process import x0_of
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import inpaint, sampling, upscale
from nca_gen.tiling import windows
from nca_gen.verbs.describe_work import matmul_flop

LOCAL, BLUR, BLOCKS = tiny.diff(norm="cell", steps=2), blur.Model(halo=2), blur.Model(channels=12, halo=2)
TORUS = BLUR.bordered("wrap")
HOW = settings()
KEY = arrays.keys(1, 2)
slow = partial(pytest.param, marks=pytest.mark.slow)


def picture(*size, channels=3):
    return np.random.default_rng(0).uniform(-1, 1, (*size, channels)).astype(np.float32)


def holed(size, *boxes):
    """A mask with ``boxes`` of (rows, columns)."""
    hole = np.zeros(size, bool)
    for rows, columns in boxes:
        hole[slice(*rows), slice(*columns)] = True
    return hole


SIZE = (21, 17)
HOLES = {
    "inside": holed(SIZE, ((9, 12), (7, 11))),
    "first corner": holed(SIZE, ((0, 3), (0, 2))),
    "last corner": holed(SIZE, ((17, 21), (13, 17))),  # as many cells as far apart, for the same programs
    "a pixel": holed(SIZE, ((5, 6), (16, 17))),
    "far apart": holed(SIZE, ((0, 2), (0, 2)), ((19, 21), (0, 3)), ((10, 12), (14, 17))),
    "a row": holed(SIZE, ((11, 12), (0, 17))),
    "a frame": ~holed(SIZE, ((1, 20), (1, 16))),
    "dots": np.random.default_rng(3).uniform(size=SIZE) < 0.02,
    "all but one": ~holed(SIZE, ((4, 5), (4, 5))),
}


def fill(model, hole, codec=Codec(), sampler="ddpm", **how):  # noqa: B008
    given = HOW._replace(sampler=sampler)
    return inpaint.fill(part(model, codec=codec), KEY, picture(*hole.shape), hole, given, **how)


CASES = [
    ("far apart", BLUR, "ddpm"),
    slow("far apart", LOCAL, "ddpm"),
    slow("dots", BLUR, "dpm_solver_pp"),
    slow("a frame", TORUS, "ddim"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "sampler"), CASES)
def test_windows_give_what_the_whole_image_gives(name, model, sampler):
    mine, whole = (fill(model, HOLES[name], sampler=sampler, whole=w) for w in (False, True))
    np.testing.assert_allclose(mine, whole, atol=1e-6)
    assert mine[:, HOLES[name]].std() > 0.1
    assert np.abs(mine[0] - mine[1])[HOLES[name]].max() > 0.1  # two keys, two fillings


@pytest.mark.slow
def test_windows_round_the_edge_of_a_torus():
    mine, whole = (fill(TORUS, HOLES["last corner"], whole=w) for w in (False, True))
    np.testing.assert_allclose(mine, whole, atol=1e-6)
    assert np.abs(mine - fill(BLUR, HOLES["last corner"], whole=True)).max() > 0.01


@pytest.mark.slow
def test_resampling_in_windows_and_batches():
    """Two in windows, or one and one in the whole image: all noise belongs to coordinates, visit and key."""
    given = part(BLUR), KEY, picture(*SIZE), HOLES["far apart"], HOW
    again = {"resample": 2, "jump": 2}
    mine = inpaint.fill(*given, **again)
    ones = list(inpaint.fillings(*given, batch=1, whole=True, **again))
    np.testing.assert_allclose(mine, np.concatenate(ones), atol=1e-5)
    np.testing.assert_array_equal(mine[:, ~HOLES["far apart"]], np.stack([picture(*SIZE)[~HOLES["far apart"]]] * 2))
    assert np.abs(mine - inpaint.fill(*given))[:, HOLES["far apart"]].max() > 0.1


WAYS = pytest.mark.parametrize(("model", "known"), [(BLUR, "noised"), slow(BLUR, "clean"), slow(LOCAL, "noised")])


@pytest.mark.slow
@WAYS
def test_a_filling_by_hand(model, known):
    """The whole image in a Python loop that puts the known pixels back, at their level, at the end of every step."""
    image, hole, at = picture(*SIZE), HOLES["far apart"][..., None], arrays.coords(SIZE)

    def level(t, key):
        if known == "clean":
            return image
        a, s = PROCESS.levels(t)
        return a * image + s * arrays.cell_normal(key, -3, at, 3)

    @jax.jit
    def step(x, t, u):
        k = arrays.fold(KEY, t)
        x = jnp.where(hole, x, level(t, k))
        prediction, _ = model.apply(params(model), x, t[None], None, (), k)
        x0 = jnp.clip(x0_of(PROCESS, prediction, x, t[None]), -1, 1)
        return samplers.ddpm(PROCESS, samplers.begin(x), x0, t, u, arrays.cell_normal(k, -1, at, 3))

    x = samplers.initial_noise(KEY, SIZE, 3)
    for t, u in zip([11, 7, 4, 0], [7, 4, 0, -1], strict=True):
        x = step(x, jnp.int32(t), jnp.int32(u))
    mine = fill(model, hole[..., 0], known=known)
    np.testing.assert_allclose(mine, np.where(hole, x, image), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [BLUR, tiny.diff(norm="group"), tiny.fourier()])
def test_a_full_hole_is_a_picture_from_noise(model):
    mine = fill(model, np.ones(SIZE, bool))
    plain = sampling.sample(part(model), KEY, SIZE, HOW)
    np.testing.assert_allclose(mine, plain, atol=1e-5)


def test_an_empty_hole_is_the_image():
    np.testing.assert_array_equal(fill(BLUR, np.zeros(SIZE, bool)), np.stack([picture(*SIZE)] * 2))


@pytest.mark.slow
@WAYS
def test_known_pixels_come_back_bit_for_bit(model, known):
    hole = HOLES["far apart"]
    for filled in fill(model, hole, known=known):
        np.testing.assert_array_equal(filled[~hole], picture(*SIZE)[~hole])
        assert np.abs(filled - picture(*SIZE))[hole].max() > 0.1


@pytest.mark.slow
def test_what_is_known_matters_near_the_hole_alone():
    """Four steps of halo 2 see 8 pixels far, if known pixels are clean: bit for bit nothing from beyond."""
    hole, image = holed((40, 17), ((0, 2), (0, 2))), picture(40, 17)
    other = image.copy()
    other[12:] *= -1
    near = image.copy()
    near[2] *= -1
    made = [inpaint.fill(part(BLUR), KEY, i, hole, HOW) for i in (image, other, near)]
    np.testing.assert_array_equal(made[0][:, hole], made[1][:, hole])
    assert np.abs(made[0] - made[2])[:, hole].max() > 1e-3


STAINED = Codec(mean=(0.3, 0.0, -0.3), std=(0.3, 0.5, 0.4), block=2)


CUT = holed(SIZE, ((5, 8), (5, 6)), ((20, 21), (16, 17)))


@pytest.mark.slow
def test_windows_of_blocks():
    mine, whole = (fill(BLOCKS, CUT, STAINED, whole=w) for w in (False, True))
    np.testing.assert_allclose(mine, whole, atol=1e-6)


@pytest.mark.slow
def test_blocks_of_pixels():
    """A hole that cuts through cells of 2 x 2 pixels, in an image of odd size."""
    hole = CUT
    mine = fill(BLOCKS, hole, STAINED)
    np.testing.assert_array_equal(mine[:, ~hole], np.stack([picture(*SIZE)[~hole]] * 2))
    assert np.abs(mine - picture(*SIZE))[:, hole].min() > 1e-6
    assert np.abs(mine).max() <= 1 + 1e-5


@pytest.mark.slow
def test_pixels_of_a_cell_are_known_one_by_one():
    """A cell that is half known: its known half is shown to the model, so what it is changes the other half."""
    hole, image = holed((8, 8), ((2, 3), (2, 4))), np.zeros((8, 8, 3), np.float32)
    other = image.copy()
    other[3, 2:4] = 1
    made = [inpaint.fill(part(BLOCKS, codec=STAINED), KEY, i, hole, HOW) for i in (image, other)]
    assert np.abs(made[0] - made[1])[:, hole].max() > 1e-3


def test_a_torus_of_broken_blocks_is_refused():
    with pytest.raises(UserError, match="a torus of 21 x 17 pixels has a seam"):
        fill(BLOCKS.bordered("wrap"), CUT, STAINED)


@pytest.mark.slow
def test_a_full_hole_of_blocks_in_an_odd_image():
    mine = fill(BLOCKS, np.ones(SIZE, bool), STAINED)
    plain = sampling.sample(part(BLOCKS, codec=STAINED), KEY, SIZE, HOW)
    np.testing.assert_allclose(mine, plain, atol=1e-5)


@pytest.mark.slow
def test_volumes():
    model = blur.Model(halo=2, ndim=3)
    hole = np.zeros((9, 11, 8), bool)
    hole[0, 5:7, 7] = hole[8, 0, 0] = True
    mine, whole = (fill(model, hole, whole=w) for w in (False, True))
    np.testing.assert_allclose(mine, whole, atol=1e-6)


@pytest.mark.slow
def test_fillings_do_not_depend_on_their_batch():
    """Four on four devices, or two and two on two."""
    given = part(BLUR), arrays.keys(1, 4), picture(*SIZE), HOLES["far apart"], HOW
    four, pairs = (np.concatenate(list(inpaint.fillings(*given, batch=n))) for n in (4, 2))
    np.testing.assert_allclose(four, pairs, atol=1e-5)
    np.testing.assert_allclose(four[:2], fill(BLUR, HOLES["far apart"]), atol=1e-5)


@pytest.mark.parametrize(
    ("hole", "side", "boxes"),
    [
        (holed((9, 9), ((2, 5), (3, 7))), (3, 4), [(2, 3)]),
        (holed((9, 9), ((2, 5), (3, 7))), (2, 3), [(2, 3), (2, 6), (4, 3), (4, 6)]),
        (holed((9, 9), ((0, 1), (0, 1)), ((8, 9), (8, 9))), (3, 3), [(0, 0), (8, 8)]),
        (holed((9, 9)), (3, 3), []),
        (np.array([1, 0, 0, 1, 0, 1, 1, 0], bool), (3,), [(0,), (3,), (6,)]),
    ],
)
def test_boxes_over_a_hole(hole, side, boxes):
    assert windows.cover(hole, side) == boxes


@pytest.mark.parametrize("torus", [False, True])
@pytest.mark.parametrize("halo", [0, 1, 2, 30, None])
@pytest.mark.parametrize("name", HOLES)
def test_windows_hold_hole_and_halo(name, halo, torus):
    """Every cell of the hole has an owner: itself, in a window that holds all that it sees."""
    hole = HOLES[name]
    w = windows.windows(hole, halo, torus)
    grids = [np.broadcast_to(grid, w.index.shape) for grid in w.grids]
    np.testing.assert_array_equal(w.at.T, np.argwhere(hole))
    np.testing.assert_array_equal([grid.ravel()[w.owner] for grid in grids], w.at)
    inside = hole[tuple(grids)]
    np.testing.assert_array_equal(w.at[:, w.index[inside]], [grid[inside] for grid in grids])
    numbers = np.arange(len(grids[0].reshape(-1))) // np.prod(w.index.shape[1:])
    for axis, (extent, length) in enumerate(zip(SIZE, w.index.shape[1:], strict=True)):
        assert length <= extent
        seen = [set(grids[axis][i].ravel().tolist()) for i in range(len(w.index))]
        for owner, here in zip(w.owner, w.at[axis], strict=True):
            reach = range(extent) if halo is None else range(here - halo, here + halo + 1)
            wanted = {c % extent for c in reach} if torus else set(reach) & set(range(extent))
            assert wanted <= seen[numbers[owner]]


@pytest.mark.parametrize(
    ("name", "halo", "count", "cells"),
    [
        ("inside", 2, 1, 7 * 8),  # 3 x 4 and the halo
        ("first corner", 2, 1, 7 * 6),  # moved back inside
        ("far apart", 2, 3, 6 * 7),  # the largest is 2 x 3
        ("all but one", 2, 1, 21 * 17),
        ("inside", None, 1, 21 * 17),
    ],
)
def test_no_more_windows_than_that(name, halo, count, cells):
    assert windows.windows(HOLES[name], halo).index.reshape(count, -1).shape == (count, cells)


@pytest.mark.slow
def test_cost_follows_the_hole():
    """All of it is the cells computed: FLOP a cell are the same for every hole, and the least hole costs 1 / 30."""
    image = picture(96, 96)
    rows = inpaint.curve(part(BLUR), image, [2, 92], matmul_flop, settings(steps=2, clip="none"), rounds=1)
    assert [row["pixels"] for row in rows] == [4, 92**2]
    assert [row["cells"] for row in rows] == [6 * 6, 96 * 96]
    assert all(row["seconds"] > 0 for row in rows)
    each = [row["gflop"] / row["cells"] for row in rows]
    assert each[0] == pytest.approx(each[1])
    assert rows[1]["gflop"] > 200 * rows[0]["gflop"]


@pytest.fixture
def stored(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (21, 17, 3), np.uint8)
    images.write(tmp_path / "in.png", image)
    return image


def pipeline(tmp_path, **fields):
    return inpaint.Pipeline({"model": part(BLUR)}, **{"image": str(tmp_path / "in.png"), "samples": 2} | fields)


def test_fillings_of_other_resampling_have_a_folder_of_their_own():
    """And those that are sampled once the one that they had."""
    for fields, end in (
        ({}, ["noised"]),
        ({"jump": 5}, ["noised"]),
        ({"resample": 3, "jump": 5}, ["noised", "3-times-5"]),
    ):
        assert inpaint.Pipeline({}, "in.png", **fields).title() == ["in", *end]


@pytest.mark.slow
def test_files(tmp_path, stored):
    """A box and the mask that is the same: the same files, in which the known pixels are those of the input."""
    hole = holed(SIZE, ((3, 9), (10, 17)))
    images.write(tmp_path / "mask.png", hole.astype(np.uint8)[..., None] * np.uint8(255))
    made = {}
    for name, asked in {"a": {"box": (3, 10, 6, 7)}, "b": {"mask": str(tmp_path / "mask.png")}}.items():
        (folder := tmp_path / name).mkdir()
        lines = pipeline(tmp_path, **asked).write(folder)
        assert "2 fillings of 42 of 357 pixels" in lines[0]
        assert sorted(f.name for f in folder.iterdir()) == [
            "00000.png", "00001.png", "comparison.png", "input.png", "masked.png"
        ]  # fmt: skip
        made[name] = np.stack([images.read(folder / f"0000{i}.png") for i in range(2)])
    np.testing.assert_array_equal(made["a"], made["b"])
    np.testing.assert_array_equal(made["a"][:, ~hole], np.stack([stored[~hole]] * 2))
    np.testing.assert_array_equal(images.read(tmp_path / "a" / "input.png"), stored)
    assert (made["a"][0] != made["a"][1])[hole].mean() > 0.9
    masked = images.read(tmp_path / "a" / "masked.png")
    np.testing.assert_array_equal(masked, np.where(hole[..., None], 128, stored))
    assert images.read(tmp_path / "a" / "comparison.png").shape == (21, 4 * 17 + 3 * 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"image": ""}, "--config.generate.image=FILE"),
        ({"image": "nowhere.png"}, "cannot read nowhere.png"),
        ({}, "--config.generate.mask=FILE"),
        ({"box": (15, 0, 7, 4)}, "not within the image, 21 x 17 pixels"),
        ({"box": (-1, 0, 7, 4)}, "not within"),
        ({"box": (1, 1, 0, 4)}, "not within"),
        ({"mask": "in"}, "20 x 17 pixels, the image 21 x 17"),
        ({"box": (1, 1, 2, 2), "resample": 2, "jump": 4}, "config.generate.jump=4 .* set it to 3 at the most"),
        ({"box": (1, 1, 2, 2), "known": "noisy"}, "config.generate.known 'noisy'; did you mean noised"),
    ],
)
def test_refusals(tmp_path, stored, asked, words):
    if "mask" in asked:
        asked = {"mask": str(tmp_path / "mask.png")}
        images.write(tmp_path / "mask.png", stored[:20])
    with pytest.raises(UserError, match=words) as refused:
        pipeline(tmp_path, **asked).write(tmp_path)
    assert "\n" not in str(refused.value)


HALF = np.eye(21, 17)[..., None]


@pytest.mark.parametrize(
    "mask",
    [
        HALF.astype(np.uint8),  # as tools of segmentation write it
        (HALF * 255).astype(np.uint8),
        np.repeat((HALF * 255).astype(np.uint8), 3, -1),
        (HALF * 200 + 20).astype(np.uint8),  # of a JPEG
        HALF.astype(np.uint16),
        (HALF * 65535).astype(np.uint16),
        HALF.astype(np.float32),
        (2 * HALF - 1).astype(np.float32),
    ],
)
def test_white_is_the_most_or_one(tmp_path, mask):
    images.write(tmp_path / "mask.tif", mask)
    np.testing.assert_array_equal(inpaint.holes(str(tmp_path / "mask.tif"), (0, 0, 0, 0), (21, 17)), HALF[..., 0] > 0)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ((HALF * 3).astype(np.uint8), "values from 0 to 3: give 0 for what is kept, and 255 or 1"),  # a label map
        ((HALF * 255).astype(np.uint16), "values from 0 to 255: give 0 for what is kept, and 65535 or 1"),
        ((HALF * 255).astype(np.float32), "values from 0 to 255: give 0 for what is kept, and 1"),
        (np.where(HALF, np.nan, 0).astype(np.float32), "it holds NaN"),
        ((HALF * 0).astype(np.uint8), "has no white pixel, so nothing would be painted"),
        (HALF.astype(np.float32) * 0, "has no white pixel"),
    ],
)
def test_masks_that_say_nothing(tmp_path, mask, words):
    images.write(tmp_path / "mask.tif", mask)
    with pytest.raises(UserError, match=words):
        inpaint.holes(str(tmp_path / "mask.tif"), (0, 0, 0, 0), (21, 17))


@pytest.mark.slow
def test_the_size_of_a_pixel_is_that_of_the_image(tmp_path, monkeypatch):
    """Of fillings; of enlargements a part of it. Nothing is drawn here."""
    image = np.zeros((21, 17, 3), np.uint16)
    images.write(tmp_path / "in.tif", image, (0.5, 0.25))
    whole = inpaint.Pipeline({"model": part(LOCAL)}, str(tmp_path / "in.tif"), box=(3, 3, 4, 4), samples=1)
    monkeypatch.setattr(inpaint.Pipeline, "draw", lambda *_: iter([images.to_float(image)]))
    whole.write(tmp_path)
    larger = upscale.Pipeline({"model": part(LOCAL)}, str(tmp_path / "in.tif"), samples=1)
    monkeypatch.setattr(upscale.Pipeline, "draw", lambda *_: iter([images.to_float(image.repeat(2, 0).repeat(2, 1))]))
    (tmp_path / "up").mkdir()
    larger.write(tmp_path / "up")
    for name, mpp in (("00000.png", (0.5, 0.25)), ("input.png", (0.5, 0.25)), ("up/00000.png", (0.25, 0.125))):
        stored, found = images.sized(tmp_path / name)
        assert (stored.dtype, found) == (np.uint16, pytest.approx(mpp))


def test_an_image_of_other_channels_is_refused(tmp_path, stored):
    images.write(tmp_path / "in.png", stored[..., :1])
    with pytest.raises(UserError, match="has 1 channels; this model paints 3"):
        pipeline(tmp_path, box=(1, 1, 2, 2)).write(tmp_path)


def test_latents_cannot_hold_pixels(tmp_path, stored):
    latent = replace(part(LOCAL), decode=lambda x: x)
    with pytest.raises(UserError, match="this model paints none: use sample"):
        next(inpaint.Pipeline({"model": latent}, image=str(tmp_path / "in.png"), box=(1, 1, 2, 2)).draw(KEY))
    assert part(LOCAL).decode is unchanged


CELLS, GECA = blur.Family(steps=2), tiny.cells(steps=2)
CLASSES = {"label": jnp.eye(3)[:2]}
INHERITING = {"guidance": 1.5, "heredity": "hidden"}


def full(model, given, cond=None):
    """Fillings of a hole that is the whole image, and samples from noise; equal by construction of the noise."""
    image = picture(8, 8)
    mine = inpaint.fill(part(model), KEY, image, np.ones((8, 8), bool), given, cond)
    return mine, sampling.sample(part(model), KEY, (8, 8), given, cond)


@pytest.mark.slow
def test_a_network_that_is_not_local():
    """The whole image is its window; what it makes of a full hole is a picture from noise, and known pixels stay."""
    mine, plain = full(rivals.small_dit(classes=0), HOW)
    np.testing.assert_allclose(mine, plain, atol=1e-5)
    hole = holed((8, 8), ((2, 5), (3, 6)))
    filled = inpaint.fill(part(rivals.small_dit(classes=0)), KEY, picture(8, 8), hole, HOW)
    np.testing.assert_array_equal(filled[:, ~hole], np.stack([picture(8, 8)[~hole]] * 2))
    assert np.abs(filled - picture(8, 8))[:, hole].max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("model", "how"), [(CELLS, {}), slow(GECA, {}), slow(GECA, {"growth_guidance": 1.0})])
def test_cells_of_a_class_that_inherit(model, how):
    """Guided by classes: a full hole is a picture from noise also where every step inherits of the one before."""
    mine, plain = full(model, settings(**INHERITING, **how), CLASSES)
    np.testing.assert_allclose(mine, plain, atol=1e-5)


@pytest.mark.slow
def test_guided_cells_in_windows():
    """Cells that inherit nothing are computed near the hole alone, two rows of every window."""
    given = settings(guidance=1.5)
    hole = holed((15, 9), ((0, 2), (0, 2)), ((12, 14), (4, 6)))
    mine, whole = (inpaint.fill(part(CELLS), KEY, picture(15, 9), hole, given, CLASSES, whole=w) for w in (False, True))
    np.testing.assert_allclose(mine, whole, atol=1e-5)
    assert len(inpaint.sites(CELLS, Codec(), picture(15, 9), hole).windows.index) == 2
    null = inpaint.fill(part(CELLS), KEY, picture(15, 9), hole, given, jax.tree.map(jnp.zeros_like, CLASSES))
    assert np.abs(mine - null)[:, hole].max() > 1e-3
